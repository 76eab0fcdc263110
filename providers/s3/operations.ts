/**
 * What the resources of this folder do on the server: create, read, diff, update, delete. The
 * engine's provider process loads this file, so it imports the S3 client only when it makes a call.
 *
 * Stacks of earlier versions store this file's path, from program/, and the names that it exports.
 * So the file stays here, as docs/architecture.md says under "What a stack stores".
 */
import type {
  BucketLocationConstraint,
  CORSRule,
  CreateBucketCommandInput,
} from "@aws-sdk/client-s3";
import type * as dynamic from "@pulumi/pulumi/dynamic/index.js";
import { UNKNOWN } from "../retention.ts";
import type { ClientKeys } from "./client.ts";
import { fetchByProxy } from "./fetch.ts";
import {
  adminCredentials,
  NOT_S3,
  notS3,
  onServer,
  ServerError,
  type Call,
  type Connection,
} from "./server.ts";

export interface BucketInputs extends Connection {
  adopt?: boolean;
  forceDestroy?: boolean;
}

export interface CorsInputs extends Connection {
  rules: CorsRule[];
  /**
   * In the state alone, where the server has no CORS policy for a bucket and its own one allows the
   * origins.
   */
  serverWide?: boolean;
}

/** One rule of a bucket's CORS policy. */
export interface CorsRule {
  allowedOrigins: string[];
  allowedHeaders: string[];
  allowedMethods: string[];
  maxAgeSeconds?: number;
}

export interface PolicyInputs extends Connection {
  /** A policy document in IAM's JSON grammar. */
  policy: object;
}

/** A state without what only the state has. */
function inputsOf<Inputs extends Connection>(state: Inputs): Inputs {
  if (!("serverWide" in state)) return state;
  const inputs = { ...state };
  delete inputs.serverWide;
  return inputs;
}

/** What the three resources have in common. */
abstract class Operations<Inputs extends Connection>
  implements dynamic.ResourceProvider<Inputs, Inputs>
{
  #stackCredentials: ClientKeys = {};

  async configure({ config }: dynamic.ConfigureRequest): Promise<void> {
    this.#stackCredentials = adminCredentials((key) => config.get(key));
    return Promise.resolve();
  }

  /**
   * Another endpoint or bucket replaces the resource. All else is an update in place, and so is the
   * handler of another version: `__provider` is one of the inputs here.
   *
   * The old resource is deleted first. If that fails, as with a bucket that has files, nothing is
   * changed and the old config is right again. Otherwise the deletion would stay pending, and be
   * done when the config names the old bucket again.
   */
  async diff(_id: string, olds: Inputs, news: Inputs): Promise<dynamic.DiffResult> {
    const isReplaced = (key: keyof Connection) => olds[key] !== news[key] && news[key] !== UNKNOWN;
    return Promise.resolve({
      changes: !sameMeaning(inputsOf(olds), news),
      replaces: (["endpoint", "bucket"] as const).filter(isReplaced),
      deleteBeforeReplace: true,
    });
  }

  async read(id: string, props?: Inputs): Promise<dynamic.ReadResult<Inputs>> {
    // The engine cannot import dynamic resources: an id alone is not enough to read one.
    if (!props) return {};
    const actual = await this.#hinted(() =>
      this.call(props, (call) => this.readState(props, call)),
    );
    // Without an id the engine records the resource as deleted, and the next `up` creates it again.
    return actual ? { id, props: actual, inputs: inputsOf(actual) } : {};
  }

  async delete(_id: string, props: Inputs): Promise<void> {
    await this.#hinted(() => this.call(props, (call) => this.remove(props, call)));
  }

  abstract create(inputs: Inputs): Promise<dynamic.CreateResult<Inputs>>;
  abstract update(id: string, olds: Inputs, news: Inputs): Promise<dynamic.UpdateResult<Inputs>>;
  /** The inputs as the server has them; undefined where the resource does not exist. */
  protected abstract readState(props: Inputs, call: Call): Promise<Inputs | undefined>;
  protected abstract remove(props: Inputs, call: Call): Promise<void>;

  protected call<T>(connection: Connection, work: (call: Call) => Promise<T>): Promise<T> {
    return onServer(connection, this.#stackCredentials, work);
  }

  async #hinted<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ServerError) || (error.status !== 403 && error.status !== 401))
        throw error;
      const hint =
        "Refresh and destroy use the credentials of the last pulumi up: " +
        "if they have changed since, run pulumi up first.";
      throw new ServerError(`${error.message} ${hint}`, error.code, error.status, error);
    }
  }
}

class BucketOperations extends Operations<BucketInputs> {
  async create(inputs: BucketInputs): Promise<dynamic.CreateResult<BucketInputs>> {
    await this.call(inputs, async (call) => {
      if ((await look(inputs, call)) === "absent") await createBucket(inputs, call);
      else if (inputs.adopt !== true) throw alreadyExists(inputs);
    });
    return { id: inputs.bucket, outs: inputs };
  }

  /** The server keeps no input of a bucket but its name. */
  update(
    _id: string,
    _olds: BucketInputs,
    news: BucketInputs,
  ): Promise<dynamic.UpdateResult<BucketInputs>> {
    return Promise.resolve({ outs: news });
  }

  protected async readState(props: BucketInputs, call: Call): Promise<BucketInputs | undefined> {
    return (await look(props, call)) === "absent" ? undefined : props;
  }

  protected async remove(props: BucketInputs, call: Call): Promise<void> {
    const state = await look(props, call);
    if (state === "absent") return;
    if (props.forceDestroy === true) await emptyBucket(props, call);
    else if (state === "filled") throw notEmpty(props);
    const { DeleteBucketCommand } = await import("@aws-sdk/client-s3");
    try {
      await call("delete the bucket", (s3) =>
        s3.send(new DeleteBucketCommand({ Bucket: props.bucket })),
      );
    } catch (error) {
      if (isCode(error, "BucketNotEmpty")) throw notEmpty(props, error);
      if (!isAbsent(error)) throw error;
    }
  }
}

function alreadyExists({ bucket, endpoint }: Connection): ServerError {
  const message =
    `the bucket "${bucket}" at ${endpoint} exists already, and nothing in it was changed. ` +
    "Set adopt: true to manage it with this stack, or choose another bucketName. " +
    "If an earlier pulumi up of this stack was stopped, that one may have created it: run " +
    "pulumi refresh --clear-pending-creates, and then pulumi up with adopt: true.";
  return new ServerError(message, "BucketAlreadyOwnedByYou", 409, undefined);
}

function notEmpty({ bucket, endpoint }: Connection, cause?: unknown): ServerError {
  const message =
    `the bucket "${bucket}" at ${endpoint} is not empty and was not deleted. ` +
    "To keep it, restore bucketName and endpoint in the config. To delete it with everything in " +
    "it, empty it yourself, or run pulumi up with forceDestroy: true before you try again.";
  return new ServerError(message, "BucketNotEmpty", 409, cause);
}

/**
 * Whether the bucket exists and has objects. It asks for a listing: the answer to a HEAD has no
 * body, so a wrong key, a wrong clock and another owner's bucket would all look alike.
 */
async function look(connection: Connection, call: Call): Promise<"absent" | "empty" | "filled"> {
  const { ListObjectsV2Command } = await import("@aws-sdk/client-s3");
  const command = new ListObjectsV2Command({ Bucket: connection.bucket, MaxKeys: 1 });
  try {
    const listing = await call("look at the bucket", (s3) => s3.send(command));
    const { Contents = [], IsTruncated, Name = connection.bucket } = listing;
    if (IsTruncated === undefined || Name !== connection.bucket) throw notS3(connection);
    return Contents.length === 0 ? "empty" : "filled";
  } catch (error) {
    if (isAbsent(error)) return "absent";
    throw error;
  }
}

/**
 * Creates the bucket as the setup page says: with a private ACL, and with its region if that is not
 * the default one. An option that the server refuses is left out.
 */
async function createBucket(connection: Connection, call: Call): Promise<void> {
  const { bucket, region = "us-east-1" } = connection;
  const { CreateBucketCommand } = await import("@aws-sdk/client-s3");
  let acl = true;
  let location = needsLocation(region);
  for (;;) {
    const input: CreateBucketCommandInput = {
      Bucket: bucket,
      ...(acl ? { ACL: "private" } : {}),
      ...(location && needsLocation(region)
        ? { CreateBucketConfiguration: { LocationConstraint: region } }
        : {}),
    };
    const command = new CreateBucketCommand({ ...input });
    // The SDK adds its own region as the location if there is none. This removes it again.
    command.middlewareStack.add((next) => (args) => next({ ...args, input }), {
      step: "initialize",
      priority: "low",
    });
    try {
      await call("create the bucket", (s3) => s3.send(command));
      return;
    } catch (error) {
      if (await isCreatedByLostAttempt(error, connection, call)) return;
      if (isCode(error, "BucketAlreadyOwnedByYou")) throw alreadyExists(connection);
      if (location && isCode(error, ...LOCATION_REFUSED)) location = false;
      else if (acl && isCode(error, ...ACL_REFUSED)) acl = false;
      else throw error;
    }
  }
}

/**
 * Whether an earlier attempt of this call created the bucket, and its answer was lost. The bucket
 * did not exist a moment ago. The proof is that the request was sent before, that the bucket is
 * empty, and that the server counts it among the buckets of this key's owner.
 */
async function isCreatedByLostAttempt(
  error: unknown,
  connection: Connection,
  call: Call,
): Promise<boolean> {
  if (!(error instanceof ServerError) || !error.isRepeated) return false;
  if (error.code === "BucketAlreadyOwnedByYou") return true;
  if (error.status !== undefined) return false;
  const { ListBucketsCommand } = await import("@aws-sdk/client-s3");
  try {
    if ((await look(connection, call)) !== "empty") return false;
    const own = await call("list the buckets", (s3) => s3.send(new ListBucketsCommand({})));
    return own.Buckets?.some(({ Name }) => Name === connection.bucket) ?? false;
  } catch {
    // The first error says what happened.
    return false;
  }
}

const LOCATION_REFUSED = ["InvalidLocationConstraint", "IllegalLocationConstraintException"];
const ACL_REFUSED = ["AccessControlListNotSupported", "NotImplemented", "InvalidArgument"];

/**
 * Only the default region has no LocationConstraint (AWS, "CreateBucket"). Other servers have names
 * of their own.
 */
function needsLocation(region: string): region is BucketLocationConstraint {
  return region !== "us-east-1" && region !== "auto";
}

/** Deletes every object, every version of an object, and every unfinished upload. */
async function emptyBucket(connection: Connection, call: Call): Promise<void> {
  const { AbortMultipartUploadCommand, DeleteObjectCommand } = await import("@aws-sdk/client-s3");
  const Bucket = connection.bucket;
  await drain(connection, {
    list: () => listObjects(connection, call),
    // The version named "null" is deleted by that name. Without it, a bucket with versions gets a
    // delete marker on top.
    remove: async ({ Key, VersionId }) => {
      const command = new DeleteObjectCommand({ Bucket, Key, VersionId });
      await call(`delete the object "${Key}"`, (s3) => s3.send(command));
    },
  });
  await drain(connection, {
    list: () => listUploads(connection, call),
    remove: async ({ Key, UploadId }) => {
      const command = new AbortMultipartUploadCommand({ Bucket, Key, UploadId });
      await unless(isAbsent, () => call(`abort the upload of "${Key}"`, (s3) => s3.send(command)));
    },
  });
}

interface Stored {
  Key?: string | undefined;
  VersionId?: string | undefined;
  UploadId?: string | undefined;
}

/** How often something is deleted that the server goes on listing. */
const MAX_DELETIONS = 3;

/**
 * Lists a page and removes what is on it, until the list is empty. It ends with an error that names
 * what is left, when the server refuses to delete something, or when the list does not get shorter.
 */
async function drain(
  connection: Connection,
  { list, remove }: { list: () => Promise<Stored[]>; remove: (item: Stored) => Promise<void> },
): Promise<void> {
  let before = new Map<string, number>();
  for (;;) {
    const items = await list();
    if (items.length === 0) return;
    const counts = items.map((item): [string, number] => {
      const id = JSON.stringify([item.Key, item.VersionId, item.UploadId]);
      return [id, (before.get(id) ?? 0) + 1];
    });
    const left = items.filter((_, index) => (counts[index]?.[1] ?? 0) > MAX_DELETIONS);
    if (left.length > 0) throw notEmptied(connection, left);
    before = new Map(counts);
    await removeAll(connection, items, remove);
  }
}

const PARALLEL_DELETES = 16;

async function removeAll(
  connection: Connection,
  items: readonly Stored[],
  remove: (item: Stored) => Promise<void>,
): Promise<void> {
  const refusals = new Map<Stored, ServerError>();
  // The workers share one generator. An error in one of them closes it, so the others stop too.
  const queue = (function* () {
    yield* items;
  })();
  const worker = async () => {
    for (const item of queue) {
      try {
        await remove(item);
      } catch (error) {
        if (!isRefusal(error)) throw error;
        refusals.set(item, error);
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL_DELETES }, worker));
  // In the order of the list, whichever answer came first.
  const [first, ...others] = items.filter((item) => refusals.has(item));
  if (first) throw notEmptied(connection, [first, ...others], refusals.get(first));
}

/** Whether the server refuses one entry, and may delete others. */
function isRefusal(error: unknown): error is ServerError {
  return error instanceof ServerError && (error.status === 403 || error.status === 409);
}

/** @param refusal the server's answer; without one it reports success */
function notEmptied(
  { bucket, endpoint }: Connection,
  left: readonly Stored[],
  refusal?: ServerError,
): ServerError {
  const some = left.slice(0, 3).map(({ Key, VersionId, UploadId }) => {
    const which = VersionId ?? UploadId;
    return `${JSON.stringify(Key)}${which === undefined ? "" : ` (${which})`}`;
  });
  const entries = `${left.length} ${left.length === 1 ? "entry" : "entries"}`;
  const reason = refusal
    ? `the server refuses to delete ${entries}`
    : `the server reports success, but still lists ${entries} after ${MAX_DELETIONS} deletions`;
  const advice = refusal
    ? "A version under retention or a legal hold stays until that ends. Otherwise the keys lack the " +
      `right to delete versions (s3:DeleteObjectVersion). ${refusal.message}`
    : "Look at them with the server's own tools, and delete them there.";
  const message =
    `the bucket "${bucket}" at ${endpoint} was not deleted: ${reason}: ${some.join(", ")}` +
    `${left.length > some.length ? ", ..." : "."} ${advice}`;
  return new ServerError(message, "BucketNotEmpty", refusal?.status ?? 409, refusal);
}

/** A page of the bucket's object versions, or of its objects where the server has no versions. */
async function listObjects(connection: Connection, call: Call): Promise<Stored[]> {
  const { ListObjectsV2Command, ListObjectVersionsCommand } = await import("@aws-sdk/client-s3");
  const Bucket = connection.bucket;
  const listing = new ListObjectVersionsCommand({ Bucket });
  const versions = await unless(isUnsupported, () =>
    call("list the object versions", (s3) => s3.send(listing)),
  );
  const all = [...(versions?.Versions ?? []), ...(versions?.DeleteMarkers ?? [])];
  if (all.length > 0) return all.map(({ Key, VersionId }) => ({ Key, VersionId }));
  const command = new ListObjectsV2Command({ Bucket });
  const objects = await call("list the objects", (s3) => s3.send(command));
  return (objects.Contents ?? []).map(({ Key }) => ({ Key }));
}

/** A page of the bucket's unfinished uploads; none where the server does not list them. */
async function listUploads(connection: Connection, call: Call): Promise<Stored[]> {
  const { ListMultipartUploadsCommand } = await import("@aws-sdk/client-s3");
  const command = new ListMultipartUploadsCommand({ Bucket: connection.bucket });
  const uploads = await unless(isUnsupported, () =>
    call("list the unfinished uploads", (s3) => s3.send(command)),
  );
  return (uploads?.Uploads ?? []).map(({ Key, UploadId }) => ({ Key, UploadId }));
}

/** A setting of a bucket that is put as a whole, whether it existed before or not. */
abstract class SettingOperations<Inputs extends Connection> extends Operations<Inputs> {
  /** Its name in the resource's id. */
  protected abstract readonly kind: string;
  /** The part of the inputs that the server keeps. The rest says how to reach the server. */
  protected abstract kept(inputs: Inputs): object;
  /** Puts it, and returns the new state. */
  protected abstract put(inputs: Inputs, call: Call): Promise<Inputs>;

  async create(inputs: Inputs): Promise<dynamic.CreateResult<Inputs>> {
    const outs = await this.call(inputs, (call) => this.put(inputs, call));
    return { id: `${inputs.bucket}/${this.kind}`, outs };
  }

  async update(_id: string, olds: Inputs, news: Inputs): Promise<dynamic.UpdateResult<Inputs>> {
    if (!sameMeaning(this.kept(olds), this.kept(news))) {
      return { outs: await this.call(news, (call) => this.put(news, call)) };
    }
    return { outs: "serverWide" in olds ? { ...news, serverWide: olds.serverWide } : news };
  }
}

class CorsOperations extends SettingOperations<CorsInputs> {
  protected readonly kind = "cors";

  protected kept({ rules }: CorsInputs): object {
    return rules;
  }

  protected async put(inputs: CorsInputs, call: Call): Promise<CorsInputs> {
    const { PutBucketCorsCommand } = await import("@aws-sdk/client-s3");
    const command = new PutBucketCorsCommand({
      Bucket: inputs.bucket,
      CORSConfiguration: { CORSRules: inputs.rules.map(toServer) },
    });
    try {
      await call("put the CORS policy", (s3) => s3.send(command));
      return inputs;
    } catch (error) {
      if (!isUnsupported(error)) throw error;
      // MinIO, for example, has only one CORS policy for the whole server. It is enough if that
      // allows authentik's origins.
      const refused = await originsTheServerRefuses(inputs, call);
      if (refused.length > 0) throw originsRefused(inputs, refused, error);
      return { ...inputs, serverWide: true };
    }
  }

  protected async readState(props: CorsInputs, call: Call): Promise<CorsInputs | undefined> {
    const { GetBucketCorsCommand } = await import("@aws-sdk/client-s3");
    const command = new GetBucketCorsCommand({ Bucket: props.bucket });
    try {
      const { CORSRules } = await call("read the CORS policy", (s3) => s3.send(command));
      if (CORSRules === undefined) throw notS3(props);
      const actual = { ...inputsOf(props), rules: CORSRules.map(fromServer) };
      return sameMeaning(actual, inputsOf(props)) ? inputsOf(props) : actual;
    } catch (error) {
      // MinIO refuses to put a CORS policy, and says that there is none. The bucket still exists.
      const isServerWide = isUnsupported(error) || isCode(error, "NoSuchCORSConfiguration");
      if (isUnsupported(error) || (props.serverWide === true && isServerWide)) {
        const refused = await originsTheServerRefuses(props, call);
        return refused.length === 0 ? { ...props, serverWide: true } : undefined;
      }
      if (isAbsent(error)) return undefined;
      throw error;
    }
  }

  protected async remove(props: CorsInputs, call: Call): Promise<void> {
    const { DeleteBucketCorsCommand } = await import("@aws-sdk/client-s3");
    const command = new DeleteBucketCorsCommand({ Bucket: props.bucket });
    await unless(isAbsentOrUnsupported, () =>
      call("delete the CORS policy", (s3) => s3.send(command)),
    );
  }
}

/** Where servers without CORS policies for buckets have their own. */
const SERVER_WIDE_SETTINGS =
  "MinIO: MINIO_API_CORS_ALLOW_ORIGIN; SeaweedFS: -s3.allowedOrigins; " +
  "s3proxy: s3proxy.cors-allow-origins; rclone: --allow-origin";

function originsRefused({ endpoint }: Connection, refused: string[], cause: unknown): ServerError {
  const message =
    `the server at ${endpoint} has no CORS policy for a bucket, ` +
    `and its own refuses ${refused.join(", ")}. ` +
    `Allow these origins in the server's own settings (${SERVER_WIDE_SETTINGS}), ` +
    "then run pulumi up again.";
  return new ServerError(message, "NotImplemented", 501, cause);
}

/** The origins that the server refuses in a preflight to the bucket. */
async function originsTheServerRefuses(inputs: CorsInputs, call: Call): Promise<string[]> {
  const { endpoint, bucket, rules, addressingStyle } = inputs;
  const url = new URL(`${endpoint}/${bucket}/preflight`);
  if (addressingStyle === "virtual") {
    url.pathname = url.pathname.replace(`/${bucket}/preflight`, "/preflight");
    url.hostname = `${bucket}.${url.hostname}`;
  }
  const origins = rules.flatMap(({ allowedOrigins }) => allowedOrigins);
  const allowed = await Promise.all(
    origins.map((origin) =>
      call(`ask whether ${origin} may load files`, async () => {
        const { status, headers } = await fetchByProxy(url, {
          method: "OPTIONS",
          headers: { origin, "access-control-request-method": "GET" },
          signal: AbortSignal.timeout(10_000),
        });
        // 501 is the answer of a server without CORS, such as s3s-fs.
        if (status >= 500 && status !== 501) throw new Error(`HTTP ${status}`);
        return headers.get("access-control-allow-origin");
      }),
    ),
  );
  return origins.filter((origin, index) => allowed[index] !== origin && allowed[index] !== "*");
}

function toServer(rule: CorsRule): CORSRule {
  return {
    AllowedOrigins: rule.allowedOrigins,
    AllowedHeaders: rule.allowedHeaders,
    AllowedMethods: rule.allowedMethods,
    MaxAgeSeconds: rule.maxAgeSeconds,
  };
}

function fromServer(rule: CORSRule): CorsRule {
  return {
    allowedOrigins: rule.AllowedOrigins ?? [],
    allowedHeaders: rule.AllowedHeaders ?? [],
    allowedMethods: rule.AllowedMethods ?? [],
    ...(rule.MaxAgeSeconds === undefined ? {} : { maxAgeSeconds: rule.MaxAgeSeconds }),
  };
}

class PolicyOperations extends SettingOperations<PolicyInputs> {
  protected readonly kind = "policy";

  protected kept({ policy }: PolicyInputs): object {
    return policy;
  }

  protected async put(inputs: PolicyInputs, call: Call): Promise<PolicyInputs> {
    const { PutBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    const Policy = JSON.stringify(inputs.policy);
    const command = new PutBucketPolicyCommand({ Bucket: inputs.bucket, Policy });
    try {
      await call("put the bucket policy", (s3) => s3.send(command));
      return inputs;
    } catch (error) {
      throw isUnsupported(error) ? noPolicies(inputs, error) : error;
    }
  }

  protected async readState(props: PolicyInputs, call: Call): Promise<PolicyInputs | undefined> {
    const { GetBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    const command = new GetBucketPolicyCommand({ Bucket: props.bucket });
    const answer = await unless(isAbsentOrUnsupported, () =>
      call("read the bucket policy", (s3) => s3.send(command)),
    );
    if (answer === undefined) return undefined;
    const policy = parsePolicy(answer.Policy);
    if (policy === undefined) throw notS3(props);
    const actual = { ...props, policy };
    return sameMeaning(actual, props) ? props : actual;
  }

  protected async remove(props: PolicyInputs, call: Call): Promise<void> {
    const { DeleteBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    const command = new DeleteBucketPolicyCommand({ Bucket: props.bucket });
    await unless(isAbsentOrUnsupported, () =>
      call("delete the bucket policy", (s3) => s3.send(command)),
    );
  }
}

/** The policy in an answer; undefined for another text, which is not from an S3 server. */
function parsePolicy(text: string | undefined): object | undefined {
  try {
    const policy: unknown = JSON.parse(text ?? "");
    return typeof policy === "object" && policy !== null && "Statement" in policy
      ? policy
      : undefined;
  } catch {
    return undefined;
  }
}

function noPolicies({ endpoint }: Connection, cause: unknown): ServerError {
  const message =
    `the server at ${endpoint} has no bucket policies. Remove policyPrincipal, and give ` +
    "authentik's key its rights with the server's own tools (Garage: garage bucket allow; " +
    "MinIO: mc admin policy; SeaweedFS: s3.configure).";
  return new ServerError(message, "NotImplemented", 501, cause);
}

/** What the work gives; undefined where it fails with an error of this kind. */
async function unless<T>(
  isExpected: (error: unknown) => boolean,
  work: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (isExpected(error)) return undefined;
    throw error;
  }
}

function isCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof ServerError && codes.includes(error.code);
}

/** The server does not have this function. */
function isUnsupported(error: unknown): boolean {
  return isCode(error, "NotImplemented", "MethodNotAllowed");
}

/** No bucket, CORS policy or bucket policy: servers have different codes, and one status. */
function isAbsent(error: unknown): boolean {
  return error instanceof ServerError && error.status === 404 && error.code !== NOT_S3;
}

function isAbsentOrUnsupported(error: unknown): boolean {
  return isAbsent(error) || isUnsupported(error);
}

/**
 * Whether the server would do the same with both. The order of a list means nothing to it, and a
 * list of one is the same as its entry.
 */
function sameMeaning(a: object, b: object): boolean {
  return JSON.stringify(canonical(a)) === JSON.stringify(canonical(b));
}

function canonical(value: unknown): unknown {
  if (Array.isArray(value)) {
    const items = value
      .map(canonical)
      .sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
    return items.length === 1 ? items[0] : items;
  }
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, item]) => [key, canonical(item)]));
}

export const bucket = new BucketOperations();
export const cors = new CorsOperations();
export const policy = new PolicyOperations();
