/** The S3 calls that a migration needs: signed by the AWS SDK's signer, sent through one pool of connections, retried. */
import { createHash, createHmac, hash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { SignatureV4 } from "@smithy/signature-v4";
import { Pool, type Dispatcher } from "undici";
import type { StorageSettings } from "../../authentik/env.ts";
import { escapePath, escapeUri } from "../../authentik/url.ts";

/** How many connections a bucket gets. More than 32 gain nothing on small files and cost memory. */
export const CONNECTIONS = 32;

/** How patient a client is. */
export interface Patience {
  /** How often a call is tried in all. */
  attempts: number;
  /** The first pause before a retry, in milliseconds; it doubles up to `MAX_PAUSE_MS`, and half of it is random. */
  pauseMs: number;
  /** How long a server may be silent, in milliseconds. */
  silenceMs: number;
  /** What a request's body may take beside that, by the slowest line that is waited for. In bytes a millisecond. */
  slowestRate: number;
}

export const PATIENCE: Patience = { attempts: 8, pauseMs: 200, silenceMs: 30_000, slowestRate: 32 };
const MAX_PAUSE_MS = 10_000;
/** Objects up to this size are read whole, larger ones as a stream. */
const WHOLE_BYTES = 1024 * 1024;
/** No answer that is taken whole is this long: a page of a thousand keys has at most some 4 MB. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024;
/** What a server copies at least, in bytes a millisecond. */
const SLOWEST_SERVER = 10_000;

/** A call that failed. `code` is S3's, e.g. `NoSuchKey`, or the connection's, e.g. `ECONNRESET`. */
export class S3Error extends Error {
  override name = "S3Error";
  readonly code: string;
  /** HTTP status; 0 where no answer came, or none that S3 gives. */
  readonly status: number;
  constructor(code: string, status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.status = status;
  }
}

/** An object as a listing or a HEAD tells of it. */
export interface S3Object {
  key: string;
  /** In bytes. */
  size: number;
  /** Without its quotes. */
  etag: string;
}

export interface S3Answer {
  status: number;
  headers: Record<string, string | undefined>;
}

/** A part of a multipart upload as the server knows it. */
export interface Part {
  number: number;
  size: number;
  etag: string;
  /** Base64, where the server keeps it. */
  crc32?: string | undefined;
}

interface Call {
  method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  /** Undefined for a call on the bucket. */
  key?: string;
  query?: Record<string, string>;
  headers?: Record<string, string | undefined>;
  body?: Buffer;
  /** What the server itself copies or joins before it answers, in bytes. */
  moves?: number;
}

/** What must be at a key so that a write or a deletion of it is done: headers. */
export type Condition = Readonly<Record<string, string>>;

/** An answer with its body. */
interface Answer extends S3Answer {
  xml: string;
}

/** Where requests go, and how they are signed. */
interface Location {
  origin: string;
  host: string;
  /** What stands before the key, encoded: `/bucket` or, with the bucket in the host, nothing. */
  basePath: string;
  signer: SignatureV4;
}

/** A bucket. Keys are exact: any text may be one. Call `close` at the end. */
export class S3Bucket {
  readonly name: string;
  readonly patience: Patience;
  /** Whether checksums are sent and asked for, as boto3 does by default. */
  readonly checksums: boolean;
  private readonly location: Location;
  private readonly pool: Pool;

  private constructor(settings: StorageSettings, location: Location, patience: Patience) {
    this.name = settings.bucketName;
    this.checksums = settings.checksums !== "when_required";
    this.patience = patience;
    this.location = location;
    this.pool = new Pool(location.origin, {
      connections: CONNECTIONS,
      bodyTimeout: patience.silenceMs,
      connect: { timeout: Math.min(patience.silenceMs, 10_000) },
    });
  }

  /**
   * The bucket of these settings. Without keys the AWS SDK's default credential chain signs, with the profile if one is named.
   *
   * @throws Error when the chain finds no credentials or, without an endpoint, no region
   */
  static async open(settings: StorageSettings, patience: Patience = PATIENCE): Promise<S3Bucket> {
    return new S3Bucket(settings, await locate(settings), patience);
  }

  /** Where it is, for messages and as its identity: `https://s3.provider/authentik-media`. */
  get url(): string {
    return `${this.location.origin}${this.location.basePath}`;
  }

  async close(): Promise<void> {
    await this.pool.destroy();
  }

  /** Objects below a prefix, in the order of their keys' UTF-8 bytes. */
  async *list(prefix: string): AsyncGenerator<S3Object> {
    for await (const { objects } of this.pages({ prefix })) yield* objects;
  }

  /** The first parts of keys that end with a slash: `media/`, `public/`. */
  async folders(): Promise<string[]> {
    const found: string[] = [];
    for await (const { folders } of this.pages({ delimiter: "/" })) found.push(...folders);
    return found;
  }

  /** A listing's pages. The next one is asked for while one is read. */
  private async *pages(query: Record<string, string>): AsyncGenerator<Listing> {
    const tokens = new Set<string>();
    let page: Promise<Listing> | undefined = this.listPage(query);
    while (page) {
      const listing: Listing = await page;
      const { next } = listing;
      if (next !== undefined && tokens.has(next)) throw new S3Error("EndlessListing", 200, "the server's listing has no end: its pages come back");
      page = next === undefined ? undefined : this.listPage({ ...query, "continuation-token": next });
      // Its failure is thrown where it is awaited, not as an unhandled one.
      page?.catch(() => undefined);
      if (next !== undefined) tokens.add(next);
      yield listing;
    }
  }

  private async listPage(query: Record<string, string>): Promise<Listing> {
    const call: Call = { method: "GET", query: { "list-type": "2", "encoding-type": "url", ...query } };
    return this.send(call, ({ xml }) => parseListing(xml));
  }

  /** @param part the part whose size and checksum are wanted, where the object was uploaded in parts */
  async head(key: string, part?: number): Promise<S3Answer> {
    const query = part === undefined ? {} : { partNumber: String(part) };
    return this.send({ method: "HEAD", key, query, headers: this.wantChecksum() }, ({ status, headers }) => {
      if (!/^\d+$/.test(headers["content-length"] ?? "")) throw noAnswer("it has no Content-Length");
      return { status, headers };
    });
  }

  /** Opens an object for reading, without a retry: only the reader knows how far it came. */
  async get({ key, etag, size }: S3Object, offset = 0): Promise<S3Answer & { body: AsyncIterable<Buffer> | Iterable<Buffer> }> {
    const range = offset > 0 ? `bytes=${offset}-` : undefined;
    const ifMatch = etag === "" ? undefined : `"${etag}"`;
    const call: Call = { method: "GET", key, headers: { ...this.wantChecksum(), range, "if-match": ifMatch } };
    if (size <= WHOLE_BYTES) {
      const answer = await this.exchange(call);
      return { ...answer, body: [answer.body] };
    }
    const { statusCode, headers, body } = await this.pool.request(await this.request(call));
    const answer = { status: statusCode, headers: single(headers) };
    if (statusCode >= 300) throw errorOf({ ...answer, body: Buffer.from(await body.bytes()) });
    return { ...answer, body };
  }

  private wantChecksum(): Record<string, string> {
    return this.checksums ? { "x-amz-checksum-mode": "ENABLED" } : {};
  }

  /**
   * Stores an object, private. The server checks the bytes by the SHA-256 that the request is signed with. Gives the ETag.
   *
   * @throws S3Error also where the answer tells of other bytes
   */
  async put(key: string, body: Buffer, type: string, condition: Condition = {}): Promise<string> {
    const headers = { "content-type": type, "x-amz-acl": "private", ...this.checksumOf(body), ...condition };
    return this.send({ method: "PUT", key, headers, body }, (answer) => {
      const etag = etagOf(answer);
      if (isMd5(etag, answer.headers) && etag !== hash("md5", body)) throw otherBytes(etag);
      return etag;
    });
  }

  private checksumOf(body: Buffer): Record<string, string> {
    return this.checksums ? { "x-amz-checksum-crc32": crc32Base64(crc32(body)) } : {};
  }

  /** Copies within the bucket on the server's side, if the source is still the one with this ETag. Gives the copy's ETag. */
  async copy(source: S3Object, key: string, type: string, condition: Condition = {}): Promise<string> {
    const call: Call = {
      method: "PUT",
      key,
      moves: source.size,
      headers: {
        "content-type": type,
        "x-amz-acl": "private",
        "x-amz-metadata-directive": "REPLACE",
        "x-amz-copy-source": escapePath(`/${this.name}/${source.key}`),
        "x-amz-copy-source-if-match": `"${source.etag}"`,
        ...condition,
        // R2 has names of its own for conditions of a copy's destination (Cloudflare, "Conditional operations").
        ...Object.fromEntries(Object.entries(condition).map(([name, value]) => [`cf-copy-destination-${name}`, value])),
      },
    };
    return this.send(call, ({ xml }) => etagIn(inside(xml, "CopyObjectResult")));
  }

  async remove(key: string, condition: Condition = {}): Promise<void> {
    await this.send({ method: "DELETE", key, headers: condition }, empty);
  }

  /**
   * Begins a multipart upload and gives its id.
   *
   * @param checksums whether its parts come with checksums; not when the server copies them
   */
  async createUpload(key: string, type: string, checksums = this.checksums): Promise<string> {
    const checksum = checksums ? { "x-amz-checksum-algorithm": "CRC32" } : {};
    const headers = { "content-type": type, "x-amz-acl": "private", ...checksum };
    const call: Call = { method: "POST", key, query: { uploads: "" }, headers };
    return this.send(call, ({ xml }) => needed(inside(xml, "InitiateMultipartUploadResult"), "UploadId"));
  }

  async uploadPart(key: string, uploadId: string, number: number, body: Buffer): Promise<Part> {
    const query = { partNumber: String(number), uploadId };
    const headers = this.checksumOf(body);
    const etag = await this.send({ method: "PUT", key, query, headers, body }, etagOf);
    return { number, size: body.length, etag, crc32: headers["x-amz-checksum-crc32"] };
  }

  /** Copies a range of bytes of an object, ends included, as a part. The checksum is left out: versitygw gives the whole object's. */
  async copyPart(key: string, uploadId: string, number: number, source: S3Object, range: [number, number]): Promise<Part> {
    const size = range[1] - range[0] + 1;
    const call: Call = {
      method: "PUT",
      key,
      query: { partNumber: String(number), uploadId },
      moves: size,
      headers: {
        "x-amz-copy-source": escapePath(`/${this.name}/${source.key}`),
        "x-amz-copy-source-if-match": `"${source.etag}"`,
        "x-amz-copy-source-range": `bytes=${range[0]}-${range[1]}`,
      },
    };
    return { number, size, etag: await this.send(call, ({ xml }) => etagIn(inside(xml, "CopyPartResult"))) };
  }

  /** The parts that the server has of an upload; undefined when it does not know the upload, or does not tell. */
  async listParts(key: string, uploadId: string): Promise<Part[] | undefined> {
    const parts: Part[] = [];
    try {
      for (let next: number | undefined = 0; next !== undefined;) {
        const marker: number = next;
        const query = { uploadId, "part-number-marker": String(marker) };
        const page = await this.send({ method: "GET", key, query }, ({ xml }) => parseParts(xml, marker));
        parts.push(...page.parts);
        ({ next } = page);
      }
      return parts;
    } catch (error) {
      // Whatever it is, it must not keep a file from being sent anew.
      if (error instanceof S3Error) return undefined;
      throw error;
    }
  }

  /** The ids of a key's begun uploads, up to 1000; undefined without the right to list them, which authentik's key has not. */
  async listUploads(key: string): Promise<string[] | undefined> {
    try {
      return await this.send({ method: "GET", query: { uploads: "", prefix: key } }, ({ xml }) => {
        const uploads = elements(inside(xml, "ListMultipartUploadsResult"), "Upload");
        return uploads.filter((upload) => element(upload, "Key") === key).map((upload) => needed(upload, "UploadId"));
      });
    } catch (error) {
      if (error instanceof S3Error && (error.status === 403 || error.status === 501)) return undefined;
      throw error;
    }
  }

  /**
   * Joins the parts, in their order. Gives the ETag.
   *
   * @throws S3Error also where the answer tells of other parts
   */
  async completeUpload(key: string, uploadId: string, parts: readonly Part[], condition: Condition = {}): Promise<string> {
    const call: Call = {
      method: "POST",
      key,
      query: { uploadId },
      headers: { "content-type": "application/xml", ...condition },
      body: Buffer.from(`<CompleteMultipartUpload>${parts.map(partXml).join("")}</CompleteMultipartUpload>`),
      moves: parts.reduce((sum, { size }) => sum + size, 0),
    };
    return this.send(call, ({ xml, headers }) => {
      const etag = etagIn(inside(xml, "CompleteMultipartUploadResult"));
      const [, count] = /^[0-9a-f]{32}-(\d+)$/.exec(etag) ?? [];
      const joined = hidesMd5(headers) ? undefined : joinedEtag(parts);
      if (count !== undefined && (Number(count) !== parts.length || (joined ?? etag) !== etag)) throw otherBytes(etag);
      return etag;
    });
  }

  /** Ends an upload and frees its parts; one that the server does not know is no error. */
  async abortUpload(key: string, uploadId: string): Promise<void> {
    await this.send({ method: "DELETE", key, query: { uploadId } }, empty).catch((error: unknown) => {
      if (!(error instanceof S3Error && error.status === 404)) throw error;
    });
  }

  /** @param read takes from the answer what was asked for, or throws what may pass, e.g. `noAnswer` */
  private async send<T>(call: Call, read: (answer: Answer) => T): Promise<T> {
    return retrying(this.patience, async () => {
      const answer = await this.exchange(call);
      const xml = answer.body.toString();
      // CompleteMultipartUpload and CopyObject can fail after their 200 has gone out.
      if (rootOf(xml)?.name === "Error") throw errorOf({ ...answer, status: 500 });
      try {
        return read({ ...answer, xml });
      } catch (error) {
        // A key that is not encoded as the answer says, a character that there is none of.
        if (error instanceof URIError || error instanceof RangeError) throw noAnswer(error.message, { cause: error });
        throw error;
      }
    });
  }

  /** @throws S3Error where the server says no */
  private async exchange(call: Call): Promise<WholeAnswer> {
    const request = await this.request(call);
    const answer = await new Promise<WholeAnswer>((resolve, reject) => { this.pool.dispatch(request, new Collector(resolve, reject)); });
    if (answer.status >= 300) throw errorOf(answer);
    return answer;
  }

  /** Signed, and how long it may take. */
  private async request({ method, key, query = {}, headers = {}, body, moves = 0 }: Call): Promise<Dispatcher.DispatchOptions> {
    const { host, basePath, signer } = this.location;
    const path = key === undefined ? basePath || "/" : `${basePath}/${escapePath(key)}`;
    const signed = await signer.sign({
      method,
      protocol: "https:",
      hostname: host,
      path,
      query,
      headers: { ...defined(headers), host, "x-amz-content-sha256": body ? hash("sha256", body) : EMPTY_SHA256 },
    });
    const search = Object.entries(query).map(([name, value]) => `${escapeUri(name)}=${escapeUri(value)}`).join("&");
    const headersTimeout = this.patience.silenceMs + (body?.length ?? 0) / this.patience.slowestRate + moves / SLOWEST_SERVER;
    return {
      method,
      path: search === "" ? path : `${path}?${search}`,
      headers: signed.headers,
      headersTimeout,
      body: body ?? null,
    };
  }
}

interface WholeAnswer extends S3Answer {
  body: Buffer;
}

/** Takes an answer whole: a stream for each would cost more than the request. */
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

  /** By this method undici tells its handlers from those of before version 7. */
  onRequestStart(): void {
    this.length = 0;
    this.chunks.length = 0;
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: IncomingHttpHeaders): void {
    this.answer = { status, headers: single(headers) };
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.length += chunk.length;
    this.chunks.push(chunk);
    if (this.length > MAX_ANSWER_BYTES) controller.abort(noAnswer(`it is longer than ${MAX_ANSWER_BYTES} bytes`));
  }

  onResponseEnd(): void {
    const [first] = this.chunks;
    this.resolve({ ...this.answer, body: first && this.chunks.length === 1 ? first : Buffer.concat(this.chunks) });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.reject(error);
  }
}

const EMPTY_SHA256 = hash("sha256", "");

/** Runs a call again while its failure may pass: resets, timeouts, 5xx, SlowDown, bytes spoilt on the way. */
export async function retrying<T>(patience: Patience, call: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      const failed = connectionError(error);
      if (attempt >= patience.attempts || !mayPass(failed)) throw failed;
      await pause(patience, attempt);
    }
  }
}

/** Waits before the next attempt: twice as long each time, up to a limit, half of it random, so that many do not come back at once. */
export async function pause({ pauseMs }: Patience, attempt: number): Promise<void> {
  const longest = Math.min(MAX_PAUSE_MS, pauseMs * 2 ** (attempt - 1));
  await sleep(longest * (0.5 + Math.random() / 2));
}

/** S3's own codes for what passes ("Error responses", AWS), beside every 5xx and 429. */
const PASSING_CODES: ReadonlySet<string> = new Set([
  "RequestTimeout", "BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "IncompleteBody", "OperationAborted", "SlowDown",
  "ConditionalRequestConflict",
]);

/** Whether a failed call may succeed when it is made again. */
export function mayPass(error: unknown): boolean {
  if (!(error instanceof S3Error)) return false;
  return error.status === 0 || error.status === 429 || (error.status >= 500 && error.status !== 501) || PASSING_CODES.has(error.code);
}

/** What undici and Node throw on a connection, as an S3Error; anything else as it is. */
export function connectionError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof S3Error || !("code" in error) || typeof error.code !== "string") return error;
  const { code } = error;
  const ofConnection = code.startsWith("UND_ERR_") || /^(?:ECONN|ETIMEDOUT|EPIPE|EAI_AGAIN|ENETUNREACH|EHOSTUNREACH|ENOTFOUND|HPE_)/.test(code);
  return ofConnection ? new S3Error(code, 0, `no whole answer came (${code}: ${error.message})`, { cause: error }) : error;
}

/** What the server says of its failure; of a redirect also where it leads: none is followed, as the signature holds for one host. */
function errorOf({ status, headers, body }: WholeAnswer): S3Error {
  const xml = body.toString();
  const code = element(xml, "Code") ?? `HTTP ${status}`;
  const elsewhere = status < 400 ? [headers.location, headers["x-amz-bucket-region"]].filter(Boolean).join(", ") : "";
  const words = [`the server answers ${status} ${code}`, element(xml, "Message"), elsewhere && `it names ${elsewhere}`];
  return new S3Error(code, status, words.filter(Boolean).join(": "));
}

function single(headers: IncomingHttpHeaders): S3Answer["headers"] {
  const found: Record<string, string | undefined> = {};
  for (const [name, value] of Object.entries(headers)) found[name] = Array.isArray(value) ? value[0] : value;
  return found;
}

/** For an answer of success that is not the one that was asked for: a login page, a listing cut short. Another try may get it. */
function noAnswer(flaw: string, options?: ErrorOptions): S3Error {
  return new S3Error("InvalidAnswer", 0, `the server's answer is not one of S3: ${flaw}`, options);
}

function otherBytes(etag: string): S3Error {
  return new S3Error("OtherBytes", 200, `the server has stored other bytes than were sent: it gives them the ETag "${etag}"`);
}

function empty({ xml }: Answer): void {
  if (xml.trim() !== "") throw noAnswer(`it begins with ${begin(xml)}`);
}

function etagOf({ headers, xml }: Answer): string {
  const etag = unquote(headers.etag ?? "");
  if (etag === "") throw noAnswer(`it has no ETag${xml === "" ? "" : `, and begins with ${begin(xml)}`}`);
  return etag;
}

function etagIn(xml: string): string {
  return unquote(needed(xml, "ETag"));
}

/** An ETag without its quotes, and without the `W/` that a proxy puts before it: its server knows it without. */
export function unquote(etag: string): string {
  return etag.replace(/^W\//, "").replaceAll('"', "");
}

/** An object's ETag is the MD5 of its content, unless it was uploaded in parts or is encrypted with a key of KMS or the client's. */
export function isMd5(etag: string, headers: S3Answer["headers"] = {}): boolean {
  return /^[0-9a-f]{32}$/.test(etag) && !hidesMd5(headers);
}

/** Whether an object is encrypted so that its ETag is no MD5. */
export function hidesMd5(headers: S3Answer["headers"]): boolean {
  const encryption = headers["x-amz-server-side-encryption"] ?? "";
  return encryption.startsWith("aws:kms") || headers["x-amz-server-side-encryption-customer-algorithm"] !== undefined;
}

/** The ETag of an object that was uploaded in these parts; undefined where theirs are no MD5s. */
export function joinedEtag(parts: readonly Part[]): string | undefined {
  if (!parts.every(({ etag }) => isMd5(etag))) return undefined;
  return `${hash("md5", Buffer.concat(parts.map(({ etag }) => Buffer.from(etag, "hex"))))}-${parts.length}`;
}

/** A CRC-32 in the form of S3's headers. */
export function crc32Base64(value: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes.toString("base64");
}

function defined(headers: Record<string, string | undefined>): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) result[name] = value;
  return result;
}

interface Listing {
  objects: S3Object[];
  folders: string[];
  /** Token for the next page. */
  next: string | undefined;
}

/** Reads a ListObjectsV2 answer. Keys come URL-encoded (a space as `+`, as boto3 reads them) where the server says so. */
function parseListing(xml: string): Listing {
  const result = inside(xml, "ListBucketResult");
  const encoded = element(result, "EncodingType") === "url";
  const text = (key: string): string => (encoded ? decodeUrl(key) : key);
  const objects = elements(result, "Contents").map((content) => ({
    key: text(needed(content, "Key")),
    size: wholeNumber(content, "Size"),
    etag: unquote(element(content, "ETag") ?? ""),
  }));
  const folders = elements(result, "CommonPrefixes").map((prefix) => text(needed(prefix, "Prefix")));
  const next = isTruncated(result) ? needed(result, "NextContinuationToken") : undefined;
  return { objects, folders, next };
}

function decodeUrl(key: string): string {
  return decodeURIComponent(key.replaceAll("+", "%20"));
}

interface PartListing {
  parts: Part[];
  /** Number of the part before the next page. */
  next: number | undefined;
}

function parseParts(xml: string, marker: number): PartListing {
  const result = inside(xml, "ListPartsResult");
  const parts = elements(result, "Part").map(partOf);
  const next = isTruncated(result) ? wholeNumber(result, "NextPartNumberMarker") : undefined;
  if (next !== undefined && next <= marker) throw noAnswer("its NextPartNumberMarker is not beyond the page's own");
  return { parts, next };
}

function rootOf(xml: string): { name: string | undefined; start: string } | undefined {
  const [start, name] = /^\s*(?:<\?xml[^>]*>\s*)*<(\w+)(?:\s[^>]*)?>/.exec(xml) ?? [];
  return start === undefined ? undefined : { name, start };
}

/** What is inside of an answer's root element. Throws where the answer is not a whole one of this name. */
function inside(xml: string, name: string): string {
  const root = rootOf(xml);
  const end = xml.lastIndexOf(`</${name}>`);
  if (root?.name !== name) throw noAnswer(`it is no ${name}, but begins with ${begin(xml)}`);
  if (end < root.start.length || xml.slice(end + name.length + 3).trim() !== "") throw noAnswer(`its ${name} is cut short`);
  return xml.slice(root.start.length, end);
}

function begin(text: string): string {
  return JSON.stringify(text.slice(0, 60));
}

/** The contents of every element of this name. S3's answers have no attributes in what is read here, and nothing nested of the same name. */
function elements(xml: string, name: string): string[] {
  const found: string[] = [];
  const open = `<${name}>`;
  const close = `</${name}>`;
  for (let at = xml.indexOf(open); at >= 0; at = xml.indexOf(open, at)) {
    const end = xml.indexOf(close, at);
    if (end < 0) throw noAnswer(`a <${name}> has no end`);
    found.push(xml.slice(at + open.length, end));
    at = end;
  }
  return found;
}

/** The text of the first element of this name. */
function element(xml: string, name: string): string | undefined {
  const start = xml.indexOf(`<${name}>`);
  const end = xml.indexOf(`</${name}>`, start);
  if (start < 0 || end < 0) return undefined;
  const text = xml.slice(start + name.length + 2, end);
  return text.includes("&") ? text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, unescapeXml) : text;
}

function needed(xml: string, name: string): string {
  const text = element(xml, name);
  if (text === undefined || text === "") throw noAnswer(`it lacks a <${name}>`);
  return text;
}

function wholeNumber(xml: string, name: string): number {
  const text = needed(xml, name);
  if (!/^\d+$/.test(text)) throw noAnswer(`a <${name}> is ${begin(text)}`);
  return Number(text);
}

function isTruncated(xml: string): boolean {
  const text = needed(xml, "IsTruncated");
  if (text !== "true" && text !== "false") throw noAnswer(`its <IsTruncated> is ${begin(text)}`);
  return text === "true";
}

function unescapeXml(whole: string, hex: string | undefined, decimal: string | undefined, name: string | undefined): string {
  if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
  if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
  return { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" }[name ?? ""] ?? whole;
}

function partOf(xml: string): Part {
  return {
    number: wholeNumber(xml, "PartNumber"),
    size: wholeNumber(xml, "Size"),
    etag: etagIn(xml),
    crc32: element(xml, "ChecksumCRC32"),
  };
}

function partXml({ number, etag, crc32 }: Part): string {
  const checksum = crc32 === undefined ? "" : `<ChecksumCRC32>${crc32}</ChecksumCRC32>`;
  return `<Part><ETag>&quot;${etag}&quot;</ETag>${checksum}<PartNumber>${number}</PartNumber></Part>`;
}

async function locate(settings: StorageSettings): Promise<Location> {
  const { bucketName, addressingStyle, accessKey, secretKey, sessionToken, sessionProfile } = settings;
  const keys = accessKey !== undefined && secretKey !== undefined && sessionProfile === undefined
    ? { accessKeyId: accessKey, secretAccessKey: secretKey, ...(sessionToken === undefined ? {} : { sessionToken }) }
    : undefined;
  const aws = keys && settings.endpoint !== undefined ? undefined : await fromAwsConfig(settings);
  const endpoint = new URL(settings.endpoint ?? aws?.endpoint ?? "");
  const inHost = addressingStyle === "virtual";
  const host = inHost ? `${bucketName}.${endpoint.host}` : endpoint.host;
  // It comes with most of its characters encoded; not with all that S3 wants so.
  const folder = endpoint.pathname.replace(/\/$/, "").replace(/%(?![0-9a-f]{2})|[^\w.~/%-]/gi, escapeUri);
  const credentials = keys ?? aws?.credentials;
  if (!credentials) throw new Error("there are no credentials");
  const signer = new SignatureV4({
    service: "s3",
    // boto3 signs for this region too when it knows none.
    region: settings.region ?? aws?.region ?? "us-east-1",
    credentials,
    sha256: Sha256,
    uriEscapePath: false,
    applyChecksum: false,
  });
  return { origin: `${endpoint.protocol}//${host}`, host, basePath: inHost ? folder : `${folder}/${escapeUri(bucketName)}`, signer };
}

/** What the AWS SDK finds in the environment, the shared config or the machine's role. It is loaded for this alone. */
async function fromAwsConfig({ region, sessionProfile, useSsl, endpoint }: StorageSettings) {
  const { S3Client } = await import("@aws-sdk/client-s3");
  const { config } = new S3Client({
    ...(region === undefined ? {} : { region }),
    ...(sessionProfile === undefined ? {} : { profile: sessionProfile }),
  });
  const found = region ?? (await config.region().catch(() => undefined)) ?? "us-east-1";
  const url = endpoint === undefined ? config.endpointProvider({ Region: found, UseFIPS: false }).url : undefined;
  return {
    region: found,
    credentials: config.credentials,
    ...(url ? { endpoint: `${useSsl === false ? "http" : "https"}://${url.host}` } : {}),
  };
}

/** Node's own SHA-256 in the form that the signer wants. */
class Sha256 {
  private readonly hash: ReturnType<typeof createHash> | ReturnType<typeof createHmac>;
  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    this.hash = secret === undefined ? createHash("sha256") : createHmac("sha256", bytesOf(secret));
  }
  update(data: Uint8Array): void {
    this.hash.update(data);
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(this.hash.digest());
  }
  reset(): void {
    throw new Error("a hash is used once");
  }
}

function bytesOf(secret: string | ArrayBuffer | ArrayBufferView): string | Uint8Array {
  if (typeof secret === "string") return secret;
  return ArrayBuffer.isView(secret) ? new Uint8Array(secret.buffer, secret.byteOffset, secret.byteLength) : new Uint8Array(secret);
}
