/** Sorts listings of servers that do not sort them themselves. Large ones are sorted on disk. */
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { compareKeys } from "./plan.ts";
import type { S3Object } from "./s3-answers.ts";
import { MigrateError } from "./storage.ts";

/** How many objects are sorted in memory. */
const RUN_LENGTH = 15_000;
/** How many objects are written at a time. */
const LINES = 1_000;

const Line = v.object({
  key: v.string(),
  size: v.number(),
  etag: v.string(),
  modified: v.optional(v.string()),
});

/** A bucket's listing is not in the order of its keys. Start again with `sorted`. */
export class UnsortedError extends Error {
  override name = "UnsortedError";
}

/**
 * Expects keys in their order.
 *
 * @param onUnsorted called before it throws UnsortedError, at the first key that is out of order
 */
export function orderCheck(onUnsorted: () => void): (key: string) => void {
  let last: string | undefined;
  return (key) => {
    if (last !== undefined && compareKeys(last, key) > 0) {
      onUnsorted();
      throw new UnsortedError(`the listing has "${key}" after "${last}"`);
    }
    last = key;
  };
}

/**
 * The objects in the order of their keys.
 *
 * @throws MigrateError when the system's folder for temporary files cannot be written
 */
export async function* sorted(
  objects: AsyncIterable<S3Object>,
  runLength = RUN_LENGTH,
): AsyncGenerator<S3Object> {
  const folder = await mkdtemp(join(tmpdir(), "migrate-sort-")).catch(failed);
  try {
    const runs: AsyncGenerator<S3Object>[] = [];
    let held: S3Object[] = [];
    for await (const object of objects) {
      held.push(object);
      if (held.length < runLength) continue;
      runs.push(await onDisk(join(folder, String(runs.length)), held.sort(byKey)));
      held = [];
    }
    runs.push(inMemory(held.sort(byKey)));
    yield* mergedRuns(runs);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function byKey(a: S3Object, b: S3Object): number {
  return compareKeys(a.key, b.key);
}

async function* inMemory(objects: readonly S3Object[]): AsyncGenerator<S3Object> {
  for (const object of objects) yield await Promise.resolve(object);
}

/** Writes a sorted run, and reads it later. */
async function onDisk(
  path: string,
  objects: readonly S3Object[],
): Promise<AsyncGenerator<S3Object>> {
  const file = await open(path, "wx+", 0o600).catch(failed);
  for (let at = 0; at < objects.length; at += LINES) {
    const lines = objects.slice(at, at + LINES).map((object) => `${JSON.stringify(object)}\n`);
    await file.writeFile(lines.join("")).catch(failed);
  }
  async function* read(): AsyncGenerator<S3Object> {
    for await (const line of file.readLines({ start: 0, highWaterMark: 16 * 1024 }))
      yield v.parse(Line, JSON.parse(line));
  }
  return read();
}

async function* mergedRuns(runs: readonly AsyncGenerator<S3Object>[]): AsyncGenerator<S3Object> {
  const heads = await Promise.all(runs.map((run) => run.next()));
  for (;;) {
    let least: { at: number; object: S3Object } | undefined;
    for (const [at, head] of heads.entries()) {
      if (head.done) continue;
      if (!least || byKey(head.value, least.object) < 0) least = { at, object: head.value };
    }
    const run = runs[least?.at ?? -1];
    if (!least || !run) return;
    yield least.object;
    heads[least.at] = await run.next();
  }
}

function failed(cause: unknown): never {
  const message = `the listing cannot be sorted in "${tmpdir()}"`;
  throw new MigrateError(`${message}; name a folder with free space in TMPDIR`, { cause });
}
