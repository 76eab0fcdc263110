/** Single files of a folder: read as one version, and written completely or not at all. */
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  lstatSync,
  open,
  read,
  readFileSync,
  readlinkSync,
  realpathSync,
  writev,
  type BigIntStats,
} from "node:fs";
import { hostname } from "node:os";
import { promisify } from "node:util";
import { ContentError, type Content } from "./content.ts";
import { TEMPORARY_NAME } from "./layout.ts";
import { isOtherProcess } from "./process.ts";
import { SkipError, type Item } from "./storage.ts";

/** Does not follow a symlink, and does not wait for the other end of a FIFO. */
const READ_NO_LINK = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** How many bytes are read or written at once. */
const READ_BYTES = 1024 * 1024;
const WRITE_BYTES = 256 * 1024;
/** After so many bytes the disk is told to store them, while the next ones arrive. */
const SYNC_BYTES = 32 * 1024 * 1024;

/** A partly written file of an invisible process is in use until it has not grown for so long. */
const ABANDONED_MS = 60 * 60 * 1000;
/**
 * Identifies the processes with a common set of ids: those of a host since it started, or of a
 * container.
 */
const PROCESSES = createHash("sha256")
  .update(
    [
      hostname(),
      ifReadable(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8")),
      ifReadable(() => readlinkSync("/proc/self/ns/pid")),
    ].join("\n"),
  )
  .digest("hex")
  .slice(0, 8);
/** Begins the names of this process's partly written files. No other run has the same. */
const TEMPORARY_PREFIX = `.migrate-${process.pid}-${PROCESSES}${randomBytes(4).toString("hex")}-`;
let written = 0;

/** Only Linux has these files. */
function ifReadable(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

/** A new name for a file that is being written. It matches `TEMPORARY_NAME`. */
export function temporaryName(): string {
  return `${TEMPORARY_PREFIX}${written++}.part`;
}

/**
 * Whether no process writes this file any more. Whether a process with its id exists counts only if
 * that process would be visible from here.
 */
export function isAbandoned(name: string, modified: number): boolean {
  if (name.startsWith(TEMPORARY_PREFIX)) return false;
  const [, id = ""] = TEMPORARY_NAME.exec(name) ?? [];
  const isVisible = name.startsWith(`.migrate-${id}-${PROCESSES}`);
  // This process, with its other prefix, may have the id of one that has ended.
  return (isVisible && !isOtherProcess(Number(id))) || Date.now() - modified > ABANDONED_MS;
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
  if (at === undefined || realpathSync.native(path) !== at) return false;
  return versionOf(lstatSync(at, { bigint: true })) === version;
}

export const openFile = promisify(open);
const readBytes = promisify(read);
const writeBuffers = promisify(writev);
const flushToDisk = promisify(fdatasync);

// Only what may wait for a slow disk is asynchronous. For small files, passing the other calls to a
// thread costs more than the calls.

/** Reads a file of this size and version. Ends with ContentError if it changes meanwhile. */
export async function* readFileAs(
  path: string,
  size: number,
  version: string,
): AsyncGenerator<Buffer> {
  const file = await openFile(path, READ_NO_LINK);
  try {
    expectVersion(file, version);
    const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, size));
    for (let at = 0; at < size; ) {
      const length = Math.min(buffer.length, size - at);
      const { bytesRead } = await readBytes(file, buffer, 0, length, at);
      if (bytesRead === 0) break;
      at += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
    expectVersion(file, version);
  } finally {
    closeSync(file);
  }
}

function expectVersion(file: number, version: string): void {
  const isSame = versionOf(fstatSync(file, { bigint: true })) === version;
  if (!isSame) throw new ContentError("it changed while it was read");
}

/** Writes a whole content to an open file, waits until the disk has stored it, and closes it. */
export async function writeAll(file: number, path: string, content: Content): Promise<void> {
  let syncing = Promise.resolve();
  try {
    let held: Buffer[] = [];
    let [length, unsynced] = [0, 0];
    const flush = async () => {
      const { bytesWritten } = length > 0 ? await writeBuffers(file, held) : { bytesWritten: 0 };
      if (bytesWritten !== length) throw diskFull(bytesWritten, length);
      unsynced += length;
      held = [];
      length = 0;
    };
    for await (const chunk of content.chunks) {
      held.push(chunk);
      length += chunk.length;
      if (length >= WRITE_BYTES) await flush();
      if (unsynced >= SYNC_BYTES) {
        await syncing;
        syncing = flushToDisk(file);
        // Its failure is thrown where it is awaited.
        syncing.catch(() => undefined);
        unsynced = 0;
      }
    }
    await flush();
    await syncing;
    await flushToDisk(file);
    expectFileAt(path, file);
  } finally {
    await Promise.allSettled([syncing]);
    closeSync(file);
  }
}

function diskFull(bytesWritten: number, length: number): Error {
  return new Error(`the disk wrote ${bytesWritten} of ${length} bytes; it may be full`);
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

/** Expects at a target only what the plan found there, or nothing. */
export function expectFree(target: string, previous: Item | undefined): void {
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
