/** What authentik does with files, and the deletion of every file that a run has uploaded. */
import { setTimeout as sleep } from "node:timers/promises";
import { hasRightType, USAGES } from "../../authentik/objects.ts";
import { diagnose, isFatal, type Failure } from "./diagnosis.ts";
import { failureOf } from "./request.ts";
import { CheckFailure, describe, lacks, type VerifyRun } from "./run.ts";
import { PART_BYTES, type UploadOptions } from "./storage.ts";

/** Where authentik keeps the media of its default tenant. */
export const PREFIX = "media/public/";

/** An image of one pixel. */
export const SMALL_FILE = {
  contentType: "image/png",
  body: Buffer.from(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=",
    "base64",
  ),
} as const;

/** A file of two parts. */
const LARGE_FILE = { contentType: "application/pdf", bytes: PART_BYTES + 1024 } as const;

/** An ETag of Azure, such as `"0x8DCB5E3E2F3A1B0-1"`. S3 servers with other storage give none like it. */
const AZURE_ETAG = /^"?0x[0-9A-F]+(?:-1)?"?$/;

/** The keys of the objects that a run creates. */
export function objectKeys({
  id,
}: VerifyRun): Record<"small" | "large" | "abandoned" | "named", string> {
  const base = `${PREFIX}verify-${id}`;
  return {
    small: `${base}.png`,
    large: `${base}.pdf`,
    abandoned: `${base}-abandoned.pdf`,
    named: `${base}-é.pdf`,
  };
}

/**
 * Uploads the small file. If the upload is refused, other ways of uploading it show why, and let
 * the other checks go on.
 *
 * @returns whether the file is in the bucket
 */
export async function uploadSmallFile(run: VerifyRun): Promise<boolean> {
  const { small } = objectKeys(run);
  const put = async (options: UploadOptions) => {
    const etag = await run.storage.put(small, SMALL_FILE.body, SMALL_FILE.contentType, options);
    run.isAzure = AZURE_ETAG.test(etag);
  };
  const tried = `PutObject ${small} with ${optionsText(run.upload)}`;
  let isUploaded = false;
  run.leftovers.objects.add(small);
  await run.check({ name: "upload", tried, action: "s3:PutObject" }, async () => {
    try {
      await put(run.upload);
      isUploaded = true;
      return `200; ${SMALL_FILE.contentType}`;
    } catch (error) {
      const refused = run.upload;
      const mayHelp = !isFatal(diagnose(failureOf(error)));
      const accepted = mayHelp ? await firstAccepted(refused, put) : undefined;
      if (!accepted) throw error;
      isUploaded = true;
      run.upload = accepted;
      throw refusedUpload(error, refused, accepted);
    }
  });
  return isUploaded;
}

function optionsText({ acl, checksums }: UploadOptions): string {
  return `${acl ? "ACL private" : "no ACL"} and ${checksums ? "a CRC32 checksum" : "no checksum"}`;
}

/** The first way of uploading with less than was refused that the server accepts. */
async function firstAccepted(
  { checksums }: UploadOptions,
  put: (options: UploadOptions) => Promise<void>,
): Promise<UploadOptions | undefined> {
  const withoutAcl = { acl: false, checksums };
  const withoutChecksums = [
    { acl: true, checksums: false },
    { acl: false, checksums: false },
  ];
  for (const options of [withoutAcl, ...(checksums ? withoutChecksums : [])]) {
    const isAccepted = await put(options).then(
      () => true,
      () => false,
    );
    if (isAccepted) return options;
  }
  return undefined;
}

function refusedUpload(
  error: unknown,
  refused: UploadOptions,
  accepted: UploadOptions,
): CheckFailure {
  const failure = failureOf(error);
  const got = `${describe(failure)}; accepted with ${optionsText(accepted)}`;
  if (refused.acl === accepted.acl) return new CheckFailure("checksum-unsupported", got);
  if (diagnose(failure) !== "missing-permission") return new CheckFailure("acl-unsupported", got);
  const advice = `${lacks("s3:PutObjectAcl")} authentik sends an ACL with each upload. Grant it.`;
  return new CheckFailure("missing-permission", got, { advice });
}

/** Uploads a large file, as boto3's `upload_fileobj` does. */
export async function uploadLargeFile(run: VerifyRun): Promise<void> {
  const { large } = objectKeys(run);
  const { contentType, bytes } = LARGE_FILE;
  const tried = `CreateMultipartUpload ${large} with ${optionsText(run.upload)}, two parts at a time`;
  const check = { name: "multipart upload", tried, action: "s3:PutObject" } as const;
  const symptom = await run.check(check, async () => {
    run.leftovers.objects.add(large);
    const uploadId = await startUpload(run, large);
    const body = Buffer.alloc(bytes, "authentik");
    const parts = [body.subarray(0, PART_BYTES), body.subarray(PART_BYTES)];
    await run.storage.uploadParts(large, uploadId, parts, run.upload);
    run.leftovers.uploads.delete(uploadId);
    return `200; ${bytes} bytes`;
  });
  if (symptom === undefined) {
    await checkHeadOf(run, "head of the large file", { key: large, contentType, size: bytes });
  }
}

async function startUpload(run: VerifyRun, key: string): Promise<string> {
  const uploadId = await run.storage.createUpload(key, LARGE_FILE.contentType, run.upload);
  run.leftovers.uploads.set(uploadId, key);
  return uploadId;
}

/**
 * Does what boto3 does if a large upload over an older file fails half-way: lists the parts, and
 * aborts the upload. The older file must stay.
 */
export async function abandonUpload(run: VerifyRun): Promise<void> {
  const { abandoned } = objectKeys(run);
  let uploadId = "";
  const start = { name: "start upload", tried: `CreateMultipartUpload ${abandoned}` };
  const symptom = await run.check({ ...start, action: "s3:PutObject" }, async () => {
    run.leftovers.objects.add(abandoned);
    await run.storage.put(abandoned, SMALL_FILE.body, LARGE_FILE.contentType, run.upload);
    uploadId = await startUpload(run, abandoned);
    return "200";
  });
  if (symptom !== undefined) return;
  await startNamedUpload(run);
  const list = { name: "list parts", tried: `ListParts ${abandoned}` };
  await run.check({ ...list, action: "s3:ListMultipartUploadParts" }, async () => {
    await run.storage.listParts(abandoned, uploadId);
    return "200";
  });
  const abort = { name: "abort upload", tried: `AbortMultipartUpload ${abandoned}` };
  await run.check({ ...abort, action: "s3:AbortMultipartUpload" }, async () => {
    try {
      await run.storage.abortUpload(abandoned, uploadId);
    } catch (error) {
      const isRight = run.isAzure && diagnose(failureOf(error)) === "missing-permission";
      if (!isRight) throw error;
      return `${describe(failureOf(error))}; right before Azure, where an abort deletes the file`;
    }
    run.leftovers.uploads.delete(uploadId);
    const failure = await run.storage.head(abandoned).then(() => undefined, failureOf);
    if (failure?.status !== 404) return "204";
    throw new CheckFailure("abort-deletes-file", "204; the older file is gone");
  });
}

/** Starts a multipart upload of a name that has a letter outside ASCII. The cleanup ends it. */
async function startNamedUpload(run: VerifyRun): Promise<void> {
  const { named } = objectKeys(run);
  const tried = `CreateMultipartUpload ${named}`;
  await run.check({ name: "start upload, non-ASCII name", tried }, async () => {
    await startUpload(run, named).catch((error: unknown) => {
      throw new CheckFailure("non-ascii-name", describe(failureOf(error)), { status: "warning" });
    });
    return "200";
  });
}

/** Whether the small file has its size and content type. */
export async function checkHead(run: VerifyRun): Promise<void> {
  const { contentType, body } = SMALL_FILE;
  await checkHeadOf(run, "head", { key: objectKeys(run).small, contentType, size: body.length });
}

async function checkHeadOf(
  run: VerifyRun,
  name: string,
  wanted: { key: string; contentType: string; size: number },
): Promise<void> {
  const tried = `HeadObject ${wanted.key}`;
  await run.check({ name, tried, action: "s3:GetObject" }, async () => {
    const { contentType, size } = await run.storage.head(wanted.key);
    const got = `200; ${contentType ?? "no content type"}, ${size ?? "no"} bytes`;
    const isSame = contentType === wanted.contentType && size === wanted.size;
    if (!isSame) throw new CheckFailure("content-changed", got);
    return got;
  });
}

/** How many stored files are looked at, unless all are. */
const SAMPLE = 100;
/** How many HEAD requests are made at the same time. */
const HEADS_AT_ONCE = 32;

/** Whether stored files have the content types that authentik gives them. */
export async function checkTypes(run: VerifyRun): Promise<void> {
  const which = run.allTypes ? "all stored files" : `up to ${SAMPLE} stored files`;
  const check = { name: "stored types", tried: `HeadObject of ${which}` };
  const isListed = await run.storage.list(PREFIX).then(
    () => true,
    () => false,
  );
  if (!isListed) {
    run.skip(check.name, "the files cannot be listed");
    return;
  }
  await run.check({ ...check, action: "s3:GetObject" }, async () => {
    const wrong = new Map<string, string[]>();
    let looked = 0;
    for await (const keys of storedKeys(run)) {
      looked += keys.length;
      for (const [key, type] of await wrongTypes(run, keys)) {
        wrong.set(type, [...(wrong.get(type) ?? []), key]);
      }
    }
    if (wrong.size > 0) throw wrongTypesFound(run, wrong, looked);
    return looked === 0 ? "no files are stored yet" : `200; ${looked} files have the right type`;
  });
}

/** Keys whose names show a type, some at a time. A sample is spread over the first of them. */
async function* storedKeys(run: VerifyRun): AsyncGenerator<string[]> {
  for (const usage of USAGES) {
    for await (const page of run.storage.pages(`${usage}/`)) {
      const isOfRun = (key: string) => key.includes(`/verify-${run.id}`);
      const keys = page.filter((key) => !isOfRun(key) && !hasRightType(key, undefined));
      const step = run.allTypes ? 1 : Math.max(1, keys.length / (SAMPLE / USAGES.length));
      const chosen: string[] = [];
      for (let at = 0; at < keys.length; at += step) chosen.push(keys[Math.floor(at)] ?? "");
      for (let at = 0; at < chosen.length; at += HEADS_AT_ONCE) {
        yield chosen.slice(at, at + HEADS_AT_ONCE);
      }
      if (!run.allTypes) break;
    }
  }
}

/** The keys of these that have another type than authentik's, and that type. */
async function wrongTypes(run: VerifyRun, keys: readonly string[]): Promise<[string, string][]> {
  const found = await Promise.all(
    keys.map(async (key): Promise<[string, string][]> => {
      const head = await run.storage.head(key).catch((error: unknown) => {
        // It was deleted after the listing.
        if (failureOf(error).status === 404) return undefined;
        throw error;
      });
      if (!head || hasRightType(key, head.contentType)) return [];
      return [[key, head.contentType ?? "no type"]];
    }),
  );
  return found.flat();
}

function wrongTypesFound(
  { target, rules, allTypes }: VerifyRun,
  wrong: ReadonlyMap<string, readonly string[]>,
  looked: number,
): CheckFailure {
  const count = [...wrong.values()].reduce((sum, keys) => sum + keys.length, 0);
  const types = [...wrong].map(
    ([type, keys]) => `${keys.length} of type ${type}, e.g. ${keys[0] ?? ""}`,
  );
  const got = `${count} of ${looked} files have a wrong type: ${types.join("; ")}`;
  const { argument = "stack:NAME" } = target;
  const sentences = [
    "Browsers do not show these files.",
    `Repair them: npm run migrate -- ${argument} --repair-types.`,
    allTypes ? "" : "--all-types counts all of them.",
    rules.storesNoType ? "This release stores no types; upgrade authentik to 2025.12.2." : "",
  ];
  const advice = sentences.filter((sentence) => sentence !== "").join(" ");
  return new CheckFailure("wrong-type", got, { status: "warning", advice });
}

/** Whether the small file is listed. */
export async function checkList(run: VerifyRun): Promise<void> {
  const { small } = objectKeys(run);
  const tried = `ListObjectsV2 ${small}`;
  await run.check({ name: "list", tried, action: "s3:ListBucket" }, async () => {
    const found = await run.storage.list(small);
    if (found.includes(small)) return "200; the file is listed";
    throw new CheckFailure("content-changed", "200; the file that was uploaded is not listed");
  });
}

/**
 * Deletes everything that the run has created. This works after the run's time and after an
 * interruption too.
 */
export async function cleanUp(run: VerifyRun): Promise<void> {
  const { objects, uploads } = run.leftovers;
  if (objects.size === 0 && uploads.size === 0) return;
  const timeout = { code: "TimeoutError", message: "no answer in time" };
  const late = sleep(run.cleanupMs, timeout, { ref: false });
  const ended = [...uploads].map(async ([id, key]) => endUpload(run, key, id));
  await Promise.race([late, Promise.all(ended)]);
  const keys = [...objects];
  const tried = `DeleteObject ${keys.join(", ")}`;
  await run.check({ name: "delete", tried }, async () => {
    const failure = await Promise.race([late, deletionFailure(run, keys)]);
    if (!failure) return "204";
    const isDenied = diagnose(failure) === "missing-permission";
    const reason = isDenied ? ` ${lacks("s3:DeleteObject")}` : "";
    const advice = `Delete by hand: ${keys.join(", ")}.${reason}`;
    throw new CheckFailure("left-behind", describe(failure), { advice });
  });
}

/** Undefined if all are deleted. */
async function deletionFailure(
  run: VerifyRun,
  keys: readonly string[],
): Promise<Failure | undefined> {
  const failures = await Promise.all(
    keys.map(async (key) => run.storage.delete(key).then(() => undefined, failureOf)),
  );
  return failures.find((failure) => failure !== undefined);
}

/**
 * Aborts an upload. If that fails, completes it, because the object that is left can be deleted.
 */
async function endUpload(run: VerifyRun, key: string, id: string): Promise<void> {
  await run.storage.abortUpload(key, id).catch(async () => {
    run.leftovers.objects.add(key);
    const parts = [Buffer.from("abandoned")];
    await run.storage.uploadParts(key, id, parts, run.upload).catch(() => undefined);
  });
}
