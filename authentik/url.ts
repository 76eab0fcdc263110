/** The URLs that authentik hands to browsers, signed as boto3 signs them for a release. */
import { createHash, createHmac } from "node:crypto";
import { durationSeconds } from "./duration.ts";
import { DEFAULTS, type AddressingStyle, type SignatureVersion, type StorageSettings } from "./env.ts";
import type { ReleaseRules } from "./release.ts";
import { partitionOrDefault } from "./partitions.ts";

/** Keys with which a URL is signed. */
export interface SigningKeys {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string | undefined;
}

/** What a presigned URL holds for to 2025.10, in seconds: django-storages' `querystring_expire`, which authentik leaves alone. */
const LEGACY_EXPIRY = 3600;

/** How long the release's URLs hold, in seconds. */
export function urlExpirySeconds(settings: StorageSettings, rules: ReleaseRules): number {
  if (!rules.readsUrlExpiry) return LEGACY_EXPIRY;
  return durationSeconds(settings.urlExpiry ?? DEFAULTS.urlExpiry) ?? 0;
}

/**
 * The URL of an object that a release hands out (authentik's `root/storages.py` and `admin/files/backends/s3.py`).
 *
 * @param key with its prefix: `media/public/icon.png`
 */
export function fileUrl(settings: StorageSettings, rules: ReleaseRules, keys: SigningKeys, key: string, date: Date): string {
  const { bucketName, customDomain, secureUrls } = settings;
  const signing: Signing = {
    keys,
    date,
    region: signingRegion(settings),
    expiresIn: urlExpirySeconds(settings, rules),
    version: rules.readsSignatureVersion ? settings.signatureVersion ?? DEFAULTS.signatureVersion : DEFAULTS.signatureVersion,
  };
  const domain = customDomain ? `${secureUrls ? "https" : "http"}://${customDomain}` : undefined;
  if (rules.signsCustomDomain) {
    const base = domain?.replace(/\/+$/, "") ?? `${clientEndpoint(settings)}/${bucketName}`;
    return presign(new URL(`${base}/${escapePath(key)}`), signing);
  }
  const style = rules.readsAddressingStyle ? settings.addressingStyle : undefined;
  const root = presignRoot(settings, style);
  const url = presign(new URL(`${root}/${escapePath(key)}`), signing);
  if (domain === undefined) return url;
  if (rules.swapsRoot) return url.replace(`${root}/`, `${domain}/`);
  const { pathname, search } = new URL(url);
  const doubled = `/${bucketName}/`;
  const path = !rules.doublesBucket && pathname.startsWith(doubled) ? pathname.slice(doubled.length - 1) : pathname;
  return `${domain}${path}${search}`;
}

/** The bucket's own URL, where requests with the key go, without a slash at the end. */
export function bucketUrl(settings: StorageSettings, rules: ReleaseRules): string {
  // "virtual" here keeps AWS's global host away, which is for presigned URLs alone.
  const style = (rules.readsAddressingStyle ? settings.addressingStyle : undefined) ?? DEFAULTS.addressingStyle;
  return presignRoot(settings, settings.endpoint === undefined && style === "auto" ? "virtual" : style);
}

/** The region in the signature. boto3 signs as us-east-1 without one. */
export function signingRegion({ region }: StorageSettings): string {
  return region === undefined || region === "aws-global" ? "us-east-1" : region;
}

/** boto3's `client.meta.endpoint_url`: the endpoint, or AWS's for the region; without a slash at the end. */
export function clientEndpoint(settings: StorageSettings): string {
  if (settings.endpoint !== undefined) return settings.endpoint.replace(/\/+$/, "");
  const region = signingRegion(settings);
  const { dnsSuffix: suffix } = partitionOrDefault(region);
  const host = region === "us-east-1" ? `s3.${suffix}` : `s3.${region}.${suffix}`;
  return `${settings.useSsl === false ? "http" : "https"}://${host}`;
}

/** Asks AWS whose keys these are (STS, GetCallerIdentity, which needs no permission); undefined where the server is not AWS. */
export function callerIdentityUrl(settings: StorageSettings, keys: SigningKeys, date: Date): string | undefined {
  const region = signingRegion(settings);
  const { dnsSuffix: suffix } = partitionOrDefault(region);
  if (!new URL(clientEndpoint(settings)).hostname.endsWith(`.${suffix}`)) return undefined;
  const url = new URL(`https://sts.${region}.${suffix}/?Action=GetCallerIdentity&Version=2011-06-15`);
  return presignV4(url, { keys, date, region, expiresIn: 60, service: "sts" });
}

/**
 * Scheme, host and path before the key, as boto3's `generate_presigned_url` has them (botocore's `args.py`, `signers.py` and
 * its endpoint rules for S3): with an endpoint the bucket is in the path unless the style is `virtual`, without one in the
 * host unless it is `path`, and then, unless it is `virtual`, it is AWS's global host.
 */
function presignRoot(settings: StorageSettings, style: AddressingStyle | undefined): string {
  const { bucketName, endpoint } = settings;
  const base = clientEndpoint(settings);
  const { protocol, host, hostname, pathname } = new URL(base);
  const wantsHost = endpoint === undefined ? style !== "path" : style === "virtual";
  // A label of a host; over http, where no certificate is in the way, several.
  const fitsHost = protocol === "http:" && endpoint !== undefined
    ? /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(bucketName)
    : /^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/.test(bucketName);
  if (!wantsHost || !fitsHost || isIpAddress(hostname)) return `${base}/${bucketName}`;
  const isGlobal = endpoint === undefined && style !== "virtual" && partitionOrDefault(signingRegion(settings)).id === "aws";
  return `${protocol}//${bucketName}.${isGlobal ? "s3.amazonaws.com" : host}${pathname.replace(/\/$/, "")}`;
}

function isIpAddress(hostname: string): boolean {
  return /^\d+\.\d+\.\d+\.\d+$/.test(hostname) || hostname.startsWith("[");
}

/** Percent-encodes a key for a URL's path. Slashes stay. */
export function escapePath(key: string): string {
  return key.split("/").map(escapeUri).join("/");
}

/** Percent-encodes all characters but the unreserved ones of RFC 3986, as SigV4 wants it. */
export function escapeUri(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
}

interface Signing {
  keys: SigningKeys;
  date: Date;
  region: string;
  expiresIn: number;
  version: SignatureVersion;
}

function presign(url: URL, signing: Signing): string {
  return signing.version === "s3" ? presignV2(url, signing) : presignV4(url, { ...signing, service: "s3" });
}

/** How a URL is signed with SigV4. */
export interface SigningV4 {
  keys: SigningKeys;
  date: Date;
  region: string;
  /** In seconds. */
  expiresIn: number;
  service: "s3" | "sts";
  method?: "GET" | "PUT";
}

/**
 * A URL signed by its query alone: signed header `host`, the payload unsigned (AWS, "Authenticating Requests: Using Query
 * Parameters"). The AWS SDK's presigner adds parameters that boto3 does not send.
 */
export function presignV4(url: URL, { keys, date, region, expiresIn, service, method = "GET" }: SigningV4): string {
  const time = date.toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = [time.slice(0, 8), region, service, "aws4_request"];
  const parameters = [
    ...url.searchParams,
    ["X-Amz-Algorithm", "AWS4-HMAC-SHA256"],
    ["X-Amz-Credential", [keys.accessKeyId, ...scope].join("/")],
    ["X-Amz-Date", time],
    ["X-Amz-Expires", String(expiresIn)],
    ["X-Amz-SignedHeaders", "host"],
    ...(keys.sessionToken === undefined ? [] : [["X-Amz-Security-Token", keys.sessionToken]]),
  ];
  const query = parameters.map(([name = "", value = ""]) => `${escapeUri(name)}=${escapeUri(value)}`);
  const payload = service === "s3" ? "UNSIGNED-PAYLOAD" : createHash("sha256").digest("hex");
  const canonical = [method, url.pathname, [...query].sort().join("&"), `host:${url.host}`, "", "host", payload].join("\n");
  const digest = createHash("sha256").update(canonical).digest("hex");
  const text = ["AWS4-HMAC-SHA256", time, scope.join("/"), digest].join("\n");
  const key = scope.reduce<string | Buffer>((secret, part) => hmac(secret, part), `AWS4${keys.secretAccessKey}`);
  return `${url.origin}${url.pathname}?${query.join("&")}&X-Amz-Signature=${hmac(key, text).toString("hex")}`;
}

function hmac(key: string | Buffer, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}

/** The legacy signer (botocore's `HmacV1QueryAuth`). It signs the URL's path, whichever host and bucket it leads to. */
function presignV2(url: URL, { keys, date, expiresIn }: Signing): string {
  const expires = String(Math.trunc(date.getTime() / 1000) + expiresIn);
  const token = keys.sessionToken === undefined ? "" : `x-amz-security-token:${keys.sessionToken}\n`;
  const signature = createHmac("sha1", keys.secretAccessKey).update(`GET\n\n\n${expires}\n${token}${url.pathname}`).digest("base64");
  const parameters = [
    ["AWSAccessKeyId", keys.accessKeyId],
    ["Signature", signature],
    ...(keys.sessionToken === undefined ? [] : [["x-amz-security-token", keys.sessionToken]]),
    ["Expires", expires],
  ];
  return `${url.origin}${url.pathname}?${parameters.map(([name = "", value = ""]) => `${name}=${escapeUri(value)}`).join("&")}`;
}
