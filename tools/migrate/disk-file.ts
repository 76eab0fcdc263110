/** Single files of a folder: read as one version, and written completely or not at all. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  fsync,
  linkSync,
  existsSync,
  lstatSync,
  open,
  openSync,
  read,
  readSync,
  readlinkSync,
  realpathSync,
  renameSync,
  unlinkSync,
  writev,
  writevSync,
  type BigIntStats,
} from "node:fs";
import { lstat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "../lib/errors.ts";
import { ContentError, lengthOf, type Chunks } from "./content.ts";
import { SkipError, type Item } from "./storage.ts";

/** Does not follow a symlink, and does not wait for the other end of a FIFO. */
const READ_NO_LINK = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** How many bytes of a large file are read at once. */
const READ_BYTES = 1024 * 1024;
/** Fewer bytes are read or written without a thread. */
export const DIRECT_BYTES = 512 * 1024;
/** After this many bytes the disk is told to store them, while the next ones arrive. */
const SYNC_BYTES = 8 * 1024 * 1024;
/** How many files are synced at once where no program syncs them together. */
const SYNCS_AT_ONCE = 4;

/** A partly written file of a run with another journal counts as in use until it is this old. */
const ABANDONED_MS = 60 * 60 * 1000;
/** Distinguishes the partly written files of this run from those of a killed run. */
const RUN = randomBytes(4).toString("hex");
let written = 0;
/** One file at a time is flushed early: a flush holds one of Node's four threads, which also write. */
let isFlushing = false;

/**
 * A new name for a file that is being written. It matches `TEMPORARY_NAME`.
 *
 * @param journal the id of the run's journal
 */
export function temporaryName(journal: string): string {
  return `.migrate-${journal}-${RUN}-${written++}.part`;
}

/**
 * Whether no run still writes this file. A run lists folders before it writes, and only one run at a
 * time has a journal. So a listed file with this journal's id is from an earlier run.
 */
export function isAbandoned(name: string, modified: number, journal: string): boolean {
  return name.startsWith(`.migrate-${journal}-`) || Date.now() - modified > ABANDONED_MS;
}

/**
 * Changes whenever the content does, except for two changes within one tick of the file system's
 * clock.
 */
export function versionOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return [dev, ino, size, mtimeNs, ctimeNs].join("-");
}

/** Whether a path still has what a listing found there. */
export function isUnchanged({ at, version }: Item, path: string, now: BigIntStats): boolean {
  if (!now.isSymbolicLink()) return at === undefined && versionOf(now) === version;
  if (at === undefined) return false;
  // The same run may have just deleted its target.
  if (!existsSync(path))
    return resolve(realpathSync.native(dirname(path)), readlinkSync(path)) === at;
  if (realpathSync.native(path) !== at) return false;
  return versionOf(lstatSync(at, { bigint: true })) === version;
}

const openFile = promisify(open);
const readBytes = promisify(read);
const writeBuffers = promisify(writev);
const flushToDisk = promisify(fdatasync);
const flushFile = promisify(fsync);
const runProgram = promisify(execFile);

/** A disk is slow if its calls take longer on average. Those of a local one take 0.01 ms. */
const SLOW_CALL_MS = 0.05;
/** A disk is slow if it reads fewer bytes in a millisecond. */
const SLOW_READ = 500_000;
/** Delays of the system that do not make a disk slow, in milliseconds. */
const GRACE_MS = 10;

const CHANGED = "it changed while it was read";

/**
 * Looks at the files of one disk and reads them. The calls are direct as long as the disk is fast,
 * because to pass a call to a thread costs more. A slow disk, e.g. of another machine, answers many
 * calls at a time. Large reads are never direct.
 */
export class DiskReader {
  private ms = 0;
  private allowedMs = GRACE_MS;

  lstat(path: string): BigIntStats | Promise<BigIntStats> {
    const options = { bigint: true } as const;
    return this.isSlow ? lstat(path, options) : this.direct(() => lstatSync(path, options));
  }

  /** Reads a file of this size and version. Ends with ContentError if it changes meanwhile. */
  async *read(
    path: string,
    size: number,
    version: string,
    pieceSize = READ_BYTES,
  ): AsyncGenerator<Buffer> {
    const file = await this.open(path);
    try {
      expectVersion(file, version);
      const buffer = Buffer.allocUnsafe(Math.min(pieceSize, size));
      for (let at = 0; at < size; at += buffer.length) {
        const piece = buffer.subarray(0, size - at);
        await this.fill(file, piece, at);
        yield piece;
      }
      expectVersion(file, version);
    } finally {
      closeSync(file);
    }
  }

  private open(path: string): number | Promise<number> {
    return this.isSlow
      ? openFile(path, READ_NO_LINK)
      : this.direct(() => openSync(path, READ_NO_LINK));
  }

  /** Fills a buffer with a file's bytes from this position on. */
  private async fill(file: number, buffer: Buffer, at: number): Promise<void> {
    for (let filled = 0; filled < buffer.length; ) {
      const rest = buffer.subarray(filled);
      const bytesRead =
        this.isSlow || rest.length >= DIRECT_BYTES
          ? (await readBytes(file, rest, 0, rest.length, at + filled)).bytesRead
          : this.direct(() => readSync(file, rest, 0, rest.length, at + filled), rest.length);
      if (bytesRead === 0) throw new ContentError(CHANGED);
      filled += bytesRead;
    }
  }

  private get isSlow(): boolean {
    return this.ms > this.allowedMs;
  }

  private direct<T>(call: () => T, bytes = 0): T {
    const start = performance.now();
    try {
      return call();
    } finally {
      this.ms += performance.now() - start;
      this.allowedMs += SLOW_CALL_MS + bytes / SLOW_READ;
    }
  }
}

function expectVersion(file: number, version: string): void {
  const isSame = versionOf(fstatSync(file, { bigint: true })) === version;
  if (!isSame) throw new ContentError(CHANGED);
}

/** Writes a small content to an open file and closes it. */
export function writeWhole(file: number, chunks: readonly Buffer[]): void {
  try {
    writeChunks(file, chunks);
  } finally {
    closeSync(file);
  }
}

/**
 * Writes a whole content to an open file and closes it. Most of a large file is on the disk then,
 * and the rest after `syncAll`.
 */
export async function writeAll(file: number, path: string, chunks: Chunks): Promise<void> {
  let syncing = Promise.resolve();
  try {
    let held: Buffer[] = [];
    let [length, unsynced] = [0, 0];
    for await (const chunk of chunks) {
      held.push(chunk);
      length += chunk.length;
      if (length < DIRECT_BYTES) continue;
      expectWritten((await writeBuffers(file, held)).bytesWritten, length);
      unsynced += length;
      held = [];
      length = 0;
      if (unsynced >= SYNC_BYTES && !isFlushing) {
        await syncing;
        syncing = flushEarly(file);
        // Its failure is thrown where it is awaited.
        syncing.catch(() => undefined);
        unsynced = 0;
      }
    }
    writeChunks(file, held);
    await syncing;
    expectFileAt(path, file);
  } finally {
    await Promise.allSettled([syncing]);
    closeSync(file);
  }
}

async function flushEarly(file: number): Promise<void> {
  isFlushing = true;
  try {
    await flushToDisk(file);
  } finally {
    isFlushing = false;
  }
}

function writeChunks(file: number, chunks: readonly Buffer[]): void {
  const length = lengthOf(chunks);
  if (length > 0) expectWritten(writevSync(file, chunks), length);
}

function expectWritten(bytesWritten: number, length: number): void {
  if (bytesWritten === length) return;
  throw new Error(`the disk wrote ${bytesWritten} of ${length} bytes; it may be full`);
}

/**
 * The file that is moved to its target must be the one that was written, not another run's or that
 * of a replaced folder.
 */
function expectFileAt(path: string, file: number): void {
  const now = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  const { dev, ino } = fstatSync(file, { bigint: true });
  if (now?.dev === dev && now.ino === ino) return;
  throw new ContentError(`the partly written "${path}" was removed or replaced during this run`);
}

/**
 * Gives a written file its name. This is synchronous, so that if the disk treats two names as the
 * same, the second file sees the first one.
 *
 * @param previous what the plan found at the target
 * @throws SkipError when the target has something else
 */
export function place(temporary: string, target: string, previous: Item | undefined): void {
  if (!previous && isLinked(temporary, target)) {
    unlinkSync(temporary);
    return;
  }
  expectFree(target, previous);
  renameSync(temporary, target);
}

/** Gives a file a second name. Returns false if that name exists, or without hard links. */
function isLinked(path: string, name: string): boolean {
  try {
    linkSync(path, name);
    return true;
  } catch {
    return false;
  }
}

/**
 * Waits until written files are on the disk, with their names.
 *
 * @param folders one on each file system of the files
 */
export async function syncAll(paths: readonly string[], folders: Iterable<string>): Promise<void> {
  // On other systems this syncs nothing, or does not wait.
  if (process.platform === "linux" && (await isSynced([...folders]))) return;
  const parents = new Set(paths.flatMap(parentsOf));
  for (const group of [paths, [...parents]]) {
    const rest = group.values();
    const worker = async () => {
      for (const path of rest) await syncOne(path);
    };
    await Promise.all(Array.from({ length: SYNCS_AT_ONCE }, worker));
  }
}

/** Whether the `sync` program synced whole file systems: one call instead of one a file. */
async function isSynced(folders: string[]): Promise<boolean> {
  try {
    await runProgram("sync", ["-f", "--", ...folders]);
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT" || /option|usage/i.test(messageOf(error))) return false;
    throw error;
  }
}

function parentsOf(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [parent, ...parentsOf(parent)];
}

/** A file may have been removed since. A folder above the root may be closed to this user. */
async function syncOne(path: string): Promise<void> {
  const file = await openFile(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch(
    (error: unknown) => {
      if (/^(?:ENOENT|ENOTDIR|ELOOP|EACCES|EPERM)$/.test(codeOf(error) ?? "")) return undefined;
      throw error;
    },
  );
  if (file === undefined) return;
  try {
    await flushFile(file);
  } finally {
    closeSync(file);
  }
}

/** Expects that a target is free, or has the file that the plan found there. */
function expectFree(target: string, previous: Item | undefined): void {
  const now = lstatSync(target, { bigint: true, throwIfNoEntry: false });
  if (!now) return;
  if (now.isDirectory()) throw new SkipError(`"${target}" is a folder, but should be a file`);
  if (!previous) {
    throw new SkipError(
      `"${target}" exists: it was created during this run, ` +
        "or this disk treats another name as the same",
    );
  }
  if (isUnchanged(previous, target, now)) return;
  throw new SkipError(`"${target}" was changed during this run`);
}

const NAME_ERRORS: Readonly<Record<string, string>> = {
  EISDIR: "its path is a folder",
  ENOTDIR: "one of its folders is a file",
  ENOTEMPTY: "its path is a folder",
  ENAMETOOLONG: "its name is too long for this disk",
  EILSEQ: "this disk does not accept its name",
};

/** An error about a file's name as SkipError. Other errors stay as they are. */
export function asSkipError(error: unknown): unknown {
  const reason = NAME_ERRORS[codeOf(error) ?? ""];
  return reason === undefined ? error : new SkipError(reason, { cause: error });
}

/** Node's code of a file system error, e.g. `ENOENT`. */
export function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
