/** Rules for single values. Each returns what is wrong and what to write instead, or undefined. */
import { durationSeconds, isDuration } from "../authentik/duration.ts";
import { EnvValueError, encodeValue } from "../authentik/env.ts";
import { FIRST_WITH_S3, atLeast, parseRelease } from "../authentik/release.ts";

/** An origin exactly as browsers send it (RFC 6454 and the WHATWG URL standard): scheme://host[:port]. */
export function origin(value: string, index: number, all: readonly string[]): string | undefined {
  if (value.includes("*")) return "has a wildcard, which would let other sites in; write each origin in full";
  if (!/^https?:\/\//i.test(value)) {
    const guess = originOf(`https://${value.replace(/^[^/]*:\/\//, "")}`);
    return `has no http:// or https:// in front; write ${guess ? `"${guess}"` : "scheme://host[:port]"}`;
  }
  const canonical = originOf(value);
  if (canonical === undefined) return 'is not an origin; write scheme://host[:port], e.g. "https://authentik.company"';
  if (canonical !== value) return `is not what browsers send as the origin (${originFault(value)}); write "${canonical}"`;
  if (all.indexOf(value) !== index) return "is there twice; remove one";
  return undefined;
}

/** The URL, or undefined where the text is none. */
export function parseUrl(value: string): URL | undefined {
  return URL.canParse(value) ? new URL(value) : undefined;
}

function originOf(value: string): string | undefined {
  const url = parseUrl(value);
  return url && url.host !== "" ? url.origin : undefined;
}

function originFault(value: string): string {
  const [, , authority = "", ...path] = value.split("/");
  if (authority.includes("@")) return "it has a user name";
  if (path.length > 1 || (path[0] ?? "") !== "") return "it has a path";
  if (value.endsWith("/")) return "it has a trailing slash";
  if (/[?#]/.test(value)) return "it has a query or a fragment";
  if (/[^\x21-\x7e]/.test(authority)) return "its host is not in ASCII (punycode)";
  if (/[A-Z]/.test(value)) return "it has capitals";
  if (/:(?:80|443|)$/.test(authority)) return "it names the scheme's default port";
  return "its host is not in the usual form";
}

/**
 * The rules for general purpose buckets (AWS, "Bucket naming rules"). A provider's own, where stricter, are in its file.
 */
export function bucketName(value: string): string | undefined {
  const suggestion = value.toLowerCase().replace(/[^a-z0-9-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 63);
  const instead = suggestion.length >= 3 && suggestion !== value ? `; write "${suggestion}"` : "; choose another name";
  if (value.length < 3 || value.length > 63) return `has ${value.length} characters; write 3 to 63`;
  if (!/^[a-z0-9.-]+$/.test(value)) return `has other characters than a-z, 0-9, "-" and "."${instead}`;
  if (!/^[a-z0-9].*[a-z0-9]$/.test(value)) return `does not begin and end with a letter or a digit${instead}`;
  if (value.includes("..")) return `has two dots in a row${instead}`;
  if (/^\d+\.\d+\.\d+\.\d+$/.test(value)) return "looks like an IP address; choose another name";
  const reserved = [/^xn--/, /^sthree-/, /^amzn-s3-demo-/, /-s3alias$/, /--ol-s3$/, /\.mrap$/, /--x-s3$/, /--table-s3$/];
  if (reserved.some((pattern) => pattern.test(value))) return "has a beginning or an end that S3 reserves; choose another name";
  return undefined;
}

/** The stricter rule of R2 and of Azure containers: no dots (and, on Azure, no two hyphens in a row). */
export function bucketNameWithoutDots(value: string): string | undefined {
  return value.includes(".") ? `has a dot, which this provider does not allow; write "${value.replaceAll(".", "-")}"` : undefined;
}

/** An endpoint of the S3 API: with scheme, without the bucket, without anything behind the path. */
export function endpoint(value: string): string | undefined {
  if (!/^https?:\/\//.test(value)) {
    const [host = "", ...path] = value.replace(/^[^/]*:\/\//, "").split("/");
    return `has no http:// or https:// in front; write "https://${host}"${path.join("") === "" ? "" : ", with a path only if the S3 API has one, and without the bucket"}`;
  }
  const url = parseUrl(value);
  if (!url) return 'is not a URL; write e.g. "https://s3.provider"';
  if (url.username || url.password || url.search || url.hash) return `has more than scheme, host and path; write "${url.origin}"`;
  const canonical = `${url.origin}${url.pathname.replace(/\/+$/, "")}`;
  return canonical === value ? undefined : `is not in its usual form; write "${canonical}"`;
}

/** A custom domain as authentik wants it: host[:port][/path], no scheme, no trailing slash. */
export function customDomain(value: string): string | undefined {
  if (value.includes("://")) return `has a scheme; write "${value.replace(/^[^/]*:\/\//, "").replace(/\/+$/, "")}"`;
  const url = parseUrl(`https://${value}`);
  if (!url || url.username || url.password || url.search || url.hash || /\s/.test(value)) {
    return 'is not a domain; write e.g. "s3.provider/authentik-media"';
  }
  const canonical = `${url.host}${url.pathname.replace(/\/+$/, "")}`;
  return canonical === value ? undefined : `is not in its usual form; write "${canonical}"`;
}

/** An authentik release that reads S3 settings. */
export function authentikVersion(value: string): string | undefined {
  const release = parseRelease(value);
  if (!release) return 'is not an authentik release; write e.g. "2025.12" or "2025.12.2"';
  if (release.month === 1) {
    return `is not an authentik release: YAML reads ${value}0 as the number ${value}; write "${value}0", in quotes`;
  }
  return atLeast(release, FIRST_WITH_S3) ? undefined : `has no S3 storage yet; authentik has it since ${FIRST_WITH_S3}`;
}

/** SigV4's limit for presigned URLs (AWS, "Signature Version 4 query parameters"). */
const LONGEST_EXPIRY = 604_800;

/** How long URLs hold, in authentik's duration format (`lib/utils/time.py`): `minutes=15`, several joined by `;`. */
export function urlExpiry(value: string): string | undefined {
  const seconds = isDuration(value) ? durationSeconds(value) : undefined;
  if (seconds === undefined) return 'is not a duration in authentik\'s format; write e.g. "minutes=15" or "hours=1;minutes=30"';
  if (seconds < 1 || seconds > LONGEST_EXPIRY) return "is not between one second and seven days, the limit of presigned URLs; write e.g. \"minutes=15\"";
  return undefined;
}

/** A request header's name as HTTP spells one (RFC 9110), or `*`. */
export function headerName(value: string): string | undefined {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(value) ? undefined : 'is not a header name; write e.g. "Authorization"';
}

export function region(value: string): string | undefined {
  return /^[A-Za-z0-9][A-Za-z0-9_-]*$/.test(value) ? undefined : 'is not a region; write e.g. "us-east-1", or what your server is configured with';
}

/** A key or token: what authentik can read back, without the blanks and newlines that copying adds. */
export function credential(value: string): string | undefined {
  if (value.trim() !== value) return "has blanks or a newline around it; write it without";
  try {
    encodeValue("it", value);
    return undefined;
  } catch (error) {
    if (error instanceof EnvValueError) return error.reason;
    throw error;
  }
}

/** A tag as both AWS and Azure take it: `name=value`, within the stricter limits of the two. */
export function tag(value: string, index: number, all: readonly string[]): string | undefined {
  const [, name = "", content = ""] = /^([^=]+)=(.*)$/.exec(value) ?? [];
  if (name === "") return 'is not a tag; write name=value, e.g. "team=identity"';
  if (name.length > 128 || content.length > 256) return "is too long; write at most 128 characters before the = and 256 behind it";
  if (!/^[\p{L}\p{N} _.:+@-]+$/u.test(name) || !/^[\p{L}\p{N} _.:/=+@-]*$/u.test(content)) {
    return "has a character that not every cloud takes; write letters, digits, spaces and _.:+@-";
  }
  if (/^(?:aws|azure|microsoft|windows)/i.test(name)) return "has a name that the cloud reserves; choose another";
  const first = all.findIndex((other) => other.split("=")[0]?.toLowerCase() === name.toLowerCase());
  return first === index ? undefined : "names a tag twice; remove one";
}
