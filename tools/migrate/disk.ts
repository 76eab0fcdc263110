/** authentik's files in a folder. */
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync, constants, fdatasync, fstatSync, lstatSync, open, read, readFileSync, readlinkSync, realpathSync, renameSync, unlinkSync, writev,
  type BigIntStats,
} from "node:fs";
import { lstat, mkdir, opendir, readdir, realpath, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join, resolve, sep } from "node:path";
import { promisify } from "node:util";
import type { Usage } from "../../authentik/objects.ts";
import { ContentError, type Content } from "./content.ts";
import { keyFlaw, keyOfPath, pathOfKey, recogniseLayout, TEMPORARY_NAME, usagesOf, type Layout } from "./layout.ts";
import { compareKeys, type Item } from "./plan.ts";
import { MigrateError, Refusal, type Place, type Refuse } from "./place.ts";
import { isOtherProcess } from "./process.ts";

/** Follows no symlink, and does not wait for the other end of a FIFO. */
const READ_NO_LINK = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/**
 * What disks, NAS and desktops have at the top of a volume, where authentik has its tenants' schemas: `lost+found`, `.Trash-1000`,
 * `.snapshots`, `@eaDir`, `#recycle`, `$RECYCLE.BIN`. Any other name may be the schema of `AUTHENTIK_POSTGRESQL__DEFAULT_SCHEMA`.
 */
const NO_SCHEMA = /^(?:[.@#$].*|lost\+found|System Volume Information)\/?$/s;
/** How many files are looked at, and how many bytes are read or written, at a time. */
const STATS_AT_A_TIME = 64;
const READ_BYTES = 1024 * 1024;
const WRITE_BYTES = 256 * 1024;
/** After so many the disk is told to begin, while the next ones come: at the end it would be waited for. */
const SYNC_BYTES = 32 * 1024 * 1024;

/** A half-written file of a process that cannot be seen is another's until it has not grown for so long. */
const ABANDONED_MS = 60 * 60 * 1000;
/** Which processes have ids of their own: those of a host since it started, or of a container. */
const PROCESSES = createHash("sha256")
  .update([hostname(), orNothing(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8")), orNothing(() => readlinkSync("/proc/self/ns/pid"))].join("\n"))
  .digest("hex").slice(0, 8);
/** The beginning of the names of this process's half-written files, which no other run's have. */
const TEMPORARY_PREFIX = `.migrate-${process.pid}-${PROCESSES}${randomBytes(4).toString("hex")}-`;
let written = 0;

/** A folder with authentik's files, which may not be there yet. */
export class Disk implements Place {
  readonly kind = "disk";
  readonly usages: readonly Usage[];
  readonly name: string;
  private readonly root: string;
  /** Of the root when it was opened; undefined where it was not there. */
  private readonly rootId: string | undefined;
  private readonly layout: Layout;
  private readonly readOnly: boolean;
  /** Folders that were made or found, inside the root. */
  private readonly folders = new Set<string>();

  private constructor(root: string, rootId: string | undefined, layout: Layout, readOnly: boolean) {
    this.root = root;
    this.rootId = rootId;
    this.readOnly = readOnly;
    this.name = root;
    this.layout = layout;
    this.usages = usagesOf(layout);
  }

  /**
   * The folder at this path, in the layout that it shows or, where it is empty or not there, in the one that is given, else
   * `media` for a folder of that name, else `data`.
   *
   * @param mustExist for the side that is read
   * @param readOnly leaves also what a killed run has left there
   * @throws MigrateError for a folder that is not authentik's
   */
  static async open(path: string, { layout, mustExist, readOnly = false }: { layout?: Layout | undefined; mustExist: boolean; readOnly?: boolean }): Promise<Disk> {
    const root = await (mustExist ? realpath(path) : futureRealpath(resolve(path))).catch((error: unknown) => {
      throw new MigrateError(`the folder "${path}" is not there; write the path of authentik's /media or /data folder`, { cause: error });
    });
    const { names, id } = await lookInto(root).catch((error: unknown) => {
      if (!mustExist && codeOf(error) === "ENOENT") return { names: [], id: undefined };
      throw new MigrateError(`"${path}" cannot be read as a folder`, { cause: error });
    });
    if (layout) return new Disk(root, id, layout, readOnly);
    const own = names.filter((name) => !NO_SCHEMA.test(name));
    const recognised = recogniseAt(path, own);
    if (recognised) return new Disk(root, id, recognised, readOnly);
    if (own.length > 0) {
      throw new MigrateError(`the folder "${path}" has neither "public" nor "media" nor "reports" in it, so it is not authentik's; write the right one, or say with --layout what it is`);
    }
    return new Disk(root, id, basename(root) === "media" ? "media" : "data", readOnly);
  }

  async *list(usage: Usage, refuse: Refuse): AsyncGenerator<Item> {
    const folder = this.layout === "data" ? usage : "";
    const full = join(this.root, folder);
    await this.expectRoot();
    if (await isMissing(full)) return;
    const flaw = await this.flawOf(full);
    if (flaw === undefined) yield* this.walk(folder, refuse, (name) => !NO_SCHEMA.test(name));
    else refuse(usage, flaw);
  }

  /** A disk that went after it was opened, e.g. unmounted, leaves an empty folder in its place. */
  private async expectRoot(): Promise<void> {
    if (this.rootId === undefined) return;
    const now = await idAt(this.root).catch((error: unknown) => {
      throw new MigrateError(`"${this.root}" went away while this ran`, { cause: error });
    });
    if (now !== this.rootId) throw new MigrateError(`"${this.root}" was replaced while this ran, e.g. unmounted`);
  }

  /** Why a folder cannot be listed, or undefined. */
  private async flawOf(folder: string): Promise<string | undefined> {
    try {
      const real = await realpath(folder);
      if (!this.isInside(real)) return `it is a symlink out of "${this.root}"; name the folder it points to, with --layout media for media`;
      return (await lstat(real)).isDirectory() ? undefined : "it is a file, and would have to be a folder";
    } catch (error) {
      return `the folder cannot be reached (${wordsOf(error)})`;
    }
  }

  private async *walk(folder: string, refuse: Refuse, isOurs: (name: string) => boolean = () => true): AsyncGenerator<Item> {
    const full = join(this.root, folder);
    try {
      const names = (await namesIn(full)).filter(isOurs);
      this.expectInside(full);
      for (let start = 0; start < names.length; start += STATS_AT_A_TIME) {
        const batch = names.slice(start, start + STATS_AT_A_TIME);
        const items = await Promise.all(batch.map(async (name) => (name.endsWith("/") ? undefined : this.look(join(folder, name), refuse))));
        this.expectInside(full);
        for (const [index, name] of batch.entries()) {
          const item = items[index];
          if (item) yield item;
          else if (name.endsWith("/")) yield* this.walk(join(folder, name), refuse);
        }
      }
    } catch (error) {
      const reason = error instanceof Refusal ? error.message : `the folder cannot be read (${wordsOf(error)})`;
      refuse(keyOfPath(join(folder, "/"), this.layout), reason);
    }
  }

  /** The item of a path that is not a folder; undefined, with a reason told, for what cannot be copied. */
  private async look(path: string, refuse: Refuse): Promise<Item | undefined> {
    const full = join(this.root, path);
    const key = keyOfPath(path, this.layout);
    if (TEMPORARY_NAME.test(basename(path))) {
      this.removeStale(full);
      return undefined;
    }
    const stats = await lstat(full, { bigint: true }).catch((error: unknown) => {
      refuse(key, path.includes("\uFFFD") ? "its name is not valid UTF-8" : `it cannot be looked at (${wordsOf(error)})`);
    });
    if (!stats) return undefined;
    const flaw = keyFlaw(key);
    if (flaw !== undefined) refuse(key, flaw);
    else if (stats.isSymbolicLink()) return this.follow(key, full, refuse);
    else if (!stats.isFile()) refuse(key, "it is neither a file nor a folder");
    else return { key, size: Number(stats.size), version: versionOf(stats) };
    return undefined;
  }

  /** Removes what a killed run has left, where that is possible. */
  private removeStale(path: string): void {
    if (this.readOnly) return;
    try {
      this.expectInside(dirname(path));
      if (isAbandoned(basename(path), lstatSync(path).mtimeMs)) unlinkSync(path);
    } catch {
      // A source may not be writable. No listing shows the file.
    }
  }

  private async follow(key: string, link: string, refuse: Refuse): Promise<Item | undefined> {
    const at = await realpath(link).catch(() => undefined);
    const stats = at === undefined ? undefined : await lstat(at, { bigint: true }).catch(() => undefined);
    if (at === undefined || !stats) refuse(key, "it is a symlink to nothing");
    else if (!this.isInside(at)) refuse(key, `it is a symlink out of "${this.root}"`);
    else if (stats.isFile()) return { key, size: Number(stats.size), version: versionOf(stats), at };
    else refuse(key, stats.isDirectory() ? "it is a symlink to a folder" : "it is a symlink to neither a file nor a folder");
    return undefined;
  }

  private isInside(path: string): boolean {
    return path === this.root || path.startsWith(this.root.endsWith(sep) ? this.root : this.root + sep);
  }

  private pathOf(key: string): string {
    return join(this.root, pathOfKey(key, this.layout));
  }

  async refresh(item: Item): Promise<Item> {
    const path = item.at ?? this.pathOf(item.key);
    const stats = await lstat(path, { bigint: true });
    if (!stats.isFile()) throw new Refusal("it is no file any more");
    // What is read is the file of this version, or nothing: so it is enough to look here.
    this.expectInside(dirname(path));
    return { ...item, size: Number(stats.size), version: versionOf(stats) };
  }

  read(item: Item): Content {
    const { size, version } = item;
    return { size, version, chunks: readFileAs(item.at ?? this.pathOf(item.key), size, version) };
  }

  async write(key: string, content: Content, previous: Item | undefined): Promise<string> {
    const [, schema = ""] = key.split("/");
    if (NO_SCHEMA.test(schema)) throw new Refusal(`"${schema}" is a name that disks have for themselves, and is left alone`);
    const target = this.pathOf(key);
    const folder = dirname(target);
    await this.makeFolder(folder, key);
    this.expectInside(folder);
    const temporary = join(folder, `${TEMPORARY_PREFIX}${written++}.part`);
    const file = await openFile(temporary, "wx", 0o644).catch((error: unknown) => { throw asRefusal(error); });
    try {
      await writeAll(file, temporary, content);
      // From here to the renaming nothing waits, so that of two names that the disk takes for one the second sees the first.
      this.expectInside(folder);
      expectFree(target, previous);
      renameSync(temporary, target);
      return versionOf(lstatSync(target, { bigint: true }));
    } catch (error) {
      await rm(temporary, { force: true });
      throw asRefusal(error);
    }
  }

  /**
   * A folder may become a symlink at any moment. Between this and what is done in the folder there are some microseconds, which
   * only `openat` and its like would close; Node has none of them.
   */
  private expectInside(folder: string): void {
    if (!this.isInside(realpathSync.native(folder))) throw new Refusal(`"${folder}" is a symlink out of "${this.root}"`);
  }

  /** Makes a folder, unless a symlink on the way leads out of the root. */
  private async makeFolder(folder: string, key: string): Promise<void> {
    if (this.folders.has(folder)) return;
    if (folder !== this.root) {
      await this.makeFolder(dirname(folder), key);
      this.expectInside(dirname(folder));
    }
    await mkdir(folder, { recursive: folder === this.root }).catch(async (error: unknown) => {
      if (codeOf(error) !== "EEXIST") throw asRefusal(error);
      // Of two folders that the disk takes for one, the files of the second would come back under the first one's name.
      if (!(await readdir(dirname(folder))).includes(basename(folder))) throw new Refusal(`this disk takes another name for that of "${folder}"`);
    });
    const real = await realpath(folder).catch((error: unknown) => {
      throw codeOf(error) === "ENOENT" ? new Refusal(`"${folder}" is a symlink to nothing`, { cause: error }) : error;
    });
    if (!this.isInside(real)) throw new Refusal(`"${folder}" is a symlink out of "${this.root}"`);
    if (!(await lstat(real)).isDirectory()) throw new Refusal(`"${folder}" is a file, and would have to be a folder`);
    this.folders.add(folder);
  }

  async remove(item: Item): Promise<void> {
    const path = this.pathOf(item.key);
    if (await isMissing(path)) return;
    this.expectInside(dirname(path));
    const there = lstatSync(path, { bigint: true });
    if (!isStill(item, path, there)) throw new Refusal(`"${path}" was changed while this ran`);
    // A symlink is removed itself, not what it points to.
    unlinkSync(path);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** What only Linux has. */
function orNothing(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

/** The real path that a path has once it is made. */
async function futureRealpath(path: string): Promise<string> {
  return realpath(path).catch(async (error: unknown) => {
    if (codeOf(error) !== "ENOENT") throw error;
    return join(await futureRealpath(dirname(path)), basename(path));
  });
}

function recogniseAt(path: string, names: readonly string[]): Layout | undefined {
  try {
    return recogniseLayout(names);
  } catch (error) {
    throw new MigrateError(`the folder "${path}" ${wordsOf(error)}`, { cause: error });
  }
}

/** Whether there surely is nothing. What cannot be reached is not missing: `--delete` deletes by what is missing. */
async function isMissing(path: string): Promise<boolean> {
  return lstat(path).then(() => false, (error: unknown) => codeOf(error) === "ENOENT");
}

/** The names in a folder, and which one it is. */
async function lookInto(folder: string): Promise<{ names: string[]; id: string }> {
  return { names: await readdir(folder), id: await idAt(folder) };
}

/** Which folder it is. Fails where its entries cannot be looked at: with mode 0444 only their names can be read. */
async function idAt(folder: string): Promise<string> {
  const { dev, ino } = await lstat(`${folder}${sep}.`);
  return `${dev}-${ino}`;
}

/** Names in a folder, in the order of keys; those of folders end with a slash, which decides their place. */
async function namesIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of await opendir(folder, { bufferSize: 256 })) names.push(entry.isDirectory() ? `${entry.name}/` : entry.name);
  return names.sort(compareKeys);
}

/** Is another one whenever the content is, short of a second change within one tick of the file system's clock. */
function versionOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string {
  return [dev, ino, size, mtimeNs, ctimeNs].join("-");
}

/** Whether nobody writes this file any more. A process with its id tells only where it is one of those that can be seen from here. */
function isAbandoned(name: string, modified: number): boolean {
  if (name.startsWith(TEMPORARY_PREFIX)) return false;
  const [, id = ""] = TEMPORARY_NAME.exec(name) ?? [];
  const isOurs = name.startsWith(`.migrate-${id}-${PROCESSES}`);
  // This process, which has another prefix, may have the id of one that is gone.
  return (isOurs && !isOtherProcess(Number(id))) || Date.now() - modified > ABANDONED_MS;
}

const openFile = promisify(open);
const readBytes = promisify(read);
const writeBuffers = promisify(writev);
const flushToDisk = promisify(fdatasync);

// Only what may wait for a slow disk is asynchronous: for small files the rest costs more in threads than it takes.

async function* readFileAs(path: string, size: number, version: string): AsyncGenerator<Buffer> {
  const file = await openFile(path, READ_NO_LINK);
  try {
    expectVersion(file, version);
    const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, size));
    for (let at = 0; at < size;) {
      const { bytesRead } = await readBytes(file, buffer, 0, Math.min(buffer.length, size - at), at);
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
  if (versionOf(fstatSync(file, { bigint: true })) !== version) throw new ContentError("it changed while it was read");
}

/** Writes a whole content to an open file, and closes it. */
async function writeAll(file: number, path: string, content: Content): Promise<void> {
  let syncing = Promise.resolve();
  try {
    let held: Buffer[] = [];
    let [length, unsynced] = [0, 0];
    const flush = async () => {
      const { bytesWritten } = length > 0 ? await writeBuffers(file, held) : { bytesWritten: 0 };
      if (bytesWritten !== length) throw new Error(`the disk took ${bytesWritten} of ${length} bytes; it may be full`);
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

/** What goes into place must be the file that was written, and not what another run or a swapped folder has under its name. */
function expectFileAt(path: string, file: number): void {
  const there = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  const { dev, ino } = fstatSync(file, { bigint: true });
  if (there?.dev !== dev || there.ino !== ino) throw new ContentError(`the half-written "${path}" was taken away while this ran`);
}

function expectFree(target: string, previous: Item | undefined): void {
  const there = lstatSync(target, { bigint: true, throwIfNoEntry: false });
  if (there?.isDirectory()) throw new Refusal(`"${target}" is a folder, and would have to be a file`);
  if (there && !previous) throw new Refusal(`"${target}" is there already: it came while this ran, or this disk takes another name for the same`);
  if (there && previous && !isStill(previous, target, there)) throw new Refusal(`"${target}" was changed while this ran`);
}

/** Whether a path has what a listing found there. */
function isStill({ at, version }: Item, path: string, there: BigIntStats): boolean {
  if (!there.isSymbolicLink()) return at === undefined && versionOf(there) === version;
  return at !== undefined && realpathSync.native(path) === at && versionOf(lstatSync(at, { bigint: true })) === version;
}

const NAME_ERRORS: Readonly<Record<string, string>> = {
  EISDIR: "a folder is in its place",
  ENOTDIR: "a file is in the place of one of its folders",
  ENOTEMPTY: "a folder is in its place",
  ENAMETOOLONG: "its name is too long for this disk",
  EILSEQ: "this disk does not take its name",
};

function asRefusal(error: unknown): unknown {
  const reason = NAME_ERRORS[codeOf(error) ?? ""];
  return reason === undefined ? error : new Refusal(reason, { cause: error });
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
