/**
 * Reads a bucket's objects: resumes broken downloads, and checks the bytes by the server's
 * checksums.
 */
import { createHash } from "node:crypto";
import {
  haveSameMd5,
  isMd5,
  md5Verifier,
  partCount,
  unquote,
  verifierOf,
  type AnswerHeaders,
  type Verifier,
} from "./checksums.ts";
import { ContentError, partSizeOf, type Content } from "./content.ts";
import { S3Error } from "./s3-answers.ts";
import type { BucketClient } from "./s3-client.ts";
import { asS3Error, isRetryable, pause } from "./s3-retry.ts";
import type { Item } from "./storage.ts";
import { storedHeaders } from "./stored-headers.ts";

const EMPTY = Buffer.alloc(0);

/**
 * The object's content. Its chunks end with an error unless the bytes are those that the server
 * keeps.
 */
export function readObject(client: BucketClient, item: Item): Content {
  let answered: AnswerHeaders | undefined;
  const chunks = readChecked(client, item, (headers) => {
    answered = headers;
  });
  const stored = async () => {
    const headers = answered ?? (await client.head(item.at ?? item.key)).headers;
    return storedHeaders(headers);
  };
  return { size: item.size, version: item.version, chunks, stored };
}

/** The digest of an object's content in hexadecimal. Reads it to the end. */
export async function digestOfObject(
  client: BucketClient,
  algorithm: "md5" | "sha256",
  item: Item,
): Promise<string> {
  return digestOf(algorithm, readObject(client, item));
}

/**
 * Whether a content of the same size is this object's. It reads the content, and the object only if
 * the server has no checksum of it.
 *
 * @param content opens a new reading at each call
 */
export async function hasContent(
  client: BucketClient,
  item: Item,
  content: () => Content,
): Promise<boolean> {
  const { version } = item;
  if (isMd5(version) && (await matches(md5Verifier(version), content()))) return true;
  const { headers } = await client.head(item.at ?? item.key);
  if (unquote(headers.etag ?? "") !== version || isMd5(version, headers)) return false;
  const { verifier, isCertain } = await checkOf(client, item, headers);
  if (verifier && (await matches(verifier, content()))) return true;
  return (
    !isCertain && (await sha256OfObject(client, item)) === (await digestOf("sha256", content()))
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
  for await (const chunk of content.chunks) verifier.update(chunk);
  return verifier.matches();
}

async function digestOf(algorithm: string, content: Content): Promise<string> {
  const digest = createHash(algorithm);
  for await (const chunk of content.chunks) digest.update(chunk);
  return digest.digest("hex");
}

/**
 * Reads an object once, without a check. If the server has no checksum, two readings must agree.
 */
async function sha256OfObject(client: BucketClient, item: Item): Promise<string> {
  const sha256 = createHash("sha256");
  for await (const { chunk } of readResuming(client, item)) sha256.update(chunk);
  return sha256.digest("hex");
}

async function* readChecked(
  client: BucketClient,
  item: Item,
  onAnswer: (headers: AnswerHeaders) => void,
): AsyncGenerator<Buffer> {
  const sha256 = createHash("sha256");
  let check: Check = { isCertain: false };
  for await (const { chunk, headers } of readResuming(client, item)) {
    if (headers) {
      onAnswer(headers);
      check = await checkOf(client, item, headers);
    }
    check.verifier?.update(chunk);
    if (!check.isCertain) sha256.update(chunk);
    yield chunk;
  }
  if (check.verifier?.matches()) return;
  if (check.isCertain || (await sha256OfObject(client, item)) !== sha256.digest("hex")) {
    throw new ContentError("the bytes received do not match the server's checksum");
  }
}

interface Chunk {
  chunk: Buffer;
  /** Of the answer; with the first chunk only. */
  headers?: AnswerHeaders;
}

/** The object's bytes. After a broken connection it resumes where it was. */
async function* readResuming(client: BucketClient, item: Item): AsyncGenerator<Chunk> {
  const { size, version } = item;
  const object = { key: item.at ?? item.key, etag: version, size };
  let received = 0;
  let first = true;
  for (let attempt = 1; first || received < size; attempt++) {
    try {
      const answer = await client.get(object, received);
      // A server that does not support ranges sends everything again.
      let skip = answer.status === 206 ? 0 : received;
      if (first) yield { chunk: EMPTY, headers: answer.headers };
      first = false;
      for await (const chunk of answer.body) {
        const rest = chunk.subarray(Math.min(skip, chunk.length));
        skip -= chunk.length - rest.length;
        received += rest.length;
        if (rest.length > 0) yield { chunk: rest };
      }
      if (received !== size) throw incomplete(received, size);
    } catch (error) {
      const failure = asS3Error(error);
      const isLast = attempt >= client.retryPolicy.attempts || received > size;
      if (isLast || !isRetryable(failure)) throw readFailure(failure);
      await pause(client.retryPolicy, attempt);
    }
  }
}

function incomplete(received: number, size: number): S3Error {
  return new S3Error("IncompleteBody", 0, `${received} of ${size} bytes arrived`);
}

/** An object that is no longer the one that the listing showed may be read after another look. */
function readFailure(failure: unknown): unknown {
  const isOther = failure instanceof S3Error && (failure.status === 412 || failure.status === 404);
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
  // If the answer has no ETag, that of the listing is valid.
  const known = { ...headers, etag: headers.etag ?? item.version };
  const whole = verifierOf(known);
  if (whole) return { verifier: whole, isCertain: true };
  const parts = partCount(item.version);
  const partSize = parts > 1 ? await partSizeFrom(client, item, parts) : undefined;
  const usual = partSizeOf(item.size);
  const assumed = Math.ceil(item.size / usual) === parts ? usual : undefined;
  const verifier = verifierOf(known, partSize ?? assumed);
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
