/** Where a bucket's requests go, and how they are signed: by the AWS SDK's signer. */
import { createHash, createHmac, hash } from "node:crypto";
import { SignatureV4 } from "@smithy/signature-v4";
import type { StorageSettings } from "../../authentik/env.ts";
import { escapePath, escapeUri } from "../../authentik/url.ts";

/** For the requests of the SDK, which only finds credentials here. In milliseconds. */
const SDK_TIMEOUTS = { connectionTimeout: 10_000, requestTimeout: 20_000 };

/** Where a bucket's requests go, and how they are signed. */
export interface BucketAddress {
  origin: string;
  host: string;
  /** The path before the key, encoded: `/bucket`, or nothing if the bucket is in the host. */
  basePath: string;
  signer: SignatureV4;
}

/** A request to a bucket. */
export interface BucketRequest {
  method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  /** Undefined for a request to the bucket itself. */
  key?: string;
  query?: Record<string, string>;
  headers?: Record<string, string | undefined>;
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
  const credentials = keys ?? aws?.credentials;
  if (!credentials) throw new Error("there are no credentials");
  const signer = new SignatureV4({
    service: "s3",
    // boto3 also signs for this region when it knows none.
    region: settings.region ?? aws?.region ?? "us-east-1",
    credentials,
    sha256: Sha256,
    uriEscapePath: false,
    applyChecksum: false,
  });
  return { ...placeOf(settings, new URL(settings.endpoint ?? aws?.endpoint ?? "")), signer };
}

/** The keys of the settings; undefined when a profile replaces them. */
function keysOf({ accessKey, secretKey, sessionToken, sessionProfile }: StorageSettings) {
  if (accessKey === undefined || secretKey === undefined || sessionProfile !== undefined) {
    return undefined;
  }
  const token = sessionToken === undefined ? {} : { sessionToken };
  return { accessKeyId: accessKey, secretAccessKey: secretKey, ...token };
}

function placeOf({ bucketName, addressingStyle }: StorageSettings, endpoint: URL) {
  // URL encodes most characters of the path, but not all that S3 requires.
  const path = endpoint.pathname.replace(/\/$/, "");
  const folder = path.replace(/%(?![0-9a-f]{2})|[^\w.~/%-]/gi, escapeUri);
  const isInHost = addressingStyle === "virtual";
  const host = isInHost ? `${bucketName}.${endpoint.host}` : endpoint.host;
  const basePath = isInHost ? folder : `${folder}/${escapeUri(bucketName)}`;
  return { origin: `${endpoint.protocol}//${host}`, host, basePath };
}

/**
 * What the AWS SDK finds in the environment, the shared config or the machine's role. The SDK is
 * loaded only for this.
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

/** A request in the signer's form. The signature covers the SHA-256 of the body. */
export function unsigned({ host, basePath }: BucketAddress, request: BucketRequest) {
  const { method, key, query = {}, headers = {}, body } = request;
  return {
    method,
    protocol: "https:",
    hostname: host,
    path: key === undefined ? basePath || "/" : `${basePath}/${escapePath(key)}`,
    query,
    headers: {
      ...defined(headers),
      host,
      "x-amz-content-sha256": body ? hash("sha256", body) : EMPTY_SHA256,
    },
  };
}

function defined(headers: Record<string, string | undefined>): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) result[name] = value;
  }
  return result;
}

type HashInput = string | ArrayBuffer | ArrayBufferView;

/** Node's SHA-256 in the form that the signer requires. */
class Sha256 {
  private readonly hash: ReturnType<typeof createHash> | ReturnType<typeof createHmac>;
  constructor(secret?: HashInput) {
    this.hash = secret === undefined ? createHash("sha256") : createHmac("sha256", bytesOf(secret));
  }
  update(data: Uint8Array): void {
    this.hash.update(data);
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(this.hash.digest());
  }
  reset(): void {
    throw new Error("a hash can be used only once");
  }
}

function bytesOf(secret: HashInput): string | Uint8Array {
  if (typeof secret === "string") return secret;
  if (!ArrayBuffer.isView(secret)) return new Uint8Array(secret);
  return new Uint8Array(secret.buffer, secret.byteOffset, secret.byteLength);
}
