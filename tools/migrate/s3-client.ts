/** The S3 calls of a migration: sent through one pool of connections, and retried. */
import { hash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { crc32 } from "node:zlib";
import { Pool, type Dispatcher } from "undici";
import type { StorageSettings } from "../../authentik/env.ts";
import { escapePath, escapeUri } from "../../authentik/url.ts";
import { crc32Base64, hidesMd5, isMd5, joinedEtag, type AnswerHeaders } from "./checksums.ts";
import {
  copyEtag,
  errorOf,
  etagOf,
  expectEmpty,
  expectObject,
  invalidAnswer,
  otherBytes,
  parseListing,
  parseParts,
  parseUploadId,
  parseUploads,
  partsXml,
  readAnswer,
  resultEtag,
  S3Error,
  type Listing,
  type Part,
  type S3Answer,
  type S3Object,
  type WholeAnswer,
  type XmlAnswer,
} from "./s3-answers.ts";
import { DEFAULT_RETRY_POLICY, withRetry, type RetryPolicy } from "./s3-retry.ts";
import { addressOf, unsigned, type BucketAddress, type BucketRequest } from "./s3-signing.ts";
import { TAGS, type StoredHeaders } from "./stored-headers.ts";

/** Connections to a bucket. More than 32 are no faster for small files, and need memory. */
export const CONNECTIONS = 32;

/** Objects up to this size are read whole, larger ones as a stream. */
const WHOLE_BYTES = 1024 * 1024;
/** Limit of answers that are read whole. A page of a thousand keys has at most about 4 MB. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024;
/** The slowest copy on a server that is waited for, in bytes a millisecond. */
const SLOWEST_SERVER = 10_000;

interface ClientRequest extends BucketRequest {
  /** Bytes that the server itself copies or joins before it answers. */
  moves?: number;
}

/** Headers with what must be at a key for a write or a deletion to take place. */
export type Condition = Readonly<Record<string, string>>;

/** The client of one bucket. Keys are exact: any text may be one. Call `close` at the end. */
export class BucketClient {
  readonly name: string;
  readonly retryPolicy: RetryPolicy;
  /** Whether checksums are sent and requested, as boto3 does by default. */
  readonly checksums: boolean;
  /** The Date of the last answer. */
  serverTime: string | undefined;
  private readonly address: BucketAddress;
  private readonly pool: Pool;

  private constructor(settings: StorageSettings, address: BucketAddress, policy: RetryPolicy) {
    this.name = settings.bucketName;
    this.checksums = settings.checksums !== "when_required";
    this.retryPolicy = policy;
    this.address = address;
    this.pool = new Pool(address.origin, {
      connections: CONNECTIONS,
      bodyTimeout: policy.silenceMs,
      connect: { timeout: Math.min(policy.silenceMs, 10_000) },
    });
  }

  /**
   * The client for these settings' bucket. Without keys the AWS SDK's default credential chain
   * signs.
   *
   * @throws Error when the chain finds no credentials
   */
  static async open(
    settings: StorageSettings,
    policy: RetryPolicy = DEFAULT_RETRY_POLICY,
  ): Promise<BucketClient> {
    return new BucketClient(settings, await addressOf(settings), policy);
  }

  /** The bucket's URL, for messages and as its identity: `https://s3.provider/authentik-media`. */
  get url(): string {
    return `${this.address.origin}${this.address.basePath}`;
  }

  async close(): Promise<void> {
    await this.pool.destroy();
  }

  /** Objects below a prefix, in the order of their keys' UTF-8 bytes. */
  async *list(prefix: string): AsyncGenerator<S3Object> {
    for await (const { objects } of this.pages({ prefix })) yield* objects;
  }

  /** The first parts of keys, with a slash at the end: `media/`, `public/`. */
  async folders(): Promise<string[]> {
    const found: string[] = [];
    for await (const { folders } of this.pages({ delimiter: "/" })) found.push(...folders);
    return found;
  }

  /** A listing's pages. The next one is requested while one is read. */
  private async *pages(query: Record<string, string>): AsyncGenerator<Listing> {
    const tokens = new Set<string>();
    let page: Promise<Listing> | undefined = this.listPage(query);
    while (page) {
      const listing: Listing = await page;
      const { next } = listing;
      if (next !== undefined && tokens.has(next)) {
        throw new S3Error("EndlessListing", 200, "the server's listing is endless: a page repeats");
      }
      page =
        next === undefined ? undefined : this.listPage({ ...query, "continuation-token": next });
      // Its failure is thrown where it is awaited, not as an unhandled one.
      page?.catch(() => undefined);
      if (next !== undefined) tokens.add(next);
      yield listing;
    }
  }

  private async listPage(query: Record<string, string>): Promise<Listing> {
    const whole = { "list-type": "2", "encoding-type": "url", ...query };
    return this.send({ method: "GET", query: whole }, ({ xml }) => parseListing(xml));
  }

  /** @param part the part whose size and checksum are wanted, of an object uploaded in parts */
  async head(key: string, part?: number): Promise<S3Answer> {
    const query = part === undefined ? {} : { partNumber: String(part) };
    const headers = this.checksumMode();
    return this.send({ method: "HEAD", key, query, headers }, expectObject);
  }

  /** Opens an object for reading, without a retry: only the reader knows where to resume. */
  async get({ key, etag, size }: S3Object, offset = 0): Promise<OpenObject> {
    const headers = {
      ...this.checksumMode(),
      range: offset > 0 ? `bytes=${offset}-` : undefined,
      "if-match": etag === "" ? undefined : `"${etag}"`,
    };
    const request: ClientRequest = { method: "GET", key, headers };
    if (size <= WHOLE_BYTES) {
      const answer = await this.exchange(request);
      return { ...answer, body: [answer.body] };
    }
    const response = await this.pool.request(await this.sign(request));
    const { statusCode: status, body } = response;
    const answer = { status, headers: single(response.headers) };
    if (status >= 300) throw errorOf({ ...answer, body: Buffer.from(await body.bytes()) });
    return { ...answer, body };
  }

  private checksumMode(): Record<string, string> {
    return this.checksums ? { "x-amz-checksum-mode": "ENABLED" } : {};
  }

  /**
   * Stores a private object and returns its ETag. The server checks the bytes by the SHA-256 in the
   * request's signature.
   *
   * @throws S3Error also when the ETag is that of other bytes
   */
  async put(
    key: string,
    body: Buffer,
    stored: StoredHeaders,
    condition: Condition = {},
  ): Promise<string> {
    const headers = { ...objectHeaders(stored), ...this.checksumOf(body), ...condition };
    return this.send({ method: "PUT", key, headers, body }, (answer) => {
      const etag = etagOf(answer);
      if (isMd5(etag, answer.headers) && etag !== hash("md5", body)) throw otherBytes(etag);
      return etag;
    });
  }

  private checksumOf(body: Buffer): Record<string, string> {
    return this.checksums ? { "x-amz-checksum-crc32": crc32Base64(crc32(body)) } : {};
  }

  /**
   * Copies an object within the bucket, on the server, if it still has this ETag. Source and target
   * may be the same object, which then gets these headers. Returns the copy's ETag.
   */
  async copy(
    source: S3Object,
    key: string,
    stored: StoredHeaders,
    condition: Condition = {},
  ): Promise<string> {
    // R2 has its own names for conditions of a copy's target (Cloudflare, "Conditional
    // operations").
    const ofR2: Record<string, string> = {};
    for (const [name, value] of Object.entries(condition)) {
      ofR2[`cf-copy-destination-${name}`] = value;
    }
    const headers = {
      ...objectHeaders(stored),
      "x-amz-metadata-directive": "REPLACE",
      ...this.copyHeaders(source),
      ...condition,
      ...ofR2,
    };
    const request: ClientRequest = { method: "PUT", key, headers, moves: source.size };
    return this.send(request, ({ xml }) => copyEtag(xml));
  }

  private copyHeaders({ key, etag }: S3Object): Record<string, string> {
    return {
      "x-amz-copy-source": escapePath(`/${this.name}/${key}`),
      "x-amz-copy-source-if-match": `"${etag}"`,
    };
  }

  async remove(key: string, condition: Condition = {}): Promise<void> {
    await this.send({ method: "DELETE", key, headers: condition }, expectEmpty);
  }

  /**
   * Begins a multipart upload and returns its id.
   *
   * @param checksums whether its parts have checksums; not when the server copies them
   */
  async createUpload(
    key: string,
    stored: StoredHeaders,
    checksums = this.checksums,
  ): Promise<string> {
    const checksum = checksums ? { "x-amz-checksum-algorithm": "CRC32" } : {};
    const headers = { ...objectHeaders(stored), ...checksum };
    const request: ClientRequest = { method: "POST", key, query: { uploads: "" }, headers };
    return this.send(request, ({ xml }) => parseUploadId(xml));
  }

  async uploadPart(key: string, uploadId: string, number: number, body: Buffer): Promise<Part> {
    const query = { partNumber: String(number), uploadId };
    const headers = this.checksumOf(body);
    const etag = await this.send({ method: "PUT", key, query, headers, body }, etagOf);
    return { number, size: body.length, etag, crc32: headers["x-amz-checksum-crc32"] };
  }

  /**
   * Copies bytes of an object as a part, both ends of the range included. The checksum is left out:
   * versitygw returns that of the whole object.
   */
  async copyPart(
    key: string,
    uploadId: string,
    number: number,
    source: S3Object,
    [first, last]: [number, number],
  ): Promise<Part> {
    const size = last - first + 1;
    const query = { partNumber: String(number), uploadId };
    const range = { "x-amz-copy-source-range": `bytes=${first}-${last}` };
    const headers = { ...this.copyHeaders(source), ...range };
    const request: ClientRequest = { method: "PUT", key, query, headers, moves: size };
    const etag = await this.send(request, ({ xml }) => resultEtag(xml, "CopyPartResult"));
    return { number, size, etag };
  }

  /**
   * The parts that the server has of an upload; undefined if it does not know the upload or does
   * not list parts.
   */
  async listParts(key: string, uploadId: string): Promise<Part[] | undefined> {
    const parts: Part[] = [];
    try {
      for (let next: number | undefined = 0; next !== undefined; ) {
        const marker: number = next;
        const query = { uploadId, "part-number-marker": String(marker) };
        const read = ({ xml }: XmlAnswer) => parseParts(xml, marker);
        const page = await this.send({ method: "GET", key, query }, read);
        parts.push(...page.parts);
        ({ next } = page);
      }
      return parts;
    } catch (error) {
      // Whatever the reason, it must not prevent the file from being sent again.
      if (error instanceof S3Error) return undefined;
      throw error;
    }
  }

  /**
   * The ids of a key's unfinished uploads, up to 1000; undefined without the permission to list
   * them, which authentik's key does not have.
   */
  async listUploads(key: string): Promise<string[] | undefined> {
    try {
      const query = { uploads: "", prefix: key };
      return await this.send({ method: "GET", query }, ({ xml }) => parseUploads(xml, key));
    } catch (error) {
      const isUnavailable = error instanceof S3Error && [403, 501].includes(error.status);
      if (isUnavailable) return undefined;
      throw error;
    }
  }

  /**
   * Joins the parts in their order. Returns the ETag.
   *
   * @throws S3Error also when the ETag is that of other parts
   */
  async completeUpload(
    key: string,
    uploadId: string,
    parts: readonly Part[],
    condition: Condition = {},
  ): Promise<string> {
    const request: ClientRequest = {
      method: "POST",
      key,
      query: { uploadId },
      headers: { "content-type": "application/xml", ...condition },
      body: Buffer.from(partsXml(parts)),
      moves: sizeOf(parts),
    };
    return this.send(request, ({ xml, headers }) => {
      const etag = resultEtag(xml, "CompleteMultipartUploadResult");
      const [, count] = /^[0-9a-f]{32}-(\d+)$/.exec(etag) ?? [];
      const joined = hidesMd5(headers) ? undefined : joinedEtag(parts);
      const isOther = Number(count) !== parts.length || (joined ?? etag) !== etag;
      if (count !== undefined && isOther) throw otherBytes(etag);
      return etag;
    });
  }

  /** Ends an upload and frees its parts. An upload that the server does not know is no error. */
  async abortUpload(key: string, uploadId: string): Promise<void> {
    const request: ClientRequest = { method: "DELETE", key, query: { uploadId } };
    await this.send(request, expectEmpty).catch((error: unknown) => {
      if (!(error instanceof S3Error && error.status === 404)) throw error;
    });
  }

  /** @param read takes from the answer what was requested */
  private async send<T>(request: ClientRequest, read: (answer: XmlAnswer) => T): Promise<T> {
    return withRetry(this.retryPolicy, async () => readAnswer(await this.exchange(request), read));
  }

  /** @throws S3Error for an answer that is no success */
  private async exchange(request: ClientRequest): Promise<WholeAnswer> {
    const signed = await this.sign(request);
    const answer = await new Promise<WholeAnswer>((resolve, reject) => {
      this.pool.dispatch(signed, new Collector(resolve, reject));
    });
    if (answer.status >= 300) throw withHint(errorOf(answer), request);
    this.serverTime = answer.headers.date ?? this.serverTime;
    return answer;
  }

  /** The signed request, and how long its answer may take. */
  private async sign(request: ClientRequest): Promise<Dispatcher.DispatchOptions> {
    const { method, body, moves = 0 } = request;
    const { silenceMs, slowestRate } = this.retryPolicy;
    const plain = unsigned(this.address, request);
    const { headers } = await this.address.signer.sign(plain);
    const search = Object.entries(plain.query).map(
      ([name, value]) => `${escapeUri(name)}=${escapeUri(value)}`,
    );
    return {
      method,
      path: search.length === 0 ? plain.path : `${plain.path}?${search.join("&")}`,
      headers,
      headersTimeout: silenceMs + (body?.length ?? 0) / slowestRate + moves / SLOWEST_SERVER,
      body: body ?? null,
    };
  }
}

/** An object's answer, with its body to be read. */
export interface OpenObject extends S3Answer {
  body: AsyncIterable<Buffer> | Iterable<Buffer>;
}

/** The size of an object made of these parts, in bytes. */
export function sizeOf(parts: readonly Part[]): number {
  return parts.reduce((sum, { size }) => sum + size, 0);
}

function objectHeaders(stored: StoredHeaders): Record<string, string> {
  const settable = Object.entries(stored).filter(([name]) => name !== TAGS);
  return { ...Object.fromEntries(settable), "x-amz-acl": "private" };
}

/** s3proxy and others answer 501 to a request with a checksum. */
function withHint(error: S3Error, { headers = {} }: ClientRequest): S3Error {
  const hasChecksum = Object.keys(headers).some((name) => name.startsWith("x-amz-checksum-"));
  if (error.status !== 501 || !hasChecksum) return error;
  const hint =
    "if the server does not support checksums, set the stack's checksums to when_required, or " +
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required in the env file";
  return new S3Error(error.code, error.status, `${error.message}; ${hint}`, { cause: error.cause });
}

/** Reads an answer whole. A stream for each would cost more than the request. */
class Collector implements Dispatcher.DispatchHandler {
  private answer: S3Answer = { status: 0, headers: {} };
  private readonly chunks: Buffer[] = [];
  private length = 0;
  private readonly resolve: (answer: WholeAnswer) => void;
  private readonly reject: (error: Error) => void;

  constructor(resolve: (answer: WholeAnswer) => void, reject: (error: Error) => void) {
    this.resolve = resolve;
    this.reject = reject;
  }

  /** undici recognises handlers of version 7 by this method. */
  onRequestStart(): void {
    this.length = 0;
    this.chunks.length = 0;
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    this.answer = { status, headers: single(headers) };
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.length += chunk.length;
    this.chunks.push(chunk);
    if (this.length > MAX_ANSWER_BYTES) {
      controller.abort(invalidAnswer(`it is longer than ${MAX_ANSWER_BYTES} bytes`));
    }
  }

  onResponseEnd(): void {
    const [first] = this.chunks;
    const body = first && this.chunks.length === 1 ? first : Buffer.concat(this.chunks);
    this.resolve({ ...this.answer, body });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.reject(error);
  }
}

/** The headers with the first value of each. */
function single(headers: IncomingHttpHeaders): AnswerHeaders {
  const found: Record<string, string | undefined> = {};
  for (const [name, value] of Object.entries(headers)) {
    found[name] = Array.isArray(value) ? value[0] : value;
  }
  return found;
}
