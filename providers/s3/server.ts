/** Calls to an S3 server as its administrator: the client, how long it is waited for, errors that say what to do. */
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { S3Client } from "@aws-sdk/client-s3";

/** Where a bucket is and how to reach it: what every resource of this folder has among its inputs. */
export interface Connection {
  endpoint: string;
  bucket: string;
  region?: string;
  addressingStyle?: string;
  /** Absent where the stack's config has them. */
  credentials?: AdminCredentials;
  /** How long a server is waited for that does not answer yet or does not know the keys yet. */
  patienceSeconds?: number;
}

/** Keys, or an AWS profile; with neither, the AWS SDK's default chain. */
export interface AdminCredentials {
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  sessionToken?: string | undefined;
  sessionProfile?: string | undefined;
}

/** The keys that administer the bucket, from a stack's config: the admin's own, or else authentik's. */
export function adminCredentials(get: (key: string) => string | undefined): AdminCredentials {
  const adminAccessKey = get("adminAccessKey");
  return adminAccessKey === undefined
    ? { accessKey: get("accessKey"), secretKey: get("secretKey"), sessionToken: get("sessionToken"), sessionProfile: get("sessionProfile") }
    : { accessKey: adminAccessKey, secretKey: get("adminSecretKey") };
}

/** A call that failed. The message says which, why, and what to do; `code` is the server's or the network's. */
export class ServerError extends Error {
  override name = "ServerError";
  readonly code: string;
  readonly status: number | undefined;
  constructor(message: string, code: string, status: number | undefined, cause: unknown) {
    super(message, { cause });
    this.code = code;
    this.status = status;
    // The engine prints the stack of what a dynamic provider throws, and a user can do nothing with it.
    this.stack = "";
  }
}

const RETRY_EVERY_MS = 5_000;

/**
 * Makes calls on a bucket's server, each named by what it is for.
 *
 * @example await onServer(connection, credentials, (call) => call("list the bucket", (s3) => s3.send(command)));
 */
export async function onServer<T>(
  connection: Connection,
  credentials: AdminCredentials,
  work: (call: Call) => Promise<T>,
): Promise<T> {
  const s3 = await createClient(connection, connection.credentials ?? credentials);
  const deadline = Date.now() + (connection.patienceSeconds ?? 0) * 1000;
  const call: Call = async (purpose, request) => {
    for (;;) {
      try {
        return await request(s3);
      } catch (error) {
        const failure = explain(error, purpose, connection);
        const wait = Math.min(RETRY_EVERY_MS, deadline - Date.now());
        if (!mayPass(failure)) throw failure;
        if (wait <= 0) throw connection.patienceSeconds ? waitedInVain(failure, connection.patienceSeconds) : failure;
        await sleep(wait);
      }
    }
  };
  try {
    return await work(call);
  } finally {
    s3.destroy();
  }
}

/** Makes one request. It throws a `ServerError`. */
export type Call = <T>(purpose: string, request: (s3: S3Client) => Promise<T>) => Promise<T>;

async function createClient(connection: Connection, credentials: AdminCredentials): Promise<S3Client> {
  // On Node 20 the SDK warns, at every start, of what its later versions will need; the lock file holds this one.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = "true";
  const { S3Client } = await import("@aws-sdk/client-s3");
  const { accessKey, secretKey, sessionToken, sessionProfile } = credentials;
  const client = new S3Client({
    endpoint: connection.endpoint,
    region: connection.region ?? "us-east-1",
    forcePathStyle: connection.addressingStyle !== "virtual",
    ...(accessKey !== undefined && secretKey !== undefined
      ? { credentials: { accessKeyId: accessKey, secretAccessKey: secretKey, ...(sessionToken === undefined ? {} : { sessionToken }) } }
      : {}),
    ...(sessionProfile === undefined ? {} : { profile: sessionProfile }),
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    maxAttempts: 4,
    requestHandler: { connectionTimeout: 5_000, requestTimeout: 30_000, throwOnRequestTimeout: true },
  });
  // Where S3 wants a checksum (CORS, policy), older servers know Content-MD5 alone.
  client.middlewareStack.add(
    (next) => (args) => {
      const { request } = args;
      if (isRequestWithText(request)) request.headers["content-md5"] = createHash("md5").update(request.body).digest("base64");
      return next(args);
    },
    { step: "build", name: "contentMd5" },
  );
  return client;
}

function isRequestWithText(request: unknown): request is { headers: Record<string, string>; body: string } {
  return typeof request === "object" && request !== null && "headers" in request && "body" in request && typeof request.body === "string";
}

/** What may be otherwise in a minute: no answer, a server still starting, a grant that does not hold yet. */
function mayPass({ code, status }: ServerError): boolean {
  return status === undefined ? code !== "unknown" : status === 403 || status >= 500;
}

function waitedInVain({ message, code, status, cause }: ServerError, seconds: number): ServerError {
  return new ServerError(`${message} This has been tried for ${seconds} s; run pulumi up again if it only needs longer.`, code, status, cause);
}

function explain(error: unknown, purpose: string, connection: Connection): ServerError {
  const { code, status, message } = factsOf(error);
  const where = `bucket "${connection.bucket}" at ${connection.endpoint}`;
  const said = [status === undefined ? undefined : `HTTP ${status}`, code, message].filter((part) => part).join(", ");
  return new ServerError(`could not ${purpose} (${where}): ${said}. ${advice(code, status, connection)}`, code, status, error);
}

function factsOf(error: unknown): { code: string; status: number | undefined; message: string } {
  if (!(error instanceof Error)) return { code: "unknown", status: undefined, message: String(error) };
  const status = "$metadata" in error ? statusOf(error.$metadata) : undefined;
  // A Node error's own code says more than its class; a service error has only its name, the server's code.
  const code = "code" in error && typeof error.code === "string" ? error.code : error.name;
  return { code: code === "Error" ? "unknown" : code, status, message: error.message === code ? "" : error.message.replace(/\.$/, "") };
}

function statusOf(metadata: unknown): number | undefined {
  if (typeof metadata !== "object" || metadata === null || !("httpStatusCode" in metadata)) return undefined;
  return typeof metadata.httpStatusCode === "number" ? metadata.httpStatusCode : undefined;
}

function advice(code: string, status: number | undefined, { region, endpoint }: Connection): string {
  switch (code) {
    case "InvalidAccessKeyId":
      return "The server does not know this access key: check adminAccessKey (or accessKey).";
    case "SignatureDoesNotMatch":
      return "The secret key does not belong to the access key, or something on the way changes the request: check adminSecretKey (or secretKey).";
    case "RequestTimeTooSkewed":
      return "This machine's clock differs from the server's: set the clock.";
    case "AuthorizationHeaderMalformed":
    case "PermanentRedirect":
    case "InvalidLocationConstraint":
    case "IllegalLocationConstraintException":
      return `The server wants another region than "${region ?? "us-east-1"}": set region.`;
    case "ExpiredToken":
    case "InvalidToken":
      return "The session token is no longer valid: set a new one.";
    case "CredentialsProviderError":
      return "No credentials were found: set adminAccessKey and adminSecretKey, or accessKey and secretKey.";
    case "BucketAlreadyExists":
      return "The name belongs to another owner: choose another bucketName.";
    case "NoSuchBucket":
      return "The bucket is gone: run pulumi refresh, then pulumi up.";
    case "NotImplemented":
    case "MethodNotAllowed":
      return "The server lacks this function.";
  }
  if (status === 403) return "The keys may not do this, or the bucket belongs to another owner: check both.";
  if (status === undefined) return `No answer: check that ${endpoint} is right and its server runs.`;
  return status >= 500 ? "The server failed or is busy: try again." : "Nothing was changed by this call.";
}
