/** What a run leaves on disk for the next one: begun multipart uploads, and which contents were found to be the same. */
import { hash } from "node:crypto";
import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import writeFileAtomic from "write-file-atomic";
import { MigrateError } from "./place.ts";
import { isOtherProcess } from "./process.ts";
import type { Item } from "./plan.ts";

const Upload = v.object({
  key: v.string(),
  /** Empty until the server has given one. */
  uploadId: v.string(),
  /** Of the content that is uploaded. */
  version: v.string(),
  partSize: v.number(),
});
/** A multipart upload that has begun and not ended. */
export type Upload = v.InferOutput<typeof Upload>;

/** Of the pairs of the newest runs so many are remembered, so that memory has a limit. */
const MAX_PAIRS = 2_000_000;
const PAIR_BYTES = 8;

/**
 * The journal of one pair of places, whichever of them is copied from. It may be deleted at any time: begun uploads then stay
 * on the server until its lifecycle rule ends them, and contents are compared by reading them once.
 */
export class Journal {
  /** Uploads to the second place that a run began and did not end, by key. */
  readonly uploads: Map<string, Upload>;
  /** What the user should know at the end. */
  readonly notes: string[] = [];
  private readonly stateFolder: string;
  /** Of the uploads. */
  private readonly folder: string;
  private readonly lock: string;
  private readonly known: BigUint64Array;
  private readonly file: number;

  /**
   * @param places identities of the two places, e.g. a folder and a bucket's URL; it is copied to the second one
   * @throws MigrateError where the folder cannot be written, or another run has it
   */
  constructor(stateFolder: string, [from, to]: readonly [string, string]) {
    const folder = join(stateFolder, shortHash([from, to].sort().join("\0")));
    const pairs = join(folder, "same");
    this.stateFolder = stateFolder;
    this.folder = join(folder, `uploads-${shortHash(to)}`);
    this.lock = join(folder, "process");
    try {
      mkdirSync(this.folder, { recursive: true, mode: 0o700 });
      takeLock(this.lock);
      this.uploads = readUploads(this.folder);
      this.file = openSync(pairs, "a", 0o600);
    } catch (error) {
      if (error instanceof MigrateError) throw error;
      throw new MigrateError(`the journal in "${stateFolder}" cannot be written; name a folder of yours with --state`, { cause: error });
    }
    // A torn record would shift all that follow.
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
    return join(this.folder, `${hash("sha256", key)}.json`);
  }

  /** Whether these two versions were found to have the same content, by this run's forerunners. */
  isSame(a: Item, b: Item): boolean {
    // What has no version shows no change.
    if (a.version === "" || b.version === "") return false;
    const wanted = fingerprint(a, b);
    let [low, high] = [0, this.known.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.known[middle] ?? 0n) < wanted) low = middle + 1;
      else high = middle;
    }
    return this.known[low] === wanted;
  }

  /** Remembers two versions of the same content. Written at once: whatever ends the process, it is not lost. */
  addSame(a: Item, b: Item): void {
    const bytes = Buffer.alloc(PAIR_BYTES);
    bytes.writeBigUInt64LE(fingerprint(a, b));
    try {
      writeSync(this.file, bytes);
    } catch (error) {
      // The file itself is where it should be.
      if (this.notes.length === 0) {
        const reason = error instanceof Error ? error.message : String(error);
        this.notes.push(`The journal in "${this.stateFolder}" could not be written (${reason}): the next run reads again what this one has copied.`);
      }
    }
  }
}

function shortHash(text: string): string {
  return hash("sha256", text).slice(0, 24);
}

/** Two runs with one journal would take up and end each other's uploads. */
function takeLock(file: string): void {
  for (let attempt = 1; ; attempt++) {
    try {
      writeFileSync(file, String(process.pid), { flag: "wx", mode: 0o600 });
      return;
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EEXIST") || attempt > 1) throw error;
      const holder = Number(readFileSync(file, "utf8"));
      if (isOtherProcess(holder)) {
        throw new MigrateError(`process ${holder} is copying between the same places; wait for its end (if it is none of this program, remove "${file}")`);
      }
      rmSync(file, { force: true });
    }
  }
}

/** 64 bits of a SHA-256: among a million pairs a false match has a chance of one in ten million million. */
function fingerprint(a: Item, b: Item): bigint {
  const text = [a.key, a.size, ...[a.version, b.version].sort()].join("\0");
  return BigInt(`0x${hash("sha256", text).slice(0, 2 * PAIR_BYTES)}`);
}

function readPairs(file: string): BigUint64Array {
  const bytes = readFileSync(file);
  const count = Math.min(MAX_PAIRS, Math.floor(bytes.length / PAIR_BYTES));
  const start = (Math.floor(bytes.length / PAIR_BYTES) - count) * PAIR_BYTES;
  const pairs = new BigUint64Array(count);
  for (let index = 0; index < count; index++) pairs[index] = bytes.readBigUInt64LE(start + index * PAIR_BYTES);
  return pairs.sort();
}

function readUploads(folder: string): Map<string, Upload> {
  const uploads = new Map<string, Upload>();
  for (const name of readdirSync(folder)) {
    // Not yet in its place when the run was killed, and perhaps half written; nothing of its upload was sent yet.
    if (!name.endsWith(".json")) {
      rmSync(join(folder, name));
      continue;
    }
    const upload = v.safeParse(Upload, parsed(readFileSync(join(folder, name), "utf8")));
    if (upload.success) uploads.set(upload.output.key, upload.output);
  }
  return uploads;
}

/** Undefined for what is damaged. */
function parsed(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return value;
  } catch {
    return undefined;
  }
}
