/** The bucket as authentik uses it with its key. */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  HeadObjectCommand,
  ListBucketsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
  type S3ClientConfig,
} from "@aws-sdk/client-s3";
import * as v from "valibot";
import type { StorageSettings } from "../../authentik/env.ts";
import type { ReleaseRules } from "../../authentik/release.ts";
import { clientEndpoint, presignV4, signingRegion, type SigningKeys } from "../../authentik/url.ts";
import { s3ClientConfig } from "../../providers/s3/client.ts";
import { NotS3Error, REQUEST_TIMEOUT_MS, request, type Answer } from "./request.ts";

/** boto3 uploads files of this size and more in parts of this size (defaults of s3transfer). */
export const PART_BYTES = 8 * 1024 * 1024;

/** What HeadObject says of an object. */
interface ObjectHead {
  contentType: string | undefined;
  /** In bytes. */
  size: number | undefined;
}

/** How a file is uploaded. authentik sends an ACL and, by default, checksums. */
export interface UploadOptions {
  acl: boolean;
  checksums: boolean;
}

/**
 * Calls with authentik's key, each as authentik's boto3 makes it. They throw the SDK's errors,
 * which `failureOf` reads.
 */
export class Storage {
  private readonly settings: StorageSettings;
  private readonly abort: { abortSignal: AbortSignal };
  private readonly plain: S3Client;
  private readonly withChecksums: S3Client;

  /**
   * @param signal ends every call but those that clean up, and those whose result is needed to
   *   clean up
   */
  constructor(settings: StorageSettings, rules: ReleaseRules, signal: AbortSignal) {
    this.settings = settings;
    this.abort = { abortSignal: signal };
    this.plain = new S3Client(clientConfig(settings, rules, "WHEN_REQUIRED"));
    this.withChecksums = new S3Client(clientConfig(settings, rules, "WHEN_SUPPORTED"));
    for (const client of [this.plain, this.withChecksums]) refusePages(client);
  }

  /**
   * The keys that sign requests: those of the settings, or those that the SDK's default chain
   * finds.
   */
  async keys(): Promise<SigningKeys> {
    return this.plain.config.credentials();
  }

  /** The keys of up to 1000 objects that begin with `prefix`. */
  async list(prefix: string): Promise<string[]> {
    const { value = [] } = await this.pages(prefix).next();
    return value;
  }

  /** The keys of all objects that begin with `prefix`, in pages of up to 1000. */
  async *pages(prefix: string): AsyncGenerator<string[], undefined> {
    const settings = { Bucket: this.settings.bucketName, Prefix: prefix };
    let token: string | undefined;
    do {
      const command = new ListObjectsV2Command({ ...settings, ContinuationToken: token });
      const answer = await this.plain.send(command, this.abort);
      const { Contents = [], IsTruncated, Name, NextContinuationToken } = answer;
      if (IsTruncated === undefined && Name === undefined) throw new NotS3Error("a listing");
      yield Contents.flatMap(({ Key }) => Key ?? []);
      token = NextContinuationToken;
    } while (token !== undefined);
  }

  async head(key: string): Promise<ObjectHead> {
    const command = new HeadObjectCommand(this.object(key));
    const { ContentType, ContentLength } = await this.plain.send(command, this.abort);
    return { contentType: ContentType, size: ContentLength };
  }

  /** Gives the object's ETag. */
  async put(
    key: string,
    body: Buffer,
    contentType: string,
    options: UploadOptions,
  ): Promise<string> {
    const command = new PutObjectCommand({
      ...this.object(key),
      ...aclOf(options),
      Body: this.payload(body),
      ContentLength: body.length,
      ContentType: contentType,
    });
    const { ETag } = await this.client(options).send(command, this.abort);
    if (ETag === undefined) throw new NotS3Error("an ETag");
    return ETag;
  }

  /**
   * Starts a multipart upload, and gives its id. The run's signal does not abort this call, because
   * the id is needed to clean up.
   */
  async createUpload(key: string, contentType: string, options: UploadOptions): Promise<string> {
    const command = new CreateMultipartUploadCommand({
      ...this.object(key),
      ...aclOf(options),
      ...checksumOf(options),
      ContentType: contentType,
    });
    const { UploadId } = await this.client(options).send(command);
    if (UploadId === undefined) throw new NotS3Error("the id of a multipart upload");
    return UploadId;
  }

  /** Uploads all parts at the same time, and completes the upload. */
  async uploadParts(
    key: string,
    uploadId: string,
    parts: readonly Buffer[],
    options: UploadOptions,
  ): Promise<void> {
    const client = this.client(options);
    const upload = { ...this.object(key), UploadId: uploadId };
    const sendPart = async (part: Buffer, index: number) => {
      const command = new UploadPartCommand({
        ...upload,
        ...checksumOf(options),
        PartNumber: index + 1,
        Body: this.payload(part),
        ContentLength: part.length,
      });
      const { ETag, ChecksumCRC32 } = await client.send(command, this.abort);
      if (ETag === undefined) throw new NotS3Error("an ETag");
      return { ETag, ChecksumCRC32, PartNumber: index + 1 };
    };
    const MultipartUpload = { Parts: await Promise.all(parts.map(sendPart)) };
    const command = new CompleteMultipartUploadCommand({ ...upload, MultipartUpload });
    const { ETag } = await client.send(command, this.abort);
    if (ETag === undefined) throw new NotS3Error("an ETag");
  }

  async listParts(key: string, uploadId: string): Promise<void> {
    const command = new ListPartsCommand({ ...this.object(key), UploadId: uploadId });
    await this.plain.send(command, this.abort);
  }

  /** Like `delete`, this works after the run's signal too. */
  async abortUpload(key: string, uploadId: string): Promise<void> {
    const upload = { ...this.object(key), UploadId: uploadId };
    await this.plain.send(new AbortMultipartUploadCommand(upload));
  }

  async delete(key: string): Promise<void> {
    await this.plain.send(new DeleteObjectCommand(this.object(key)));
  }

  /** The names of the buckets that the key can see. */
  async buckets(): Promise<string[]> {
    const { Buckets, Owner } = await this.plain.send(new ListBucketsCommand({}), this.abort);
    if (Buckets === undefined && Owner === undefined) throw new NotS3Error("a list of buckets");
    return (Buckets ?? []).flatMap(({ Name }) => Name ?? []);
  }

  /**
   * Reads a setting of the bucket, or writes it as the text `body`. The SDK would give only the
   * parts of a setting that it knows.
   *
   * @param bucketUrl the bucket's URL, without a slash at the end
   */
  async setting(
    setting: "cors" | "policy",
    bucketUrl: string,
    { body, signal = this.abort.abortSignal }: { body?: string; signal?: AbortSignal } = {},
  ): Promise<Answer> {
    const method = body === undefined ? "GET" : "PUT";
    const url = presignV4(new URL(`${bucketUrl}?${setting}=`), {
      keys: await this.keys(),
      date: new Date(),
      region: signingRegion(this.settings),
      expiresIn: 60,
      service: "s3",
      method,
    });
    if (body === undefined) return request(url, {}, signal);
    // S3 requires a checksum here, and looks for it before it looks at permissions.
    const headers = { "content-md5": createHash("md5").update(body).digest("base64") };
    return request(url, { method, body, headers }, signal);
  }

  close(): void {
    this.plain.destroy();
    this.withChecksums.destroy();
  }

  private client({ checksums }: UploadOptions): S3Client {
    return checksums ? this.withChecksums : this.plain;
  }

  private object(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.settings.bucketName, Key: key };
  }

  /**
   * boto3 sends the checksum of a body in a trailer over https and in a header over http. The SDK
   * uses a trailer for streams and a header for buffers.
   */
  private payload(body: Buffer): Buffer | Readable {
    return clientEndpoint(this.settings).startsWith("http:") ? body : Readable.from([body]);
  }
}

/** The SDK does not look at answers to deletions, so that a web page would pass for one. */
function refusePages({ middlewareStack }: S3Client): void {
  middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args);
      const { success, output } = v.safeParse(Page, { ...args, ...result });
      if (success && output.request.method !== "HEAD") throw new NotS3Error("S3's content type");
      return result;
    },
    { step: "deserialize", priority: "low", name: "refusePages" },
  );
}

const Page = v.object({
  request: v.object({ method: v.string() }),
  response: v.object({
    statusCode: v.pipe(v.number(), v.maxValue(299)),
    headers: v.object({ "content-type": v.pipe(v.string(), v.startsWith("text/html")) }),
  }),
});

function aclOf({ acl }: UploadOptions): { ACL?: "private" } {
  return acl ? { ACL: "private" } : {};
}

function checksumOf({ checksums }: UploadOptions): { ChecksumAlgorithm?: "CRC32" } {
  return checksums ? { ChecksumAlgorithm: "CRC32" } : {};
}

function clientConfig(
  settings: StorageSettings,
  rules: ReleaseRules,
  checksums: "WHEN_SUPPORTED" | "WHEN_REQUIRED",
): S3ClientConfig {
  const { endpoint, useSsl } = settings;
  const style = rules.readsAddressingStyle ? settings.addressingStyle : undefined;
  const hasOwnEndpoint = endpoint !== undefined || useSsl === false;
  return s3ClientConfig({
    keys: settings,
    region: signingRegion(settings),
    ...(hasOwnEndpoint ? { endpoint: clientEndpoint(settings) } : {}),
    // With an endpoint "auto" means path style (botocore's args.py).
    forcePathStyle: endpoint === undefined ? style === "path" : style !== "virtual",
    requestChecksumCalculation: checksums,
    responseChecksumValidation: checksums,
    maxAttempts: 1,
    // boto3 does not correct a wrong clock.
    disableClockSkewCorrection: true,
    connectionTimeout: REQUEST_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
  });
}
