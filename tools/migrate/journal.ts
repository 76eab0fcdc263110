/** What a run stores for the next one: unfinished uploads, and pairs with the same content. */
import { spawnSync } from "node:child_process";
import { hash, randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
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
import { messageOf } from "../lib/errors.ts";
import { writeWholeFile } from "../lib/write-file.ts";
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

/** A disk that stores files some time after they were written. */
interface SyncedLater {
  readonly isUnsynced: boolean;
  sync(): Promise<void>;
}

/** How many pairs of the newest runs are kept in memory. */
const MAX_PAIRS = 2_000_000;
const PAIR_BYTES = 8;
const ID_BYTES = 8;
/** A crash loses at most this much work. */
const FLUSH_EVERY_MS = 5000;

/** Marks pairs whose second item also has the right stored headers. */
export const TYPED = "\0typed";
type Mark = "" | typeof TYPED;

/**
 * The journal of two storages, in either direction. It may be deleted at any time. Unfinished uploads
 * then stay on the server until its lifecycle rule ends them, and contents are compared by reading
 * them once.
 */
export class Journal {
  /** Unfinished uploads to the second storage, by key. */
  readonly uploads: Map<string, Upload>;
  /** Notes for the summary. */
  readonly notes: string[] = [];
  /** Only one run at a time has this id. The next run of the same journal has the same id. */
  readonly id: string;
  private readonly stateFolder: string;
  private readonly uploadsFolder: string;
  private readonly typesFile: string;
  private typesSeen: number | undefined;
  private readonly known: BigUint64Array;
  private readonly file: number;
  private readonly disks: SyncedLater[] = [];
  /** Pairs with files that a disk may not have stored yet. */
  private waiting: bigint[] = [];
  private failed = false;
  private flushed = Promise.resolve();
  private flushedAt = Date.now();

  /**
   * @param names identities of source and destination, e.g. a folder and a bucket's URL
   * @throws MigrateError when the folder cannot be written, or another run uses the journal
   */
  constructor(stateFolder: string, [from, to]: readonly [string, string]) {
    const folder = join(stateFolder, shortHash([from, to].sort().join("\0")));
    const pairs = join(folder, "same");
    this.stateFolder = stateFolder;
    this.uploadsFolder = join(folder, `uploads-${shortHash(to)}`);
    this.typesFile = join(folder, `types-${shortHash(to)}`);
    try {
      mkdirSync(this.uploadsFolder, { recursive: true, mode: 0o700 });
      this.file = openSync(pairs, "a", 0o600);
      const problem = lockProblem(this.file);
      if (problem !== undefined) this.notes.push(`${NO_LOCK} (${problem}).`);
      this.id = problem === undefined ? readId(join(folder, "id")) : newId();
      this.uploads = readUploads(this.uploadsFolder);
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
  }

  async keepUpload(upload: Upload): Promise<void> {
    this.uploads.set(upload.key, upload);
    await writeWholeFile(this.uploadFile(upload.key), JSON.stringify(upload));
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
    return this.has(a, b, TYPED) || this.has(a, b, "");
  }

  /**
   * Whether `b` also has the right stored headers: an earlier run wrote or checked them, and neither
   * object was written since that run.
   */
  isTyped(a: Item, b: Item): boolean {
    this.typesSeen ??= readTime(this.typesFile);
    const isOlder = ({ modified }: Item) => Date.parse(modified ?? "") < (this.typesSeen ?? 0);
    return isOlder(b) && (a.modified === undefined || isOlder(a)) && this.has(a, b, TYPED);
  }

  /** Records the time up to which stored headers were checked. */
  async keepTypesSeen(serverTime: string): Promise<void> {
    await writeWholeFile(this.typesFile, serverTime);
  }

  private has(a: Item, b: Item, mark: Mark): boolean {
    // A change is not noticed without a version.
    return a.version !== "" && b.version !== "" && this.knows(fingerprint(a, b, mark));
  }

  private knows(wanted: bigint): boolean {
    let [low, high] = [0, this.known.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.known[middle] ?? 0n) < wanted) low = middle + 1;
      else high = middle;
    }
    return this.known[low] === wanted;
  }

  /** Lets pairs wait until this disk has stored its files. */
  waitFor(disk: SyncedLater): void {
    this.disks.push(disk);
  }

  /**
   * Records two versions with the same content: at once, or some seconds later if a disk must first
   * store a file.
   *
   * @param mark `TYPED` if `b` also has the right stored headers
   */
  addSame(a: Item, b: Item, mark: Mark = ""): void {
    const pair = fingerprint(a, b, mark);
    if (this.knows(pair)) return;
    if (!this.disks.some(({ isUnsynced }) => isUnsynced)) {
      this.append([pair]);
      return;
    }
    this.waiting.push(pair);
    if (Date.now() - this.flushedAt < FLUSH_EVERY_MS) return;
    // Its failure is thrown to the next caller, at the latest at the end of the run.
    this.flush().catch(() => undefined);
  }

  /**
   * Waits until the disks have stored all files that were written before, and records their pairs.
   *
   * @throws MigrateError when a disk cannot store them
   */
  flush(): Promise<void> {
    this.flushedAt = Infinity;
    this.flushed = this.flushed.then(async () => {
      const pairs = this.waiting;
      this.waiting = [];
      await Promise.all(this.disks.map((disk) => disk.sync()));
      if (pairs.length > 0) this.append(pairs);
      this.flushedAt = Date.now();
    });
    return this.flushed;
  }

  private append(pairs: readonly bigint[]): void {
    const bytes = Buffer.alloc(pairs.length * PAIR_BYTES);
    for (const [index, pair] of pairs.entries()) bytes.writeBigUInt64LE(pair, index * PAIR_BYTES);
    try {
      writeSync(this.file, bytes);
    } catch (error) {
      // The file itself was copied.
      if (this.failed) return;
      this.failed = true;
      this.notes.push(
        `The journal in "${this.stateFolder}" could not be written (${messageOf(error)}): ` +
          "the next run reads again what this one has copied.",
      );
    }
  }
}

function shortHash(text: string): string {
  return hash("sha256", text).slice(0, 24);
}

const NO_LOCK =
  "No other run may copy between the same two storages at the same time, and this system cannot " +
  "prevent it";

/**
 * Locks an open file until it is closed. The system closes it when the process is killed, so no lock
 * is left over. The lock also holds between containers that share the folder. It belongs to the
 * opened file, which the `flock` program shares with this process. Node itself cannot lock files.
 *
 * @returns why the file cannot be locked; undefined if it is locked
 * @throws MigrateError when another run has locked it
 */
function lockProblem(file: number): string | undefined {
  const { error, status, stderr } = spawnSync("flock", ["-n", "3"], {
    stdio: ["ignore", "ignore", "pipe", file],
    encoding: "utf8",
  });
  if (error) return error.message;
  if (status === 0) return undefined;
  if (stderr !== "") return stderr.trim();
  closeSync(file);
  throw new MigrateError("another run is copying between the same two storages; wait for its end");
}

function newId(): string {
  return randomBytes(ID_BYTES).toString("hex");
}

/** The id in a file. A missing or incomplete id is replaced by a new one. */
function readId(file: string): string {
  const id = existsSync(file) ? readFileSync(file, "utf8") : "";
  if (id.length === 2 * ID_BYTES && /^[0-9a-f]+$/.test(id)) return id;
  const made = newId();
  writeFileSync(file, made, { mode: 0o600 });
  return made;
}

/** 64 bits of a SHA-256. Among a million pairs, one in ten million million is a false match. */
function fingerprint(a: Item, b: Item, mark: Mark): bigint {
  const versions =
    a.version < b.version ? `${a.version}\0${b.version}` : `${b.version}\0${a.version}`;
  const text = `${a.key}\0${a.size}\0${versions}${mark}`;
  return BigInt(`0x${hash("sha256", text).slice(0, 16)}`);
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
    // The run was killed before it renamed this file. Its upload had not begun.
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
