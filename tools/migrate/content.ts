/** Contents in transfer: how many of their bytes may be in memory, and how they are cut. */
import type { StoredHeaders } from "./stored-headers.ts";

/** Bytes in order, in pieces. */
export type Chunks = AsyncIterable<Buffer> | Iterable<Buffer>;

/** The content of a file or an object. */
export interface Content {
  size: number;
  /** The version that is read. */
  version: string;
  /**
   * Reads all bytes into memory, which the caller has reserved.
   *
   * @throws ContentError when they are not the bytes of the version
   */
  whole(): Promise<readonly Buffer[]>;
  /**
   * Reads the bytes in order. Ends only when all bytes arrived and are correct; throws otherwise. A
   * chunk may be overwritten when the next one is requested.
   */
  chunks(): Chunks;
  /** The headers stored with an object. A file has none. */
  stored?(): Promise<StoredHeaders>;
}

/** The bytes received are not those sent, or not all of one version. A retry may succeed. */
export class ContentError extends Error {
  override name = "ContentError";
}

/**
 * The size of parts, in bytes: boto3's, and larger only when S3's limit of 10,000 parts requires
 * it.
 */
export function partSizeOf(size: number): number {
  const MIB = 1024 * 1024;
  return Math.max(8 * MIB, Math.ceil(size / 10_000 / MIB) * MIB);
}

/** All chunks of a content. They stay as they are. */
export async function allOf(chunks: AsyncIterable<Buffer>): Promise<readonly Buffer[]> {
  const all: Buffer[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return all;
}

/** In bytes. */
export function lengthOf(chunks: readonly Buffer[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0);
}

/** How many bytes of content may be in memory. A larger part is admitted alone. */
const MEMORY = 16 * 1024 * 1024;

/** Admits at most `MEMORY` bytes at a time, in the order of the requests for them. */
export class MemoryBudget {
  private free = MEMORY;
  private readonly waiting: { bytes: number; go: () => void }[] = [];
  /** Buffers of parts are reused: the garbage collector would free discarded ones late. */
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

  /** A buffer of this size. Give it back after use. */
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

/** A piece of a content. The last piece is shorter than its borrowed buffer. */
export interface Piece {
  bytes: Buffer;
  buffer: Buffer;
}

/**
 * Cuts a stream into pieces of exactly `size` bytes; the last piece is the rest. The receiver of a
 * piece gives its buffer back.
 */
export async function* inPieces(
  chunks: Chunks,
  size: number,
  memory: MemoryBudget,
): AsyncGenerator<Piece> {
  let buffer: Buffer | undefined;
  let length = 0;
  try {
    for await (const chunk of chunks) {
      for (let rest = chunk; rest.length > 0; ) {
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
