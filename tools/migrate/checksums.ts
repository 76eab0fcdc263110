/** ETags and checksums of S3 objects, and how bytes are compared with them. */
import { createHash, hash } from "node:crypto";
import { crc32 } from "node:zlib";

/** Headers of an answer, with names in lower case. */
export type AnswerHeaders = Readonly<Record<string, string | undefined>>;

/** An ETag without its quotes and without the `W/` of a proxy, which the server does not know. */
export function unquote(etag: string): string {
  return (etag.startsWith("W/") ? etag.slice(2) : etag).replaceAll('"', "");
}

/**
 * Whether an ETag is the MD5 of the object's content. It is not after a multipart upload, or if the
 * object is encrypted with a key of KMS or the client's.
 */
export function isMd5(etag: string, headers: AnswerHeaders = {}): boolean {
  return /^[0-9a-f]{32}$/.test(etag) && !hidesMd5(headers);
}

/** Whether an object is encrypted so that its ETag is not an MD5. */
export function hidesMd5(headers: AnswerHeaders): boolean {
  const encryption = headers["x-amz-server-side-encryption"] ?? "";
  const hasClientKey = headers["x-amz-server-side-encryption-customer-algorithm"] !== undefined;
  return encryption.startsWith("aws:kms") || hasClientKey;
}

/**
 * Whether the ETags of two objects show that their contents are the same. The ETag of a multipart
 * upload is an MD5 too: of the parts' MD5s.
 */
export function haveSameMd5(a: ObjectVersion, b: ObjectVersion): boolean {
  const isSame = a.size === b.size && a.version === b.version;
  return isSame && /^[0-9a-f]{32}(?:-\d+)?$/.test(a.version);
}

interface ObjectVersion {
  size: number;
  version: string;
}

/** The ETag of an object made of these parts; undefined if the parts' ETags are not MD5s. */
export function joinedEtag(parts: readonly { etag: string }[]): string | undefined {
  if (!parts.every(({ etag }) => isMd5(etag))) return undefined;
  const sums = Buffer.concat(parts.map(({ etag }) => Buffer.from(etag, "hex")));
  return `${hash("md5", sums)}-${parts.length}`;
}

/** The number of parts at the end of a multipart upload's ETag; 1 for any other object. */
export function partCount(etag: string): number {
  return Number(/-(\d+)$/.exec(etag)?.[1] ?? 1);
}

/** A CRC-32 in the form of S3's headers. */
export function crc32Base64(value: number): string {
  return crc32Bytes(value).toString("base64");
}

function crc32Bytes(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** Takes an object's bytes in order and says at the end whether the server's checksum is theirs. */
export interface Verifier {
  update(chunk: Buffer): void;
  matches(): boolean;
}

/**
 * The verifier for an object with a checksum of its whole content (AWS, "Checking object
 * integrity"): the CRC-32 that boto3 and this program send along, or else the MD5 in the ETag.
 *
 * @returns undefined when the headers have no such checksum, or do not say that it is one
 */
export function wholeVerifier(headers: AnswerHeaders): Verifier | undefined {
  const { crc, hasMark, etag, isInParts } = checksumsOf(headers);
  const isWhole = !isInParts || headers["x-amz-checksum-type"] === "FULL_OBJECT";
  if (crc !== "" && !hasMark && isWhole) return crc32Verifier(crc);
  return isMd5(etag, headers) ? md5Verifier(etag) : undefined;
}

/**
 * The verifier for an object of a multipart upload, by the checksum of the parts' checksums. AWS marks
 * such a CRC-32 with the number of parts. moto 5.2 leaves the mark out, and other servers mark the
 * CRC-32 of the whole content. So both kinds of CRC-32 are accepted. Without the mark, the MD5 of the
 * parts' MD5s in the ETag is accepted too.
 *
 * @param partSize in bytes; undefined if it is not known
 * @returns undefined when the headers have no checksum
 */
export function partsVerifier(headers: AnswerHeaders, partSize?: number): Verifier | undefined {
  const { crc, hasMark, etag } = checksumsOf(headers);
  const proofs: Verifier[] = [];
  // Each proof reads all bytes. Most servers say which one is right.
  const isOfParts = headers["x-amz-checksum-type"] === "COMPOSITE";
  if (crc !== "" && !isOfParts) proofs.push(crc32Verifier(crc));
  if (crc !== "" && partSize !== undefined) {
    proofs.push(sumsVerifier(partSize, crc32Sum, (sums) => crc32Base64(crc32(sums)) === crc));
  }
  const [, md5] = /^([0-9a-f]{32})-\d+$/.exec(etag) ?? [];
  if (!hasMark && md5 !== undefined && partSize !== undefined && !hidesMd5(headers)) {
    proofs.push(sumsVerifier(partSize, md5Sum, (sums) => hash("md5", sums) === md5));
  }
  return proofs.length === 0 ? undefined : anyVerifier(proofs);
}

function checksumsOf(headers: AnswerHeaders) {
  const [crc = "", count] = (headers["x-amz-checksum-crc32"] ?? "").split("-");
  const etag = unquote(headers.etag ?? "");
  return { crc, hasMark: count !== undefined, etag, isInParts: /-\d+$/.test(etag) };
}

/** Any of these proofs is enough. */
function anyVerifier(proofs: readonly Verifier[]): Verifier {
  return {
    update(chunk) {
      for (const proof of proofs) proof.update(chunk);
    },
    matches: () => proofs.some((proof) => proof.matches()),
  };
}

/** A running checksum. */
interface Sum {
  update: (chunk: Buffer) => void;
  digest: () => Buffer;
}

function md5Sum(): Sum {
  const md5 = createHash("md5");
  return {
    update: (chunk) => void md5.update(chunk),
    digest: () => md5.digest(),
  };
}

function crc32Sum(): Sum {
  let value = 0;
  return {
    update: (chunk) => {
      value = crc32(chunk, value);
    },
    digest: () => crc32Bytes(value),
  };
}

/** The verifier for the MD5 of the whole content, in hexadecimal. */
export function md5Verifier(expected: string): Verifier {
  const md5 = md5Sum();
  return { update: md5.update, matches: () => md5.digest().toString("hex") === expected };
}

function crc32Verifier(expected: string): Verifier {
  const crc = crc32Sum();
  return { update: crc.update, matches: () => crc.digest().toString("base64") === expected };
}

/** @param fits whether the parts' sums, joined, are the checksum of the object */
function sumsVerifier(
  partSize: number,
  newSum: () => Sum,
  fits: (sums: Buffer) => boolean,
): Verifier {
  const sums: Buffer[] = [];
  let sum = newSum();
  let length = 0;
  return {
    update(chunk) {
      for (let rest = chunk; rest.length > 0; ) {
        const piece = rest.subarray(0, partSize - length);
        rest = rest.subarray(piece.length);
        sum.update(piece);
        length += piece.length;
        if (length < partSize) continue;
        sums.push(sum.digest());
        sum = newSum();
        length = 0;
      }
    },
    matches() {
      if (length > 0) sums.push(sum.digest());
      return fits(Buffer.concat(sums));
    },
  };
}
