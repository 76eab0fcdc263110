/** Calls to an S3 server as its administrator: client, retries, errors that say what to do. */
import { createHash } from "node:crypto";
import type { S3Client, S3ClientConfig } from "@aws-sdk/client-s3";
import pRetry from "p-retry";
import type { ConfigKey } from "./config.ts";

/** Where a bucket is and how to reach it: part of the inputs of every resource in this folder. */
export interface Connection {
  endpoint: string;
  bucket: string;
  region?: string;
  addressingStyle?: string;
  /** Absent where the stack's config has them. */
  credentials?: AdminCredentials;
  /** For how many seconds a call is retried while the server does not answer or know the keys. */
  retrySeconds?: number;
}

/** Keys, or an AWS profile; with neither, the AWS SDK's default chain. */
export interface AdminCredentials {
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  sessionToken?: string | undefined;
  sessionProfile?: string | undefined;
}

/**
 * The keys that administer the bucket: the administrator's own, or else authentik's.
 *
 * @param get reads a key of the provider `s3` in the stack's config
 */
export function adminCredentials(get: (key: ConfigKey) => string | undefined): AdminCredentials {
  const adminAccessKey = get("adminAccessKey");
  if (adminAccessKey !== undefined) {
    return { accessKey: adminAccessKey, secretKey: get("adminSecretKey") };
  }
  return {
    accessKey: get("accessKey"),
    secretKey: get("secretKey"),
    sessionToken: get("sessionToken"),
    sessionProfile: get("sessionProfile"),
  };
}

/**
 * A call that failed. The message says which one, why, and what to do. The code is the server's or
 * the network's.
 */
export class ServerError extends Error {
  override name = "ServerError";
  readonly code: string;
  readonly status: number | undefined;
  constructor(message: string, code: string, status: number | undefined, cause: unknown) {
    super(message, { cause });
    this.code = code;
    this.status = status;
    // The engine prints the stack of an error of a dynamic provider. It is of no use to a user.
    this.stack = "";
  }
}

const RETRY_EVERY_MS = 5_000;
const DEFAULT_REGION = "us-east-1";

/**
 * Makes calls to a bucket's server, each with the words that an error names it by.
 *
 * @example
 * await onServer(connection, credentials, (call) => call("list it", (s3) => s3.send(command)));
 */
export async function onServer<T>(
  connection: Connection,
  credentials: AdminCredentials,
  work: (call: Call) => Promise<T>,
): Promise<T> {
  const s3 = await createClient(connection, connection.credentials ?? credentials);
  const deadline = Date.now() + (connection.retrySeconds ?? 0) * 1000;
  const call: Call = (purpose, request) => {
    const attempt = async () => {
      try {
        return await request(s3);
      } catch (error) {
        throw explain(error, purpose, connection);
      }
    };
    return pRetry(attempt, {
      retries: Infinity,
      minTimeout: RETRY_EVERY_MS,
      factor: 1,
      maxRetryTime: Math.max(0, deadline - Date.now()),
      shouldRetry: ({ error }) =>
        error instanceof ServerError && isRetryable(error.code, error.status),
    });
  };
  try {
    return await work(call);
  } finally {
    s3.destroy();
  }
}

/** Makes one request, again within `retrySeconds`. It throws a `ServerError`. */
export type Call = <T>(purpose: string, request: (s3: S3Client) => Promise<T>) => Promise<T>;

async function createClient(
  connection: Connection,
  credentials: AdminCredentials,
): Promise<S3Client> {
  // On Node 20 the SDK warns at every start that later versions need a newer Node. The lock file
  // keeps this version.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = "true";
  const { S3Client } = await import("@aws-sdk/client-s3");
  const client = new S3Client({
    endpoint: connection.endpoint,
    region: connection.region ?? DEFAULT_REGION,
    forcePathStyle: connection.addressingStyle !== "virtual",
    ...clientCredentials(credentials),
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    maxAttempts: 4,
    requestHandler: {
      connectionTimeout: 5_000,
      requestTimeout: 30_000,
      throwOnRequestTimeout: true,
    },
  });
  // S3 requires a checksum of some requests (CORS, policy). Older servers know only Content-MD5.
  client.middlewareStack.add(
    (next) => (args) => {
      addContentMd5(args.request);
      return next(args);
    },
    { step: "build", name: "contentMd5" },
  );
  return client;
}

function clientCredentials({
  accessKey,
  secretKey,
  sessionToken,
  sessionProfile,
}: AdminCredentials): S3ClientConfig {
  const config: S3ClientConfig = {};
  if (accessKey !== undefined && secretKey !== undefined) {
    const keys = { accessKeyId: accessKey, secretAccessKey: secretKey };
    config.credentials = sessionToken === undefined ? keys : { ...keys, sessionToken };
  }
  if (sessionProfile !== undefined) config.profile = sessionProfile;
  return config;
}

function addContentMd5(request: unknown): void {
  if (!isRequestWithText(request)) return;
  request.headers["content-md5"] = createHash("md5").update(request.body).digest("base64");
}

interface RequestWithText {
  headers: Record<string, string>;
  body: string;
}

function isRequestWithText(request: unknown): request is RequestWithText {
  if (typeof request !== "object" || request === null) return false;
  return "headers" in request && "body" in request && typeof request.body === "string";
}

/** No answer, a server that is starting or busy, or a grant that is not in force yet. */
function isRetryable(code: string, status: number | undefined): boolean {
  return status === undefined ? code !== "unknown" : status === 403 || status >= 500;
}

function explain(error: unknown, purpose: string, connection: Connection): ServerError {
  const { code, status, message } = factsOf(error);
  const { bucket, endpoint, retrySeconds = 0 } = connection;
  const facts = [status === undefined ? "" : `HTTP ${status}`, code, message];
  const answer = facts.filter((fact) => fact !== "").join(", ");
  const sentences = [
    `could not ${purpose} (bucket "${bucket}" at ${endpoint}): ${answer}.`,
    advice(code, status, connection),
  ];
  if (retrySeconds > 0 && isRetryable(code, status)) {
    sentences.push(
      `This was tried for ${retrySeconds} s; run pulumi up again if the server needs longer.`,
    );
  }
  return new ServerError(sentences.join(" "), code, status, error);
}

interface Facts {
  code: string;
  status: number | undefined;
  message: string;
}

function factsOf(error: unknown): Facts {
  if (!(error instanceof Error))
    return { code: "unknown", status: undefined, message: String(error) };
  const status = "$metadata" in error ? statusOf(error.$metadata) : undefined;
  // A Node error's code says more than its class. A service error has only its name, which is the
  // server's code.
  const code = "code" in error && typeof error.code === "string" ? error.code : error.name;
  return {
    code: code === "Error" ? "unknown" : code,
    status,
    message: error.message === code ? "" : error.message.replace(/\.$/, ""),
  };
}

function statusOf(metadata: unknown): number | undefined {
  if (typeof metadata !== "object" || metadata === null) return undefined;
  const status = "httpStatusCode" in metadata ? metadata.httpStatusCode : undefined;
  return typeof status === "number" ? status : undefined;
}

const wrongRegion = ({ region = DEFAULT_REGION }: Connection) =>
  `The server requires another region than "${region}": set region.`;
const EXPIRED = "The session token is no longer valid: set a new one.";
const UNSUPPORTED = "The server does not have this function.";

/** What to do about an error, by its code. */
const ADVICE: Readonly<Record<string, string | ((connection: Connection) => string)>> = {
  InvalidAccessKeyId:
    "The server does not know this access key: check adminAccessKey (or accessKey).",
  SignatureDoesNotMatch:
    "The secret key does not belong to the access key, or a proxy changes the request: " +
    "check adminSecretKey (or secretKey).",
  RequestTimeTooSkewed: "This machine's clock differs from the server's: set the clock.",
  AuthorizationHeaderMalformed: wrongRegion,
  PermanentRedirect: wrongRegion,
  InvalidLocationConstraint: wrongRegion,
  IllegalLocationConstraintException: wrongRegion,
  ExpiredToken: EXPIRED,
  InvalidToken: EXPIRED,
  CredentialsProviderError:
    "No credentials were found: set adminAccessKey and adminSecretKey, or accessKey and secretKey.",
  BucketAlreadyExists: "The name belongs to another owner: choose another bucketName.",
  NoSuchBucket: "The bucket does not exist: run pulumi refresh, then pulumi up.",
  NotImplemented: UNSUPPORTED,
  MethodNotAllowed: UNSUPPORTED,
};

function advice(code: string, status: number | undefined, connection: Connection): string {
  const known = ADVICE[code];
  if (known !== undefined) return typeof known === "string" ? known : known(connection);
  if (status === undefined)
    return `No answer: check that ${connection.endpoint} is right and its server runs.`;
  if (status === 403)
    return "The keys do not allow this, or the bucket belongs to another owner: check both.";
  return status >= 500 ? "The server failed or is busy: try again." : "This call changed nothing.";
}
