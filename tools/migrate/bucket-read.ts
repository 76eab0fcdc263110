/** Reads a bucket's objects, large ones as streams, and checks the bytes by the server's checksums. */
import { createHash, type Hash } from "node:crypto";
import {
  haveSameMd5,
  isMd5,
  md5Verifier,
  partCount,
  partsVerifier,
  unquote,
  wholeVerifier,
  type AnswerHeaders,
  type Verifier,
} from "./checksums.ts";
import { ContentError, partSizeOf, type Chunks, type Content } from "./content.ts";
import { S3Error, type S3Object } from "./s3-answers.ts";
import type { BucketClient } from "./s3-client.ts";
import { pauseAfter } from "./s3-retry.ts";
import type { Item } from "./storage.ts";
import { storedHeaders } from "./stored-headers.ts";

const MIB = 1024 * 1024;
/** Objects up to this size are read in one request. A copy requests memory for all of their bytes. */
const WHOLE_BYTES = 8 * MIB;
/** What waits for the reader of a stream and its writer, at most. */
const STREAM_BYTES = MIB;
/** This many bytes between two failures show that reading makes progress. */
const PROGRESS_BYTES = 64 * 1024;

/**
 * The object's content. Its bytes are compared with the server's checksum.
 *
 * @param wholeBytes chunks of objects up to this size are those of one request
 */
export function readObject(client: BucketClient, item: Item, wholeBytes?: number): Content {
  let answered: AnswerHeaders | undefined;
  const onAnswer = (headers: AnswerHeaders) => {
    answered = headers;
  };
  return {
    size: item.size,
    version: item.version,
    whole: () => readWhole(client, item, onAnswer),
    chunks: () => readChunks(client, item, onAnswer, wholeBytes),
    stored: async () => {
      const headers = answered ?? (await client.head(item.at ?? item.key)).headers;
      return storedHeaders(headers);
    },
  };
}

/** The digest of an object's content in hexadecimal. Reads it to the end. */
export async function digestOfObject(
  client: BucketClient,
  algorithm: "md5" | "sha256",
  item: Item,
): Promise<string> {
  // Many objects may be read at a time, and no memory is reserved for them.
  return digestOf(algorithm, readObject(client, item, MIB).chunks());
}

/**
 * Whether a content of the same size is this object's. It reads the content, and the object only if
 * the server has no checksum of it.
 */
export async function hasContent(
  client: BucketClient,
  item: Item,
  content: Content,
): Promise<boolean> {
  const { version } = item;
  if (isMd5(version) && (await matches(md5Verifier(version), content))) return true;
  const { headers } = await client.head(item.at ?? item.key);
  if (unquote(headers.etag ?? "") !== version || isMd5(version, headers)) return false;
  const { verifier, isCertain } = await checkOf(client, item, headers);
  if (verifier && (await matches(verifier, content))) return true;
  return (
    !isCertain &&
    (await sha256OfObject(client, item)) === (await digestOf("sha256", content.chunks()))
  );
}

/** Whether two objects of a bucket have the same content. Reads both if their ETags do not tell. */
export async function areCopies(client: BucketClient, a: Item, b: Item): Promise<boolean> {
  if (a.size !== b.size) return false;
  if (haveSameMd5(a, b)) return true;
  const digest = (item: Item) => digestOfObject(client, "sha256", item);
  return (await digest(a)) === (await digest(b));
}

async function matches(verifier: Verifier, content: Content): Promise<boolean> {
  for await (const chunk of content.chunks()) verifier.update(chunk);
  return verifier.matches();
}

async function digestOf(algorithm: string, chunks: Chunks): Promise<string> {
  const digest = createHash(algorithm);
  for await (const chunk of chunks) digest.update(chunk);
  return digest.digest("hex");
}

/**
 * Reads an object once, without a check. If the server has no checksum, two readings must agree.
 */
async function sha256OfObject(client: BucketClient, item: Item): Promise<string> {
  const object = objectOf(item);
  try {
    const chunks =
      item.size <= WHOLE_BYTES ? (await client.get(object)).chunks : resumed(client, object);
    return await digestOf("sha256", chunks);
  } catch (error) {
    throw readFailure(error);
  }
}

function objectOf({ key, at = key, size, version }: Item): S3Object {
  return { key: at, etag: version, size };
}

type OnAnswer = (headers: AnswerHeaders) => void;

/** Reads an object in one request. */
async function readWhole(
  client: BucketClient,
  item: Item,
  onAnswer: OnAnswer,
): Promise<readonly Buffer[]> {
  try {
    const { headers, chunks } = await client.get(objectOf(item));
    onAnswer(headers);
    const check = new ReadCheck(client, item, await checkOf(client, item, headers));
    for (const chunk of chunks) check.update(chunk);
    await check.end();
    return chunks;
  } catch (error) {
    throw readFailure(error);
  }
}

async function* readChunks(
  client: BucketClient,
  item: Item,
  onAnswer: OnAnswer,
  wholeBytes = WHOLE_BYTES,
): AsyncGenerator<Buffer> {
  if (item.size <= wholeBytes) {
    yield* await readWhole(client, item, onAnswer);
    return;
  }
  const object = objectOf(item);
  try {
    // An answer to a range has other checksums.
    const { headers } = await client.head(object.key);
    onAnswer(headers);
    const check = new ReadCheck(client, item, await checkOf(client, item, headers));
    for await (const chunk of resumed(client, object)) {
      check.update(chunk);
      yield chunk;
    }
    await check.end();
  } catch (error) {
    throw readFailure(error);
  }
}

/** Compares the bytes of one reading with the server's checksum, or else with another reading. */
class ReadCheck {
  private readonly client: BucketClient;
  private readonly item: Item;
  private readonly verifier: Verifier | undefined;
  private readonly sha256: Hash | undefined;

  constructor(client: BucketClient, item: Item, { verifier, isCertain }: Check) {
    this.client = client;
    this.item = item;
    this.verifier = verifier;
    if (!isCertain) this.sha256 = createHash("sha256");
  }

  update(chunk: Buffer): void {
    this.verifier?.update(chunk);
    this.sha256?.update(chunk);
  }

  /** @throws ContentError when the bytes are wrong */
  async end(): Promise<void> {
    if (this.verifier?.matches()) return;
    const { client, item, sha256 } = this;
    if (sha256 && (await sha256OfObject(client, item)) === sha256.digest("hex")) return;
    throw new ContentError("the bytes received do not match the server's checksum");
  }
}

/** Reads a large object, and resumes where the connection broke. */
async function* resumed(client: BucketClient, object: S3Object): AsyncGenerator<Buffer> {
  let received = 0;
  let failures = 0;
  let failedAt = 0;
  await client.largeReads.acquire(STREAM_BYTES);
  try {
    while (received < object.size) {
      try {
        for await (const chunk of client.stream(object, received)) {
          received += chunk.length;
          yield chunk;
        }
      } catch (error) {
        if (received - failedAt >= PROGRESS_BYTES) failures = 0;
        failedAt = received;
        await pauseAfter(client, error, ++failures);
      }
    }
  } finally {
    client.largeReads.release(STREAM_BYTES);
  }
}

/** An object that changed after the listing can be read after a refresh. */
function readFailure(failure: unknown): unknown {
  const isOther =
    failure instanceof S3Error &&
    ([404, 412].includes(failure.status) || failure.code === "OtherSize");
  return isOther ? new ContentError("it changed while it was read", { cause: failure }) : failure;
}

/** How an object's bytes are checked. */
interface Check {
  verifier?: Verifier | undefined;
  /**
   * Whether bytes that do not match the verifier are wrong. They may be right if it relies on an
   * assumed size of the parts.
   */
  isCertain: boolean;
}

async function checkOf(client: BucketClient, item: Item, headers: AnswerHeaders): Promise<Check> {
  // An answer without an ETag has that of the listing.
  const known = headers.etag === undefined ? { ...headers, etag: item.version } : headers;
  const whole = wholeVerifier(known);
  if (whole) return { verifier: whole, isCertain: true };
  const parts = partCount(item.version);
  const partSize = parts > 1 ? await partSizeFrom(client, item, parts) : undefined;
  const usual = partSizeOf(item.size);
  const assumed = Math.ceil(item.size / usual) === parts ? usual : undefined;
  const verifier = partsVerifier(known, partSize ?? assumed);
  return { verifier, isCertain: verifier !== undefined && partSize !== undefined };
}

/** Undefined if the server does not report the parts' sizes, or they differ. Both are allowed. */
async function partSizeFrom(
  client: BucketClient,
  { key, at, size }: Item,
  parts: number,
): Promise<number | undefined> {
  const sizeOfPart = async (part: number): Promise<number> => {
    const answer = await client.head(at ?? key, part).catch((error: unknown) => {
      const status = error instanceof S3Error ? error.status : 0;
      if ((status >= 400 && status < 500) || status === 501) return undefined;
      throw error;
    });
    return Number(answer?.headers["content-length"]);
  };
  const [first, last] = await Promise.all([sizeOfPart(1), sizeOfPart(parts)]);
  return first * (parts - 1) + last === size ? first : undefined;
}
