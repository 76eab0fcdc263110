/**
 * What an S3 server's answers say: errors, listings, parts, ETags. The only place that reads XML.
 */
import { unquote, type AnswerHeaders } from "./checksums.ts";

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
  /** When it was last written, as the server's listing says it. */
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
  xml: string;
}

/**
 * Reads from an answer what was requested.
 *
 * @param read throws an `S3Error` for an answer that is not the requested one
 * @throws S3Error also when the body is an error in spite of the answer's status
 */
export function readAnswer<T>(answer: WholeAnswer, read: (answer: XmlAnswer) => T): T {
  const xml = answer.body.toString();
  // CompleteMultipartUpload and CopyObject can fail after their status 200 was sent.
  if (rootOf(xml)?.name === "Error") throw errorOf({ ...answer, status: 500 });
  try {
    return read({ ...answer, xml });
  } catch (error) {
    // A key that is not encoded as the answer says, or a character that does not exist.
    if (error instanceof URIError || error instanceof RangeError) {
      throw invalidAnswer(error.message, { cause: error });
    }
    throw error;
  }
}

/**
 * The server's description of a failure. For a redirect it includes the target: redirects are not
 * followed, because the signature is valid for one host.
 */
export function errorOf({ status, headers, body }: WholeAnswer): S3Error {
  const xml = body.toString();
  const code = element(xml, "Code") ?? `HTTP ${status}`;
  const target = [headers.location, headers["x-amz-bucket-region"]].filter(Boolean).join(", ");
  const sentences = [
    `the server answered ${status} ${code}`,
    element(xml, "Message"),
    status < 400 && target !== "" ? `it redirects to ${target}` : "",
  ];
  return new S3Error(code, status, sentences.filter(Boolean).join(": "));
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

/** Expects an answer without content. */
export function expectEmpty({ xml }: XmlAnswer): void {
  if (xml.trim() !== "") throw invalidAnswer(`it should be empty, but begins with ${begin(xml)}`);
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
  const beginning = xml === "" ? "" : `, and begins with ${begin(xml)}`;
  if (etag === "") throw invalidAnswer(`it has no ETag${beginning}`);
  return etag;
}

/** The ETag in an answer with this root element. */
export function resultEtag(xml: string, root: ResultName): string {
  return unquote(required(inside(xml, root), "ETag"));
}

type ResultName = "CopyObjectResult" | "CopyPartResult" | "CompleteMultipartUploadResult";

/** A page of a listing. */
export interface Listing {
  objects: S3Object[];
  folders: string[];
  /** Token for the next page. */
  next: string | undefined;
}

/** Reads a page of ListObjectsV2. Its keys may be URL-encoded, with a space as `+` as in boto3. */
export function parseListing(xml: string): Listing {
  const result = inside(xml, "ListBucketResult");
  const encoded = element(result, "EncodingType") === "url";
  const text = (key: string): string => (encoded ? decodeUrl(key) : key);
  const objects = elements(result, "Contents").map((content) => ({
    key: text(required(content, "Key")),
    size: wholeNumber(content, "Size"),
    etag: unquote(element(content, "ETag") ?? ""),
    modified: element(content, "LastModified"),
  }));
  const prefixes = elements(result, "CommonPrefixes");
  const folders = prefixes.map((prefix) => text(required(prefix, "Prefix")));
  const next = isTruncated(result) ? required(result, "NextContinuationToken") : undefined;
  return { objects, folders, next };
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
export function parseParts(xml: string, marker: number): PartListing {
  const result = inside(xml, "ListPartsResult");
  const parts = elements(result, "Part").map((part) => ({
    number: wholeNumber(part, "PartNumber"),
    size: wholeNumber(part, "Size"),
    etag: unquote(required(part, "ETag")),
    crc32: element(part, "ChecksumCRC32"),
  }));
  const next = isTruncated(result) ? wholeNumber(result, "NextPartNumberMarker") : undefined;
  if (next !== undefined && next <= marker) {
    throw invalidAnswer("its NextPartNumberMarker does not lead to another page");
  }
  return { parts, next };
}

/** The ids of a key's unfinished uploads in an answer to ListMultipartUploads. */
export function parseUploads(xml: string, key: string): string[] {
  const uploads = elements(inside(xml, "ListMultipartUploadsResult"), "Upload");
  const ofKey = uploads.filter((upload) => element(upload, "Key") === key);
  return ofKey.map((upload) => required(upload, "UploadId"));
}

/** The id in an answer to CreateMultipartUpload. */
export function parseUploadId(xml: string): string {
  return required(inside(xml, "InitiateMultipartUploadResult"), "UploadId");
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

function rootOf(xml: string): { name: string | undefined; start: string } | undefined {
  const [start, name] = /^\s*(?:<\?xml[^>]*>\s*)*<(\w+)(?:\s[^>]*)?>/.exec(xml) ?? [];
  return start === undefined ? undefined : { name, start };
}

/** The content of the root element. Throws if the answer is not a complete one of this name. */
function inside(xml: string, name: string): string {
  const root = rootOf(xml);
  const end = xml.lastIndexOf(`</${name}>`);
  if (root?.name !== name) throw invalidAnswer(`it is no ${name}, but begins with ${begin(xml)}`);
  const rest = xml.slice(end + name.length + 3).trim();
  if (end < root.start.length || rest !== "") throw invalidAnswer(`its ${name} is incomplete`);
  return xml.slice(root.start.length, end);
}

function begin(text: string): string {
  return JSON.stringify(text.slice(0, 60));
}

/**
 * The contents of all elements of this name. What is read here has no attributes, and no element
 * inside another of the same name.
 */
function elements(xml: string, name: string): string[] {
  const found: string[] = [];
  const open = `<${name}>`;
  const close = `</${name}>`;
  for (let at = xml.indexOf(open); at >= 0; at = xml.indexOf(open, at)) {
    const end = xml.indexOf(close, at);
    if (end < 0) throw invalidAnswer(`a <${name}> has no end`);
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
  return text.includes("&") ? text.replace(XML_REFERENCE, unescapeXml) : text;
}

const XML_REFERENCE = /&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi;

function required(xml: string, name: string): string {
  const text = element(xml, name);
  if (text === undefined || text === "") throw invalidAnswer(`it has no <${name}>`);
  return text;
}

function wholeNumber(xml: string, name: string): number {
  const text = required(xml, name);
  if (!/^\d+$/.test(text)) throw invalidAnswer(`a <${name}> is ${begin(text)}`);
  return Number(text);
}

function isTruncated(xml: string): boolean {
  const text = required(xml, "IsTruncated");
  if (text !== "true" && text !== "false") {
    throw invalidAnswer(`its <IsTruncated> is ${begin(text)}`);
  }
  return text === "true";
}

function unescapeXml(whole: string, hex?: string, decimal?: string, name?: string): string {
  if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
  if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
  return { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" }[name ?? ""] ?? whole;
}
