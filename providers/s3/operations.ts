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
import {
  adminCredentials,
  onServer,
  ServerError,
  type AdminCredentials,
  type Call,
  type Connection,
} from "./server.ts";

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

/** In place of a value that is known only during `up` (Pulumi's engine protocol). */
const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

/** What the three resources have in common. */
abstract class Operations<Inputs extends Connection>
  implements dynamic.ResourceProvider<Inputs, Inputs>
{
  #stackCredentials: AdminCredentials = {};

  async configure({ config }: dynamic.ConfigureRequest): Promise<void> {
    this.#stackCredentials = adminCredentials((key) => config.get(key));
    return Promise.resolve();
  }

  /**
   * Another endpoint or bucket replaces the resource. All else is an update in place, and so is the
   * handler of another version: `__provider` is one of the inputs here.
   */
  async diff(_id: string, olds: Inputs, news: Inputs): Promise<dynamic.DiffResult> {
    const isReplaced = (key: keyof Connection) => olds[key] !== news[key] && news[key] !== UNKNOWN;
    return Promise.resolve({
      changes: !sameMeaning(olds, news),
      replaces: (["endpoint", "bucket"] as const).filter(isReplaced),
    });
  }

  async read(id: string, props?: Inputs): Promise<dynamic.ReadResult<Inputs>> {
    // The engine cannot import dynamic resources: an id alone is not enough to read one.
    if (!props) return {};
    const actual = await this.#hinted(() =>
      this.call(props, (call) => this.readState(props, call)),
    );
    // Without an id the engine records the resource as deleted, and the next `up` creates it again.
    return actual ? { id, props: actual, inputs: actual } : {};
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
      if (!isCode(error, "NoSuchBucket")) throw error;
    }
  }
}

function alreadyExists({ bucket, endpoint }: Connection): ServerError {
  const message =
    `the bucket "${bucket}" at ${endpoint} exists already, and nothing in it was changed. ` +
    "Set adopt: true to manage it with this stack, or choose another bucketName.";
  return new ServerError(message, "BucketAlreadyOwnedByYou", 409, undefined);
}

function notEmpty({ bucket, endpoint }: Connection, cause?: unknown): ServerError {
  const message =
    `the bucket "${bucket}" at ${endpoint} is not empty and was not deleted. ` +
    "Empty it yourself, or set forceDestroy: true, run pulumi up, " +
    "and delete it with everything in it.";
  return new ServerError(message, "BucketNotEmpty", 409, cause);
}

/**
 * Whether the bucket exists and has objects. It asks for a listing: the answer to a HEAD has no
 * body, so a wrong key, a wrong clock and another owner's bucket would all look alike.
 */
async function look({ bucket }: Connection, call: Call): Promise<"absent" | "empty" | "filled"> {
  const { ListObjectsV2Command } = await import("@aws-sdk/client-s3");
  const command = new ListObjectsV2Command({ Bucket: bucket, MaxKeys: 1 });
  try {
    const { Contents = [] } = await call("look at the bucket", (s3) => s3.send(command));
    return Contents.length === 0 ? "empty" : "filled";
  } catch (error) {
    if (isCode(error, "NoSuchBucket", "NotFound")) return "absent";
    throw error;
  }
}

/**
 * Creates the bucket as the setup page says: with a private ACL, and with its region if that is not
 * the default one. An option that the server refuses is left out.
 */
async function createBucket(
  { bucket, region = "us-east-1" }: Connection,
  call: Call,
): Promise<void> {
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
      // It did not exist a moment ago. An earlier attempt of this call created it, and the answer
      // was lost.
      if (isCode(error, "BucketAlreadyOwnedByYou")) return;
      if (location && isCode(error, ...LOCATION_REFUSED)) location = false;
      else if (acl && isCode(error, ...ACL_REFUSED)) acl = false;
      else throw error;
    }
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
async function emptyBucket({ bucket: Bucket }: Connection, call: Call): Promise<void> {
  const client = await import("@aws-sdk/client-s3");
  for (;;) {
    const objects = await listEverything(Bucket, call);
    if (objects.length === 0) break;
    await inParallel(objects, async ({ Key, VersionId }) => {
      const version = VersionId === "null" ? {} : { VersionId };
      const command = new client.DeleteObjectCommand({ Bucket, Key, ...version });
      await call(`delete the object "${Key}"`, (s3) => s3.send(command));
    });
  }
  const listing = new client.ListMultipartUploadsCommand({ Bucket });
  const uploads = await unless(isUnsupported, () =>
    call("list the unfinished uploads", (s3) => s3.send(listing)),
  );
  await inParallel(uploads?.Uploads ?? [], async ({ Key, UploadId }) => {
    const command = new client.AbortMultipartUploadCommand({ Bucket, Key, UploadId });
    await call(`abort the upload of "${Key}"`, (s3) => s3.send(command));
  });
}

interface ObjectVersion {
  Key?: string | undefined;
  VersionId?: string | undefined;
}

/** A page of the bucket's object versions, or of its objects where the server has no versions. */
async function listEverything(Bucket: string, call: Call): Promise<ObjectVersion[]> {
  const { ListObjectsV2Command, ListObjectVersionsCommand } = await import("@aws-sdk/client-s3");
  const listing = new ListObjectVersionsCommand({ Bucket });
  const versions = await unless(isUnsupported, () =>
    call("list the object versions", (s3) => s3.send(listing)),
  );
  if (versions) return [...(versions.Versions ?? []), ...(versions.DeleteMarkers ?? [])];
  const objects = new ListObjectsV2Command({ Bucket });
  return (await call("list the objects", (s3) => s3.send(objects))).Contents ?? [];
}

const PARALLEL_DELETES = 16;

async function inParallel<T>(items: T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: PARALLEL_DELETES }, worker));
}

/** A setting of a bucket that is put as a whole, whether it existed before or not. */
abstract class SettingOperations<Inputs extends Connection> extends Operations<Inputs> {
  /** Its name in the resource's id. */
  protected abstract readonly kind: string;
  /** The part of the inputs that the server keeps. The rest says how to reach the server. */
  protected abstract kept(inputs: Inputs): object;
  protected abstract put(inputs: Inputs, call: Call): Promise<void>;

  async create(inputs: Inputs): Promise<dynamic.CreateResult<Inputs>> {
    await this.call(inputs, (call) => this.put(inputs, call));
    return { id: `${inputs.bucket}/${this.kind}`, outs: inputs };
  }

  async update(_id: string, olds: Inputs, news: Inputs): Promise<dynamic.UpdateResult<Inputs>> {
    if (!sameMeaning(this.kept(olds), this.kept(news))) {
      await this.call(news, (call) => this.put(news, call));
    }
    return { outs: news };
  }
}

class CorsOperations extends SettingOperations<CorsInputs> {
  protected readonly kind = "cors";

  protected kept({ rules }: CorsInputs): object {
    return rules;
  }

  protected async put(inputs: CorsInputs, call: Call): Promise<void> {
    const { PutBucketCorsCommand } = await import("@aws-sdk/client-s3");
    const command = new PutBucketCorsCommand({
      Bucket: inputs.bucket,
      CORSConfiguration: { CORSRules: inputs.rules.map(toServer) },
    });
    try {
      await call("put the CORS policy", (s3) => s3.send(command));
    } catch (error) {
      if (!isUnsupported(error)) throw error;
      // MinIO, for example, has only one CORS policy for the whole server. It is enough if that
      // allows authentik's origins.
      const refused = await originsTheServerRefuses(inputs);
      if (refused.length > 0) throw originsRefused(inputs, refused, error);
    }
  }

  protected async readState(props: CorsInputs, call: Call): Promise<CorsInputs | undefined> {
    const { GetBucketCorsCommand } = await import("@aws-sdk/client-s3");
    const command = new GetBucketCorsCommand({ Bucket: props.bucket });
    try {
      const { CORSRules = [] } = await call("read the CORS policy", (s3) => s3.send(command));
      const actual = { ...props, rules: CORSRules.map(fromServer) };
      return sameMeaning(actual, props) ? props : actual;
    } catch (error) {
      if (isUnsupported(error))
        return (await originsTheServerRefuses(props)).length === 0 ? props : undefined;
      if (isAbsent(error)) return undefined;
      throw error;
    }
  }

  protected async remove(props: CorsInputs, call: Call): Promise<void> {
    const { DeleteBucketCorsCommand } = await import("@aws-sdk/client-s3");
    const command = new DeleteBucketCorsCommand({ Bucket: props.bucket });
    await unless(isAbsent, () => call("delete the CORS policy", (s3) => s3.send(command)));
  }
}

function originsRefused({ endpoint }: Connection, refused: string[], cause: unknown): ServerError {
  const message =
    `the server at ${endpoint} has no CORS policy for a bucket, ` +
    `and its own refuses ${refused.join(", ")}. ` +
    "Allow these origins in the server's own settings (MinIO: MINIO_API_CORS_ALLOW_ORIGIN), " +
    "then run pulumi up again.";
  return new ServerError(message, "NotImplemented", 501, cause);
}

/** The origins that the server refuses in a preflight to the bucket. */
async function originsTheServerRefuses({ endpoint, bucket, rules }: CorsInputs): Promise<string[]> {
  const origins = rules.flatMap(({ allowedOrigins }) => allowedOrigins);
  const allowed = await Promise.all(
    origins.map(async (origin) => {
      const response = await fetch(`${endpoint}/${bucket}/preflight`, {
        method: "OPTIONS",
        headers: { origin, "access-control-request-method": "GET" },
        signal: AbortSignal.timeout(10_000),
      }).catch(() => undefined);
      return response?.headers.get("access-control-allow-origin");
    }),
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

  protected async put({ bucket, policy }: PolicyInputs, call: Call): Promise<void> {
    const { PutBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    const command = new PutBucketPolicyCommand({ Bucket: bucket, Policy: JSON.stringify(policy) });
    await call("put the bucket policy", (s3) => s3.send(command));
  }

  protected async readState(props: PolicyInputs, call: Call): Promise<PolicyInputs | undefined> {
    const { GetBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    const command = new GetBucketPolicyCommand({ Bucket: props.bucket });
    const answer = await unless(isAbsent, () =>
      call("read the bucket policy", (s3) => s3.send(command)),
    );
    if (!answer?.Policy) return undefined;
    const policy: unknown = JSON.parse(answer.Policy);
    if (typeof policy !== "object" || policy === null) return undefined;
    const actual = { ...props, policy };
    return sameMeaning(actual, props) ? props : actual;
  }

  protected async remove(props: PolicyInputs, call: Call): Promise<void> {
    const { DeleteBucketPolicyCommand } = await import("@aws-sdk/client-s3");
    const command = new DeleteBucketPolicyCommand({ Bucket: props.bucket });
    await unless(isAbsent, () => call("delete the bucket policy", (s3) => s3.send(command)));
  }
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
  return error instanceof ServerError && error.status === 404;
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
