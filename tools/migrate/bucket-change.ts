/**
 * Changes a bucket's objects only if they are what the plan found: authentik or another migration
 * may have changed them since.
 */
import { unquote } from "./checksums.ts";
import { ContentError } from "./content.ts";
import { S3Error } from "./s3-answers.ts";
import type { BucketClient, Condition } from "./s3-client.ts";
import { isRetryable } from "./s3-retry.ts";
import { SkipError, type Item } from "./storage.ts";

/** A write or a deletion that takes place only if the object is what the plan found. */
export interface GuardedChange {
  /** A server may support conditions for some of these and not for others. */
  kind: "put" | "copy" | "complete" | "remove";
  key: string;
  /** What the plan found at the key. */
  seen: Item | undefined;
  /** Makes the change and returns the new version. */
  make(condition?: Condition): Promise<string>;
  /** Whether the change is already made: the answer to an earlier try may be lost. */
  isMade(now: Item | undefined): Promise<boolean>;
}

/** The changes of one bucket. Remembers which conditions its server does not support. */
export class GuardedChanges {
  private readonly client: BucketClient;
  private readonly withoutConditions = new Set<GuardedChange["kind"]>();

  constructor(client: BucketClient) {
    this.client = client;
  }

  /**
   * Makes a change and returns the new version.
   *
   * @throws SkipError when the object is not what the plan found
   */
  async make(change: GuardedChange): Promise<string> {
    const isUnsupported = this.withoutConditions.has(change.kind);
    return this.makeIf(isUnsupported ? undefined : conditionOf(change.seen), change);
  }

  /**
   * The server checks the condition. If it does not support conditions, the object is read before the
   * change. Before copies and deletions it is always read, because many servers silently ignore their
   * conditions.
   */
  private async makeIf(condition: Condition | undefined, change: GuardedChange): Promise<string> {
    const { kind, key, seen } = change;
    if (!condition || kind === "copy" || kind === "remove") {
      const now = await this.read(key);
      if (!isSameVersion(now, seen)) return settle(change, now);
    }
    try {
      return await change.make(condition);
    } catch (error) {
      if (!(error instanceof S3Error)) throw error;
      if (condition) return this.recover(error, change);
      if (error.code !== "NoSuchUpload") throw error;
      return settle(change, await this.read(key), error);
    }
  }

  /** After a failure with a condition. */
  private async recover(error: S3Error, change: GuardedChange): Promise<string> {
    const { kind, key, seen } = change;
    if (isUnsupported(error)) {
      const version = await this.makeIf(undefined, change).catch((later: unknown) => {
        // The condition was not the cause. The answer to a HEAD has no message.
        throw later instanceof S3Error && later.status === error.status ? error : later;
      });
      this.withoutConditions.add(kind);
      return version;
    }
    if (error.code !== "NoSuchUpload" && !isConflict(error, seen)) throw error;
    const now = await this.read(key);
    // The server compares ETags in its own way.
    if (error.status === 412 && isSameVersion(now, seen)) return this.makeIf(undefined, change);
    return settle(change, now, error);
  }

  private async read(key: string): Promise<Item | undefined> {
    return readItem(this.client, { key, size: 0, version: "" }).catch((error: unknown) => {
      if (error instanceof S3Error && error.status === 404) return undefined;
      throw error;
    });
  }
}

/** The item as the bucket has it now. */
export async function readItem(client: BucketClient, item: Item): Promise<Item> {
  const key = item.at ?? item.key;
  const { headers } = await client.head(key);
  const length = headers["content-length"];
  const size = length === undefined ? await listedSize(client, key) : Number(length);
  return { ...item, size, version: unquote(headers.etag ?? "") };
}

/** The size of an object whose HEAD does not tell it. */
async function listedSize(client: BucketClient, key: string): Promise<number> {
  for await (const object of client.list(key)) if (object.key === key) return object.size;
  throw new S3Error("NoSuchKey", 404, `"${key}" is not listed`);
}

/**
 * The version if the object is what the change makes.
 *
 * @throws SkipError if it is not, ContentError when the server no longer knows the upload, the cause
 *   if the object is still what the plan found
 */
async function settle(
  change: GuardedChange,
  now: Item | undefined,
  cause?: S3Error,
): Promise<string> {
  if (await change.isMade(now)) return now?.version ?? "";
  if (cause?.code === "NoSuchUpload") {
    throw new ContentError("the server no longer knows the upload", { cause });
  }
  if (cause && isSameVersion(now, change.seen)) throw cause;
  throw new SkipError(
    now
      ? "it was created or changed in the bucket during this run, and is kept"
      : "it was deleted in the bucket during this run",
  );
}

function isUnsupported(error: S3Error): boolean {
  return error.status === 501 || (error.status === 400 && !isRetryable(error));
}

/**
 * Whether the server says that the object does not meet the condition. AWS and versitygw answer 404
 * if the object does not exist.
 */
function isConflict({ status, code }: S3Error, seen: Item | undefined): boolean {
  return status === 412 || status === 409 || (code === "NoSuchKey" && seen !== undefined);
}

/** Undefined when the version is not known. */
function conditionOf(seen: Item | undefined): Condition | undefined {
  if (!seen) return { "if-none-match": "*" };
  return seen.version === "" ? undefined : { "if-match": `"${seen.version}"` };
}

/** Some servers list no ETags. Then the sizes are compared. */
function isSameVersion(a: Item | undefined, b: Item | undefined): boolean {
  const isVersion = a?.version === b?.version || a?.version === "" || b?.version === "";
  return a?.size === b?.size && isVersion;
}
