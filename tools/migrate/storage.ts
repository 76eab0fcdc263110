/** What the two sides of a migration, folders and buckets, have in common. */
import type { Usage } from "../../authentik/objects.ts";
import type { Content } from "./content.ts";

/** A file or an object. */
export interface Item {
  /** authentik's key, e.g. `media/public/application-icons/x.png`. */
  key: string;
  /** In bytes. */
  size: number;
  /** Changes whenever the content does: an object's ETag; a file's inode, size and times. */
  version: string;
  /** When the object was last written, if a listing said so. */
  modified?: string | undefined;
  /**
   * Where it really is if the key does not say it: a misplaced object's key, a symlink's target.
   */
  at?: string | undefined;
}

/** Reports a key that is not copied, and why. */
export type Skip = (key: string, reason: string) => void;

/** A file or object that is not copied, however often it is tried. The migration goes on. */
export class SkipError extends Error {
  override name = "SkipError";
}

/**
 * Ends the migration: a folder, a bucket, the journal or the plan cannot be used. The message and
 * those of its causes say what to do.
 */
export class MigrateError extends Error {
  override name = "MigrateError";
}

/** One side of a migration: a folder or a bucket. */
export interface Storage {
  /** Its path or URL, without credentials. Also its identity. */
  readonly name: string;
  /** The usages that it can hold. */
  readonly usages: readonly Usage[];
  /** Items in the order of `compareKeys`. */
  list(usage: Usage, skip: Skip): AsyncIterable<Item>;
  /** The item as it is now. */
  refresh(item: Item): Promise<Item>;
  read(item: Item): Content;
  /**
   * Stores a content under a key, completely or not at all, and returns its version.
   *
   * @param previous what the plan found at the key
   * @throws SkipError when it cannot hold the file
   */
  write(key: string, content: Content, previous: Item | undefined): Promise<string>;
  remove(item: Item): Promise<void>;
  close(): Promise<void>;
}
