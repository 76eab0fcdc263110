/** Reads an S3 server's answers: errors, listings, parts, ETags. */
import { unquote, type AnswerHeaders } from "./checksums.ts";
import { findElement, parseXml, type XmlDocument, type XmlElement } from "./xml.ts";

/** A failed call. `code` is S3's, e.g. `NoSuchKey`, or the connection's, e.g. `ECONNRESET`. */
export class S3Error extends Error {
  override name = "S3Error";
  readonly code: string;
  /** HTTP status; 0 when no answer arrived, or none that is S3's. */
  readonly status: number;
  constructor(code: string, status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.status = status;
  }
}

/** An object as a listing describes it. */
export interface S3Object {
  key: string;
  /** In bytes. */
  size: number;
  /** Without its quotes. */
  etag: string;
  /** When it was last written, as the server lists it. */
  modified?: string | undefined;
}

/** A part of a multipart upload as the server describes it. */
export interface Part {
  number: number;
  size: number;
  etag: string;
  /** Base64, if the server keeps it. */
  crc32?: string | undefined;
}

export interface S3Answer {
  status: number;
  headers: AnswerHeaders;
}

/** An answer with its body. */
export interface WholeAnswer extends S3Answer {
  body: Buffer;
}

/** An answer of success, whose body is XML or empty. */
export interface XmlAnswer extends S3Answer {
  xml: XmlDocument;
}

/**
 * Reads from an answer what was requested.
 *
 * @param read throws an `S3Error` for an answer that is not the requested one
 * @throws S3Error also when the body is an error in spite of the answer's status
 */
export function readAnswer<T>(answer: WholeAnswer, read: (answer: XmlAnswer) => T): T {
  const xml = parseXml(decoded(answer.body));
  // CompleteMultipartUpload and CopyObject can fail after their status 200 was sent.
  if (xml.root?.name === "Error") throw errorOf({ ...answer, status: 500 });
  try {
    return read({ ...answer, xml });
  } catch (error) {
    // A key that is not encoded as the answer says.
    if (error instanceof URIError) throw invalidAnswer(error.message, { cause: error });
    throw error;
  }
}

/** The text of an answer, in the encoding that its XML declares. */
function decoded(body: Buffer): string {
  const start = body.toString("latin1", 0, 100);
  const [, encoding = "utf-8"] = /^\s*<\?xml[^>]*\sencoding=["']([\w-]+)["']/.exec(start) ?? [];
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(body).trimStart();
  } catch (error) {
    throw invalidAnswer(`its text is not ${encoding}`, { cause: error });
  }
}

/** The server's description of a failure, and what to do about it. */
export function errorOf({ status, headers, body }: WholeAnswer): S3Error {
  const { root } = parseXml(body.toString().trimStart());
  const textOf = (name: string) => (root && findElement(root, name)?.text) || undefined;
  const code = textOf("Code");
  const description = [
    ["the server answered", status, code].filter(Boolean).join(" "),
    textOf("Message")?.replace(/\.$/, ""),
  ];
  const advice = [
    placeAdvice(status, {
      location: headers.location,
      endpoint: textOf("Endpoint"),
      region: headers["x-amz-bucket-region"] ?? textOf("Region"),
    }),
    code === "RequestTimeTooSkewed" ? clockAdvice(headers.date ?? textOf("ServerTime")) : undefined,
    ADVICE[status],
  ];
  const text = [description.filter(Boolean).join(": "), ...advice].filter(Boolean).join("; ");
  return new S3Error(code ?? `HTTP ${status}`, status, text);
}

const ADVICE: Readonly<Record<number, string>> = {
  407: "the proxy of HTTP_PROXY or HTTPS_PROXY requires a user and a password",
  413:
    "a proxy in front of the server limits the size of requests (client_max_body_size of nginx); " +
    "allow at least 8 MiB",
};

interface Place {
  location: string | undefined;
  endpoint: string | undefined;
  region: string | undefined;
}

/**
 * Where the bucket is, if the server says that it is elsewhere. Redirects are not followed, because
 * the signature is valid for one host and one region.
 */
function placeAdvice(status: number, { location, endpoint, region }: Place): string | undefined {
  if (status >= 400 && (status !== 400 || region === undefined)) return undefined;
  const target = location ?? endpoint;
  const places = [
    target === undefined ? "" : `redirects to ${target}`,
    region === undefined ? "" : `names the region ${region}`,
  ].filter(Boolean);
  const set =
    region === undefined
      ? "correct the endpoint's scheme, host and port"
      : "set this region, and an endpoint in it";
  return places.length === 0 ? set : `it ${places.join(" and ")}; ${set}`;
}

/** How much the clocks differ. */
function clockAdvice(serverTime = ""): string {
  const seconds = Math.round((Date.now() - Date.parse(serverTime)) / 1000);
  const difference = Number.isNaN(seconds)
    ? "differs from the server's"
    : `is ${Math.abs(seconds)} s ${seconds > 0 ? "ahead of" : "behind"} the server's`;
  return `this machine's clock ${difference}; set the clocks with NTP`;
}

/**
 * For an answer of success that is not the requested one, e.g. a login page or an incomplete
 * listing. A retry may succeed.
 */
export function invalidAnswer(reason: string, options?: ErrorOptions): S3Error {
  return new S3Error("InvalidAnswer", 0, `the server's answer is not valid: ${reason}`, options);
}

/** For an object whose ETag is not that of the bytes sent. */
export function otherBytes(etag: string): S3Error {
  const message = `the server stored other bytes than were sent: it returned the ETag "${etag}"`;
  return new S3Error("OtherBytes", 200, message);
}

/** For an answer that would take hours. A retry may succeed. */
export function slowAnswer(received: number, ms: number): S3Error {
  const seconds = Math.round(ms / 1000);
  return new S3Error("SlowAnswer", 0, `only ${received} bytes arrived in ${seconds} s`);
}

/** For an object's bytes that end too early. A retry may succeed. */
export function incompleteBody(
  received: number,
  length: number,
  { "content-encoding": encoding }: AnswerHeaders,
): S3Error {
  const hint =
    encoding === undefined ? "" : `, encoded as ${encoding}; look for a proxy that compresses them`;
  return new S3Error("IncompleteBody", 0, `${received} of ${length} bytes arrived${hint}`);
}

/** For an object that does not have the size that the listing showed. */
export function otherSize(announced: string | number, length: number): S3Error {
  const message = `the server sends ${announced} bytes instead of ${length}`;
  return new S3Error("OtherSize", 200, message);
}

/** Expects an answer without content. */
export function expectEmpty({ xml }: XmlAnswer): void {
  if (xml.text === "") return;
  throw invalidAnswer(`it should be empty, but begins with ${begin(xml.text)}`);
}

/** Expects an object's answer to a HEAD request. Ceph gives an empty object no Content-Length. */
export function expectObject({ status, headers }: XmlAnswer): S3Answer {
  const length = headers["content-length"];
  const isObject = length === undefined ? headers.etag !== undefined : /^\d+$/.test(length);
  if (!isObject) throw invalidAnswer("it has neither a Content-Length nor an ETag");
  return { status, headers };
}

/** The ETag in an answer's headers. */
export function etagOf({ headers, xml }: XmlAnswer): string {
  const etag = unquote(headers.etag ?? "");
  const beginning = xml.text === "" ? "" : `, and begins with ${begin(xml.text)}`;
  if (etag === "") throw invalidAnswer(`it has no ETag${beginning}`);
  return etag;
}

/** The ETag in an answer of this kind. */
export function resultEtag(xml: XmlDocument, kind: ResultName): string {
  return unquote(requiredOf(xml, kind, "ETag"));
}

type ResultName = "CopyPartResult" | "CompleteMultipartUploadResult";

/** The ETag of a copy; empty if the answer has none, as gofakes3's for a copy onto itself. */
export function copyEtag(xml: XmlDocument): string {
  return unquote(valueOf(rootOf(xml, "CopyObjectResult"), "ETag") ?? "");
}

/** The part of a bucket that is listed. */
interface ListingQuery {
  prefix?: string;
  delimiter?: string;
}

/** A page of a listing. */
export interface Listing {
  objects: S3Object[];
  folders: string[];
  /** Token for the next page. */
  next: string | undefined;
}

/**
 * Reads a page of ListObjectsV2. Its keys may be URL-encoded, with a space as `+` as in boto3.
 *
 * @throws S3Error also when the page may have objects that were not found in it, or has others than
 *   those of the query
 */
export function parseListing(xml: XmlDocument, query: ListingQuery): Listing {
  const result = rootOf(xml, "ListBucketResult");
  const encoded = valueOf(result, "EncodingType") === "url";
  const text = (key: string): string => (encoded ? decodeUrl(key) : key);
  const objects = elements(result, "Contents").map((content) => ({
    key: text(required(content, "Key")),
    size: wholeNumber(content, "Size"),
    etag: unquote(valueOf(content, "ETag") ?? ""),
    modified: valueOf(content, "LastModified"),
  }));
  const prefixes = elements(result, "CommonPrefixes");
  const folders = prefixes.map((prefix) => text(required(prefix, "Prefix")));
  expectComplete(result, objects.length + folders.length);
  expectListed(query, objects, folders);
  const token = valueOf(result, "NextContinuationToken");
  const hasNext = isTruncated(result) ?? Boolean(token);
  const next = hasNext ? required(result, "NextContinuationToken") : undefined;
  return { objects, folders, next };
}

/**
 * Expects only objects of the requested listing. A cache or a proxy may answer with another listing,
 * whose objects would be deleted as extra ones.
 */
function expectListed(
  { prefix = "", delimiter }: ListingQuery,
  objects: readonly S3Object[],
  folders: readonly string[],
): void {
  const isOther = (key: string) => !key.startsWith(prefix);
  const isInFolder = ({ key }: S3Object) =>
    delimiter !== undefined && key.includes(delimiter, prefix.length);
  const other = objects.find((object) => isOther(object.key) || isInFolder(object))?.key;
  const wrong = other ?? (delimiter === undefined ? folders[0] : folders.find(isOther));
  if (wrong === undefined) return;
  throw invalidAnswer(
    `it has ${begin(wrong)}, which is not in the requested listing (prefix "${prefix}"); look for a ` +
      "cache or a proxy that changes the query",
  );
}

const MAX_KEYS = 1000;

/**
 * Expects that all objects of a page were found. Some servers do not count folders in KeyCount, and
 * some leave out IsTruncated, which boto3 reads as false.
 */
function expectComplete(result: XmlElement, found: number): void {
  const isCounted = valueOf(result, "KeyCount") !== undefined;
  if (isCounted && wholeNumber(result, "KeyCount") > found) {
    throw invalidAnswer(`its <KeyCount> is ${required(result, "KeyCount")}, but it has ${found}`);
  }
  const isSaid = ["IsTruncated", "NextContinuationToken"].some((name) => valueOf(result, name));
  if (isSaid) return;
  const isClear = found === 0 ? isCounted : found < MAX_KEYS;
  if (!isClear) throw invalidAnswer("it has no <IsTruncated>, so there may be more");
}

function decodeUrl(key: string): string {
  return decodeURIComponent(key.replaceAll("+", "%20"));
}

/** A page of an upload's parts. */
export interface PartListing {
  parts: Part[];
  /** Number of the last part before the next page. */
  next: number | undefined;
}

/**
 * Reads a page of ListParts.
 *
 * @param marker number of the last part before this page
 */
export function parseParts(xml: XmlDocument, marker: number): PartListing {
  const result = rootOf(xml, "ListPartsResult");
  const parts = elements(result, "Part").map((part) => ({
    number: wholeNumber(part, "PartNumber"),
    size: wholeNumber(part, "Size"),
    etag: unquote(required(part, "ETag")),
    crc32: valueOf(part, "ChecksumCRC32"),
  }));
  const next = isTruncated(result) ? wholeNumber(result, "NextPartNumberMarker") : undefined;
  if (next !== undefined && next <= marker) {
    throw invalidAnswer("its NextPartNumberMarker does not lead to another page");
  }
  return { parts, next };
}

/** The ids of a key's unfinished uploads in an answer to ListMultipartUploads. */
export function parseUploads(xml: XmlDocument, key: string): string[] {
  const uploads = elements(rootOf(xml, "ListMultipartUploadsResult"), "Upload");
  const ofKey = uploads.filter((upload) => valueOf(upload, "Key") === key);
  return ofKey.map((upload) => required(upload, "UploadId"));
}

/** The id in an answer to CreateMultipartUpload. */
export function parseUploadId(xml: XmlDocument): string {
  return requiredOf(xml, "InitiateMultipartUploadResult", "UploadId");
}

/** The body of CompleteMultipartUpload. */
export function partsXml(parts: readonly Part[]): string {
  const lines = parts.map(({ number, etag, crc32 }) => {
    const checksum = crc32 === undefined ? "" : `<ChecksumCRC32>${crc32}</ChecksumCRC32>`;
    const tag = `<ETag>&quot;${etag}&quot;</ETag>`;
    return `<Part>${tag}${checksum}<PartNumber>${number}</PartNumber></Part>`;
  });
  return `<CompleteMultipartUpload>${lines.join("")}</CompleteMultipartUpload>`;
}

/** The root element. Throws if the answer is not a complete one of this name. */
function rootOf(xml: XmlDocument, name: string): XmlElement {
  const { root, problem, text } = xml;
  if (root?.name !== name) {
    throw invalidAnswer(`it is not <${name}>, but begins with ${begin(text)}`);
  }
  if (problem !== undefined) throw invalidAnswer(`its ${name} is not complete XML (${problem})`);
  return root;
}

/**
 * A text that one kind of answer always has. boto3 does not read the root's name, and some servers
 * use another one, e.g. gofakes3 `InitiateMultipartUpload`.
 */
function requiredOf(xml: XmlDocument, kind: string, name: string): string {
  const { root } = xml;
  const hasIt = root !== undefined && elements(root, name).length > 0;
  return required(rootOf(xml, hasIt ? root.name : kind), name);
}

function begin(text: string): string {
  return JSON.stringify(text.slice(0, 60));
}

function elements(parent: XmlElement, name: string): XmlElement[] {
  return parent.children.filter((child) => child.name === name);
}

/** The text of the first element of this name. */
function valueOf(parent: XmlElement, name: string): string | undefined {
  const found = parent.children.find((child) => child.name === name);
  if (found && found.children.length > 0) throw invalidAnswer(`a <${name}> has elements in it`);
  return found?.text;
}

function required(parent: XmlElement, name: string): string {
  const text = valueOf(parent, name);
  if (text === undefined || text === "") throw invalidAnswer(`it has no <${name}>`);
  return text;
}

function wholeNumber(parent: XmlElement, name: string): number {
  const text = required(parent, name).trim();
  if (!/^\d{1,15}$/.test(text)) throw invalidAnswer(`a <${name}> is ${begin(text)}`);
  return Number(text);
}

/** Undefined if the answer does not say it. */
function isTruncated(result: XmlElement): boolean | undefined {
  const text = valueOf(result, "IsTruncated")?.trim().toLowerCase();
  if (text === undefined) return undefined;
  if (text !== "true" && text !== "false") {
    throw invalidAnswer(`its <IsTruncated> is ${begin(text)}`);
  }
  return text === "true";
}
