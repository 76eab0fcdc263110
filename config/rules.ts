/** Rules for single values. Each returns what is wrong and what to write instead, or undefined. */
import { durationSeconds, isDuration } from "../authentik/duration.ts";
import { EnvValueError, encodeValue } from "../authentik/env.ts";
import { FIRST_WITH_S3, atLeast, parseRelease } from "../authentik/release.ts";
import { parseUrl, withoutSlashes } from "../authentik/url-parts.ts";

/** An origin exactly as browsers send it (RFC 6454 and the WHATWG URL standard): scheme://host[:port]. */
export function origin(value: string, index: number, all: readonly string[]): string | undefined {
  if (value.includes("*"))
    return "has a wildcard, which would allow other sites; write each origin in full";
  if (!/^https?:\/\//i.test(value)) {
    const guess = originOf(`https://${value.replace(/^[^/]*:\/\//, "")}`);
    return `has no http:// or https:// in front; write ${guess ? `"${guess}"` : "scheme://host[:port]"}`;
  }
  const canonical = originOf(value);
  if (canonical === undefined) {
    return 'is not an origin; write scheme://host[:port], e.g. "https://authentik.company"';
  }
  if (canonical !== value) {
    return `is not what browsers send as the origin (${originFault(value)}); write "${canonical}"`;
  }
  return (
    hostFault(value) ?? (all.indexOf(value) === index ? undefined : "is listed twice; remove one")
  );
}

/**
 * What is wrong with the host or port of a URL (RFC 1123; 253 characters in all). The URL standard
 * accepts more than a name server or a server's socket.
 */
function hostFault(url: string): string | undefined {
  const { hostname, port } = new URL(url);
  if (port === "0") return "has port 0, which no server has; write another port";
  if (/^\[[0-9a-f:.]+\]$/.test(hostname)) return undefined;
  const labels = hostname.split(".");
  const isHost = labels.every((label) => /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/.test(label));
  if (isHost && hostname.length <= 253) return undefined;
  return "has a host that cannot exist; write names of 1 to 63 letters, digits and hyphens, joined by dots";
}

/** What is wrong with a value and what to write instead, as the end of a sentence; undefined for a valid value. */
export type Rule = (value: string) => string | undefined;

/** The rule that a value matches a pattern. */
export function matching(pattern: RegExp, wrong: string): Rule {
  return (value) => (pattern.test(value) ? undefined : wrong);
}

function originOf(value: string): string | undefined {
  const url = parseUrl(value);
  return url && url.host !== "" ? url.origin : undefined;
}

/** What a text after the scheme has that an origin has not. */
const ORIGIN_FAULTS: readonly [fault: RegExp, wrong: string][] = [
  [/^[^/]*@/, "it has a user name"],
  [/^[^/]*\/+[^/]/, "it has a path"],
  [/\/$/, "it has a trailing slash"],
  [/[?#]/, "it has a query or a fragment"],
  [/^[^/]*[^\x21-\x7e/]/, "its host is not in ASCII (punycode)"],
  [/[A-Z]/, "it has capital letters"],
  [/^[^/]*:(?:80|443|)$/, "it names the scheme's default port"],
];

function originFault(value: string): string {
  if (/^[^:]*[A-Z]/.test(value)) return "it has capital letters";
  const rest = value.replace(/^[^/]*:\/\//, "");
  const [, wrong] = ORIGIN_FAULTS.find(([fault]) => fault.test(rest)) ?? [];
  return wrong ?? "its host is not in the usual form";
}

/** Faults of a bucket's name (AWS, "Bucket naming rules" of general purpose buckets). */
const BUCKET_NAME_FAULTS: readonly [fault: RegExp, wrong: string][] = [
  [/[^a-z0-9.-]/, 'has other characters than a-z, 0-9, "-" and "."'],
  [/^[^a-z0-9]|[^a-z0-9]$/, "does not begin and end with a letter or a digit"],
  [/\.\./, "has two dots in a row"],
  [/^\d+\.\d+\.\d+\.\d+$/, "looks like an IP address"],
  [/^(?:xn--|sthree-|amzn-s3-demo-)/, "has a beginning or an end that S3 reserves"],
  [/(?:-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)$/, "has a beginning or an end that S3 reserves"],
];

/** A bucket's name. Stricter rules of a provider are in its file. */
export function bucketName(value: string): string | undefined {
  if (value.length < 3 || value.length > 63) return `has ${value.length} characters; write 3 to 63`;
  const [, wrong] = BUCKET_NAME_FAULTS.find(([fault]) => fault.test(value)) ?? [];
  if (wrong === undefined) return undefined;
  const suggestion = value
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, "-")
    .replace(/^-+|-+$/g, "");
  const isBetter = suggestion !== value && bucketName(suggestion) === undefined;
  return `${wrong}; ${isBetter ? `write "${suggestion}"` : "choose another name"}`;
}

/** The stricter rule of R2 and Azure: no dots. */
export function bucketNameWithoutDots(value: string): string | undefined {
  if (!value.includes(".")) return undefined;
  return `has a dot, which this provider does not allow; write "${value.replaceAll(".", "-")}"`;
}

/** An endpoint of the S3 API: with scheme, without the bucket, and with nothing after the path. */
export function endpoint(value: string): string | undefined {
  if (!/^https?:\/\//.test(value)) {
    const [host = "", ...path] = value.replace(/^[^/]*:\/\//, "").split("/");
    const hint = ", with a path only if the S3 API has one, and without the bucket";
    return `has no http:// or https:// in front; write "https://${host}"${path.join("") === "" ? "" : hint}`;
  }
  const url = parseUrl(value);
  if (!url) return 'is not a URL; write e.g. "https://s3.provider"';
  if (url.username || url.password || url.search || url.hash) {
    return `has more than scheme, host and path; write "${url.origin}"`;
  }
  const canonical = `${url.origin}${withoutSlashes(url.pathname)}`;
  if (canonical !== value) return `is not in its usual form; write "${canonical}"`;
  return hostFault(value);
}

/** A custom domain as authentik needs it: host[:port][/path], without scheme and trailing slash. */
export function customDomain(value: string): string | undefined {
  if (value.includes("://")) {
    const domain = withoutSlashes(value.replace(/^[^/]*:\/\//, ""));
    return `has a scheme; write "${domain}"`;
  }
  const url = parseUrl(`https://${value}`);
  if (!url || url.username || url.password || url.search || url.hash || /\s/.test(value)) {
    return 'is not a domain; write e.g. "s3.provider/authentik-media"';
  }
  const canonical = `${url.host}${withoutSlashes(url.pathname)}`;
  if (canonical !== value) return `is not in its usual form; write "${canonical}"`;
  return hostFault(url.href);
}

/** An authentik release that reads S3 settings. */
export function authentikVersion(value: string): string | undefined {
  const release = parseRelease(value);
  if (!release) return 'is not an authentik release; write e.g. "2025.12" or "2025.12.2"';
  if (release.month === 1) {
    return `is not an authentik release: YAML reads ${value}0 as the number ${value}; write "${value}0", in quotes`;
  }
  if (atLeast(release, FIRST_WITH_S3)) return undefined;
  return `has no S3 storage; authentik has it since ${FIRST_WITH_S3}`;
}

/** SigV4's limit for presigned URLs (AWS, "Signature Version 4 query parameters"). */
const LONGEST_EXPIRY = 604_800;

/**
 * How long URLs are valid, in authentik's duration format (`lib/utils/time.py`): `minutes=15`,
 * several joined by `;`.
 */
export function urlExpiry(value: string): string | undefined {
  const seconds = isDuration(value) ? durationSeconds(value) : undefined;
  if (seconds === undefined) {
    return 'is not a duration in authentik\'s format; write e.g. "minutes=15" or "hours=1;minutes=30"';
  }
  if (seconds >= 1 && seconds <= LONGEST_EXPIRY) return undefined;
  return 'is not between one second and seven days, the limit of presigned URLs; write e.g. "minutes=15"';
}

/** The name of a request header (RFC 9110), or `*` alone. */
export const headerName = matching(
  /^(?:\*|[!#$%&'+.^_`|~0-9A-Za-z-]{1,256})$/,
  'is not a header name; write e.g. "Authorization"',
);

/**
 * One principal of a bucket policy, in the server's own form: the ARN of a user, role or account
 * (the account is empty or a tenant off AWS), or an access key. A wildcard would open the bucket.
 */
export const principal = matching(
  /^(?:arn:aws[a-z-]*:(?:iam|sts)::[\w-]{0,64}:(?:user|role|assumed-role)\/[\w+=,.@/-]{1,576}|arn:aws[a-z-]*:iam::[\w-]{1,64}:root|[\w+=.@-]{3,128})$/,
  'is not one principal; write the ARN of a user or role, e.g. "arn:aws:iam:::user/authentik", or an access key',
);

/** The name of a profile of the AWS shared config. */
export const profile = matching(
  /^[\w.@+=:/-]{1,128}$/,
  "is not the name of a profile; write 1 to 128 letters, digits and _.@+=:/-",
);

/** The region of an S3-compatible server, as boto3 accepts it (botocore's `validate_region_name`). */
export const region = matching(
  /^(?!\d+$)(?!-)[A-Za-z\d-]{1,63}(?<!-)$/,
  'is not a region; write e.g. "us-east-1", or the region that your server is configured with',
);

/** A key or token that authentik can read back, without the blanks and newlines that copying adds. */
export function credential(value: string): string | undefined {
  if (value.trim() !== value) return "has blanks or a newline around it; write it without";
  if (!/^[\x21-\x7e]+$/.test(value)) {
    return "has a blank, a control character or one outside of ASCII; copy it again";
  }
  try {
    encodeValue("it", value);
    return undefined;
  } catch (error) {
    if (error instanceof EnvValueError) return error.reason;
    throw error;
  }
}

/** An access key. In a signature `/` and `,` end it. */
export function accessKey(value: string): string | undefined {
  return credential(value) ?? (/[/,]/.test(value) ? 'has a "/" or ","; copy it again' : undefined);
}

/** AWS and Azure accept 50 tags for a resource. The program adds `application`. */
const MAX_TAGS = 49;

/** A tag that both AWS and Azure accept: `name=value`, within the stricter limits of the two. */
export function tag(value: string, index: number, all: readonly string[]): string | undefined {
  if (index >= MAX_TAGS) return `is one tag too many; write at most ${MAX_TAGS}`;
  const [, name = "", content = ""] = /^([^=]+)=(.*)$/.exec(value) ?? [];
  if (name === "") return 'is not a tag; write name=value, e.g. "team=identity"';
  if (name.length > 128 || content.length > 256) {
    return "is too long; write at most 128 characters before the = and 256 after it";
  }
  if (!/^[\p{L}\p{N} _.:+@-]+$/u.test(name) || !/^[\p{L}\p{N} _.:/=+@-]*$/u.test(content)) {
    return "has a character that not every cloud accepts; write letters, digits, spaces and _.:+@-";
  }
  if (/^(?:aws|azure|microsoft|windows)/i.test(name))
    return "has a name that the cloud reserves; choose another";
  const first = all.findIndex((other) => other.split("=")[0]?.toLowerCase() === name.toLowerCase());
  return first === index ? undefined : "names a tag twice; remove one";
}
