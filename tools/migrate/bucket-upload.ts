/** Multipart uploads. The journal records them, so that a later run resumes or aborts them. */
import { hash } from "node:crypto";
import { crc32 } from "node:zlib";
import type { GuardedChanges } from "./bucket-change.ts";
import { crc32Base64, joinedEtag } from "./checksums.ts";
import { inPieces, partSizeOf, type Content, type MemoryBudget } from "./content.ts";
import type { Journal, Upload } from "./journal.ts";
import { S3Error, type Part, type S3Object } from "./s3-answers.ts";
import { sizeOf, type BucketClient, type Condition } from "./s3-client.ts";
import { SkipError, type Item } from "./storage.ts";
import type { StoredHeaders } from "./stored-headers.ts";

/** How many parts of one file are uploaded at once. */
const PARTS_AT_ONCE = 4;

/** The multipart uploads to one bucket. */
export class Uploads {
  /** Set before the first upload. */
  journal: Journal | undefined;
  /** Keys whose uploads a killed run may have left, because the key pair may not abort them. */
  readonly orphans: string[] = [];
  private readonly client: BucketClient;
  private readonly changes: GuardedChanges;
  private readonly memory: MemoryBudget;
  /** Keys of this run's uploads. */
  private readonly begun = new Set<string>();

  constructor(client: BucketClient, changes: GuardedChanges, memory: MemoryBudget) {
    this.client = client;
    this.changes = changes;
    this.memory = memory;
  }

  /** Uploads a content as a multipart upload, and returns the version. */
  async write(
    key: string,
    content: Content,
    stored: StoredHeaders,
    previous: Item | undefined,
  ): Promise<string> {
    const partSize = partSizeOf(content.size);
    const { uploadId, held } = await this.begin(
      { key, version: content.version, partSize },
      stored,
    );
    const parts: Promise<Part>[] = [];
    const underway = new Set<Promise<unknown>>();
    try {
      for await (const { bytes, buffer } of inPieces(content.chunks(), partSize, this.memory)) {
        const number = parts.length + 1;
        const part = this.sendPart(key, uploadId, held.get(number), number, bytes).finally(() => {
          this.memory.giveBack(buffer);
        });
        parts.push(part);
        const sent: Promise<unknown> = part.finally(() => underway.delete(sent));
        // Its failure is thrown by the race or by Promise.all.
        sent.catch(() => undefined);
        underway.add(sent);
        while (underway.size >= PARTS_AT_ONCE) await Promise.race(underway);
      }
      return await this.complete(key, uploadId, await Promise.all(parts), previous);
    } finally {
      await Promise.allSettled(parts);
    }
  }

  private async sendPart(
    key: string,
    uploadId: string,
    held: Part | undefined,
    number: number,
    body: Buffer,
  ): Promise<Part> {
    const isHeld = held?.size === body.length && held.etag === hash("md5", body);
    return isHeld ? held : this.client.uploadPart(key, uploadId, number, body);
  }

  /** Resumes the upload that an earlier try left, if it has the same content; else begins one. */
  private async begin(
    upload: NewUpload,
    stored: StoredHeaders,
  ): Promise<{ uploadId: string; held: Map<number, Part> }> {
    const { key, version, partSize } = upload;
    this.begun.add(key);
    const left = this.journal?.uploads.get(key);
    if (left?.uploadId && left.version === version && left.partSize === partSize) {
      const parts = await this.client.listParts(key, left.uploadId);
      const held = parts?.map((part) => [part.number, part] as const);
      if (held) return { uploadId: left.uploadId, held: new Map(held) };
    }
    const create = () => this.client.createUpload(key, stored);
    const uploadId = await this.create(upload, create).catch((error: unknown) => {
      throw this.explained(key, error);
    });
    return { uploadId, held: new Map() };
  }

  /**
   * versitygw sends the key to Azure in a header of the upload, which Azure accepts in ASCII only. It
   * reports that as a wrong key or signature.
   */
  private explained(key: string, error: unknown): unknown {
    const isRefused = error instanceof S3Error && error.status >= 400;
    if (!isRefused || !/[^ -~]/.test(key) || this.client.isAzure === false) return error;
    const reason = "its name has characters outside ASCII";
    const limit = "versitygw in front of Azure accepts such names only for files up to 8 MiB";
    if (this.client.isAzure === true) {
      return new SkipError(`${reason}; ${limit}`, { cause: error });
    }
    const { code, status, message } = error;
    return new S3Error(code, status, `${message}; ${reason}: ${limit}`, { cause: error });
  }

  /**
   * Begins an upload, and aborts one that was left. The journal records it first, so that a kill at
   * any moment leaves a trace.
   */
  private async create(upload: NewUpload, create: () => Promise<string>): Promise<string> {
    const { key } = upload;
    const left = this.journal?.uploads.get(key);
    if (left) await this.abort(left);
    await this.journal?.keepUpload({ ...upload, uploadId: "" });
    const uploadId = await create().catch((error: unknown) => {
      const isRejected = error instanceof S3Error && error.status >= 400 && error.status < 500;
      if (isRejected) this.journal?.forgetUpload(key);
      throw error;
    });
    await this.journal?.keepUpload({ ...upload, uploadId });
    return uploadId;
  }

  /**
   * Aborts an upload that an earlier run began. If its id is not known, it is looked up where the
   * permissions allow that.
   */
  private async abort({ key, uploadId }: Upload): Promise<void> {
    const ids = uploadId === "" ? await this.client.listUploads(key) : [uploadId];
    let isEnded = ids !== undefined;
    for (const id of ids ?? []) isEnded &&= await this.client.abortUpload(key, id);
    if (!isEnded) this.orphans.push(key);
  }

  private async complete(
    key: string,
    uploadId: string,
    parts: readonly Part[],
    previous: Item | undefined,
  ): Promise<string> {
    const make = (condition?: Condition) =>
      this.client.completeUpload(key, uploadId, parts, condition);
    const isMade = async (now?: Item) => {
      // The upload has ended in any case.
      await this.client.abortUpload(key, uploadId);
      this.journal?.forgetUpload(key);
      return now !== undefined && this.isJoined(now, parts);
    };
    const change = { kind: "complete", key, seen: previous, make, isMade } as const;
    const version = await this.changes.make(change);
    this.journal?.forgetUpload(key);
    return version;
  }

  /** Whether an object is made of these parts. */
  private async isJoined(now: Item, parts: readonly Part[]): Promise<boolean> {
    if (now.size !== sizeOf(parts)) return false;
    if (now.version === joinedEtag(parts)) return true;
    const { headers } = await this.client.head(now.key);
    const sums = Buffer.concat(parts.map(({ crc32 = "" }) => Buffer.from(crc32, "base64")));
    return headers["x-amz-checksum-crc32"] === `${crc32Base64(crc32(sums))}-${parts.length}`;
  }

  /**
   * Aborts the uploads that earlier runs began and this one did not need. Uploads that failed in this
   * run are left for the next one.
   */
  async abortLeft(): Promise<void> {
    for (const left of [...(this.journal?.uploads.values() ?? [])]) {
      if (this.begun.has(left.key)) continue;
      await this.abort(left);
      this.journal?.forgetUpload(left.key);
    }
  }

  /** Copies an object within the bucket, on the server. */
  async copy(
    source: S3Object,
    key: string,
    stored: StoredHeaders,
    partSize: number,
    previous: Item | undefined,
  ): Promise<void> {
    const create = () => this.client.createUpload(key, stored, false);
    const uploadId = await this.create({ key, version: source.etag, partSize }, create);
    try {
      const parts: Part[] = [];
      for (let at = 0; at < source.size; at += partSize) {
        const range: [number, number] = [at, Math.min(source.size, at + partSize) - 1];
        parts.push(await this.client.copyPart(key, uploadId, parts.length + 1, source, range));
      }
      await this.complete(key, uploadId, parts, previous);
    } catch (error) {
      await this.client.abortUpload(key, uploadId);
      this.journal?.forgetUpload(key);
      throw error;
    }
  }
}

type NewUpload = Omit<Upload, "uploadId">;
