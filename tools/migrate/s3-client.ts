/** The S3 calls of a migration, and their retries. Large objects have connections of their own. */
import { hash } from "node:crypto";
import { crc32 } from "node:zlib";
import type { Dispatcher } from "undici";
import { messageOf } from "../lib/errors.ts";
import type { StorageSettings } from "../../authentik/env.ts";
import { escapePath } from "../../authentik/url.ts";
import { lengthOf, MemoryBudget } from "./content.ts";
import {
  crc32Base64,
  hidesMd5,
  isMd5,
  joinedEtag,
  unquote,
  type AnswerHeaders,
} from "./checksums.ts";
import {
  copyEtag,
  errorOf,
  etagOf,
  expectEmpty,
  expectObject,
  incompleteBody,
  invalidAnswer,
  otherBytes,
  otherSize,
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
import {
  asS3Error,
  DEFAULT_RETRY_POLICY,
  isRetryable,
  isUnreachable,
  withRetry,
  type Retrier,
  type RetryPolicy,
} from "./s3-retry.ts";
import { Collector, joined, type ObjectBytes } from "./s3-bodies.ts";
import { Route } from "./s3-route.ts";
import { addressOf, Signer, type BucketAddress, type BucketRequest } from "./s3-signing.ts";
import { StreamedAnswer } from "./s3-stream.ts";
import { TAGS, type StoredHeaders } from "./stored-headers.ts";

/** Connections to a bucket. More than 32 are no faster for small files, and need memory. */
export const CONNECTIONS = 32;

/** Limit of an error that is sent instead of an object. The object may be shorter. */
const ERROR_BYTES = 64 * 1024;
/** Limit of answers that are read whole. A page of a thousand keys has at most about 4 MB. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024;
/** The slowest copy on a server that is waited for, in bytes a millisecond. */
const SLOWEST_SERVER = 10_000;
/** How many pages in a row may have no new key. AWS sends empty ones for many deleted objects. */
const MAX_IDLE_PAGES = 1000;

interface ClientRequest extends BucketRequest {
  /** Bytes that the server itself copies or joins before it answers. */
  moves?: number;
}

/** Headers with the object that a write or a deletion expects at its key. */
export type Condition = Readonly<Record<string, string>>;

/** The client of one bucket. Keys are exact: any text may be one. Call `close` at the end. */
export class BucketClient implements Retrier {
  readonly name: string;
  readonly retryPolicy: RetryPolicy;
  /** Whether checksums are sent and requested, as boto3 does by default. */
  readonly checksums: boolean;
  /** The Date of the last answer. */
  serverTime: string | undefined;
  private readonly address: BucketAddress;
  private readonly signer: Signer;
  private readonly route: Route;
  private readonly pool: Dispatcher;
  /** The answers that are being read. */
  private readonly streams = new Set<StreamedAnswer>();
  private answers = 0;
  /** The memory of large objects that are being read. It also limits their number. */
  readonly largeReads = new MemoryBudget();
  /** Whether Azure keeps the objects; undefined while no ETag has shown it. */
  isAzure: boolean | undefined;
  private isVersitygw = false;

  private constructor(
    settings: StorageSettings,
    address: BucketAddress,
    route: Route,
    policy: RetryPolicy,
  ) {
    this.name = settings.bucketName;
    this.checksums = settings.checksums !== "when_required";
    this.retryPolicy = policy;
    this.address = address;
    this.signer = new Signer(address);
    this.route = route;
    const { silenceMs } = policy;
    this.pool = route.open({ connections: CONNECTIONS, bodyTimeout: silenceMs }, silenceMs);
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
    const address = await addressOf(settings);
    return new BucketClient(settings, address, await Route.to(address.origin), policy);
  }

  /** The bucket's URL, for messages and as its identity: `https://s3.provider/authentik-media`. */
  get url(): string {
    return `${this.address.origin}${this.address.basePath}`;
  }

  /** Called when a request has failed and is sent again. */
  onRetry: (reason: string) => void = () => undefined;

  /**
   * Whether a request may succeed when it is sent again. A server that has never been reached is
   * probably a wrong host or port.
   */
  mayRetry(error: unknown): boolean {
    return isRetryable(error) && (this.answers > 0 || !isUnreachable(error));
  }

  reportRetry(error: unknown, attempt: number): void {
    this.onRetry(`try ${attempt + 1} of ${this.retryPolicy.attempts}: ${messageOf(error)}`);
  }

  async close(): Promise<void> {
    for (const answer of this.streams) answer.close();
    await this.pool.destroy();
  }

  /** Objects below a prefix, in the order of their keys' UTF-8 bytes. */
  async *list(prefix: string): AsyncGenerator<S3Object> {
    for await (const { objects } of this.pages({ prefix })) {
      for (const object of objects) yield object;
    }
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
    let [last, idle]: [string | undefined, number] = [undefined, 0];
    let page: Promise<Listing> | undefined = this.listPage(query);
    while (page) {
      const listing: Listing = await page;
      const { next } = listing;
      const end = listing.objects.at(-1)?.key ?? listing.folders.at(-1);
      idle = end === undefined || end === last ? idle + 1 : 0;
      last = end ?? last;
      if (next !== undefined && (tokens.has(next) || idle > MAX_IDLE_PAGES)) {
        throw new S3Error("EndlessListing", 200, "the server's listing is endless: a page repeats");
      }
      page =
        next === undefined ? undefined : this.listPage({ ...query, "continuation-token": next });
      // Its failure is thrown where it is awaited.
      page?.catch(() => undefined);
      if (next !== undefined) tokens.add(next);
      this.noteEtag(listing.objects[0]?.etag ?? "");
      yield listing;
    }
  }

  private async listPage(listing: Record<string, string>): Promise<Listing> {
    const query = { "list-type": "2", "encoding-type": "url", ...listing };
    return this.send({ method: "GET", query }, ({ xml }) => parseListing(xml, listing));
  }

  /** @param part the part whose size and checksum are wanted, of a multipart upload */
  async head(key: string, part?: number): Promise<S3Answer> {
    const query = part === undefined ? {} : { partNumber: String(part) };
    const headers = this.checksumMode();
    return this.send({ method: "HEAD", key, query, headers }, expectObject);
  }

  /** An object that fits into memory. */
  async get({ key, etag, size }: S3Object): Promise<ObjectBytes> {
    const headers = Object.assign(this.checksumMode(), ifMatch(etag));
    return withRetry(this, async () => {
      const request: ClientRequest = { method: "GET", key, headers };
      const answer = await this.receive(request, Math.max(size, ERROR_BYTES));
      expectLength(answer.headers, size);
      const received = lengthOf(answer.chunks);
      if (received !== size) throw incompleteBody(received, size, answer.headers);
      return answer;
    });
  }

  /**
   * Reads an object from the byte `first` on, without a retry: only the reader knows where to resume.
   *
   * @throws S3Error when not all of its bytes arrive, or more
   */
  async *stream({ key, etag, size }: S3Object, first: number): AsyncGenerator<Buffer> {
    const range = `${first}-${size - 1}`;
    const headers = { range: `bytes=${range}`, ...ifMatch(etag) };
    const request = await this.signer.sign({ method: "GET", key, headers });
    const answer = new StreamedAnswer(this.route, this.retryPolicy.silenceMs);
    this.streams.add(answer);
    try {
      await answer.open(request);
      if (answer.status >= 300) throw errorOf(await answer.whole(ERROR_BYTES));
      const isPart = answer.status === 206;
      if (isPart) expectRange(answer.headers, `bytes ${range}/${size}`);
      else expectLength(answer.headers, size);
      // A server without ranges sends the whole object.
      let at = isPart ? first : 0;
      for await (const chunk of answer.chunks()) {
        const rest = chunk.subarray(Math.max(0, Math.min(first - at, chunk.length)));
        at += chunk.length;
        if (at > size) throw otherSize(at, size);
        if (rest.length > 0) yield rest;
      }
      if (at !== size) throw incompleteBody(at, size, answer.headers);
    } finally {
      answer.close();
      this.streams.delete(answer);
    }
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
    const headers = Object.assign(objectHeaders(stored), this.checksumOf(body), condition);
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
      ...(etag === "" ? {} : { "x-amz-copy-source-if-match": `"${etag}"` }),
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
    this.noteEtag(etag, number);
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
        for (const { etag, number } of page.parts) this.noteEtag(etag, number);
        parts.push(...page.parts);
        ({ next } = page);
      }
      return parts;
    } catch (error) {
      // No failure may prevent the file from being sent again.
      if (error instanceof S3Error) return undefined;
      throw error;
    }
  }

  /**
   * The ids of a key's unfinished uploads, up to 1000; undefined where they cannot be listed.
   * authentik's key may not.
   */
  async listUploads(key: string): Promise<string[] | undefined> {
    try {
      const query = { uploads: "", prefix: key };
      return await this.send({ method: "GET", query }, ({ xml }) => parseUploads(xml, key));
    } catch (error) {
      if (error instanceof S3Error && !isRetryable(error)) return undefined;
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

  /**
   * Aborts an upload and frees its parts, unless that would delete the object. An upload that the
   * server does not know is not an error.
   *
   * @returns false when these keys may not abort it, or the server cannot
   */
  async abortUpload(key: string, uploadId: string): Promise<boolean> {
    if (await this.deletesByAbort(key, uploadId)) return true;
    try {
      const request: ClientRequest = { method: "DELETE", key, query: { uploadId } };
      await this.send(request, expectEmpty);
      return true;
    } catch (error) {
      if (!(error instanceof S3Error) || isRetryable(error)) throw error;
      return error.status === 404;
    }
  }

  /**
   * Whether an abort deletes the object at the key. versitygw in front of Azure keeps an object and the
   * parts of its uploads in one blob (`AbortMultipartUpload` of its Azure backend, 1.8.0), and Azure
   * frees the parts by itself. An ingress may hide the name of the server, so the ETags are looked at.
   */
  private async deletesByAbort(key: string, uploadId: string): Promise<boolean> {
    if (this.isAzure === undefined) await this.listParts(key, uploadId);
    if (this.isAzure === undefined) await this.head(key).catch(() => undefined);
    if (this.isAzure === undefined) await this.noteAnyEtag();
    return this.isAzure ?? this.isVersitygw;
  }

  /** Looks at the ETag of any object. An empty bucket has none. */
  private async noteAnyEtag(): Promise<void> {
    for await (const { etag } of this.list("")) {
      this.noteEtag(etag);
      return;
    }
  }

  /** Remembers what an ETag shows about the server. */
  private noteEtag(etag: string, part?: number): void {
    if (/^0x[0-9A-F]+(?:-1)?$/.test(etag) || etag === azurePartEtag(part)) this.isAzure = true;
    else if (/^[0-9a-f]{32}/.test(etag)) this.isAzure ??= false;
  }

  /** @param read takes from the answer what was requested */
  private async send<T>(request: ClientRequest, read: (answer: XmlAnswer) => T): Promise<T> {
    return withRetry(this, async () => readAnswer(await this.exchange(request), read));
  }

  private async exchange(request: ClientRequest): Promise<WholeAnswer> {
    const { status, headers, chunks } = await this.receive(request, MAX_ANSWER_BYTES);
    return { status, headers, body: joined(chunks) };
  }

  /**
   * Sends a request once.
   *
   * @param limit of the answer's body, in bytes
   * @throws S3Error for an answer that is not a success
   */
  private async receive(request: ClientRequest, limit: number): Promise<ObjectBytes & S3Answer> {
    const answer = await this.dispatch(request, limit);
    const { status, headers, chunks } = answer;
    if (status >= 300) throw withHint(errorOf({ status, headers, body: joined(chunks) }), request);
    this.serverTime = headers.date ?? this.serverTime;
    this.isVersitygw ||= headers.server === "VERSITYGW";
    this.noteEtag(unquote(headers.etag ?? ""));
    return answer;
  }

  /** @throws S3Error also for a server that cannot be reached */
  private async dispatch(request: ClientRequest, limit: number): Promise<ObjectBytes & S3Answer> {
    const { origin } = this.address;
    const { method, body = null, moves = 0 } = request;
    const { path, headers } = await this.signer.sign(request);
    const { silenceMs, slowestRate } = this.retryPolicy;
    const ms = silenceMs + (body?.length ?? 0) / slowestRate + moves / SLOWEST_SERVER;
    const options = { origin, method, path, headers, body, headersTimeout: ms };
    try {
      const answer = await new Promise<ObjectBytes & S3Answer>((resolve, reject) => {
        this.pool.dispatch(options, new Collector({ bytes: limit, ms }, resolve, reject));
      });
      this.answers++;
      return answer;
    } catch (error) {
      const failure = asS3Error(error);
      if (!(failure instanceof S3Error) || this.answers > 0 || !isUnreachable(failure))
        throw failure;
      const advice = "check the scheme, host and port of the endpoint, and that the server runs";
      const message = `${this.route.name} cannot be reached: ${failure.message}; ${advice}`;
      throw new S3Error(failure.code, 0, message, { cause: failure.cause });
    }
  }
}

function ifMatch(etag: string): Record<string, string> {
  return etag === "" ? {} : { "if-match": `"${etag}"` };
}

/** The size of an object made of these parts, in bytes. */
export function sizeOf(parts: readonly Part[]): number {
  return parts.reduce((sum, { size }) => sum + size, 0);
}

/** versitygw's ETag of a part in Azure: its number in four bytes, in base64. */
function azurePartEtag(part?: number): string | undefined {
  if (part === undefined) return undefined;
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(part);
  return bytes.toString("base64");
}

function objectHeaders(stored: StoredHeaders): Record<string, string> {
  const headers: Record<string, string> = { "x-amz-acl": "private" };
  for (const [name, value] of Object.entries(stored)) if (name !== TAGS) headers[name] = value;
  return headers;
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

function expectLength(headers: AnswerHeaders, size: number): void {
  const announced = headers["content-length"] ?? size;
  if (Number(announced) !== size) throw otherSize(announced, size);
}

function expectRange(headers: AnswerHeaders, range: string): void {
  const found = headers["content-range"] ?? "";
  if (found !== range) throw invalidAnswer(`its range is "${found}" instead of "${range}"`);
}
