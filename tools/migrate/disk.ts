/** authentik's files in a folder. */
import { randomBytes } from "node:crypto";
import { lstatSync, openSync, realpathSync, rmSync, unlinkSync, type BigIntStats } from "node:fs";
import { lstat, mkdir, opendir, readdir, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { messageOf } from "../lib/errors.ts";
import { isSchemaName, type Usage } from "../../authentik/objects.ts";
import { allOf, type Content } from "./content.ts";
import {
  asSkipError,
  codeOf,
  DIRECT_BYTES,
  DiskReader,
  isAbandoned,
  isUnchanged,
  place,
  syncAll,
  temporaryName,
  versionOf,
  writeAll,
  writeWhole,
} from "./disk-file.ts";
import {
  invalidKeyReason,
  keyOfPath,
  noSchemaReason,
  pathOfKey,
  recognizeLayout,
  TEMPORARY_NAME,
  usagesOf,
  type Layout,
} from "./layout.ts";
import type { Journal } from "./journal.ts";
import { compareKeys } from "./plan.ts";
import { MigrateError, SkipError, type Item, type Skip } from "./storage.ts";

/**
 * Names that disks, NAS and desktops use at the top of a volume, where authentik has its tenants'
 * schemas: `lost+found`, `.Trash-1000`, `.snapshots`, `@eaDir`, `#recycle`, `$RECYCLE.BIN`.
 */
const NO_SCHEMA = /^(?:[.@#$].*|lost\+found|System Volume Information)\/?$/s;
/** How many files are examined at once. */
const STATS_AT_ONCE = 64;

export interface DiskOptions {
  /** For a folder that does not show its layout. */
  layout?: Layout | undefined;
  /** Names of schemas other than `public`. */
  schemas?: readonly string[];
  /** For the source. */
  mustExist: boolean;
  /** Leaves the partly written files of killed runs. */
  readOnly?: boolean;
}

/** A folder with authentik's files. A destination may not exist yet. */
export class Disk {
  readonly kind = "disk";
  readonly usages: readonly Usage[];
  /** Its path. Also its identity. */
  readonly name: string;
  private readonly root: string;
  /** Identity of the root when it was opened; undefined if it did not exist. */
  private readonly rootId: string | undefined;
  /** The folders that are not a schema's. They are neither read nor changed. */
  readonly otherFolders = new Set<string>();
  private readonly layout: Layout;
  private readonly schemas: readonly string[];
  private readonly readOnly: boolean;
  /** Folders that are made and checked, or are being made. */
  private readonly folders = new Map<string, Promise<void>>();
  /** One folder on each of their file systems. */
  private readonly fileSystems = new Map<number, string>();
  private readonly reader = new DiskReader();
  /** Partly written files. */
  private readonly parts = new Set<string>();
  /** Written files that the disk may not have stored yet. */
  private written: string[] = [];
  private isSyncing = false;
  /** Of a run without a journal, until there is one. */
  private journalId = randomBytes(8).toString("hex");

  private constructor(
    root: string,
    rootId: string | undefined,
    layout: Layout,
    { readOnly = false, schemas = [] }: DiskOptions,
  ) {
    this.root = root;
    this.rootId = rootId;
    this.readOnly = readOnly;
    this.name = root;
    this.layout = layout;
    this.schemas = schemas;
    this.usages = usagesOf(layout);
  }

  /**
   * The folder at this path. Its layout is the one that it shows. If it is empty or missing, it is
   * the given layout, else `media` for a missing folder of that name, else `data`.
   *
   * @throws MigrateError for a folder that is not authentik's
   */
  static async open(path: string, options: DiskOptions): Promise<Disk> {
    const { mustExist } = options;
    const root = await (mustExist ? realpath(path) : futureRealpath(resolve(path))).catch(
      (error: unknown) => {
        const advice = "write the path of authentik's /media or /data folder";
        throw new MigrateError(`the folder "${path}" does not exist; ${advice}`, { cause: error });
      },
    );
    const { names, id } = await readFolder(root).catch((error: unknown) => {
      if (!mustExist && codeOf(error) === "ENOENT") return { names: [], id: undefined };
      throw new MigrateError(`"${path}" cannot be read as a folder`, { cause: error });
    });
    const exists = id !== undefined;
    const layout = options.layout ?? layoutOf(path, root, names, exists, options.schemas);
    return new Disk(root, id, layout, options);
  }

  /** Items in the order of `compareKeys`. */
  async *list(usage: Usage, skip: Skip): AsyncGenerator<Item> {
    const folder = this.layout === "data" ? usage : "";
    const full = join(this.root, folder);
    await this.expectRoot();
    if (await isMissing(full)) return;
    const reason = await this.unreadableReason(full);
    if (reason !== undefined) skip(usage, reason);
    else yield* this.walk(folder, skip, (name) => this.isOurs(usage, name, skip));
  }

  /** Whether an entry is a schema's folder, or a file. */
  private isOurs(usage: Usage, name: string, skip: Skip): boolean {
    const schema = name.replace(/\/$/, "");
    if (isSchemaName(schema, this.schemas)) return true;
    const isOfDisk = NO_SCHEMA.test(schema);
    if (!isOfDisk && schema === name) return true;
    this.otherFolders.add(pathOfKey(`${usage}/${name}`, this.layout));
    if (!isOfDisk && this.schemas.length === 0) skip(`${usage}/${name}`, noSchemaReason(schema));
    return false;
  }

  /** A disk that was unmounted after it was opened leaves an empty folder. */
  private async expectRoot(): Promise<void> {
    if (this.rootId === undefined) return;
    const now = await idAt(this.root).catch((error: unknown) => {
      throw new MigrateError(`"${this.root}" disappeared during this run`, { cause: error });
    });
    if (now === this.rootId) return;
    throw new MigrateError(`"${this.root}" was replaced during this run, e.g. unmounted`);
  }

  /** Why a folder cannot be listed; undefined if it can. */
  private async unreadableReason(folder: string): Promise<string | undefined> {
    try {
      const real = await realpath(folder);
      if (!this.isInside(real)) {
        const advice = "name the folder that it points to, with --layout media for media";
        return `${this.leadsOut("it")}; ${advice}`;
      }
      const isFolder = (await lstat(real)).isDirectory();
      return isFolder ? undefined : "it is a file, but should be a folder";
    } catch (error) {
      return `the folder cannot be read (${messageOf(error)})`;
    }
  }

  private leadsOut(path: string): string {
    return `${path} is a symlink to a place outside of "${this.root}"`;
  }

  private async *walk(
    folder: string,
    skip: Skip,
    isOurs: (name: string) => boolean = () => true,
  ): AsyncGenerator<Item> {
    const full = join(this.root, folder);
    try {
      const names = (await namesIn(full)).filter(isOurs);
      this.expectInside(full);
      for (let start = 0; start < names.length; start += STATS_AT_ONCE) {
        const batch = names.slice(start, start + STATS_AT_ONCE);
        const items = await Promise.all(batch.map((name) => this.examine(folder, name, skip)));
        this.expectInside(full);
        for (const [index, name] of batch.entries()) {
          const item = items[index];
          if (item) yield item;
          else if (name.endsWith("/")) yield* this.walk(join(folder, name), skip);
        }
      }
    } catch (error) {
      const text = messageOf(error);
      const reason = error instanceof SkipError ? text : `the folder cannot be read (${text})`;
      skip(keyOfPath(join(folder, "/"), this.layout), reason);
    }
  }

  /** The item of a file; undefined for a folder, and for a file that is skipped. */
  private async examine(folder: string, name: string, skip: Skip): Promise<Item | undefined> {
    if (name.endsWith("/")) return undefined;
    const path = join(folder, name);
    const full = join(this.root, path);
    const key = keyOfPath(path, this.layout);
    if (TEMPORARY_NAME.test(basename(path))) {
      this.removeAbandoned(full);
      return undefined;
    }
    let stats: BigIntStats;
    try {
      stats = await this.reader.lstat(full);
    } catch (error) {
      const isDecoded = !path.includes("\uFFFD");
      skip(key, isDecoded ? `it cannot be read (${messageOf(error)})` : "its name is not UTF-8");
      return undefined;
    }
    const reason = invalidKeyReason(key);
    if (reason !== undefined) skip(key, reason);
    else if (stats.isSymbolicLink()) return this.follow(key, full, skip);
    else if (!stats.isFile()) skip(key, "it is neither a file nor a folder");
    else return { key, size: Number(stats.size), version: versionOf(stats) };
    return undefined;
  }

  /** Removes the partly written file of a killed run, if possible. */
  private removeAbandoned(path: string): void {
    if (this.readOnly) return;
    try {
      this.expectInside(dirname(path));
      if (isAbandoned(basename(path), lstatSync(path).mtimeMs, this.journalId)) unlinkSync(path);
    } catch {
      // A source may be read-only. No listing contains the file.
    }
  }

  private async follow(key: string, link: string, skip: Skip): Promise<Item | undefined> {
    const at = await realpath(link).catch(() => undefined);
    const stats = at && (await lstat(at, { bigint: true }).catch(() => undefined));
    if (!at || !stats) skip(key, "it is a symlink to nothing");
    else if (!this.isInside(at)) skip(key, this.leadsOut("it"));
    else if (stats.isDirectory()) skip(key, "it is a symlink to a folder");
    else if (!stats.isFile()) skip(key, "it is a symlink to neither a file nor a folder");
    else return { key, size: Number(stats.size), version: versionOf(stats), at };
    return undefined;
  }

  private isInside(path: string): boolean {
    const folder = this.root.endsWith(sep) ? this.root : this.root + sep;
    return path === this.root || path.startsWith(folder);
  }

  private pathOf(key: string): string {
    return join(this.root, pathOfKey(key, this.layout));
  }

  /** The item as it is now. */
  async refresh(item: Item): Promise<Item> {
    const path = item.at ?? this.pathOf(item.key);
    const stats = await lstat(path, { bigint: true });
    if (!stats.isFile()) throw new SkipError("it is no longer a file");
    // Reading ends with an error if it is not the file of this version, so this check is enough.
    this.expectInside(dirname(path));
    return { ...item, size: Number(stats.size), version: versionOf(stats) };
  }

  read(item: Item): Content {
    const { size, version } = item;
    const path = item.at ?? this.pathOf(item.key);
    const chunks = (pieceSize?: number) => this.reader.read(path, size, version, pieceSize);
    return { size, version, whole: () => allOf(chunks(size)), chunks };
  }

  /**
   * Stores a content under a key, completely or not at all, and returns its version.
   *
   * @param previous what the plan found at the key
   * @throws SkipError when the disk cannot hold the file
   */
  async write(key: string, content: Content, previous: Item | undefined): Promise<string> {
    const target = this.pathOf(key);
    const folder = dirname(target);
    await this.makeFolder(folder);
    // A small file is written without a wait. Its folder has little time to change meanwhile.
    const whole = content.size < DIRECT_BYTES ? await content.whole() : undefined;
    this.expectInside(folder);
    const temporary = join(folder, temporaryName(this.journalId));
    try {
      const file = openSync(temporary, "wx", 0o644);
      this.parts.add(temporary);
      if (whole) writeWhole(file, whole);
      else {
        await writeAll(file, temporary, content.chunks());
        this.expectInside(folder);
      }
      place(temporary, target, previous);
      this.parts.delete(temporary);
      this.written.push(target);
      return versionOf(lstatSync(target, { bigint: true }));
    } catch (error) {
      if (this.parts.has(temporary)) this.removePart(temporary);
      throw asSkipError(error);
    }
  }

  private removePart(path: string): void {
    rmSync(path, { force: true });
    this.parts.delete(path);
  }

  /** Makes the partly written files of this journal's earlier runs known. */
  useJournal(journal: Journal): void {
    this.journalId = journal.id;
    journal.waitFor(this);
  }

  /** Whether the disk may not have stored all written files yet. */
  get isUnsynced(): boolean {
    return this.isSyncing || this.written.length > 0;
  }

  /**
   * Waits until the disk has stored all files that were written before.
   *
   * @throws MigrateError when it cannot
   */
  async sync(): Promise<void> {
    const paths = this.written;
    if (paths.length === 0) return;
    this.written = [];
    this.isSyncing = true;
    await syncAll(paths, this.fileSystems.values()).catch((error: unknown) => {
      const message = `the disk of "${this.root}" may not have stored all files; check the disk`;
      throw new MigrateError(message, { cause: error });
    });
    this.isSyncing = false;
  }

  /**
   * A folder may become a symlink at any moment. Some microseconds remain between this check and the
   * work in the folder. Only `openat` and similar calls would close this gap, and Node has none of
   * them.
   */
  private expectInside(folder: string): void {
    if (this.isInside(realpathSync.native(folder))) return;
    throw new SkipError(this.leadsOut(`"${folder}"`));
  }

  /** Makes a folder once, unless a symlink in its path leads out of the root. */
  private makeFolder(folder: string): Promise<void> {
    const known = this.folders.get(folder);
    if (known) return known;
    const made = this.newFolder(folder);
    this.folders.set(folder, made);
    // Its failure is thrown where it is awaited. The next file tries again.
    made.catch(() => this.folders.delete(folder));
    return made;
  }

  private async newFolder(folder: string): Promise<void> {
    if (folder !== this.root) {
      await this.makeFolder(dirname(folder));
      this.expectInside(dirname(folder));
    }
    await mkdir(folder, { recursive: folder === this.root }).catch(async (error: unknown) => {
      if (codeOf(error) !== "EEXIST") throw asSkipError(error);
      await expectExactName(folder);
    });
    const real = await realpath(folder).catch((error: unknown) => {
      if (codeOf(error) !== "ENOENT") throw error;
      throw new SkipError(`"${folder}" is a symlink to nothing`, { cause: error });
    });
    if (!this.isInside(real)) throw new SkipError(this.leadsOut(`"${folder}"`));
    const stats = await lstat(real);
    if (!stats.isDirectory()) throw new SkipError(`"${folder}" is a file, but should be a folder`);
    this.fileSystems.set(stats.dev, real);
  }

  async remove(item: Item): Promise<void> {
    const path = this.pathOf(item.key);
    if (await isMissing(path)) return;
    this.expectInside(dirname(path));
    const now = lstatSync(path, { bigint: true });
    if (!isUnchanged(item, path, now)) throw new SkipError(`"${path}" was changed during this run`);
    // This removes a symlink, not its target.
    unlinkSync(path);
  }

  /** Removes the partly written files of a stopped run. */
  close(): Promise<void> {
    for (const path of this.parts) this.removePart(path);
    return Promise.resolve();
  }
}

/** The real path that a path has once it exists. */
async function futureRealpath(path: string): Promise<string> {
  return realpath(path).catch(async (error: unknown) => {
    if (codeOf(error) !== "ENOENT") throw error;
    return join(await futureRealpath(dirname(path)), basename(path));
  });
}

/** The layout that a folder shows with these names, or may have if it is empty. */
function layoutOf(
  path: string,
  root: string,
  names: readonly string[],
  exists: boolean,
  schemas: readonly string[] = [],
): Layout {
  const own = names.filter((name) => !NO_SCHEMA.test(name) || schemas.includes(name));
  const recognized = recognizeAt(path, own, schemas);
  if (recognized) return recognized;
  const isMedia = basename(root) === "media";
  if (own.length === 0 && !(isMedia && exists)) return isMedia ? "media" : "data";
  const what =
    own.length === 0
      ? "is empty, so it may be where the system mounts disks; write the right path, or "
      : 'contains neither "public" nor "media" nor "reports", so it is not authentik\'s; ' +
        "write the right path, name authentik's schema with --schema, or ";
  throw new MigrateError(`the folder "${path}" ${what}say with --layout what it is`);
}

function recognizeAt(
  path: string,
  names: readonly string[],
  schemas: readonly string[],
): Layout | undefined {
  try {
    return recognizeLayout(names, schemas);
  } catch (error) {
    throw new MigrateError(`the folder "${path}" ${messageOf(error)}`, { cause: error });
  }
}

/**
 * Whether a path certainly does not exist. A path that cannot be reached does not count as missing,
 * because `--delete` would delete its copy.
 */
async function isMissing(path: string): Promise<boolean> {
  return lstat(path).then(
    () => false,
    (error: unknown) => codeOf(error) === "ENOENT",
  );
}

/**
 * Expects a folder under exactly this name. If the disk treats the names of two folders as the same,
 * it would list the second one's files under the first one's name.
 */
async function expectExactName(folder: string): Promise<void> {
  const names = await readdir(dirname(folder));
  if (names.includes(basename(folder))) return;
  throw new SkipError(`this disk treats another name as the same as "${folder}"`);
}

/** The names in a folder, and its identity. */
async function readFolder(folder: string): Promise<{ names: string[]; id: string }> {
  return { names: await readdir(folder), id: await idAt(folder) };
}

/**
 * A folder's identity. Fails for mode 0444, with which its names can be read but not its entries.
 */
async function idAt(folder: string): Promise<string> {
  const { dev, ino } = await lstat(`${folder}${sep}.`);
  return `${dev}-${ino}`;
}

/**
 * Names in a folder in the order of keys. Folders' names end with a slash, which affects the order.
 */
async function namesIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of await opendir(folder, { bufferSize: 256 })) {
    names.push(entry.isDirectory() ? `${entry.name}/` : entry.name);
  }
  return names.sort(compareKeys);
}
