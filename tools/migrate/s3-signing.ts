/** Where a bucket's requests go, and how they are signed. */
import { createHmac, hash } from "node:crypto";
import type { StorageSettings } from "../../authentik/env.ts";
import {
  escapePath,
  escapeUri,
  signatureBase,
  type SignatureBase,
  type SigningKeys,
} from "../../authentik/url.ts";

/** For the requests by which the SDK finds credentials. In milliseconds. */
const SDK_TIMEOUTS = { connectionTimeout: 10_000, requestTimeout: 20_000 };

/** Where a bucket's requests go, and how they are signed. */
export interface BucketAddress {
  origin: string;
  host: string;
  /** The path before the key, encoded: `/bucket`, or nothing if the bucket is in the host. */
  basePath: string;
  region: string;
  /** Gives the same keys until they expire. */
  credentials: () => SigningKeys | Promise<SigningKeys>;
}

/** A request to a bucket. */
export interface BucketRequest {
  method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  /** Undefined for a request to the bucket itself. */
  key?: string;
  query?: Record<string, string>;
  headers?: Readonly<Record<string, string>>;
  body?: Buffer;
}

/**
 * The address of these settings' bucket. Without keys the AWS SDK's default credential chain signs,
 * with the profile if the settings name one.
 *
 * @throws Error when the chain finds no credentials
 */
export async function addressOf(settings: StorageSettings): Promise<BucketAddress> {
  const keys = keysOf(settings);
  const isComplete = keys !== undefined && settings.endpoint !== undefined;
  const aws = isComplete ? undefined : await fromAwsConfig(settings);
  const credentials = keys ? () => keys : aws?.credentials;
  if (!credentials) throw new Error("there are no credentials");
  // boto3 also signs for this region when it knows none.
  const region = settings.region ?? aws?.region ?? "us-east-1";
  const place = hostAndPath(settings, new URL(settings.endpoint ?? aws?.endpoint ?? ""));
  return { ...place, region, credentials };
}

/** The keys of the settings; undefined when a profile replaces them. */
function keysOf(settings: StorageSettings): SigningKeys | undefined {
  const { accessKey, secretKey, sessionToken, sessionProfile } = settings;
  if (accessKey === undefined || secretKey === undefined || sessionProfile !== undefined) {
    return undefined;
  }
  return { accessKeyId: accessKey, secretAccessKey: secretKey, sessionToken };
}

function hostAndPath({ bucketName, addressingStyle }: StorageSettings, endpoint: URL) {
  // URL encodes most characters of the path, but not all that S3 requires.
  const path = endpoint.pathname.replace(/\/$/, "");
  const folder = path.replace(/%(?![0-9a-f]{2})|[^\w.~/%-]/gi, escapeUri);
  const isInHost = addressingStyle === "virtual";
  const host = isInHost ? `${bucketName}.${endpoint.host}` : endpoint.host;
  const basePath = isInHost ? folder : `${folder}/${escapeUri(bucketName)}`;
  return { origin: `${endpoint.protocol}//${host}`, host, basePath };
}

/**
 * Region, credentials and endpoint that the AWS SDK finds in the environment, the shared config or the
 * machine's role. The SDK is loaded only for this.
 */
async function fromAwsConfig({ region, sessionProfile, useSsl, endpoint }: StorageSettings) {
  const { S3Client } = await import("@aws-sdk/client-s3");
  const { s3ClientConfig } = await import("../../providers/s3/client.ts");
  const { config } = new S3Client(
    s3ClientConfig({
      keys: { sessionProfile },
      ...(region === undefined ? {} : { region }),
      ...SDK_TIMEOUTS,
    }),
  );
  const found = region ?? (await config.region().catch(() => undefined)) ?? "us-east-1";
  const { credentials } = config;
  if (endpoint !== undefined) return { region: found, credentials };
  const { url } = config.endpointProvider({ Region: found, UseFIPS: false });
  const scheme = useSsl === false ? "http" : "https";
  return { region: found, credentials, endpoint: `${scheme}://${url.host}` };
}

const EMPTY_SHA256 = hash("sha256", "");

/** A header that the AWS SDK does not sign, because proxies may change it. */
const UNSIGNED_HEADER = "cache-control";

/** A request's path with its query, and all its headers. */
export interface SignedRequest {
  path: string;
  headers: Record<string, string>;
}

/** Signs the requests of one bucket with SigV4. */
export class Signer {
  private readonly address: BucketAddress;
  /** What the last signature was made of. It serves all signatures of its second. */
  private last: { second: number; secret: string; base: SignatureBase } | undefined;

  constructor(address: BucketAddress) {
    this.address = address;
  }

  /**
   * Signs a request as it is now (AWS, "Authenticating Requests: Using the Authorization Header").
   * The signature covers the SHA-256 of the body, which the server compares. The AWS SDK's signer
   * needs three times the CPU time, a tenth of that of a run with small files.
   */
  async sign(request: BucketRequest, date = new Date()): Promise<SignedRequest> {
    const { host, basePath, credentials } = this.address;
    const { method, key, query, body } = request;
    const { accessKeyId, secretAccessKey, sessionToken } = await credentials();
    const path = key === undefined ? basePath || "/" : `${basePath}/${escapePath(key)}`;
    const search = query === undefined ? "" : searchOf(query);
    const base = this.baseOf(date, secretAccessKey);
    const { time, scope } = base;
    const payload = body ? hash("sha256", body) : EMPTY_SHA256;
    const own = { host, "x-amz-content-sha256": payload, "x-amz-date": time };
    // For objects of different shapes this is ten times as fast as `...`.
    const headers: Record<string, string> = Object.assign(own, request.headers);
    if (sessionToken !== undefined) headers["x-amz-security-token"] = sessionToken;
    const names = Object.keys(headers).filter((name) => name !== UNSIGNED_HEADER);
    names.sort();
    let lines = "";
    for (const name of names) lines += `${name}:${trimmed(headers[name] ?? "")}\n`;
    const signedHeaders = names.join(";");
    const canonical = `${method}\n${path}\n${search}\n${lines}\n${signedHeaders}\n${payload}`;
    const text = `AWS4-HMAC-SHA256\n${time}\n${scope}\n${hash("sha256", canonical)}`;
    const signature = createHmac("sha256", base.key).update(text);
    headers["authorization"] =
      `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, ` +
      `SignedHeaders=${signedHeaders}, Signature=${signature.digest("hex")}`;
    return { path: search === "" ? path : `${path}?${search}`, headers };
  }

  private baseOf(date: Date, secret: string): SignatureBase {
    const second = Math.floor(date.getTime() / 1000);
    if (this.last?.second === second && this.last.secret === secret) return this.last.base;
    const base = signatureBase(secret, date, this.address.region, "s3");
    this.last = { second, secret, base };
    return base;
  }
}

/** The query in the form of the signature. */
function searchOf(query: Record<string, string>): string {
  const parts = Object.entries(query).map(
    ([name, value]) => `${escapeUri(name)}=${escapeUri(value)}`,
  );
  return parts.sort().join("&");
}

function trimmed(value: string): string {
  return value.trim().replace(/ +/g, " ");
}
