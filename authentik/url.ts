/** The URLs that authentik gives to browsers, signed as boto3 signs them for a release. */
import { createHash, createHmac, createSecretKey, type KeyObject } from "node:crypto";
import { durationSeconds } from "./duration.ts";
import { DEFAULTS, type AddressingStyle, type StorageSettings } from "./env.ts";
import type { ReleaseRules } from "./release.ts";
import { partitionOrDefault } from "./partitions.ts";
import {
  UrlError,
  hostHeader,
  hostOf,
  joinUrl,
  portOf,
  splitUrl,
  withoutSlashes,
  type UrlParts,
} from "./url-parts.ts";

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

const NO_CUSTOM_DOMAIN = "authentik 2024.8.0 raises an error for every URL of a custom domain";

/**
 * How long the release's URLs are valid, in seconds.
 *
 * @throws UrlError if the setting is not a duration
 */
function urlExpirySeconds(settings: StorageSettings, rules: ReleaseRules): number {
  if (!rules.readsUrlExpiry) return LEGACY_EXPIRY;
  const { urlExpiry = DEFAULTS.urlExpiry } = settings;
  const seconds = durationSeconds(urlExpiry);
  if (seconds === undefined) throw new UrlError(`URL_EXPIRY "${urlExpiry}" is not a duration`);
  return seconds;
}

/**
 * The URL of an object that a release gives to browsers (authentik's `root/storages.py` and
 * `admin/files/backends/s3.py`).
 *
 * @param key with its prefix: `media/public/icon.png`
 * @throws UrlError if authentik fails with these settings
 */
export function fileUrl(
  settings: StorageSettings,
  rules: ReleaseRules,
  keys: SigningKeys,
  key: string,
  date: Date,
): string {
  checkClient(settings);
  const signing: Signing = {
    keys,
    date,
    region: signingRegion(settings),
    expiresIn: urlExpirySeconds(settings, rules),
  };
  const path = `/${escapePath(key)}`;
  if (rules.signsCustomDomain) return signedPublicUrl(settings, rules, path, signing);
  checkEndpointRules(settings);
  const root = presignRoot(settings, rules, addressingStyle(settings, rules));
  const url = presignS3V4(splitUrl(`${root}${path}`), signing);
  const domain = customDomainUrl(settings, rules);
  if (domain === undefined) return url;
  if (rules.failsOnCustomDomain) throw new UrlError(NO_CUSTOM_DOMAIN);
  if (rules.swapsRoot) return url.replace(`${root}/`, () => `${domain}/`);
  return moveToDomain(url, domain, rules.doublesBucket ? "" : `/${settings.bucketName}`);
}

/** The URL from 2026.5, where the URL that browsers get is the one that is signed. */
function signedPublicUrl(
  settings: StorageSettings,
  rules: ReleaseRules,
  keyPath: string,
  signing: Signing,
): string {
  const { bucketName, endpoint, signatureVersion } = settings;
  const presign = signatureVersion === "s3" ? presignV2 : presignS3V4;
  const pathInServer = `/${escapeUri(bucketName)}${keyPath}`;
  const domain = customDomainUrl(settings, rules);
  if (domain === undefined) {
    const server = splitUrl(endpoint ?? clientEndpoint(settings));
    return presign({ ...server, path: server.path.replace(/\/$/, "") + pathInServer }, signing);
  }
  const { scheme, authority, path } = splitUrl(domain);
  const isBucket = pathInServer.startsWith(`/${bucketName}/`);
  const pathInDomain = withoutSlashes(path) + (isBucket ? keyPath : pathInServer);
  return presign({ scheme, authority, path: pathInDomain, query: "", fragment: "" }, signing);
}

function customDomainUrl(
  { customDomain, secureUrls }: StorageSettings,
  { stripsSlashes }: ReleaseRules,
): string | undefined {
  if (!customDomain) return undefined;
  const domain = stripsSlashes ? withoutSlashes(customDomain) : customDomain;
  return `${secureUrls ? "https" : "http"}://${domain}`;
}

/** Moves a URL to the custom domain, whose own path has `inDomain` at its end. */
function moveToDomain(url: string, domain: string, inDomain: string): string {
  const { path, query } = splitUrl(url);
  const rest = path.startsWith(`${inDomain}/`) ? path.slice(inDomain.length) : path;
  return `${domain}${rest}?${query}`;
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
  return presignRoot(settings, rules, isRegional ? "virtual" : style);
}

/** The region of the signature. Without a region boto3 signs for us-east-1. */
export function signingRegion({ region, endpoint }: StorageSettings): string {
  const isUsEast1 = region === "aws-global" && endpoint === undefined;
  return region === undefined || isUsEast1 ? "us-east-1" : region;
}

/**
 * boto3's `client.meta.endpoint_url`: the endpoint, or AWS's endpoint for the region. It has no
 * slash at the end.
 */
export function clientEndpoint(settings: StorageSettings): string {
  if (settings.endpoint !== undefined) return withoutSlashes(settings.endpoint);
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

/** A label of a host's name (botocore's `VALID_HOST_LABEL_RE`). */
const LABEL = /^(?!-)[A-Za-z\d-]{1,63}(?<!-)$/;
const IPV4 = /^(?:\d{1,3}\.){3}\d{1,3}$/;
/** A region as boto3 accepts it: empty, or a label that is not a number. */
const REGION = /^(?!\d+$)(?!-)[A-Za-z\d-]{0,63}(?<!-)$/;

/** What boto3 checks when it creates a client (botocore's `utils.py`). */
function checkClient(settings: StorageSettings): void {
  const { endpoint, region } = settings;
  if (region !== undefined && !REGION.test(region)) {
    throw new UrlError(`boto3 does not accept REGION "${region}"`);
  }
  const url = endpoint ?? clientEndpoint(settings);
  const host = hostOf(splitUrl(url));
  const labels = host.replace(/\.$/, "").split(".");
  if (!host.includes(":") && !labels.every((label) => LABEL.test(label))) {
    throw new UrlError(`boto3 does not accept the endpoint "${url}"`);
  }
}

/** What boto3 checks when it presigns (botocore's `handlers.py` and its endpoint rules for S3). */
function checkEndpointRules({ endpoint, bucketName }: StorageSettings): void {
  if (!/^[\w.-]{1,255}$/.test(bucketName)) {
    throw new UrlError(`boto3 does not accept BUCKET_NAME "${bucketName}"`);
  }
  if (endpoint === undefined) return;
  const parts = splitUrl(endpoint);
  const { scheme, query } = parts;
  portOf(parts);
  if (!/^https?$/.test(scheme) || query !== "") {
    throw new UrlError(`boto3 does not accept the endpoint "${endpoint}"`);
  }
}

/**
 * Scheme, host and path before the key, as in boto3's `generate_presigned_url` (botocore's
 * `args.py`, `signers.py` and its endpoint rules for S3). With an endpoint the bucket is in the
 * path, and in the host if the style is `virtual`. Without an endpoint the bucket is in the host,
 * and in the path if the style is `path`; the host is AWS's global host unless the style is
 * `virtual`.
 */
function presignRoot(
  settings: StorageSettings,
  rules: ReleaseRules,
  style: AddressingStyle | undefined,
): string {
  const { bucketName, endpoint, region, useSsl } = settings;
  const server = splitUrl(endpoint ?? clientEndpoint(settings));
  const wantsHost = endpoint === undefined ? style !== "path" : style === "virtual";
  const authority = isGlobal(settings, style) ? "s3.amazonaws.com" : server.authority;
  const scheme = useSsl === false && rules.useSslOverridesEndpoint ? "http" : server.scheme;
  // Over http there is no certificate, whose wildcard is for one label.
  const mayHaveDots = endpoint !== undefined && server.scheme === "http";
  const isInHost = wantsHost && fitsHost(bucketName, mayHaveDots);
  if (isInHost && region === "") throw new UrlError('boto3 does not accept REGION ""');
  return isInHost && !isIpAddress(server)
    ? `${scheme}://${bucketName}.${authority}${server.path.replace(/\/$/, "")}`
    : `${scheme}://${authority}${normalizedPath(server.path)}${bucketName}`;
}

/** Whether boto3 presigns for AWS's global host (botocore's `handlers.py`). */
function isGlobal(settings: StorageSettings, style: AddressingStyle | undefined): boolean {
  return (
    settings.endpoint === undefined &&
    (style === undefined || style === "auto") &&
    LABEL.test(settings.bucketName) &&
    partitionOrDefault(signingRegion(settings)).id === "aws"
  );
}

/** Whether the bucket can be the first part of a host's name. */
function fitsHost(bucketName: string, mayHaveDots: boolean): boolean {
  const labels = mayHaveDots ? bucketName.split(".") : [bucketName];
  return (
    bucketName.length >= 3 &&
    bucketName === bucketName.toLowerCase() &&
    !IPV4.test(bucketName) &&
    labels.every((label) => LABEL.test(label))
  );
}

function isIpAddress(server: UrlParts): boolean {
  const host = hostOf(server);
  return IPV4.test(host) || host.includes(":");
}

/** The path without empty parts and dots, with a slash at both ends. */
function normalizedPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(`${escapeUri(part)}/`);
  }
  return `/${parts.join("")}`;
}

/** Percent-encodes a key for a URL's path. Slashes stay. */
export function escapePath(key: string): string {
  return escapeUri(key).replaceAll("%2F", "/");
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

function presignS3V4(url: UrlParts, signing: Signing): string {
  return signV4(url, { ...signing, service: "s3" });
}

/**
 * A URL with a SigV4 signature in its query: the signed header is `host`, the payload is unsigned
 * (AWS, "Authenticating Requests: Using Query Parameters"). The AWS SDK's presigner adds parameters
 * that boto3 does not send.
 */
export function presignV4(url: URL, signing: SigningV4): string {
  return signV4(splitUrl(url.href), signing);
}

function signV4(url: UrlParts, signing: SigningV4): string {
  const { keys, date, region, expiresIn, service, method = "GET" } = signing;
  const { time, scope, key } = signatureBase(keys.secretAccessKey, date, region, service);
  const query = [
    ...new URLSearchParams(url.query),
    ["X-Amz-Algorithm", "AWS4-HMAC-SHA256"],
    ["X-Amz-Credential", `${keys.accessKeyId}/${scope}`],
    ["X-Amz-Date", time],
    ["X-Amz-Expires", String(expiresIn)],
    ["X-Amz-SignedHeaders", "host"],
    ...(keys.sessionToken === undefined ? [] : [["X-Amz-Security-Token", keys.sessionToken]]),
  ].map(([name = "", value = ""]) => `${escapeUri(name)}=${escapeUri(value)}`);
  const payload = service === "s3" ? "UNSIGNED-PAYLOAD" : createHash("sha256").digest("hex");
  const sorted = [...query].sort().join("&");
  const request = [method, url.path, sorted, `host:${hostHeader(url)}`, "", "host", payload];
  const digest = createHash("sha256").update(request.join("\n")).digest("hex");
  const text = ["AWS4-HMAC-SHA256", time, scope, digest].join("\n");
  const signature = hmac(key, text).toString("hex");
  // boto3 appends the signature to the text of the URL, behind a fragment too.
  return `${joinUrl({ ...url, query: query.join("&") })}&X-Amz-Signature=${signature}`;
}

/** What all SigV4 signatures of one second, region and service have in common. */
export interface SignatureBase {
  /** `20260102T030405Z`. */
  time: string;
  /** Day, region, service and `aws4_request`, joined by slashes. */
  scope: string;
  /** Not as bytes: Node 24 would make a key object of them for each signature, which takes 25 µs. */
  key: KeyObject;
}

/** Derives the key from the secret key (AWS, "Create a signed AWS API request"). */
export function signatureBase(
  secretAccessKey: string,
  date: Date,
  region: string,
  service: string,
): SignatureBase {
  const time = date.toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = [time.slice(0, 8), region, service, "aws4_request"];
  const key = createSecretKey(scope.reduce(hmac, Buffer.from(`AWS4${secretAccessKey}`)));
  return { time, scope: scope.join("/"), key };
}

function hmac(key: Buffer | KeyObject, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}

/**
 * A URL signed by the legacy signer (botocore's `HmacV1QueryAuth`). It signs the path of the URL,
 * and neither host nor bucket.
 */
function presignV2(url: UrlParts, { keys, date, expiresIn }: Signing): string {
  const { accessKeyId, secretAccessKey, sessionToken } = keys;
  const expires = String(Math.trunc(date.getTime() / 1000) + expiresIn);
  const token = sessionToken ? `x-amz-security-token:${sessionToken}\n` : "";
  const signature = createHmac("sha1", secretAccessKey)
    .update(`GET\n\n\n${expires}\n${token}${url.path}`)
    .digest("base64");
  const query = [
    ["AWSAccessKeyId", accessKeyId],
    ["Signature", signature],
    ...(sessionToken ? [["x-amz-security-token", sessionToken]] : []),
    ["Expires", expires],
  ].map(([name = "", value = ""]) => `${name}=${escapeUri(value)}`);
  const own = url.query === "" ? "" : `${url.query}&`;
  return joinUrl({ ...url, query: own + query.join("&") });
}
