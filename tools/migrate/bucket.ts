/** authentik's files in a bucket. */
import { isSchemaName, USAGES, type Usage } from "../../authentik/objects.ts";
import { GuardedChanges, readItem } from "./bucket-change.ts";
import { areCopies, hasContent, digestOfObject, readObject } from "./bucket-read.ts";
import { Uploads } from "./bucket-upload.ts";
import { isMd5, unquote, type AnswerHeaders } from "./checksums.ts";
import { partSizeOf, type Content, type MemoryBudget } from "./content.ts";
import type { Journal } from "./journal.ts";
import { invalidKeyReason, isMisplaced, noSchemaReason } from "./layout.ts";
import { compareKeys, merge } from "./plan.ts";
import type { S3Object } from "./s3-answers.ts";
import { joined } from "./s3-bodies.ts";
import type { BucketClient, Condition } from "./s3-client.ts";
import { orderCheck, sorted } from "./sorted.ts";
import { SkipError, type Item, type Skip } from "./storage.ts";
import {
  bucketHeaders,
  missingHeaders,
  rightHeaders,
  storedHeaders,
  TAGS,
  type StoredHeaders,
} from "./stored-headers.ts";

/** Sizes for copies on the server, in bytes. */
export interface CopySizes {
  /** The limit for a copy in one request: S3's is 5 GiB (AWS, "CopyObject"). */
  whole: number;
  /** The parts of a larger copy, at least 5 MiB. */
  part: number;
}

const COPY_SIZES: CopySizes = { whole: 5 * 1024 ** 3, part: 1024 ** 3 };

/** The folders at a bucket's root that are not authentik's. */
export interface RootFolders {
  /** Made by the setup page's `aws s3 sync`, where authentik does not look: `public/`. */
  misplaced: string[];
  /** With names that lead out of the root or are empty. */
  dangerous: string[];
  /** Of other programs. */
  foreign: string[];
}

export interface BucketOptions {
  /** For a source: whether misplaced objects are listed under their right keys. */
  readsMisplaced: boolean;
  /** Names of schemas other than `public`. */
  schemas?: readonly string[];
}

/** A bucket with authentik's objects. */
export class Bucket {
  readonly kind = "bucket";
  readonly usages = USAGES;
  readonly client: BucketClient;
  readonly root: RootFolders;
  /** Folders that are not a schema's, e.g. `media/backup/`. They are neither read nor changed. */
  readonly otherFolders = new Set<string>();
  private readonly schemas: readonly string[];
  private readonly readsMisplaced: boolean;
  /** Whether this server's listings must be sorted. */
  private isUnsorted = false;
  private readonly changes: GuardedChanges;
  private readonly uploads: Uploads;

  private constructor(
    client: BucketClient,
    root: RootFolders,
    memory: MemoryBudget,
    { readsMisplaced, schemas = [] }: BucketOptions,
  ) {
    this.client = client;
    this.root = root;
    this.readsMisplaced = readsMisplaced;
    this.schemas = schemas;
    this.changes = new GuardedChanges(client);
    this.uploads = new Uploads(client, this.changes, memory);
  }

  /** @throws S3Error when the bucket cannot be listed */
  static async open(
    client: BucketClient,
    memory: MemoryBudget,
    options: BucketOptions,
  ): Promise<Bucket> {
    const folders = (await client.folders()).sort(compareKeys);
    const others = folders.filter((folder) => !USAGES.some((usage) => folder === `${usage}/`));
    const { schemas = [] } = options;
    const isDangerous = (folder: string) => /^\.{0,2}\/$|\0/.test(folder);
    const dangerous = others.filter(isDangerous);
    const misplaced = others.filter((folder) => isMisplaced(folder, schemas));
    const foreign = others.filter(
      (folder) => !isDangerous(folder) && !isMisplaced(folder, schemas),
    );
    return new Bucket(client, { misplaced, dangerous, foreign }, memory, options);
  }

  /** Its URL, without credentials. Also its identity. */
  get name(): string {
    return this.client.url;
  }

  /** Keys whose multipart uploads an earlier run may have left and this run may not abort. */
  get orphans(): readonly string[] {
    return this.uploads.orphans;
  }

  /** Sets where begun uploads are recorded. Call it before the first `write`. */
  useJournal(journal: Journal): void {
    this.uploads.journal = journal;
  }

  /** Items in the order of `compareKeys`. */
  list(usage: Usage, skip: Skip): AsyncGenerator<Item> {
    const inPlace = this.items(`${usage}/`, "", skip);
    const { misplaced, dangerous } = this.root;
    const hasOthers = this.readsMisplaced && misplaced.length + dangerous.length > 0;
    return hasOthers && usage === "media" ? this.withOthers(inPlace, skip) : inPlace;
  }

  private async *withOthers(inPlace: AsyncGenerator<Item>, skip: Skip): AsyncGenerator<Item> {
    // All keys in them are invalid, so that they are skipped and none is yielded.
    for (const folder of this.root.dangerous) await this.items(folder, "", skip).next();
    yield* merge(inPlace, this.listMisplaced(skip), skip);
  }

  /** Misplaced objects under the keys where authentik looks. */
  async *listMisplaced(skip: Skip): AsyncGenerator<Item> {
    for (const folder of this.root.misplaced) yield* this.items(folder, "media/", skip);
  }

  private async *items(prefix: string, before: string, skip: Skip): AsyncGenerator<Item> {
    const isOurs = this.schemaFilter(skip);
    const checkOrder = orderCheck(() => {
      this.isUnsorted = true;
    });
    const listing = this.client.list(prefix);
    for await (const object of this.isUnsorted ? sorted(listing) : listing) {
      checkOrder(object.key);
      // Consoles make these to show a folder. s3proxy lists its own folders with a size.
      const isMarker = object.key.endsWith("/") && (object.size === 0 || object.etag === "");
      if (isMarker) continue;
      const key = before + object.key;
      const reason = invalidKeyReason(key);
      const { size, etag: version, modified } = object;
      if (reason !== undefined) skip(object.key, reason);
      else if (!isOurs(key)) continue;
      else if (before === "") yield { key, size, version, modified };
      else yield { key, size, version, modified, at: object.key };
    }
  }

  /** Whether a key is below a schema's folder. Each other folder is reported once. */
  private schemaFilter(skip: Skip): (key: string) => boolean {
    let [last, isOurs] = ["", true];
    return (key) => {
      if (last !== "" && key.startsWith(last)) return isOurs;
      const [usage = "", schema = ""] = key.split("/", 2);
      last = `${usage}/${schema}/`;
      isOurs = isSchemaName(schema, this.schemas);
      if (isOurs) return true;
      this.otherFolders.add(last);
      if (this.schemas.length === 0) skip(last, noSchemaReason(schema));
      return false;
    };
  }

  /** The item as it is now. */
  refresh(item: Item): Promise<Item> {
    return readItem(this.client, item);
  }

  read(item: Item): Content {
    return readObject(this.client, item);
  }

  /**
   * Whether a content of the same size is this object's. It reads the content, and the object only
   * if the server has no checksum of it.
   */
  has(item: Item, content: Content): Promise<boolean> {
    return hasContent(this.client, item, content);
  }

  /** Whether two objects of this bucket have the same content. */
  isCopy(item: Item, other: Item): Promise<boolean> {
    return areCopies(this.client, item, other);
  }

  /** The present stored headers of an object. */
  async stored(item: Item): Promise<StoredHeaders> {
    const { headers } = await this.client.head(item.at ?? item.key);
    return storedHeaders(headers);
  }

  /**
   * What is wrong with an object's stored headers, in words; undefined if nothing is.
   *
   * @param source the stored headers of the original, if that is an object
   */
  async storedProblem(item: Item, source?: StoredHeaders): Promise<string | undefined> {
    const stored = await this.stored(item);
    return missingHeaders(rightHeaders(item.key, source ?? stored), stored);
  }

  /**
   * Stores a content under a key, completely or not at all, and returns its version.
   *
   * @param previous what the plan found at the key
   * @throws SkipError also when the server does not keep the stored headers
   */
  async write(key: string, content: Content, previous: Item | undefined): Promise<string> {
    const isLarge = content.size > partSizeOf(content.size);
    const body = isLarge ? undefined : joined(await content.whole());
    const source = await content.stored?.();
    const stored = rightHeaders(key, source);
    const version = await (body
      ? this.writeWhole(key, body, content, stored, previous)
      : this.uploads.write(key, content, stored, previous));
    if (key.includes("\\")) await this.expectBackslash(key);
    const hasOnlyType = Object.keys(stored).length === 1;
    if (source && !hasOnlyType) await this.expectStored(key, stored);
    return version;
  }

  private async expectStored(key: string, wanted: StoredHeaders): Promise<void> {
    const missing = missingHeaders(wanted, await this.stored({ key, size: 0, version: "" }));
    if (missing === undefined) return;
    throw new SkipError(`the server does not keep its stored headers: it has ${missing}`);
  }

  /** Azure treats a backslash as a slash, so the object would be another file's. */
  private async expectBackslash(key: string): Promise<void> {
    for await (const object of this.client.list(key)) if (object.key === key) return;
    await this.client.remove(key);
    throw new SkipError("its name has a backslash, which this server treats as a slash");
  }

  private async writeWhole(
    key: string,
    body: Buffer,
    content: Content,
    stored: StoredHeaders,
    seen: Item | undefined,
  ): Promise<string> {
    return this.changes.make({
      kind: "put",
      key,
      seen,
      make: (condition) => this.client.put(key, body, stored, condition),
      isMade: async (now) =>
        now?.size === body.length && this.has(now, { ...content, chunks: () => [body] }),
    });
  }

  /** Aborts the multipart uploads that earlier runs began and this one did not need. */
  abortLeftUploads(): Promise<void> {
    return this.uploads.abortLeft();
  }

  /**
   * Copies a misplaced object to where authentik looks, on the server, and checks the copy.
   *
   * @throws SkipError when an object was created there since the plan, or the copy differs
   */
  async repair(item: Item, sizes: CopySizes = COPY_SIZES): Promise<void> {
    const { headers } = await this.client.head(item.at ?? item.key);
    const isCopy = async (now: Item | undefined) => now !== undefined && this.isCopy(item, now);
    await this.copy(item, headers, undefined, sizes, isCopy);
    await this.expectCopy(item);
  }

  /**
   * Expects a copy of a misplaced object where authentik looks.
   *
   * @throws SkipError when the object there differs
   */
  async expectCopy(item: Item): Promise<void> {
    const { key, at = key, size } = item;
    if (await this.isCopy(item, await this.refresh({ key, size, version: "" }))) return;
    throw new SkipError(`the copy "${key}" differs from "${at}"`);
  }

  /**
   * Gives an object the type that authentik gives it: copies it onto itself, on the server, and
   * checks the copy. All other stored headers stay. Returns its new version.
   *
   * @throws SkipError when it is not the object that the plan found, or the server does not do it
   */
  async repairType(item: Item, sizes: CopySizes = COPY_SIZES): Promise<string> {
    const { key } = item;
    const { headers } = await this.client.head(key);
    const hasMd5 = isMd5(item.version, headers);
    const digest = (of: Item) => digestOfObject(this.client, hasMd5 ? "md5" : "sha256", of);
    const before = hasMd5 ? item.version : await digest(item);
    const isSame = async (now: Item) =>
      now.size === item.size && (now.version === item.version || (await digest(now)) === before);
    const isMade = async (now: Item | undefined) =>
      now !== undefined && (await this.storedProblem(now)) === undefined && isSame(now);
    await this.copy(item, headers, item, sizes, isMade);
    const now = await this.refresh(item);
    if (await isSame(now)) return now.version;
    throw new SkipError("the server changed its content, or another program did");
  }

  /** Copies an object on the server, with the right type and its other stored headers. */
  private async copy(
    item: Item,
    headers: AnswerHeaders,
    seen: Item | undefined,
    { whole, part }: CopySizes,
    isMade: (now: Item | undefined) => Promise<boolean>,
  ): Promise<void> {
    const { key, size, version, at = key } = item;
    if (version !== "" && unquote(headers.etag ?? "") !== version) {
      throw new SkipError("it was changed in the bucket during this run, and is kept");
    }
    const source: S3Object = { key: at, size, etag: version };
    const wanted = rightHeaders(key, storedHeaders(headers));
    const stored = { ...wanted, ...bucketHeaders(headers) };
    if (size <= whole) {
      const make = (condition?: Condition) => this.client.copy(source, key, stored, condition);
      await this.changes.make({ kind: "copy", key, seen, make, isMade });
    } else if (headers[TAGS] === undefined) {
      await this.uploads.copy(source, key, stored, part, seen);
    } else throw new SkipError("it has tags, which a multipart copy does not keep");
    await this.expectStored(key, wanted);
  }

  /** @throws SkipError when it is not the object that the plan found */
  async remove(item: Item): Promise<void> {
    const key = item.at ?? item.key;
    const make = async (condition?: Condition) => {
      await this.client.remove(key, condition);
      return "";
    };
    const isMade = (now: Item | undefined) => Promise.resolve(now === undefined);
    await this.changes.make({ kind: "remove", key, seen: item, make, isMade });
  }

  close(): Promise<void> {
    return this.client.close();
  }
}
