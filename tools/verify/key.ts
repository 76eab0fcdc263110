/** What authentik does with its key, and what it should not be able to do. */
import { setTimeout as sleep } from "node:timers/promises";
import { bucketUrl, callerIdentityUrl, clientEndpoint } from "../../authentik/url.ts";
import { diagnose, isFatal, type Symptom } from "./diagnosis.ts";
import { Finding, describe, type Run } from "./run.ts";
import { PART_BYTES, failureOf, failureOfAnswer, request, type UploadOptions } from "./storage.ts";

/** Where authentik keeps the media of its default tenant. */
const PREFIX = "media/public/";

/** A picture of one pixel. */
export const SMALL = {
  contentType: "image/png",
  body: Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=", "base64"),
} as const;

const LARGE = { contentType: "application/pdf", bytes: PART_BYTES + 1024 } as const;

/** The objects that a run makes. */
export function objectKeys({ id }: Run): { small: string; large: string; abandoned: string } {
  return { small: `${PREFIX}verify-${id}.png`, large: `${PREFIX}verify-${id}.pdf`, abandoned: `${PREFIX}verify-${id}-abandoned.pdf` };
}

/** S3 refuses requests that are this far from its own time; from a minute on clocks are not kept by NTP. */
const SKEW = { refusedSeconds: 900, suspectSeconds: 60 } as const;

/** Whether the server answers at all, and how far its clock is from this machine's. */
export async function reach(run: Run): Promise<boolean> {
  const url = clientEndpoint(run.target.settings);
  const symptom = await run.check("reach", `GET ${url}`, async () => {
    const sent = Date.now();
    const { status, headers } = await request(url, {}, run.signal);
    const date = Date.parse(headers.get("date") ?? "");
    if (Number.isNaN(date)) return `${status}; it tells no time`;
    // HTTP's dates have whole seconds: on average half a one is cut off.
    const seconds = Math.round((date + 500 - (sent + Date.now()) / 2) / 1000);
    const got = `${status}; the server's clock is ${seconds === 0 ? "the same" : `${Math.abs(seconds)} s ${seconds > 0 ? "ahead" : "behind"}`}`;
    if (Math.abs(seconds) >= SKEW.refusedSeconds) throw new Finding("clock", got);
    if (Math.abs(seconds) >= SKEW.suspectSeconds) throw new Finding("clock", got, { status: "warning" });
    return got;
  });
  return symptom === "clock" || !run.isOver(symptom);
}

/** Whether the key opens the bucket. */
export async function signIn(run: Run): Promise<boolean> {
  const { settings } = run.target;
  const symptom = await run.check("sign in", `ListObjectsV2 ${settings.bucketName} ${PREFIX}`, async () => {
    // Finding credentials, which the first request does, may wait for another program or service without end.
    const keys = await Promise.race([listOnceKnown(run), endOf(run.signal)]);
    return `200; ${keys.length === 1000 ? "1000 or more" : keys.length} files`;
  }, "s3:ListBucket on the bucket");
  return !run.isOver(symptom);
}

/** What a server says of a key that it does not know yet, or whose rights it does not: AWS's IAM is eventually consistent. */
const UNKNOWN_YET: ReadonlySet<Symptom> = new Set<Symptom>(["wrong-access-key", "wrong-secret-key", "wrong-token", "missing-permission"]);
const NEW_KEY_INTERVAL_MS = 2_000;

async function listOnceKnown(run: Run): Promise<string[]> {
  const end = performance.now() + run.newKeyMs;
  for (;;) {
    try {
      return await run.storage.list(PREFIX);
    } catch (error) {
      if (performance.now() + NEW_KEY_INTERVAL_MS > end || !UNKNOWN_YET.has(diagnose(failureOf(error)))) throw error;
    }
    await sleep(NEW_KEY_INTERVAL_MS, undefined, { signal: run.signal });
  }
}

async function endOf(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const end = () => { reject(new DOMException("the run is over", "AbortError")); };
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
  });
}

/** Whose credentials those are that authentik would find by itself. */
export async function identity(run: Run): Promise<void> {
  const { settings } = run.target;
  if (settings.accessKey !== undefined && settings.sessionProfile === undefined) return;
  await run.check("identity", "the credentials that the AWS SDK finds by itself", async () => {
    const keys = await run.storage.keys();
    const url = callerIdentityUrl(settings, keys, new Date());
    const answer = url === undefined ? undefined : await request(url, {}, run.signal);
    const arn = /<Arn>([^<]+)<\/Arn>/.exec(answer?.body.toString() ?? "")?.[1];
    return arn ?? `the access key ${keys.accessKeyId}`;
  });
}

/** The small upload. Where it is refused, other ways tell why, and let the rest be tried. */
export async function upload(run: Run): Promise<boolean> {
  const { small } = objectKeys(run);
  const put = (options: UploadOptions) => run.storage.put(small, SMALL.body, SMALL.contentType, options);
  run.leftovers.objects.add(small);
  const stored: UploadOptions[] = [];
  await run.check("upload", `PutObject ${small} with ${words(run.upload)}`, async () => {
    try {
      await put(run.upload);
      stored.push(run.upload);
      return `200; ${SMALL.contentType}`;
    } catch (error) {
      const accepted = isFatal(diagnose(failureOf(error))) ? undefined : await firstAccepted(run.upload, put);
      if (!accepted) throw error;
      stored.push(accepted);
      throw whyRefused(error, run.upload, accepted);
    }
  }, "s3:PutObject on the bucket's objects");
  run.upload = stored[0] ?? run.upload;
  return stored.length > 0;
}

function words({ acl, checksums }: UploadOptions): string {
  return `${acl ? "ACL private" : "no ACL"} and ${checksums ? "a CRC32 checksum" : "no checksum"}`;
}

async function firstAccepted(refused: UploadOptions, put: (options: UploadOptions) => Promise<void>): Promise<UploadOptions | undefined> {
  const { checksums } = refused;
  const lesser = [{ acl: false, checksums }, ...(checksums ? [{ acl: true, checksums: false }, { acl: false, checksums: false }] : [])];
  for (const options of lesser) {
    if (await put(options).then(() => true, () => false)) return options;
  }
  return undefined;
}

function whyRefused(error: unknown, refused: UploadOptions, accepted: UploadOptions): Finding {
  const failure = failureOf(error);
  const got = `${describe(failure)}; accepted with ${words(accepted)}`;
  if (refused.acl === accepted.acl) return new Finding("checksum-unsupported", got);
  const isDenied = diagnose(failure) === "missing-permission";
  const advice = "The key lacks s3:PutObjectAcl on the bucket's objects, which authentik needs: each upload sends an ACL. Grant it.";
  return isDenied ? new Finding("missing-permission", got, { advice }) : new Finding("acl-unsupported", got);
}

/** The large upload, as boto3's `upload_fileobj` makes it. */
export async function uploadInParts(run: Run): Promise<void> {
  const { large } = objectKeys(run);
  const symptom = await run.check("upload in parts", `CreateMultipartUpload ${large} with ${words(run.upload)}, two parts at a time`, async () => {
    run.leftovers.objects.add(large);
    const uploadId = await begin(run, large);
    const body = Buffer.alloc(LARGE.bytes, "authentik");
    await run.storage.uploadParts(large, uploadId, [body.subarray(0, PART_BYTES), body.subarray(PART_BYTES)], run.upload);
    run.leftovers.uploads.delete(uploadId);
    return `200; ${LARGE.bytes} bytes`;
  }, "s3:PutObject on the bucket's objects");
  if (symptom === undefined) await headOf(run, "its head", large, LARGE.contentType, LARGE.bytes);
}

async function begin(run: Run, key: string): Promise<string> {
  const uploadId = await run.storage.createUpload(key, LARGE.contentType, run.upload);
  run.leftovers.uploads.set(uploadId, key);
  return uploadId;
}

/** What boto3 does when a large upload fails half-way. */
export async function abandonUpload(run: Run): Promise<void> {
  const { abandoned } = objectKeys(run);
  const begun: string[] = [];
  await run.check("begin an upload", `CreateMultipartUpload ${abandoned}`, async () => {
    begun.push(await begin(run, abandoned));
    return "200";
  }, "s3:PutObject on the bucket's objects");
  const [uploadId] = begun;
  if (uploadId === undefined) return;
  await run.check("list its parts", `ListParts ${abandoned}`, async () => {
    await run.storage.listParts(abandoned, uploadId);
    return "200";
  }, "s3:ListMultipartUploadParts on the bucket's objects");
  await run.check("abort it", `AbortMultipartUpload ${abandoned}`, async () => {
    await run.storage.abortUpload(abandoned, uploadId);
    run.leftovers.uploads.delete(uploadId);
    return "204";
  }, "s3:AbortMultipartUpload on the bucket's objects");
}

export async function head(run: Run): Promise<void> {
  await headOf(run, "head", objectKeys(run).small, SMALL.contentType, SMALL.body.length);
}

async function headOf(run: Run, check: string, key: string, wantedType: string, wantedSize: number): Promise<void> {
  await run.check(check, `HeadObject ${key}`, async () => {
    const { contentType, size } = await run.storage.head(key);
    const got = `200; ${contentType ?? "no content type"}, ${size ?? "no"} bytes`;
    if (contentType !== wantedType || size !== wantedSize) throw new Finding("content-changed", got);
    return got;
  }, "s3:GetObject on the bucket's objects");
}

export async function list(run: Run): Promise<void> {
  const { small } = objectKeys(run);
  await run.check("list", `ListObjectsV2 ${small}`, async () => {
    const found = await run.storage.list(small);
    if (!found.includes(small)) throw new Finding("content-changed", "200, but the file just uploaded is not listed");
    return "200; the file is listed";
  }, "s3:ListBucket on the bucket");
}

/** What authentik's key should be refused: to see other buckets, to change the bucket's CORS or policy. */
export async function rights(run: Run): Promise<void> {
  const { settings, keyIsAdmin } = run.target;
  const status = keyIsAdmin === false ? "failed" : "warning";
  await Promise.all([
    run.check("other buckets", "ListBuckets", async () => {
      const others = await run.storage.buckets().then((names) => names.filter((name) => name !== settings.bucketName), refusal);
      if (typeof others === "string") return others;
      if (others.length > 0) throw new Finding("excess-rights", `the key sees other buckets, e.g. ${others.slice(0, 3).join(", ")}`, { status });
      return "no other bucket";
    }),
    ...(["cors", "policy"] as const).map((setting) =>
      run.check(`change ${setting}`, `PutBucket${setting === "cors" ? "Cors" : "Policy"} with a text that cannot be one`, async () => {
        const answer = await run.storage.tryToChange(setting, bucketUrl(settings, run.rules));
        const failure = failureOfAnswer(answer);
        const isAllowed = answer.status < 300 || /^(?:Malformed|InvalidPolicy)/.test(failure.code);
        if (isAllowed) throw new Finding("excess-rights", `not denied: ${describe(failure)}`, { status });
        return describe(failure);
      })),
  ]);
}

function refusal(error: unknown): string {
  const failure = failureOf(error);
  if (failure.status === undefined) throw error;
  return describe(failure);
}

/** Deletes whatever the run made, also after its time or when it was interrupted. */
export async function cleanUp(run: Run): Promise<void> {
  const { objects, uploads } = run.leftovers;
  if (objects.size === 0 && uploads.size === 0) return;
  await Promise.all([...uploads].map(async ([id, key]) => finishUpload(run, key, id)));
  await run.check("delete", `DeleteObject ${[...objects].join(", ")}`, async () => {
    const failures = await Promise.all([...objects].map((key) => run.storage.delete(key).then(() => undefined, failureOf)));
    const failure = failures.find((found) => found !== undefined);
    if (!failure) return "204";
    const lacks = diagnose(failure) === "missing-permission" ? " The key lacks s3:DeleteObject on the bucket's objects." : "";
    throw new Finding("left-behind", describe(failure), { advice: `Delete by hand: ${[...objects].join(", ")}.${lacks}` });
  });
}

/** An upload that cannot be aborted is completed, so that what is left is an object that can be deleted. */
async function finishUpload(run: Run, key: string, id: string): Promise<void> {
  await run.storage.abortUpload(key, id).catch(async () => {
    run.leftovers.objects.add(key);
    await run.storage.uploadParts(key, id, [Buffer.from("abandoned")], run.upload).catch(() => undefined);
  });
}
