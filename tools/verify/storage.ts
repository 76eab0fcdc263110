/** The bucket as authentik uses it (with its key) and as browsers do (with what authentik hands them). */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import {
  AbortMultipartUploadCommand, CompleteMultipartUploadCommand, CreateMultipartUploadCommand, DeleteObjectCommand, HeadObjectCommand,
  ListBucketsCommand, ListObjectsV2Command, ListPartsCommand, PutObjectCommand, S3Client, UploadPartCommand,
} from "@aws-sdk/client-s3";
import * as v from "valibot";
import type { StorageSettings } from "../../authentik/env.ts";
import type { ReleaseRules } from "../../authentik/release.ts";
import { clientEndpoint, presignV4, signingRegion, type SigningKeys } from "../../authentik/url.ts";
import type { Failure } from "./diagnosis.ts";

/** Every request ends within this, connecting and answer each. */
export const REQUEST_TIMEOUT_MS = 5_000;
/** boto3 uploads in parts from this size on, of this size (s3transfer's defaults). */
export const PART_BYTES = 8 * 1024 * 1024;

/** How an upload is made. authentik: ACL and, unless it is told otherwise, checksums. */
export interface UploadOptions {
  acl: boolean;
  checksums: boolean;
}

/** Calls with authentik's key, each as its boto3 makes it. They throw what the SDK throws; `failureOf` reads that. */
export class Storage {
  private readonly settings: StorageSettings;
  private readonly signal: AbortSignal;
  private readonly clients: Record<"plain" | "checksums", S3Client>;

  constructor(settings: StorageSettings, rules: ReleaseRules, signal: AbortSignal) {
    this.settings = settings;
    this.signal = signal;
    this.clients = { plain: createClient(settings, rules, false), checksums: createClient(settings, rules, true) };
  }

  /** The keys that requests are signed with: those of the settings, or what the SDK's default chain finds. */
  async keys(): Promise<SigningKeys> {
    return this.clients.plain.config.credentials();
  }

  /** The keys that begin with `prefix`, up to 1000. */
  async list(prefix: string): Promise<string[]> {
    const { Contents = [] } = await this.clients.plain.send(new ListObjectsV2Command({ Bucket: this.settings.bucketName, Prefix: prefix }), this.abort);
    return Contents.flatMap(({ Key }) => (Key === undefined ? [] : [Key]));
  }

  async head(key: string): Promise<{ contentType: string | undefined; size: number | undefined }> {
    const { ContentType, ContentLength } = await this.clients.plain.send(new HeadObjectCommand(this.object(key)), this.abort);
    return { contentType: ContentType, size: ContentLength };
  }

  async put(key: string, body: Buffer, contentType: string, options: UploadOptions): Promise<void> {
    await this.client(options).send(
      new PutObjectCommand({
        ...this.object(key), ...aclOf(options), Body: this.payload(body), ContentLength: body.length, ContentType: contentType,
      }),
      this.abort,
    );
  }

  /** Begins an upload in parts. It is not aborted by the run's signal: its id must be known to clean up. */
  async createUpload(key: string, contentType: string, options: UploadOptions): Promise<string> {
    const { UploadId } = await this.client(options).send(
      new CreateMultipartUploadCommand({
        ...this.object(key), ...aclOf(options), ...checksumOf(options), ContentType: contentType,
      }),
    );
    if (UploadId === undefined) throw new Error("the server gave the multipart upload no id");
    return UploadId;
  }

  /** Uploads the parts at the same time and completes the upload. */
  async uploadParts(key: string, uploadId: string, parts: readonly Buffer[], options: UploadOptions): Promise<void> {
    const client = this.client(options);
    const done = await Promise.all(parts.map(async (part, index) => {
      const input = { ...this.object(key), UploadId: uploadId, PartNumber: index + 1, ...checksumOf(options) };
      const { ETag, ChecksumCRC32 } = await client.send(
        new UploadPartCommand({ ...input, Body: this.payload(part), ContentLength: part.length }),
        this.abort,
      );
      return { ETag, ChecksumCRC32, PartNumber: index + 1 };
    }));
    const upload = { ...this.object(key), UploadId: uploadId, MultipartUpload: { Parts: done } };
    await client.send(new CompleteMultipartUploadCommand(upload), this.abort);
  }

  async listParts(key: string, uploadId: string): Promise<void> {
    await this.clients.plain.send(new ListPartsCommand({ ...this.object(key), UploadId: uploadId }), this.abort);
  }

  /** Like `delete`, this works after the run's signal too. */
  async abortUpload(key: string, uploadId: string): Promise<void> {
    await this.clients.plain.send(new AbortMultipartUploadCommand({ ...this.object(key), UploadId: uploadId }));
  }

  async delete(key: string): Promise<void> {
    await this.clients.plain.send(new DeleteObjectCommand(this.object(key)));
  }

  /** The buckets that the key can see. */
  async buckets(): Promise<string[]> {
    const { Buckets = [] } = await this.clients.plain.send(new ListBucketsCommand({}), this.abort);
    return Buckets.flatMap(({ Name }) => (Name === undefined ? [] : [Name]));
  }

  /**
   * Asks to change a setting of the bucket with a text that no server can take for one, so that nothing is changed.
   *
   * @returns the answer: a denial, or a complaint about the text where the key has the right
   */
  async tryToChange(setting: "cors" | "policy", base: string): Promise<Answer> {
    const url = new URL(`${base}?${setting}=`);
    const signing = { keys: await this.keys(), date: new Date(), region: signingRegion(this.settings), expiresIn: 60, service: "s3", method: "PUT" } as const;
    const body = "neither XML nor JSON";
    // Where S3 wants a checksum, it looks for it before it looks at rights.
    const headers = { "content-md5": createHash("md5").update(body).digest("base64") };
    return request(presignV4(url, signing), { method: "PUT", body, headers }, this.signal);
  }

  close(): void {
    for (const client of Object.values(this.clients)) client.destroy();
  }

  private client({ checksums }: UploadOptions): S3Client {
    return checksums ? this.clients.checksums : this.clients.plain;
  }

  private object(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.settings.bucketName, Key: key };
  }

  /** boto3 sends a body's checksum in a trailer over https and in a header over http; the SDK does so for streams and buffers. */
  private payload(body: Buffer): Buffer | Readable {
    return clientEndpoint(this.settings).startsWith("http:") ? body : Readable.from([body]);
  }

  private get abort(): { abortSignal: AbortSignal } {
    return { abortSignal: this.signal };
  }
}

function aclOf({ acl }: UploadOptions): { ACL?: "private" } {
  return acl ? { ACL: "private" } : {};
}

function checksumOf({ checksums }: UploadOptions): { ChecksumAlgorithm?: "CRC32" } {
  return checksums ? { ChecksumAlgorithm: "CRC32" } : {};
}

function createClient(settings: StorageSettings, rules: ReleaseRules, checksums: boolean): S3Client {
  const { endpoint, useSsl, accessKey, secretKey, sessionToken, sessionProfile } = settings;
  const style = rules.readsAddressingStyle ? settings.addressingStyle : undefined;
  const when = checksums ? "WHEN_SUPPORTED" : "WHEN_REQUIRED";
  const hasKeys = sessionProfile === undefined && accessKey !== undefined && secretKey !== undefined;
  return new S3Client({
    region: signingRegion(settings),
    ...(endpoint === undefined && useSsl !== false ? {} : { endpoint: clientEndpoint(settings) }),
    // botocore's args.py: with an endpoint, "auto" means path style.
    forcePathStyle: endpoint === undefined ? style === "path" : style !== "virtual",
    ...(hasKeys ? { credentials: { accessKeyId: accessKey, secretAccessKey: secretKey, ...(sessionToken === undefined ? {} : { sessionToken }) } } : {}),
    ...(sessionProfile === undefined ? {} : { profile: sessionProfile }),
    requestChecksumCalculation: when,
    responseChecksumValidation: when,
    maxAttempts: 1,
    // boto3 does not put a wrong clock right.
    disableClockSkewCorrection: true,
    requestHandler: { connectionTimeout: REQUEST_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS, throwOnRequestTimeout: true },
  });
}

/** What came back on a request that any browser could have made. */
export interface Answer {
  status: number;
  headers: Headers;
  body: Buffer;
}

/**
 * Makes a request as a browser does, redirects included. It throws what `fetch` throws; `failureOf` reads that.
 *
 * Not with `AbortSignal.any` and `AbortSignal.timeout`: Node may collect a timeout that only `any` refers to, which then never
 * comes (nodejs/node issue 57736).
 */
export async function request(url: string | URL, init: RequestInit, signal: AbortSignal): Promise<Answer> {
  const controller = new AbortController();
  const end = () => { controller.abort(); };
  const limit = setTimeout(() => { controller.abort(new DOMException("no answer in time", "TimeoutError")); }, REQUEST_TIMEOUT_MS);
  signal.addEventListener("abort", end);
  if (signal.aborted) end();
  try {
    const response = await fetch(url, { ...init, signal: controller.signal });
    return { status: response.status, headers: response.headers, body: Buffer.from(await response.arrayBuffer()) };
  } finally {
    clearTimeout(limit);
    signal.removeEventListener("abort", end);
  }
}

/** An answer's S3 error. */
export function failureOfAnswer({ status, body }: Answer): Failure {
  const text = body.subarray(0, 4096).toString();
  const code = /<Code>([^<]+)<\/Code>/.exec(text)?.[1];
  const message = /<Message>([^<]*)<\/Message>/.exec(text)?.[1] ?? "";
  return { status, code: code ?? `HTTP ${status}`, message: message.replace(/&(?:#39|apos|#34|quot|lt|gt|amp);/g, (entity) => ENTITIES[entity] ?? entity) };
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&#39;": "'", "&apos;": "'", "&#34;": '"', "&quot;": '"', "&lt;": "<", "&gt;": ">", "&amp;": "&",
};

const Thrown = v.object({
  name: v.optional(v.string(), "Error"),
  code: v.optional(v.unknown()),
  message: v.optional(v.string(), ""),
  cause: v.optional(v.unknown()),
  $metadata: v.optional(v.object({ httpStatusCode: v.optional(v.number()) })),
});

/** What the SDK or `fetch` threw: the innermost cause tells most about the network, the outermost about S3. */
export function failureOf(error: unknown): Failure {
  const thrown = v.safeParse(Thrown, error);
  if (!thrown.success) return { code: "Error", message: String(error) };
  const { name, code, message, cause, $metadata } = thrown.output;
  const status = $metadata?.httpStatusCode;
  // The SDK's words where there is no body, as in all answers to HEAD.
  if (status !== undefined && message === "UnknownError") return { status, code: `HTTP ${status}`, message: "" };
  if (status !== undefined) return { status, code: name, message };
  if (cause !== undefined) return failureOf(cause);
  return { code: typeof code === "string" ? code : name, message };
}
