/** Writes files so that the old file stays whole until the new one is whole. */
import { randomUUID } from "node:crypto";
import type { Stats } from "node:fs";
import { open, readFile, realpath, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { messageOf } from "./errors.ts";

/** A file that cannot be written. The message names the path and says what to do. */
export class WriteError extends Error {
  override name = "WriteError";
}

/** What is wrong and what to do, by the system's code. */
const ADVICE: Readonly<Record<string, string>> = {
  ENOENT: "its folder does not exist; create the folder first",
  ENOTDIR: "a part of its path is not a folder; correct the path",
  EACCES: "you may not write there; correct the rights, or choose another path",
  EPERM: "you may not write there; correct the rights, or choose another path",
  EROFS: "the disk is read-only; choose another path",
  ENOSPC: "the disk is full; free some space",
  EDQUOT: "your disk quota is used up; free some space",
  EFBIG: "the file would be larger than the limit for files; raise the limit",
  EBUSY: "it is a mount point, which cannot be replaced; write to another file and copy it",
  ELOOP: "it is a symbolic link that leads to itself; correct the link",
  ENAMETOOLONG: "its name is too long; choose a shorter one",
};

/**
 * Writes a whole file or nothing. The new content is written beside the file, synced, read back and
 * compared, and then takes the file's place. A symbolic link stays a link. An existing file keeps
 * its mode and, if the system allows it, its owner.
 *
 * @param mode the mode of a new file
 * @returns whether others than the owner can read the file
 * @throws WriteError
 */
export async function writeWholeFile(
  path: string,
  content: string | Uint8Array,
  mode = 0o600,
): Promise<{ othersCanRead: boolean }> {
  try {
    return await replace(path, Buffer.from(content), mode);
  } catch (error) {
    throw writeError(path, error);
  }
}

/**
 * The file at a path; undefined if there is none.
 *
 * @throws WriteError if it is not a regular file
 */
export async function regularFile(path: string): Promise<Stats | undefined> {
  const found = await stat(path).catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw writeError(path, error);
  });
  if (found === undefined || found.isFile()) return found;
  const kind = found.isDirectory() ? "a folder" : "not a regular file";
  throw new WriteError(`"${path}" is ${kind}; write the path of a file`);
}

function writeError(path: string, error: unknown): WriteError {
  if (error instanceof WriteError) return error;
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  const reason = ADVICE[code] ?? messageOf(error);
  return new WriteError(`"${path}" cannot be written: ${reason}`, { cause: error });
}

async function replace(
  path: string,
  content: Buffer,
  newMode: number,
): Promise<{ othersCanRead: boolean }> {
  const old = await regularFile(path);
  const target = old === undefined ? path : await realpath(path);
  const temporary = join(dirname(target), `.${basename(target).slice(0, 200)}.${randomUUID()}`);
  const mode = old === undefined ? newMode : old.mode & 0o777;
  const file = await open(temporary, "wx", 0o600);
  try {
    await file.writeFile(content);
    if (old !== undefined) await file.chown(old.uid, old.gid).catch(() => undefined);
    await file.chmod(mode);
    await file.sync();
    await file.close();
    if (!content.equals(await readFile(temporary))) {
      throw new WriteError(`"${path}" cannot be written: the disk did not store the written bytes`);
    }
    await rename(temporary, target);
  } catch (error) {
    await file.close().catch(() => undefined);
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(target));
  // Windows has other rights than modes.
  return { othersCanRead: process.platform !== "win32" && (mode & 0o044) !== 0 };
}

/** Makes the new name durable, where the system can sync a folder. */
async function syncFolder(path: string): Promise<void> {
  let folder: FileHandle | undefined;
  try {
    folder = await open(path);
    await folder.sync();
  } catch {
    // Windows cannot open folders.
  } finally {
    await folder?.close();
  }
}
