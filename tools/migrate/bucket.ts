/** authentik's files in a bucket. */
import { createHash, hash } from "node:crypto";
import { crc32 } from "node:zlib";
import { contentType, USAGES, type Usage } from "../../authentik/objects.ts";
import { ContentError, inPieces, md5Proof, partCount, partSizeOf, proofOf, wholeOf, type Content, type MemoryBudget, type Proof } from "./content.ts";
import type { Journal, Upload } from "./journal.ts";
import { isMisplaced, keyFlaw } from "./layout.ts";
import { merge, type Item } from "./plan.ts";
import { Refusal, type Place, type Refuse } from "./place.ts";
import { connectionError, crc32Base64, isMd5, joinedEtag, mayPass, pause, S3Error, unquote, type Condition, type Part, type S3Answer, type S3Bucket, type S3Object } from "./s3.ts";

/** How many parts of one file are on their way at once. */
const PARTS_AT_A_TIME = 4;

/** Sizes for copies on the server's side, in bytes. */
export interface CopySizes {
  /** S3's limit for a copy in one request is 5 GiB (AWS, "CopyObject"). */
  whole: number;
  /** Of a larger copy's parts, at least 5 MiB. */
  part: number;
}

const COPY_SIZES: CopySizes = { whole: 5 * 1024 ** 3, part: 1024 ** 3 };
const EMPTY = Buffer.alloc(0);

/** What a bucket has at its root. */
export interface Root {
  /** Folders that the setup page's `aws s3 sync` has made, where authentik does not look: `public/`. */
  misplaced: string[];
  /** Folders whose names lead out of the root, or are empty. */
  dangerous: string[];
  /** What belongs to somebody else. */
  foreign: string[];
}

/** A bucket with authentik's objects. */
export class Bucket implements Place {
  readonly kind = "bucket";
  readonly usages = USAGES;
  readonly s3: S3Bucket;
  readonly root: Root;
  private readonly memory: MemoryBudget;
  private readonly readsMisplaced: boolean;
  private journal: Journal | undefined;
  /** What this server takes no conditions with. */
  private readonly withoutConditions = new Set<Change["kind"]>();
  /** Keys of this run's uploads. */
  private readonly begun = new Set<string>();
  /** Keys whose uploads a killed run may have begun, where the rights do not suffice to end them. */
  readonly orphans: string[] = [];

  private constructor(s3: S3Bucket, root: Root, memory: MemoryBudget, readsMisplaced: boolean) {
    this.s3 = s3;
    this.root = root;
    this.memory = memory;
    this.readsMisplaced = readsMisplaced;
  }

  /**
   * @param readsMisplaced whether misplaced objects are listed as if they were in place, for the side that is read
   * @throws S3Error where the bucket cannot be listed
   */
  static async open(s3: S3Bucket, memory: MemoryBudget, { readsMisplaced }: { readsMisplaced: boolean }): Promise<Bucket> {
    const folders = await s3.folders();
    const others = folders.filter((folder) => !USAGES.some((usage) => folder === `${usage}/`));
    const dangerous = others.filter((folder) => /^\.{0,2}\/$|\0/.test(folder));
    const misplaced = others.filter(isMisplaced);
    const foreign = others.filter((folder) => !dangerous.includes(folder) && !misplaced.includes(folder));
    return new Bucket(s3, { misplaced, dangerous, foreign }, memory, readsMisplaced);
  }

  get name(): string {
    return this.s3.url;
  }

  /** Where begun uploads are written down. Before the first `write`. */
  useJournal(journal: Journal): void {
    this.journal = journal;
  }

  async *list(usage: Usage, refuse: Refuse): AsyncGenerator<Item> {
    const inPlace = this.items(`${usage}/`, "", refuse);
    if (!this.readsMisplaced || usage !== "media") {
      yield* inPlace;
      return;
    }
    // Every key there has a flaw, so that nothing is yielded.
    for (const folder of this.root.dangerous) await this.items(folder, "", refuse).next();
    yield* merge(inPlace, this.listMisplaced(refuse), refuse);
  }

  /** Misplaced objects under the keys that they should have. */
  async *listMisplaced(refuse: Refuse): AsyncGenerator<Item> {
    for (const folder of this.root.misplaced) yield* this.items(folder, "media/", refuse);
  }

  private async *items(prefix: string, before: string, refuse: Refuse): AsyncGenerator<Item> {
    for await (const object of this.s3.list(prefix)) {
      // Consoles make these to show a folder.
      if (object.key.endsWith("/") && object.size === 0) continue;
      const key = before + object.key;
      const flaw = keyFlaw(key);
      if (flaw !== undefined) refuse(object.key, flaw);
      else yield { key, size: object.size, version: object.etag, ...(before === "" ? {} : { at: object.key }) };
    }
  }

  async refresh(item: Item): Promise<Item> {
    const { headers } = await this.s3.head(item.at ?? item.key);
    return { ...item, size: Number(headers["content-length"]), version: unquote(headers.etag ?? "") };
  }

  read(item: Item): Content {
    return { size: item.size, version: item.version, chunks: this.readChecked(item) };
  }

  private async *readChecked(item: Item): AsyncGenerator<Buffer> {
    const sha256 = createHash("sha256");
    let check: Check = { isSure: false };
    for await (const { chunk, headers } of this.readResuming(item)) {
      if (headers) check = await this.check(item, headers);
      check.proof?.update(chunk);
      if (!check.isSure) sha256.update(chunk);
      yield chunk;
    }
    if (check.proof?.holds()) return;
    if (check.isSure || (await this.sha256OfStored(item)) !== sha256.digest("hex")) {
      throw new ContentError("the bytes that came are not those that the server has a checksum of");
    }
  }

  /** The object's bytes; the first chunk comes with its headers. A broken connection is taken up again where it broke. */
  private async *readResuming({ key, at, size, version }: Item): AsyncGenerator<{ chunk: Buffer; headers?: S3Answer["headers"] }> {
    let received = 0;
    let first = true;
    for (let attempt = 1; first || received < size; attempt++) {
      try {
        const answer = await this.s3.get({ key: at ?? key, etag: version, size }, received);
        // A server that knows no ranges sends everything again.
        let skip = answer.status === 206 ? 0 : received;
        if (first) yield { chunk: EMPTY, headers: answer.headers };
        first = false;
        for await (const chunk of answer.body) {
          const rest = chunk.subarray(Math.min(skip, chunk.length));
          skip -= chunk.length - rest.length;
          received += rest.length;
          if (rest.length > 0) yield { chunk: rest };
        }
        if (received !== size) throw new S3Error("IncompleteBody", 0, `${received} of ${size} bytes came`);
      } catch (error) {
        const failed = connectionError(error);
        if (failed instanceof S3Error && (failed.status === 412 || failed.status === 404)) {
          throw new ContentError("it changed while it was read", { cause: failed });
        }
        if (attempt >= this.s3.patience.attempts || !mayPass(failed) || received > size) throw failed;
        await pause(this.s3.patience, attempt);
      }
    }
  }

  /** By one reading, without a check: where the server gives nothing to check against, two readings must agree. */
  private async sha256OfStored(item: Item): Promise<string> {
    const sha256 = createHash("sha256");
    for await (const { chunk } of this.readResuming(item)) sha256.update(chunk);
    return sha256.digest("hex");
  }

  private async check(item: Item, headers: S3Answer["headers"]): Promise<Check> {
    // What the listing told holds where the answer does not say it again.
    const told = { ...headers, etag: headers.etag ?? item.version };
    const whole = proofOf(told);
    if (whole) return { proof: whole, isSure: true };
    const parts = partCount(item.version);
    const sizeOfParts = parts > 1 ? await this.partSize(item, parts) : undefined;
    const supposed = partSizeOf(item.size);
    const proof = proofOf(told, sizeOfParts ?? (Math.ceil(item.size / supposed) === parts ? supposed : undefined));
    return { proof, isSure: proof !== undefined && sizeOfParts !== undefined };
  }

  /** Undefined where the server does not tell the parts' sizes, or they are not equal: both are allowed. */
  private async partSize({ key, at, size }: Item, parts: number): Promise<number | undefined> {
    const [first, last] = await Promise.all([1, parts].map(async (part) => {
      const answer = await this.s3.head(at ?? key, part).catch((error: unknown) => {
        if (error instanceof S3Error && error.status >= 400 && error.status < 500) return undefined;
        throw error;
      });
      return Number(answer?.headers["content-length"]);
    }));
    return first !== undefined && last !== undefined && first * (parts - 1) + last === size ? first : undefined;
  }

  /**
   * Whether a content of the same size is this object's. Reads the content, and the object only where the server has no checksum of it.
   *
   * @param content opens it anew at each call
   */
  async has(item: Item, content: () => Content): Promise<boolean> {
    if (isMd5(item.version) && (await proves(md5Proof(item.version), content()))) return true;
    const { headers } = await this.s3.head(item.at ?? item.key);
    if (unquote(headers.etag ?? "") !== item.version || isMd5(item.version, headers)) return false;
    const { proof, isSure } = await this.check(item, headers);
    if (proof && (await proves(proof, content()))) return true;
    return !isSure && (await this.sha256OfStored(item)) === (await sha256Of(content()));
  }

  async write(key: string, content: Content, previous: Item | undefined): Promise<string> {
    const version = await (content.size > partSizeOf(content.size) ? this.writeInParts(key, content, previous) : this.writeWhole(key, content, previous));
    if (key.includes("\\")) await this.expectBackslash(key);
    return version;
  }

  /** Azure takes a backslash for a slash, so that the object is another file's. */
  private async expectBackslash(key: string): Promise<void> {
    for await (const object of this.s3.list(key)) if (object.key === key) return;
    await this.s3.remove(key);
    throw new Refusal("it has a backslash, which this server takes for a slash");
  }

  private async writeWhole(key: string, content: Content, previous: Item | undefined): Promise<string> {
    const type = contentType(key);
    const body = await wholeOf(content);
    const make = (condition?: Condition) => this.s3.put(key, body, type, condition);
    const isMade = async (now?: Item) => now?.size === body.length && this.has(now, () => ({ ...content, chunks: only(body) }));
    return this.unlessChanged({ kind: "put", key, seen: previous, make, isMade });
  }

  /**
   * Makes a change if what is at the key is what the plan has seen there.
   *
   * @throws Refusal where it is not
   */
  private async unlessChanged(change: Change): Promise<string> {
    return this.makeIf(this.withoutConditions.has(change.kind) ? undefined : conditionOf(change.seen), change);
  }

  /** The server checks the condition. Where it takes none a look before must do; with copies and deletions many servers pass one over in silence. */
  private async makeIf(condition: Condition | undefined, change: Change): Promise<string> {
    const { kind, key, seen } = change;
    if (!condition || kind === "copy" || kind === "remove") {
      const now = await this.look(key);
      if (!isSameVersion(now, seen)) return settle(change, now);
    }
    try {
      return await change.make(condition);
    } catch (error) {
      if (!(error instanceof S3Error)) throw error;
      if (condition && (error.status === 501 || (error.status === 400 && !mayPass(error)))) {
        const version = await this.makeIf(undefined, change);
        this.withoutConditions.add(kind);
        return version;
      }
      if (error.code !== "NoSuchUpload" && !(condition && isConflict(error, seen))) throw error;
      const now = await this.look(key);
      // It has another way of comparing ETags.
      if (condition && error.status === 412 && isSameVersion(now, seen)) return this.makeIf(undefined, change);
      return settle(change, now, error);
    }
  }

  /** What is at a key now. */
  private async look(key: string): Promise<Item | undefined> {
    return this.refresh({ key, size: 0, version: "" }).catch((error: unknown) => {
      if (error instanceof S3Error && error.status === 404) return undefined;
      throw error;
    });
  }

  private async writeInParts(key: string, content: Content, previous: Item | undefined): Promise<string> {
    const type = contentType(key);
    const partSize = partSizeOf(content.size);
    const { uploadId, held } = await this.beginUpload(key, content.version, partSize, type);
    const parts: Promise<Part>[] = [];
    const underway = new Set<Promise<unknown>>();
    try {
      for await (const piece of inPieces(content.chunks, partSize, this.memory)) {
        const number = parts.length + 1;
        const part = this.sendPart(key, uploadId, held.get(number), number, piece.bytes).finally(() => { this.memory.giveBack(piece.buffer); });
        parts.push(part);
        const sent: Promise<unknown> = part.finally(() => underway.delete(sent));
        // Its failure is thrown by the race or by Promise.all.
        sent.catch(() => undefined);
        underway.add(sent);
        while (underway.size >= PARTS_AT_A_TIME) await Promise.race(underway);
      }
      return await this.complete(key, uploadId, await Promise.all(parts), previous);
    } finally {
      await Promise.allSettled(parts);
    }
  }

  private async sendPart(key: string, uploadId: string, held: Part | undefined, number: number, body: Buffer): Promise<Part> {
    const isHeld = held?.size === body.length && held.etag === hash("md5", body);
    return isHeld ? held : this.s3.uploadPart(key, uploadId, number, body);
  }

  /** Takes up the upload that an earlier try has left, if it is one of the same content; else begins one. */
  private async beginUpload(key: string, version: string, partSize: number, type: string): Promise<{ uploadId: string; held: Map<number, Part> }> {
    this.begun.add(key);
    const left = this.journal?.uploads.get(key);
    if (left?.uploadId && left.version === version && left.partSize === partSize) {
      const parts = await this.s3.listParts(key, left.uploadId);
      if (parts) return { uploadId: left.uploadId, held: new Map(parts.map((part) => [part.number, part])) };
    }
    return { uploadId: await this.createUpload(key, version, partSize, () => this.s3.createUpload(key, type)), held: new Map() };
  }

  /** Begins an upload, and ends one that was left. It is in the journal before the server has it: a kill at any moment leaves a trace. */
  private async createUpload(key: string, version: string, partSize: number, create: () => Promise<string>): Promise<string> {
    const left = this.journal?.uploads.get(key);
    if (left) await this.abortLeft(left);
    await this.journal?.keepUpload({ key, uploadId: "", version, partSize });
    const uploadId = await create().catch((error: unknown) => {
      if (error instanceof S3Error && error.status >= 400 && error.status < 500) this.journal?.forgetUpload(key);
      throw error;
    });
    await this.journal?.keepUpload({ key, uploadId, version, partSize });
    return uploadId;
  }

  /** Ends an upload that an earlier run has begun; one whose id it did not learn where the rights suffice to look for it. */
  private async abortLeft({ key, uploadId }: Upload): Promise<void> {
    try {
      const ids = uploadId === "" ? await this.s3.listUploads(key) : [uploadId];
      for (const id of ids ?? []) await this.s3.abortUpload(key, id);
      if (!ids) this.orphans.push(key);
    } catch (error) {
      if (!(error instanceof S3Error) || mayPass(error)) throw error;
      this.orphans.push(key);
    }
  }

  private async complete(key: string, uploadId: string, parts: readonly Part[], previous: Item | undefined): Promise<string> {
    const make = (condition?: Condition) => this.s3.completeUpload(key, uploadId, parts, condition);
    const isMade = async (now?: Item) => {
      // Whatever is there, no more comes of this upload.
      await this.s3.abortUpload(key, uploadId);
      this.journal?.forgetUpload(key);
      return now !== undefined && this.isJoined(now, parts);
    };
    const version = await this.unlessChanged({ kind: "complete", key, seen: previous, make, isMade });
    this.journal?.forgetUpload(key);
    return version;
  }

  /** Whether an object is made of these parts. */
  private async isJoined(now: Item, parts: readonly Part[]): Promise<boolean> {
    if (now.size !== parts.reduce((sum, { size }) => sum + size, 0)) return false;
    if (now.version === joinedEtag(parts)) return true;
    const { headers } = await this.s3.head(now.key);
    const sums = Buffer.concat(parts.map(({ crc32 = "" }) => Buffer.from(crc32, "base64")));
    return headers["x-amz-checksum-crc32"] === `${crc32Base64(crc32(sums))}-${parts.length}`;
  }

  /** Ends what earlier runs have begun and this one had no use for. What failed in this one is left for the next. */
  async abortLeftUploads(): Promise<void> {
    for (const left of [...(this.journal?.uploads.values() ?? [])]) {
      if (this.begun.has(left.key)) continue;
      await this.abortLeft(left);
      this.journal?.forgetUpload(left.key);
    }
  }

  /**
   * Copies a misplaced object into its place, on the server's side, and checks the copy.
   *
   * @throws Refusal where something has come there since the plan was made, or the copy is not what the object is
   */
  async mend(item: Item, { whole, part }: CopySizes = COPY_SIZES): Promise<void> {
    const source: S3Object = { key: item.at ?? item.key, size: item.size, etag: item.version };
    const type = contentType(item.key);
    if (item.size <= whole) {
      const make = (condition?: Condition) => this.s3.copy(source, item.key, type, condition);
      const isMade = async (now?: Item) => now !== undefined && this.isCopy(item, now);
      await this.unlessChanged({ kind: "copy", key: item.key, seen: undefined, make, isMade });
    } else await this.copyInParts(source, item.key, type, part);
    const copy = await this.refresh({ key: item.key, size: item.size, version: "" });
    if (!(await this.isCopy(item, copy))) throw new Refusal(`the copy at "${item.key}" is not what "${source.key}" is`);
  }

  /** Whether two objects of this bucket have the same content. Reads both only where their ETags do not tell. */
  async isCopy(item: Item, other: Item): Promise<boolean> {
    if (item.size !== other.size) return false;
    return isSameMd5(item, other) || (await sha256Of(this.read(item))) === (await sha256Of(this.read(other)));
  }

  private async copyInParts(source: S3Object, key: string, type: string, partSize: number): Promise<void> {
    const uploadId = await this.createUpload(key, source.etag, partSize, () => this.s3.createUpload(key, type, false));
    try {
      const parts: Part[] = [];
      for (let at = 0; at < source.size; at += partSize) {
        const end = Math.min(source.size, at + partSize) - 1;
        parts.push(await this.s3.copyPart(key, uploadId, parts.length + 1, source, [at, end]));
      }
      await this.complete(key, uploadId, parts, undefined);
    } catch (error) {
      await this.s3.abortUpload(key, uploadId);
      this.journal?.forgetUpload(key);
      throw error;
    }
  }

  /** @throws Refusal where it is another one than the plan has seen */
  async remove(item: Item): Promise<void> {
    const key = item.at ?? item.key;
    const make = async (condition?: Condition) => {
      await this.s3.remove(key, condition);
      return "";
    };
    await this.unlessChanged({ kind: "remove", key, seen: item, make, isMade: (now) => Promise.resolve(now === undefined) });
  }

  async close(): Promise<void> {
    await this.s3.close();
  }
}

/** What changes an object, and may not where the plan has not seen it. */
interface Change {
  /** Servers take conditions with some of these and not with others. */
  kind: "put" | "copy" | "complete" | "remove";
  key: string;
  /** What the plan found there. */
  seen: Item | undefined;
  /** Gives the new version. */
  make(condition?: Condition): Promise<string>;
  /** Whether what is there is what this makes: the answer to an earlier try may have been lost. */
  isMade(now: Item | undefined): Promise<boolean>;
}

/** @throws Refusal where what is there now is not of this change's making, ContentError where the server has lost the upload */
async function settle(change: Change, now: Item | undefined, cause?: S3Error): Promise<string> {
  if (await change.isMade(now)) return now?.version ?? "";
  if (cause?.code === "NoSuchUpload") throw new ContentError("the server has lost the upload", { cause });
  throw new Refusal(now ? "it came or was changed there while this ran, and stays" : "it was deleted there while this ran");
}

/** Whether the server says that its object is not the one of the condition; AWS and versitygw say 404 where there is none. */
function isConflict({ status, code }: S3Error, seen: Item | undefined): boolean {
  return status === 412 || status === 409 || (code === "NoSuchKey" && seen !== undefined);
}

/** Undefined where nothing is known that could be a condition. */
function conditionOf(seen: Item | undefined): Condition | undefined {
  if (!seen) return { "if-none-match": "*" };
  return seen.version === "" ? undefined : { "if-match": `"${seen.version}"` };
}

function isSameVersion(a: Item | undefined, b: Item | undefined): boolean {
  return a?.size === b?.size && a?.version === b?.version;
}

async function* only(chunk: Buffer): AsyncGenerator<Buffer> {
  yield await Promise.resolve(chunk);
}

/** How an object's bytes are checked. */
interface Check {
  proof?: Proof | undefined;
  /** Whether bytes that the proof does not fit are wrong: not where it rests on supposed sizes of the parts. */
  isSure: boolean;
}

/** Whether two objects' ETags show that their contents are the same. ETags of parts are MD5s too, of the parts' MD5s. */
export function isSameMd5(a: Item, b: Item): boolean {
  return a.size === b.size && a.version === b.version && /^[0-9a-f]{32}(?:-\d+)?$/.test(a.version);
}

async function proves(proof: Proof, content: Content): Promise<boolean> {
  for await (const chunk of content.chunks) proof.update(chunk);
  return proof.holds();
}

async function sha256Of(content: Content): Promise<string> {
  const sha256 = createHash("sha256");
  for await (const chunk of content.chunks) sha256.update(chunk);
  return sha256.digest("hex");
}
