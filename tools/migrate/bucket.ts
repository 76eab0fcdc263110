/** authentik's files in a bucket. */
import { contentType, USAGES, type Usage } from "../../authentik/objects.ts";
import { GuardedChanges, readItem } from "./bucket-change.ts";
import { areCopies, hasContent, readObject } from "./bucket-read.ts";
import { Uploads } from "./bucket-upload.ts";
import { partSizeOf, wholeOf, type Content, type MemoryBudget } from "./content.ts";
import type { Journal } from "./journal.ts";
import { invalidKeyReason, isMisplaced } from "./layout.ts";
import { merge } from "./plan.ts";
import type { S3Object } from "./s3-answers.ts";
import type { BucketClient, Condition } from "./s3-client.ts";
import { SkipError, type Item, type Skip, type Storage } from "./storage.ts";

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

/** A bucket with authentik's objects. */
export class Bucket implements Storage {
  readonly kind = "bucket";
  readonly usages = USAGES;
  readonly client: BucketClient;
  readonly root: RootFolders;
  private readonly readsMisplaced: boolean;
  private readonly changes: GuardedChanges;
  private readonly uploads: Uploads;

  private constructor(
    client: BucketClient,
    root: RootFolders,
    memory: MemoryBudget,
    readsMisplaced: boolean,
  ) {
    this.client = client;
    this.root = root;
    this.readsMisplaced = readsMisplaced;
    this.changes = new GuardedChanges(client);
    this.uploads = new Uploads(client, this.changes, memory);
  }

  /**
   * @param readsMisplaced for a source: whether misplaced objects are listed under their right keys
   * @throws S3Error when the bucket cannot be listed
   */
  static async open(
    client: BucketClient,
    memory: MemoryBudget,
    { readsMisplaced }: { readsMisplaced: boolean },
  ): Promise<Bucket> {
    const folders = await client.folders();
    const others = folders.filter((folder) => !USAGES.some((usage) => folder === `${usage}/`));
    const dangerous = others.filter((folder) => /^\.{0,2}\/$|\0/.test(folder));
    const misplaced = others.filter(isMisplaced);
    const foreign = others.filter(
      (folder) => !dangerous.includes(folder) && !misplaced.includes(folder),
    );
    return new Bucket(client, { misplaced, dangerous, foreign }, memory, readsMisplaced);
  }

  get name(): string {
    return this.client.url;
  }

  /** Keys whose uploads in parts an earlier run may have left, where this run may not end them. */
  get orphans(): readonly string[] {
    return this.uploads.orphans;
  }

  /** Sets where begun uploads are recorded. Call it before the first `write`. */
  useJournal(journal: Journal): void {
    this.uploads.journal = journal;
  }

  async *list(usage: Usage, skip: Skip): AsyncGenerator<Item> {
    const inPlace = this.items(`${usage}/`, "", skip);
    if (!this.readsMisplaced || usage !== "media") {
      yield* inPlace;
      return;
    }
    // All keys in them are invalid: they are skipped, and none is yielded.
    for (const folder of this.root.dangerous) await this.items(folder, "", skip).next();
    yield* merge(inPlace, this.listMisplaced(skip), skip);
  }

  /** Misplaced objects under the keys where authentik looks. */
  async *listMisplaced(skip: Skip): AsyncGenerator<Item> {
    for (const folder of this.root.misplaced) yield* this.items(folder, "media/", skip);
  }

  private async *items(prefix: string, before: string, skip: Skip): AsyncGenerator<Item> {
    for await (const object of this.client.list(prefix)) {
      // Consoles make these to show a folder.
      if (object.key.endsWith("/") && object.size === 0) continue;
      const key = before + object.key;
      const reason = invalidKeyReason(key);
      const { size, etag: version } = object;
      if (reason !== undefined) skip(object.key, reason);
      else if (before === "") yield { key, size, version };
      else yield { key, size, version, at: object.key };
    }
  }

  refresh(item: Item): Promise<Item> {
    return readItem(this.client, item);
  }

  read(item: Item): Content {
    return readObject(this.client, item);
  }

  /**
   * Whether a content of the same size is this object's. It reads the content, and the object only
   * if the server has no checksum of it.
   *
   * @param content opens a new reading at each call
   */
  has(item: Item, content: () => Content): Promise<boolean> {
    return hasContent(this.client, item, content);
  }

  /** Whether two objects of this bucket have the same content. */
  isCopy(item: Item, other: Item): Promise<boolean> {
    return areCopies(this.client, item, other);
  }

  async write(key: string, content: Content, previous: Item | undefined): Promise<string> {
    const type = contentType(key);
    const version = await (content.size > partSizeOf(content.size)
      ? this.uploads.write(key, content, type, previous)
      : this.writeWhole(key, content, type, previous));
    if (key.includes("\\")) await this.expectBackslash(key);
    return version;
  }

  /** Azure treats a backslash as a slash, so the object would be another file's. */
  private async expectBackslash(key: string): Promise<void> {
    for await (const object of this.client.list(key)) if (object.key === key) return;
    await this.client.remove(key);
    throw new SkipError("its name has a backslash, which this server treats as a slash");
  }

  private async writeWhole(
    key: string,
    content: Content,
    type: string,
    seen: Item | undefined,
  ): Promise<string> {
    const body = await wholeOf(content);
    return this.changes.make({
      kind: "put",
      key,
      seen,
      make: (condition) => this.client.put(key, body, type, condition),
      isMade: async (now) =>
        now?.size === body.length && this.has(now, () => ({ ...content, chunks: only(body) })),
    });
  }

  /** Ends the uploads in parts that earlier runs began and this one did not need. */
  abortLeftUploads(): Promise<void> {
    return this.uploads.abortLeft();
  }

  /**
   * Copies a misplaced object to where authentik looks, on the server, and checks the copy.
   *
   * @throws SkipError when an object was created there since the plan, or the copy differs
   */
  async repair(item: Item, { whole, part }: CopySizes = COPY_SIZES): Promise<void> {
    const { key } = item;
    const source: S3Object = { key: item.at ?? key, size: item.size, etag: item.version };
    const type = contentType(key);
    if (item.size > whole) await this.uploads.copy(source, key, type, part);
    else {
      await this.changes.make({
        kind: "copy",
        key,
        seen: undefined,
        make: (condition) => this.client.copy(source, key, type, condition),
        isMade: async (now) => now !== undefined && this.isCopy(item, now),
      });
    }
    const copy = await this.refresh({ key, size: item.size, version: "" });
    if (await this.isCopy(item, copy)) return;
    throw new SkipError(`the copy "${key}" differs from "${source.key}"`);
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

async function* only(chunk: Buffer): AsyncGenerator<Buffer> {
  yield await Promise.resolve(chunk);
}
