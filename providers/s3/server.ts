/** Calls to an S3 server as its administrator: client, retries, errors that say what to do. */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import type { S3Client } from "@aws-sdk/client-s3";
import pRetry from "p-retry";
import { proxyFor } from "../../authentik/proxy.ts";
import { s3ClientConfig, type ClientKeys } from "./client.ts";
import type { ConfigKey } from "./config.ts";

/** Where a bucket is and how to reach it: part of the inputs of every resource in this folder. */
export interface Connection {
  endpoint: string;
  bucket: string;
  region?: string;
  addressingStyle?: string;
  /** Absent where the stack's config has them. */
  credentials?: ClientKeys;
  /** For how many seconds a call is retried while the server does not answer or know the keys. */
  retrySeconds?: number;
}

/**
 * The keys that administer the bucket: the administrator's own, or else authentik's.
 *
 * @param get reads a key of the provider `s3` in the stack's config
 */
export function adminCredentials(get: (key: ConfigKey) => string | undefined): ClientKeys {
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
  /** Whether the request was sent before: the server may have carried it out, and the answer was lost. */
  isRepeated = false;
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
  credentials: ClientKeys,
  work: (call: Call) => Promise<T>,
): Promise<T> {
  const s3 = await createClient(connection, connection.credentials ?? credentials);
  const deadline = Date.now() + (connection.retrySeconds ?? 0) * 1000;
  const call: Call = (purpose, request) => {
    const attempt = async (count: number) => {
      try {
        return await request(s3);
      } catch (error) {
        const explained = explain(error, purpose, connection);
        explained.isRepeated = count > 1 || attemptsOf(error) > 1;
        throw explained;
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

async function createClient(connection: Connection, credentials: ClientKeys): Promise<S3Client> {
  const { S3Client } = await import("@aws-sdk/client-s3");
  const config = s3ClientConfig({
    endpoint: connection.endpoint,
    region: connection.region ?? DEFAULT_REGION,
    forcePathStyle: connection.addressingStyle !== "virtual",
    keys: credentials,
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    maxAttempts: 4,
    connectionTimeout: 5_000,
    requestTimeout: 30_000,
  });
  const client = new S3Client(config);
  // S3 requires a checksum of some requests (CORS, policy). Older servers know only Content-MD5.
  client.middlewareStack.add(
    (next) => (args) => {
      addContentMd5(args.request);
      return next(args);
    },
    { step: "build", name: "contentMd5" },
  );
  client.middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args);
      await checkAnswer(result.response, connection);
      return result;
    },
    { step: "deserialize", priority: "low", name: "checkAnswer" },
  );
  return client;
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

interface HttpAnswer {
  statusCode: number;
  body: unknown;
}

function isHttpAnswer(response: unknown): response is HttpAnswer {
  if (typeof response !== "object" || response === null) return false;
  return "statusCode" in response && typeof response.statusCode === "number" && "body" in response;
}

/**
 * Refuses an answer that no S3 server gives: a web page, a login, the error page of a proxy. The
 * SDK would read a page with status 200 as an empty listing, and one with 404 as a missing bucket.
 */
async function checkAnswer(answer: unknown, connection: Connection): Promise<void> {
  if (!isHttpAnswer(answer)) return;
  const body = await collect(answer.body);
  answer.body = body;
  const status = answer.statusCode;
  // 407 is the answer of a proxy, and from 500 on the server is down behind one.
  if (status === 407 || status >= 500) return;
  const isOfS3 = status < 300 ? isS3Content(body.toString()) : isS3Error(body.toString(), status);
  if (!isOfS3) throw notS3(connection, status);
}

async function collect(body: unknown): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  if (body instanceof Readable) {
    for await (const chunk of body) {
      if (chunk instanceof Uint8Array) chunks.push(chunk);
    }
  }
  return Buffer.concat(chunks);
}

/** Whether it is not a web page. The caller checks the rest. */
function isS3Content(text: string): boolean {
  return !/^\s*<(?:!doctype|html)/i.test(text);
}

/** XML with an error code. Only a missing resource and a redirect need one: a HEAD's 403 is empty. */
function isS3Error(text: string, status: number): boolean {
  if (text.trim() === "") return status !== 404 && status >= 400;
  return /<Code>/.test(text.slice(0, 4096));
}

/** The error for an answer of something other than an S3 server. */
export function notS3({ bucket, endpoint }: Connection, status = 200): ServerError {
  const message =
    `${endpoint} did not answer like an S3 server (bucket "${bucket}", HTTP ${status}), ` +
    "but e.g. with a web page or a login: check the endpoint's host, port and path.";
  return new ServerError(message, NOT_S3, status, undefined);
}

/** The code of `notS3`. */
export const NOT_S3 = "NotS3";

/** No answer, a server that is starting or busy, or a grant that is not in force yet. */
function isRetryable(code: string, status: number | undefined): boolean {
  return status === undefined ? code !== "unknown" : status === 403 || status >= 500;
}

function explain(error: unknown, purpose: string, connection: Connection): ServerError {
  if (error instanceof ServerError) return error;
  const { code, status, message } = factsOf(error);
  const { bucket, endpoint, retrySeconds = 0 } = connection;
  const facts = [status === undefined ? "" : `HTTP ${status}`, code, message];
  const answer = facts.filter((fact) => fact !== "").join(", ");
  const sentences = [
    `could not ${purpose} (bucket "${bucket}" at ${endpoint}${throughProxy(endpoint)}): ${answer}.`,
    advice(code, status, connection),
  ];
  if (retrySeconds > 0 && isRetryable(code, status)) {
    sentences.push(
      `This was tried for ${retrySeconds} s; run pulumi up again if the server needs longer.`,
    );
  }
  return new ServerError(sentences.join(" "), code, status, error);
}

function throughProxy(endpoint: string): string {
  const proxy = proxyFor(endpoint);
  return proxy === undefined ? "" : ` through the proxy ${proxy.host}`;
}

interface Facts {
  code: string;
  status: number | undefined;
  message: string;
}

function factsOf(error: unknown): Facts {
  if (!(error instanceof Error))
    return { code: "unknown", status: undefined, message: String(error) };
  const status = metadataOf(error, "httpStatusCode");
  // A Node error's code says more than its class. A service error has only its name, which is the
  // server's code.
  const code = "code" in error && typeof error.code === "string" ? error.code : error.name;
  return {
    code: code === "Error" ? "unknown" : code,
    status,
    message: error.message === code ? "" : error.message.replace(/\.$/, ""),
  };
}

function attemptsOf(error: unknown): number {
  return (error instanceof Error ? metadataOf(error, "attempts") : undefined) ?? 1;
}

/** What the SDK knows of the request that failed. */
function metadataOf(error: Error, name: "httpStatusCode" | "attempts"): number | undefined {
  const metadata = "$metadata" in error ? error.$metadata : undefined;
  const all = typeof metadata === "object" && metadata !== null ? Object.entries(metadata) : [];
  const value: unknown = all.find(([key]) => key === name)?.[1];
  return typeof value === "number" ? value : undefined;
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
  MalformedPolicy:
    "The server does not accept this bucket policy: check policyPrincipal. If the server has no " +
    "principals or not all actions (MinIO), remove policyPrincipal and give authentik's key its " +
    "rights with the server's own tools (MinIO: mc admin policy).",
  NotImplemented: UNSUPPORTED,
  MethodNotAllowed: UNSUPPORTED,
};

function advice(code: string, status: number | undefined, connection: Connection): string {
  const known = ADVICE[code];
  if (known !== undefined) return typeof known === "string" ? known : known(connection);
  if (status === undefined) {
    const proxy =
      throughProxy(connection.endpoint) === "" ? "" : ", and check the proxy of your environment";
    return `No answer: check that ${connection.endpoint} is right and its server runs${proxy}.`;
  }
  if (status === 407)
    return "The proxy requires a user and a password: write them into HTTP_PROXY or HTTPS_PROXY.";
  if (status === 403)
    return "The keys do not allow this, or the bucket belongs to another owner: check both.";
  return status >= 500 ? "The server failed or is busy: try again." : "This call changed nothing.";
}
