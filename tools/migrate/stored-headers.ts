/** The headers that a server stores with an object, e.g. its type. */
import { contentType, hasRightType } from "../../authentik/objects.ts";
import type { AnswerHeaders } from "./checksums.ts";

/** Headers of an object, with names in lower case. */
export type StoredHeaders = Readonly<Record<string, string>>;

/** The number of an object's tags. It cannot be set, but it shows whether a copy has them. */
export const TAGS = "x-amz-tagging-count";

/** Headers that clients store, in addition to `x-amz-meta-` (AWS, "PutObject"). */
const CLIENT_HEADERS = [
  "content-type",
  "content-encoding",
  "content-disposition",
  "content-language",
  "cache-control",
  "expires",
  "x-amz-website-redirect-location",
  TAGS,
];

/** Headers that belong to the bucket where the object is. */
const BUCKET_HEADERS = [
  "x-amz-storage-class",
  "x-amz-server-side-encryption",
  "x-amz-server-side-encryption-aws-kms-key-id",
  "x-amz-server-side-encryption-bucket-key-enabled",
];

/** The headers that clients stored with an object, from an answer to GET or HEAD. */
export function storedHeaders(headers: AnswerHeaders): StoredHeaders {
  const stored = picked(headers, (name) => name.startsWith("x-amz-meta-"), CLIENT_HEADERS);
  const { "content-encoding": encoding, ...others } = stored;
  // Some servers also store the encoding of the upload.
  const kept = encoding?.split(",").filter((name) => !/^\s*(?:aws-chunked)?\s*$/i.test(name));
  return kept && kept.length > 0 ? { ...others, "content-encoding": kept.join(",") } : others;
}

/** The other headers that a copy within the bucket must repeat. STANDARD is the default class. */
export function bucketHeaders(headers: AnswerHeaders): StoredHeaders {
  const { "x-amz-storage-class": storageClass = "STANDARD", ...others } = headers;
  const named = storageClass === "STANDARD" ? others : headers;
  return picked(named, () => false, BUCKET_HEADERS);
}

function picked(
  headers: AnswerHeaders,
  isWanted: (name: string) => boolean,
  names: readonly string[],
): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && (names.includes(name) || isWanted(name))) found[name] = ascii(value);
  }
  return found;
}

/** Signed headers are ASCII. S3 writes other text in the form of RFC 2047 (AWS, "User metadata"). */
function ascii(value: string): string {
  if (/^[\x20-\x7e]*$/.test(value)) return value;
  return `=?UTF-8?B?${Buffer.from(value, "latin1").toString("base64")}?=`;
}

/** The headers that an object should have: those that it had, with authentik's type. */
export function rightHeaders(key: string, stored: StoredHeaders = {}): StoredHeaders {
  const type = stored["content-type"];
  if (type !== undefined && hasRightType(key, type)) return stored;
  return { ...stored, "content-type": contentType(key) };
}

/**
 * The headers that an object lacks, in words: `type binary/octet-stream`, `no cache-control`.
 * Undefined if it has all of them.
 */
export function missingHeaders(wanted: StoredHeaders, stored: StoredHeaders): string | undefined {
  const different = Object.entries(wanted).filter(
    ([name, value]) => normalized(stored[name]) !== normalized(value),
  );
  if (different.length === 0) return undefined;
  const words = different.map(([name]) => {
    const value = stored[name];
    if (name === TAGS) return "not its tags";
    if (name === "content-type") return value === undefined ? "no type" : `type ${value}`;
    return value === undefined ? `no ${name}` : `other ${name}`;
  });
  return words.join(", ");
}

function normalized(value: string | undefined): string | undefined {
  return value?.replaceAll(/\s*([;,])\s*/g, "$1").trim();
}
