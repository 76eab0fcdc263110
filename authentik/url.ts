/** The URLs that authentik gives to browsers, signed as boto3 signs them for a release. */
import { createHash, createHmac } from "node:crypto";
import { durationSeconds } from "./duration.ts";
import { DEFAULTS, type AddressingStyle, type StorageSettings } from "./env.ts";
import type { ReleaseRules } from "./release.ts";
import { partitionOrDefault } from "./partitions.ts";

/** The keys that sign a URL. */
export interface SigningKeys {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string | undefined;
}

/**
 * How long a presigned URL is valid to 2025.10, in seconds: the default of django-storages'
 * `querystring_expire`, which authentik does not change.
 */
const LEGACY_EXPIRY = 3600;

/** How long the release's URLs are valid, in seconds. */
export function urlExpirySeconds(settings: StorageSettings, rules: ReleaseRules): number {
  if (!rules.readsUrlExpiry) return LEGACY_EXPIRY;
  return durationSeconds(settings.urlExpiry ?? DEFAULTS.urlExpiry) ?? 0;
}

/**
 * The URL of an object that a release gives to browsers (authentik's `root/storages.py` and
 * `admin/files/backends/s3.py`).
 *
 * @param key with its prefix: `media/public/icon.png`
 */
export function fileUrl(
  settings: StorageSettings,
  rules: ReleaseRules,
  keys: SigningKeys,
  key: string,
  date: Date,
): string {
  const { bucketName, customDomain, secureUrls, signatureVersion } = settings;
  const signing: Signing = {
    keys,
    date,
    region: signingRegion(settings),
    expiresIn: urlExpirySeconds(settings, rules),
  };
  const isLegacy = rules.readsSignatureVersion && signatureVersion === "s3";
  const presign = isLegacy ? presignV2 : presignS3V4;
  const domain = customDomain ? `${secureUrls ? "https" : "http"}://${customDomain}` : undefined;
  if (rules.signsCustomDomain) {
    const base = domain?.replace(/\/+$/, "") ?? `${clientEndpoint(settings)}/${bucketName}`;
    return presign(new URL(`${base}/${escapePath(key)}`), signing);
  }
  const root = presignRoot(settings, addressingStyle(settings, rules));
  const url = presign(new URL(`${root}/${escapePath(key)}`), signing);
  if (domain === undefined) return url;
  if (rules.swapsRoot) return url.replace(`${root}/`, `${domain}/`);
  return moveToDomain(url, domain, rules.doublesBucket ? "" : `/${bucketName}`);
}

/** Moves a URL to the custom domain, whose own path has `inDomain` at its end. */
function moveToDomain(url: string, domain: string, inDomain: string): string {
  const { pathname, search } = new URL(url);
  const path = pathname.startsWith(`${inDomain}/`) ? pathname.slice(inDomain.length) : pathname;
  return `${domain}${path}${search}`;
}

function addressingStyle(
  settings: StorageSettings,
  rules: ReleaseRules,
): AddressingStyle | undefined {
  return rules.readsAddressingStyle ? settings.addressingStyle : undefined;
}

/** The URL of the bucket to which requests with the key go, without a slash at the end. */
export function bucketUrl(settings: StorageSettings, rules: ReleaseRules): string {
  const style = addressingStyle(settings, rules) ?? DEFAULTS.addressingStyle;
  // Only presigned URLs use AWS's global host, and only if the style is not "virtual".
  const isRegional = settings.endpoint === undefined && style === "auto";
  return presignRoot(settings, isRegional ? "virtual" : style);
}

/** The region of the signature. Without a region boto3 signs for us-east-1. */
export function signingRegion({ region }: StorageSettings): string {
  return region === undefined || region === "aws-global" ? "us-east-1" : region;
}

/**
 * boto3's `client.meta.endpoint_url`: the endpoint, or AWS's endpoint for the region. It has no
 * slash at the end.
 */
export function clientEndpoint(settings: StorageSettings): string {
  if (settings.endpoint !== undefined) return settings.endpoint.replace(/\/+$/, "");
  const region = signingRegion(settings);
  const { dnsSuffix } = partitionOrDefault(region);
  const host = region === "us-east-1" ? `s3.${dnsSuffix}` : `s3.${region}.${dnsSuffix}`;
  return `${settings.useSsl === false ? "http" : "https"}://${host}`;
}

/**
 * A signed URL that asks AWS whose keys these are (STS GetCallerIdentity, which needs no
 * permission).
 *
 * @returns undefined if the server is not AWS
 */
export function callerIdentityUrl(
  settings: StorageSettings,
  keys: SigningKeys,
  date: Date,
): string | undefined {
  const region = signingRegion(settings);
  const { dnsSuffix } = partitionOrDefault(region);
  if (!new URL(clientEndpoint(settings)).hostname.endsWith(`.${dnsSuffix}`)) return undefined;
  const query = "Action=GetCallerIdentity&Version=2011-06-15";
  const url = new URL(`https://sts.${region}.${dnsSuffix}/?${query}`);
  return presignV4(url, { keys, date, region, expiresIn: 60, service: "sts" });
}

/** A bucket name that fits into a host before a certificate's wildcard: one label. */
const ONE_LABEL = /^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/;
/**
 * A bucket name that fits into a host over http, where there is no certificate: one or more labels.
 */
const LABELS = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;

/**
 * Scheme, host and path before the key, as in boto3's `generate_presigned_url` (botocore's
 * `args.py`, `signers.py` and its endpoint rules for S3). With an endpoint the bucket is in the
 * path, and in the host if the style is `virtual`. Without an endpoint the bucket is in the host,
 * and in the path if the style is `path`; the host is AWS's global host unless the style is
 * `virtual`.
 */
function presignRoot(settings: StorageSettings, style: AddressingStyle | undefined): string {
  const { bucketName, endpoint } = settings;
  const base = clientEndpoint(settings);
  const { protocol, host, hostname, pathname } = new URL(base);
  const wantsHost = endpoint === undefined ? style !== "path" : style === "virtual";
  const fitting = protocol === "http:" && endpoint !== undefined ? LABELS : ONE_LABEL;
  if (!wantsHost || !fitting.test(bucketName) || isIpAddress(hostname)) {
    return `${base}/${bucketName}`;
  }
  const isGlobal =
    endpoint === undefined &&
    style !== "virtual" &&
    partitionOrDefault(signingRegion(settings)).id === "aws";
  const server = isGlobal ? "s3.amazonaws.com" : host;
  return `${protocol}//${bucketName}.${server}${pathname.replace(/\/$/, "")}`;
}

function isIpAddress(hostname: string): boolean {
  return /^\d+\.\d+\.\d+\.\d+$/.test(hostname) || hostname.startsWith("[");
}

/** Percent-encodes a key for a URL's path. Slashes stay. */
export function escapePath(key: string): string {
  return key.split("/").map(escapeUri).join("/");
}

/** Percent-encodes every character that is not unreserved in RFC 3986, as SigV4 requires. */
export function escapeUri(text: string): string {
  const escape = (char: string) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(text).replace(/[!'()*]/g, escape);
}

interface Signing {
  keys: SigningKeys;
  date: Date;
  region: string;
  /** In seconds. */
  expiresIn: number;
}

/** How a URL is signed with SigV4. */
export interface SigningV4 extends Signing {
  service: "s3" | "sts";
  method?: "GET" | "PUT";
}

function presignS3V4(url: URL, signing: Signing): string {
  return presignV4(url, { ...signing, service: "s3" });
}

/**
 * A URL with a SigV4 signature in its query: the signed header is `host`, the payload is unsigned
 * (AWS, "Authenticating Requests: Using Query Parameters"). The AWS SDK's presigner adds parameters
 * that boto3 does not send.
 */
export function presignV4(url: URL, signing: SigningV4): string {
  const { keys, date, region, expiresIn, service, method = "GET" } = signing;
  const time = date.toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = [time.slice(0, 8), region, service, "aws4_request"];
  const query = [
    ...url.searchParams,
    ["X-Amz-Algorithm", "AWS4-HMAC-SHA256"],
    ["X-Amz-Credential", [keys.accessKeyId, ...scope].join("/")],
    ["X-Amz-Date", time],
    ["X-Amz-Expires", String(expiresIn)],
    ["X-Amz-SignedHeaders", "host"],
    ...(keys.sessionToken === undefined ? [] : [["X-Amz-Security-Token", keys.sessionToken]]),
  ].map(([name = "", value = ""]) => `${escapeUri(name)}=${escapeUri(value)}`);
  const payload = service === "s3" ? "UNSIGNED-PAYLOAD" : createHash("sha256").digest("hex");
  const sorted = [...query].sort().join("&");
  const request = [method, url.pathname, sorted, `host:${url.host}`, "", "host", payload];
  const digest = createHash("sha256").update(request.join("\n")).digest("hex");
  const text = ["AWS4-HMAC-SHA256", time, scope.join("/"), digest].join("\n");
  let signingKey: string | Buffer = `AWS4${keys.secretAccessKey}`;
  for (const part of scope) signingKey = hmac(signingKey, part);
  const signature = hmac(signingKey, text).toString("hex");
  return `${url.origin}${url.pathname}?${query.join("&")}&X-Amz-Signature=${signature}`;
}

function hmac(key: string | Buffer, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}

/**
 * A URL signed by the legacy signer (botocore's `HmacV1QueryAuth`). It signs the path of the URL,
 * and neither host nor bucket.
 */
function presignV2(url: URL, { keys, date, expiresIn }: Signing): string {
  const { accessKeyId, secretAccessKey, sessionToken } = keys;
  const expires = String(Math.trunc(date.getTime() / 1000) + expiresIn);
  const token = sessionToken === undefined ? "" : `x-amz-security-token:${sessionToken}\n`;
  const signature = createHmac("sha1", secretAccessKey)
    .update(`GET\n\n\n${expires}\n${token}${url.pathname}`)
    .digest("base64");
  const query = [
    ["AWSAccessKeyId", accessKeyId],
    ["Signature", signature],
    ...(sessionToken === undefined ? [] : [["x-amz-security-token", sessionToken]]),
    ["Expires", expires],
  ].map(([name = "", value = ""]) => `${name}=${escapeUri(value)}`);
  return `${url.origin}${url.pathname}?${query.join("&")}`;
}
