/** Bytes on their way: how much of them may be in memory, and how they are proved to be the right ones. */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { crc32Base64, hidesMd5, isMd5, unquote } from "./s3.ts";

/** One reading of a file or an object. */
export interface Content {
  size: number;
  /** The version that is read. */
  version: string;
  /**
   * Ends only when all bytes came and were the right ones; throws otherwise. Can be used once. A chunk may be overwritten when
   * the next one is asked for, unless it is the only one.
   */
  chunks: AsyncIterable<Buffer>;
}

/** Bytes that came are not those that were sent, or not all of one version. Another try may go well. */
export class ContentError extends Error {
  override name = "ContentError";
}

/** Parts are as large as boto3's, and larger only where 10,000, S3's limit, would not hold the file. In bytes. */
export function partSizeOf(size: number): number {
  const MIB = 1024 * 1024;
  return Math.max(8 * MIB, Math.ceil(size / 10_000 / MIB) * MIB);
}

/** How many bytes of content are held at once. A single part that is larger waits until it is alone. */
const MEMORY = 16 * 1024 * 1024;

/** Lets no more than `MEMORY` bytes through at a time, in the order in which they are asked for. */
export class MemoryBudget {
  private free = MEMORY;
  private readonly waiting: { bytes: number; go: () => void }[] = [];
  /** Buffers for parts are used again: freed ones would wait for the garbage collector, which is in no hurry. */
  private readonly buffers: Buffer[] = [];

  async acquire(bytes: number): Promise<void> {
    const wanted = Math.min(bytes, MEMORY);
    if (this.waiting.length === 0 && wanted <= this.free) this.free -= wanted;
    else await new Promise<void>((go) => this.waiting.push({ bytes: wanted, go }));
  }

  release(bytes: number): void {
    this.free += Math.min(bytes, MEMORY);
    for (let next = this.waiting[0]; next && next.bytes <= this.free; next = this.waiting[0]) {
      this.waiting.shift();
      this.free -= next.bytes;
      next.go();
    }
  }

  /** A buffer of this size, to be given back. */
  async borrow(bytes: number): Promise<Buffer> {
    await this.acquire(bytes);
    const last = this.buffers.pop();
    return last?.length === bytes ? last : Buffer.allocUnsafeSlow(bytes);
  }

  giveBack(buffer: Buffer): void {
    this.buffers.push(buffer);
    this.release(buffer.length);
  }
}

/** All of a content in one buffer. */
export async function wholeOf({ size, chunks }: Content): Promise<Buffer> {
  let whole: Buffer | undefined;
  let length = 0;
  for await (const chunk of chunks) {
    if (chunk.length === size) whole = chunk;
    else chunk.copy((whole ??= Buffer.allocUnsafe(size)), length);
    length += chunk.length;
  }
  return whole ?? Buffer.alloc(0);
}

/** A piece of a content in a borrowed buffer, which is larger than the last piece. */
export interface Piece {
  bytes: Buffer;
  buffer: Buffer;
}

/** Cuts a stream into pieces of exactly `size` bytes; the last one is what is left. Who gets a piece gives its buffer back. */
export async function* inPieces(chunks: AsyncIterable<Buffer>, size: number, memory: MemoryBudget): AsyncGenerator<Piece> {
  let buffer: Buffer | undefined;
  let length = 0;
  try {
    for await (const chunk of chunks) {
      for (let rest = chunk; rest.length > 0;) {
        buffer ??= await memory.borrow(size);
        const copied = rest.copy(buffer, length);
        rest = rest.subarray(copied);
        length += copied;
        if (length < size) continue;
        const full = buffer;
        buffer = undefined;
        length = 0;
        yield { bytes: full, buffer: full };
      }
    }
    const last = buffer;
    buffer = undefined;
    if (last) yield { bytes: last.subarray(0, length), buffer: last };
  } finally {
    if (buffer) memory.giveBack(buffer);
  }
}

/** Takes an object's bytes in order and says at the end whether they are what the server keeps. */
export interface Proof {
  update(chunk: Buffer): void;
  holds(): boolean;
}

/** How many parts an object was uploaded in, by its ETag, which ends in their number; 1 for any other. */
export function partCount(etag: string): number {
  return Number(/-(\d+)$/.exec(etag)?.[1] ?? 1);
}

/**
 * What an object's headers give to check its bytes against (AWS, "Checking object integrity"): the CRC-32 that boto3 and this
 * program send along, else the MD5 in the ETag; of an object in parts, the same made of its parts'.
 *
 * @param partSize of an object in parts, in bytes
 * @returns undefined where there is nothing
 */
export function proofOf(headers: Readonly<Record<string, string | undefined>>, partSize?: number): Proof | undefined {
  const etag = unquote(headers.etag ?? "");
  const [crc = "", crcParts] = (headers["x-amz-checksum-crc32"] ?? "").split("-");
  if (crc !== "" && crcParts === undefined) return crc32Proof(crc);
  if (crc !== "" && partSize !== undefined) return partsProof(partSize, crc32Of, (sums) => crc32Base64(crc32(sums)) === crc);
  if (isMd5(etag, headers)) return md5Proof(etag);
  const [, md5OfParts] = /^([0-9a-f]{32})-\d+$/.exec(etag) ?? [];
  if (md5OfParts === undefined || partSize === undefined || hidesMd5(headers)) return undefined;
  return partsProof(partSize, md5Sum, (sums) => createHash("md5").update(sums).digest("hex") === md5OfParts);
}

function crc32Proof(expected: string): Proof {
  let value = 0;
  return {
    update: (chunk) => { value = crc32(chunk, value); },
    holds: () => crc32Base64(value) === expected,
  };
}

/** The proof for a plain MD5. */
export function md5Proof(expected: string): Proof {
  const md5 = createHash("md5");
  return {
    update: (chunk) => { md5.update(chunk); },
    holds: () => md5.digest("hex") === expected,
  };
}

interface Sum {
  update(chunk: Buffer): void;
  digest(): Buffer;
}

function md5Sum(): Sum {
  const md5 = createHash("md5");
  return { update: (chunk) => { md5.update(chunk); }, digest: () => md5.digest() };
}

function crc32Of(): Sum {
  let value = 0;
  return {
    update: (chunk) => { value = crc32(chunk, value); },
    digest: () => Buffer.from(crc32Base64(value), "base64"),
  };
}

/** @param fits whether the parts' sums, one behind the other, are those of the object */
function partsProof(partSize: number, newSum: () => Sum, fits: (sums: Buffer) => boolean): Proof {
  const sums: Buffer[] = [];
  let sum = newSum();
  let length = 0;
  return {
    update(chunk) {
      for (let rest = chunk; rest.length > 0;) {
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
    holds() {
      if (length > 0) sums.push(sum.digest());
      return fits(Buffer.concat(sums));
    },
  };
}
