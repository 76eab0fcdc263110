/**
 * What the resources of this folder do on the server: create, read, diff, update, delete. The engine's provider process
 * loads this file, so it imports the S3 client only when it makes a call.
 */
import type { BucketLocationConstraint, CreateBucketCommandInput, CORSRule } from "@aws-sdk/client-s3";
import type * as dynamic from "@pulumi/pulumi/dynamic/index.js";
import { adminCredentials, onServer, ServerError, type AdminCredentials, type Call, type Connection } from "./server.ts";

export interface BucketInputs extends Connection {
  adopt?: boolean;
  forceDestroy?: boolean;
}

export interface CorsInputs extends Connection {
  rules: CorsRule[];
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

/** How the engine writes a value that is not known before `up`. */
const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

/** What the three kinds of resource have in common. */
abstract class Operations<Inputs extends Connection> implements dynamic.ResourceProvider<Inputs, Inputs> {
  #stackCredentials: AdminCredentials = {};

  async configure({ config }: dynamic.ConfigureRequest): Promise<void> {
    this.#stackCredentials = adminCredentials((key) => config.get(key));
    return Promise.resolve();
  }

  /** Another endpoint or bucket is another resource; all else is an update in place. */
  async diff(_id: string, olds: Inputs, news: Inputs): Promise<dynamic.DiffResult> {
    const changed = (key: keyof Connection) => olds[key] !== news[key];
    return Promise.resolve({
      changes: !sameMeaning(olds, news),
      replaces: (["endpoint", "bucket"] as const).filter((key) => changed(key) && news[key] !== UNKNOWN),
    });
  }

  async read(id: string, props?: Inputs): Promise<dynamic.ReadResult<Inputs>> {
    // The engine cannot import dynamic resources: there is no state to read by an id alone.
    if (!props) return {};
    const actual = await this.#hinted(() => this.call(props, (call) => this.readState(props, call)));
    // No id: the engine takes the resource for gone, and the next `up` makes it again.
    return actual ? { id, props: actual, inputs: actual } : {};
  }

  async delete(_id: string, props: Inputs): Promise<void> {
    await this.#hinted(() => this.call(props, (call) => this.remove(props, call)));
  }

  abstract create(inputs: Inputs): Promise<dynamic.CreateResult<Inputs>>;
  abstract update(id: string, olds: Inputs, news: Inputs): Promise<dynamic.UpdateResult<Inputs>>;
  /** The inputs as the server has them; undefined when it has none. */
  protected abstract readState(props: Inputs, call: Call): Promise<Inputs | undefined>;
  protected abstract remove(props: Inputs, call: Call): Promise<void>;

  protected call<T>(connection: Connection, work: (call: Call) => Promise<T>): Promise<T> {
    return onServer(connection, this.#stackCredentials, work);
  }

  async #hinted<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ServerError) || (error.status !== 403 && error.status !== 401)) throw error;
      const hint = "Refresh and destroy use the credentials of the last pulumi up: if they have changed since, run pulumi up first.";
      throw new ServerError(`${error.message} ${hint}`, error.code, error.status, error);
    }
  }
}

class BucketOperations extends Operations<BucketInputs> {
  async create(inputs: BucketInputs): Promise<dynamic.CreateResult<BucketInputs>> {
    await this.call(inputs, async (call) => {
      if ((await look(inputs, call)) === "absent") await createBucket(inputs, call);
      else if (inputs.adopt !== true) {
        throw new ServerError(
          `the bucket "${inputs.bucket}" at ${inputs.endpoint} exists already, and nothing of it was changed. ` +
            "Set adopt: true to take it under management, or choose another bucketName.",
          "BucketAlreadyOwnedByYou", 409, undefined,
        );
      }
    });
    return { id: inputs.bucket, outs: inputs };
  }

  /** Nothing of a bucket but its being there is on the server. */
  update(_id: string, _olds: BucketInputs, news: BucketInputs): Promise<dynamic.UpdateResult<BucketInputs>> {
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
      await call("delete the bucket", (s3) => s3.send(new DeleteBucketCommand({ Bucket: props.bucket })));
    } catch (error) {
      if (isCode(error, "BucketNotEmpty")) throw notEmpty(props, error);
      if (!isCode(error, "NoSuchBucket")) throw error;
    }
  }
}

function notEmpty({ bucket, endpoint }: Connection, cause?: unknown): ServerError {
  const advice = "Empty it yourself, or set forceDestroy: true, run pulumi up, and delete it with everything in it.";
  return new ServerError(`the bucket "${bucket}" at ${endpoint} is not empty and was left as it is. ${advice}`, "BucketNotEmpty", 409, cause);
}

/**
 * Whether the bucket is there and holds anything. A listing and not a HEAD: the answer to a HEAD has no body, so a wrong
 * key, a wrong clock and another owner's bucket would all look alike.
 */
async function look({ bucket }: Connection, call: Call): Promise<"absent" | "empty" | "filled"> {
  const { ListObjectsV2Command } = await import("@aws-sdk/client-s3");
  try {
    const { Contents = [] } = await call("look at the bucket", (s3) => s3.send(new ListObjectsV2Command({ Bucket: bucket, MaxKeys: 1 })));
    return Contents.length === 0 ? "empty" : "filled";
  } catch (error) {
    if (isCode(error, "NoSuchBucket", "NotFound")) return "absent";
    throw error;
  }
}

/**
 * Creates the bucket as the setup page says: with a private ACL, and with its region where that is not the default one. An
 * option that the server refuses is left out.
 */
async function createBucket({ bucket, region = "us-east-1" }: Connection, call: Call): Promise<void> {
  const { CreateBucketCommand } = await import("@aws-sdk/client-s3");
  let acl = true;
  let location = needsLocation(region);
  for (;;) {
    const input: CreateBucketCommandInput = {
      Bucket: bucket,
      ...(acl ? { ACL: "private" } : {}),
      ...(location && needsLocation(region) ? { CreateBucketConfiguration: { LocationConstraint: region } } : {}),
    };
    const command = new CreateBucketCommand({ ...input });
    // The SDK puts its region in as the location where there is none.
    command.middlewareStack.add((next) => (args) => next({ ...args, input }), { step: "initialize", priority: "low" });
    try {
      await call("create the bucket", (s3) => s3.send(command));
      return;
    } catch (error) {
      // It was absent a moment ago: an earlier attempt of this very call has made it, and the answer to that got lost.
      if (isCode(error, "BucketAlreadyOwnedByYou")) return;
      if (location && isCode(error, "InvalidLocationConstraint", "IllegalLocationConstraintException")) location = false;
      else if (acl && isCode(error, "AccessControlListNotSupported", "NotImplemented", "InvalidArgument")) acl = false;
      else throw error;
    }
  }
}

/** Only the default region goes without a LocationConstraint (AWS, "CreateBucket"). Other servers have names of their own. */
function needsLocation(region: string): region is BucketLocationConstraint {
  return region !== "us-east-1" && region !== "auto";
}

/** Deletes every object, every version of one, and every unfinished upload. */
async function emptyBucket(connection: Connection, call: Call): Promise<void> {
  const { AbortMultipartUploadCommand, DeleteObjectCommand, ListMultipartUploadsCommand, ListObjectVersionsCommand, ListObjectsV2Command } =
    await import("@aws-sdk/client-s3");
  const Bucket = connection.bucket;
  for (;;) {
    const versions = await unlessLacking(() => call("list the object versions", (s3) => s3.send(new ListObjectVersionsCommand({ Bucket }))));
    const objects: { Key?: string | undefined; VersionId?: string | undefined }[] = versions
      ? [...(versions.Versions ?? []), ...(versions.DeleteMarkers ?? [])]
      : ((await call("list the objects", (s3) => s3.send(new ListObjectsV2Command({ Bucket })))).Contents ?? []);
    if (objects.length === 0) break;
    await inParallel(objects, async ({ Key, VersionId }) => {
      const object = { Bucket, Key, ...(VersionId === "null" ? {} : { VersionId }) };
      await call(`delete the object "${Key}"`, (s3) => s3.send(new DeleteObjectCommand(object)));
    });
  }
  const uploads = await unlessLacking(() => call("list the unfinished uploads", (s3) => s3.send(new ListMultipartUploadsCommand({ Bucket }))));
  await inParallel(uploads?.Uploads ?? [], async ({ Key, UploadId }) => {
    await call(`abort the upload of "${Key}"`, (s3) => s3.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId })));
  });
}

async function unlessLacking<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (isLacking(error)) return undefined;
    throw error;
  }
}

const PARALLEL_DELETES = 16;

async function inParallel<T>(items: T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: PARALLEL_DELETES }, worker));
}

/** A setting that is put as a whole, whether it was there before or not. */
abstract class SettingOperations<Inputs extends Connection> extends Operations<Inputs> {
  /** What it is called in the resource's id. */
  protected abstract readonly kind: string;
  protected abstract readonly put: (inputs: Inputs, call: Call) => Promise<void>;

  async create(inputs: Inputs): Promise<dynamic.CreateResult<Inputs>> {
    await this.call(inputs, (call) => this.put(inputs, call));
    return { id: `${inputs.bucket}/${this.kind}`, outs: inputs };
  }

  async update(_id: string, _olds: Inputs, news: Inputs): Promise<dynamic.UpdateResult<Inputs>> {
    await this.call(news, (call) => this.put(news, call));
    return { outs: news };
  }
}

class CorsOperations extends SettingOperations<CorsInputs> {
  protected readonly kind = "cors";
  protected readonly put = putCors;

  protected async readState(props: CorsInputs, call: Call): Promise<CorsInputs | undefined> {
    const { GetBucketCorsCommand } = await import("@aws-sdk/client-s3");
    try {
      const { CORSRules = [] } = await call("read the CORS policy", (s3) => s3.send(new GetBucketCorsCommand({ Bucket: props.bucket })));
      const actual = { ...props, rules: CORSRules.map(fromServer) };
      return sameMeaning(actual, props) ? props : actual;
    } catch (error) {
      if (isLacking(error)) return (await originsTheServerRefuses(props)).length === 0 ? props : undefined;
      if (isAbsent(error)) return undefined;
      throw error;
    }
  }

  protected async remove(props: CorsInputs, call: Call): Promise<void> {
    const { DeleteBucketCorsCommand } = await import("@aws-sdk/client-s3");
    await unlessAbsent(() => call("delete the CORS policy", (s3) => s3.send(new DeleteBucketCorsCommand({ Bucket: props.bucket }))));
  }
}

async function putCors(inputs: CorsInputs, call: Call): Promise<void> {
  const { PutBucketCorsCommand } = await import("@aws-sdk/client-s3");
  const CORSRules = inputs.rules.map((rule) => ({
    AllowedOrigins: rule.allowedOrigins,
    AllowedHeaders: rule.allowedHeaders,
    AllowedMethods: rule.allowedMethods,
    MaxAgeSeconds: rule.maxAgeSeconds,
  }));
  try {
    await call("put the CORS policy", (s3) => s3.send(new PutBucketCorsCommand({ Bucket: inputs.bucket, CORSConfiguration: { CORSRules } })));
  } catch (error) {
    if (!isLacking(error)) throw error;
    // MinIO, for one, has CORS for the whole server only. That will do, if it lets authentik's origins in.
    const refused = await originsTheServerRefuses(inputs);
    if (refused.length === 0) return;
    throw new ServerError(
      `the server at ${inputs.endpoint} has no CORS policy for a bucket, and its own refuses ${refused.join(", ")}. ` +
        "Allow these origins in the server's own settings (MinIO: MINIO_API_CORS_ALLOW_ORIGIN), then run pulumi up again.",
      "NotImplemented", 501, error,
    );
  }
}

/** The origins that a preflight to the bucket does not let in. */
async function originsTheServerRefuses({ endpoint, bucket, rules }: CorsInputs): Promise<string[]> {
  const origins = rules.flatMap(({ allowedOrigins }) => allowedOrigins);
  const answers = await Promise.all(
    origins.map(async (origin) => {
      const response = await fetch(`${endpoint}/${bucket}/preflight`, {
        method: "OPTIONS",
        headers: { origin, "access-control-request-method": "GET" },
        signal: AbortSignal.timeout(10_000),
      }).catch(() => undefined);
      return { origin, allowed: response?.headers.get("access-control-allow-origin") };
    }),
  );
  return answers.filter(({ origin, allowed }) => allowed !== origin && allowed !== "*").map(({ origin }) => origin);
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
  protected readonly put = putPolicy;

  protected async readState(props: PolicyInputs, call: Call): Promise<PolicyInputs | undefined> {
    const { GetBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    const answer = await unlessAbsent(() => call("read the bucket policy", (s3) => s3.send(new GetBucketPolicyCommand({ Bucket: props.bucket }))));
    if (!answer?.Policy) return undefined;
    const policy: unknown = JSON.parse(answer.Policy);
    if (typeof policy !== "object" || policy === null) return undefined;
    const actual = { ...props, policy };
    return sameMeaning(actual, props) ? props : actual;
  }

  protected async remove(props: PolicyInputs, call: Call): Promise<void> {
    const { DeleteBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    await unlessAbsent(() => call("delete the bucket policy", (s3) => s3.send(new DeleteBucketPolicyCommand({ Bucket: props.bucket }))));
  }
}

async function putPolicy({ bucket, policy }: PolicyInputs, call: Call): Promise<void> {
  const { PutBucketPolicyCommand } = await import("@aws-sdk/client-s3");
  await call("put the bucket policy", (s3) => s3.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy: JSON.stringify(policy) })));
}

async function unlessAbsent<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

function isCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof ServerError && codes.includes(error.code);
}

function isLacking(error: unknown): boolean {
  return isCode(error, "NotImplemented", "MethodNotAllowed");
}

/** No bucket, no CORS policy, no bucket policy: servers have different codes for it, and one status. */
function isAbsent(error: unknown): boolean {
  return error instanceof ServerError && error.status === 404;
}

/** True when the server would do the same with both: the order of a list, and a list of one or the one itself, mean nothing. */
function sameMeaning(a: object, b: object): boolean {
  return JSON.stringify(canonical(a)) === JSON.stringify(canonical(b));
}

function canonical(value: unknown): unknown {
  if (Array.isArray(value)) {
    const items = value.map(canonical).sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
    return items.length === 1 ? items[0] : items;
  }
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([key]) => key !== "__provider").sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, item]) => [key, canonical(item)]));
}

export const bucket = new BucketOperations();
export const cors = new CorsOperations();
export const policy = new PolicyOperations();
