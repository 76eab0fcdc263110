/** What a run stores for the next one: unfinished uploads, and which contents are the same. */
import { hash } from "node:crypto";
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import writeFileAtomic from "write-file-atomic";
import { isOtherProcess } from "./process.ts";
import { MigrateError, type Item } from "./storage.ts";

const Upload = v.object({
  key: v.string(),
  /** Empty until the server has returned one. */
  uploadId: v.string(),
  /** Of the content that is uploaded. */
  version: v.string(),
  partSize: v.number(),
});
/** An unfinished multipart upload. */
export type Upload = v.InferOutput<typeof Upload>;

/** How many pairs of the newest runs are kept in memory. */
const MAX_PAIRS = 2_000_000;
const PAIR_BYTES = 8;

/** Distinguishes pairs of which the second one has what must be stored with it. */
export const TYPED = "\0typed";
type Mark = "" | typeof TYPED;

/**
 * The journal of two storages, in either direction. It may be deleted at any time. Then unfinished
 * uploads stay on the server until its lifecycle rule ends them, and contents are compared by
 * reading them once.
 */
export class Journal {
  /** Unfinished uploads to the second storage, by key. */
  readonly uploads: Map<string, Upload>;
  /** Notes for the summary. */
  readonly notes: string[] = [];
  private readonly stateFolder: string;
  private readonly uploadsFolder: string;
  private readonly lock: string;
  private readonly typesFile: string;
  private typesSeen: number | undefined;
  private readonly known: BigUint64Array;
  private readonly file: number;

  /**
   * @param names identities of source and destination, e.g. a folder and a bucket's URL
   * @throws MigrateError when the folder cannot be written, or another run uses the journal
   */
  constructor(stateFolder: string, [from, to]: readonly [string, string]) {
    const folder = join(stateFolder, shortHash([from, to].sort().join("\0")));
    const pairs = join(folder, "same");
    this.stateFolder = stateFolder;
    this.uploadsFolder = join(folder, `uploads-${shortHash(to)}`);
    this.lock = join(folder, "process");
    this.typesFile = join(folder, `types-${shortHash(to)}`);
    try {
      mkdirSync(this.uploadsFolder, { recursive: true, mode: 0o700 });
      takeLock(this.lock);
      this.uploads = readUploads(this.uploadsFolder);
      this.file = openSync(pairs, "a", 0o600);
    } catch (error) {
      if (error instanceof MigrateError) throw error;
      const message = `the journal in "${stateFolder}" cannot be written`;
      throw new MigrateError(`${message}; name another folder with --state`, { cause: error });
    }
    // An incomplete record would shift all that follow.
    const { size } = fstatSync(this.file);
    ftruncateSync(this.file, size - (size % PAIR_BYTES));
    this.known = readPairs(pairs);
  }

  close(): void {
    closeSync(this.file);
    rmSync(this.lock, { force: true });
  }

  async keepUpload(upload: Upload): Promise<void> {
    this.uploads.set(upload.key, upload);
    await writeFileAtomic(this.uploadFile(upload.key), JSON.stringify(upload), { mode: 0o600 });
  }

  forgetUpload(key: string): void {
    this.uploads.delete(key);
    rmSync(this.uploadFile(key), { force: true });
  }

  private uploadFile(key: string): string {
    return join(this.uploadsFolder, `${hash("sha256", key)}.json`);
  }

  /** Whether earlier runs found that these two versions have the same content. */
  isSame(a: Item, b: Item): boolean {
    return this.has(a, b, "") || this.has(a, b, TYPED);
  }

  /**
   * Whether the second one has what must be stored with it, too: an earlier run stored it or looked
   * at it, and neither object was written since that run.
   */
  isTyped(a: Item, b: Item): boolean {
    this.typesSeen ??= readTime(this.typesFile);
    const isOlder = ({ modified }: Item) => Date.parse(modified ?? "") < (this.typesSeen ?? 0);
    return isOlder(b) && (a.modified === undefined || isOlder(a)) && this.has(a, b, TYPED);
  }

  /** Records that all objects with a typed pair had at this time what must be stored with them. */
  async keepTypesSeen(serverTime: string): Promise<void> {
    await writeFileAtomic(this.typesFile, serverTime, { mode: 0o600 });
  }

  private has(a: Item, b: Item, mark: Mark): boolean {
    // Without a version, a change would not be noticed.
    if (a.version === "" || b.version === "") return false;
    const wanted = fingerprint(a, b, mark);
    let [low, high] = [0, this.known.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.known[middle] ?? 0n) < wanted) low = middle + 1;
      else high = middle;
    }
    return this.known[low] === wanted;
  }

  /**
   * Records two versions with the same content. Written at once, so that a kill does not lose it.
   *
   * @param mark `TYPED` if the second one also has what must be stored with it
   */
  addSame(a: Item, b: Item, mark: Mark = ""): void {
    if (this.has(a, b, mark)) return;
    const bytes = Buffer.alloc(PAIR_BYTES);
    bytes.writeBigUInt64LE(fingerprint(a, b, mark));
    try {
      writeSync(this.file, bytes);
    } catch (error) {
      // The file itself was copied.
      if (this.notes.length > 0) return;
      const reason = error instanceof Error ? error.message : String(error);
      this.notes.push(
        `The journal in "${this.stateFolder}" could not be written (${reason}): ` +
          "the next run reads again what this one has copied.",
      );
    }
  }
}

function shortHash(text: string): string {
  return hash("sha256", text).slice(0, 24);
}

/** Two runs with one journal would resume and end each other's uploads. */
function takeLock(file: string): void {
  for (let attempt = 1; ; attempt++) {
    try {
      writeFileSync(file, String(process.pid), { flag: "wx", mode: 0o600 });
      return;
    } catch (error) {
      const isTaken = error instanceof Error && "code" in error && error.code === "EEXIST";
      if (!isTaken || attempt > 1) throw error;
      expectEnded(Number(readFileSync(file, "utf8")), file);
      rmSync(file, { force: true });
    }
  }
}

function expectEnded(holder: number, file: string): void {
  if (!isOtherProcess(holder)) return;
  throw new MigrateError(
    `process ${holder} is copying between the same two storages; wait for its end ` +
      `(if it is not this program, remove "${file}")`,
  );
}

/** 64 bits of a SHA-256. Among a million pairs, one in ten million million is a false match. */
function fingerprint(a: Item, b: Item, mark: Mark): bigint {
  const text = [a.key, a.size, ...[a.version, b.version].sort()].join("\0") + mark;
  return BigInt(`0x${hash("sha256", text).slice(0, 2 * PAIR_BYTES)}`);
}

/** In milliseconds since 1970; 0 if the file does not exist. */
function readTime(file: string): number {
  try {
    return Date.parse(readFileSync(file, "utf8")) || 0;
  } catch {
    return 0;
  }
}

function readPairs(file: string): BigUint64Array {
  const bytes = readFileSync(file);
  const count = Math.min(MAX_PAIRS, Math.floor(bytes.length / PAIR_BYTES));
  const start = (Math.floor(bytes.length / PAIR_BYTES) - count) * PAIR_BYTES;
  const pairs = new BigUint64Array(count);
  for (let index = 0; index < count; index++) {
    pairs[index] = bytes.readBigUInt64LE(start + index * PAIR_BYTES);
  }
  return pairs.sort();
}

function readUploads(folder: string): Map<string, Upload> {
  const uploads = new Map<string, Upload>();
  for (const name of readdirSync(folder)) {
    // Not yet renamed when the run was killed, and perhaps incomplete. Its upload had not begun.
    if (!name.endsWith(".json")) {
      rmSync(join(folder, name));
      continue;
    }
    const upload = v.safeParse(Upload, parsed(readFileSync(join(folder, name), "utf8")));
    if (upload.success) uploads.set(upload.output.key, upload.output);
  }
  return uploads;
}

/** Undefined for damaged JSON. */
function parsed(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return value;
  } catch {
    return undefined;
  }
}
