/** What folders and buckets have in common. */

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
  /** The real place if the key is not it: a misplaced object's key, a symlink's target. */
  at?: string | undefined;
}

/** Reports a key that is not copied, and why. */
export type Skip = (key: string, reason: string) => void;

/** A file or object that cannot be copied. A retry would not help. The migration goes on. */
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
