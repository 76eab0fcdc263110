/** Compares two storages, and copies what differs. */
import type { Bucket } from "./bucket.ts";
import { haveSameMd5 } from "./checksums.ts";
import { ContentError, partSizeOf, type Content } from "./content.ts";
import type { Disk } from "./disk.ts";
import { plan, withoutCollisions, type FileStep } from "./plan.ts";
import { MigrationRun, type MigrationOptions, type Summary } from "./run.ts";
import { CONNECTIONS } from "./s3-client.ts";
import { asS3Error, isRetryable } from "./s3-retry.ts";
import { Spool } from "./spool.ts";
import type { Item } from "./storage.ts";

/** How often a file is tried that changed while it was read, or whose bytes arrived wrong. */
const COPY_ATTEMPTS = 3;

/**
 * Makes `to` have what `from` has.
 *
 * @param deleteExtra whether to delete in `to` what `from` does not have; this is done last, and
 *   only when everything else succeeded
 * @throws S3Error when a bucket cannot be listed, MigrateError when the plan cannot be made
 */
export async function migrate(
  from: Disk | Bucket,
  to: Disk | Bucket,
  deleteExtra: boolean,
  options: MigrationOptions,
): Promise<Summary> {
  const run = new MigrationRun(options);
  await skipUsages(from, to, run);
  const changes = await Spool.create();
  const extras = await Spool.create();
  try {
    const usages = from.usages.filter((usage) => to.usages.includes(usage));
    for (const usage of usages) {
      const { isEmpty, items } = await peeked(from.list(usage, run.skip));
      for await (const step of compared(items, from, to, usage, run)) {
        const isExtra = step.kind === "extra" && deleteExtra;
        run.count(step, isExtra && !isEmpty ? step.to : undefined);
        if (isChange(step)) await changes.add(step);
        else if (isExtra && isEmpty) run.skipDeletions(emptySource(usage));
        else if (isExtra) await extras.add(step);
      }
    }
    if (!(await run.mayStart())) return run.summary;
    await run.each(changes.steps(), (step) => copy(from, to, step, run));
    await run.abortLeftUploads(to);
    if (deleteExtra) await run.deleteAll(extras.steps(), to);
    return run.summary;
  } finally {
    await changes.close();
    await extras.close();
  }
}

/** Skips reports if the destination is a /media folder. */
async function skipUsages(
  from: Disk | Bucket,
  to: Disk | Bucket,
  { skip }: MigrationRun,
): Promise<void> {
  for (const usage of from.usages.filter((name) => !to.usages.includes(name))) {
    const reason = `"${to.name}" is a /media folder and cannot hold ${usage}; use a /data folder`;
    for await (const { key } of from.list(usage, skip)) skip(key, reason);
  }
}

function emptySource(usage: string): string {
  return `No ${usage} are deleted, because the source has none: it is probably the wrong source.`;
}

/** The steps for one usage. All contents of equal size have been compared. */
function compared(
  items: AsyncIterable<Item>,
  from: Disk | Bucket,
  to: Disk | Bucket,
  usage: Disk["usages"][number],
  run: MigrationRun,
): AsyncGenerator<FileStep> {
  const { journal } = run.options;
  const source = to.kind === "disk" ? withoutCollisions(items, run.skip) : items;
  const target = to.list(usage, () => undefined);
  const isKnownSame = (a: Item, b: Item) => journal.isSame(a, b) || haveSameMd5(a, b) || undefined;
  const steps = plan(source, target, isKnownSame, run.skip);
  return settled(steps, (step) => isSame(from, to, step, run.options), run);
}

/**
 * Copies misplaced objects of a bucket to where authentik looks, on the server. What authentik
 * already has there is kept.
 *
 * @param deleteOld whether to delete each misplaced object after its copy is checked
 */
export async function repairLayout(
  bucket: Bucket,
  deleteOld: boolean,
  options: MigrationOptions,
): Promise<Summary> {
  const run = new MigrationRun(options);
  const changes = await Spool.create();
  try {
    const inPlace = bucket.list("media", () => undefined);
    const isKnownSame = (a: Item, b: Item) => haveSameMd5(a, b) || undefined;
    const steps = plan(bucket.listMisplaced(run.skip), inPlace, isKnownSame, run.skip);
    for await (const step of settled(steps, ({ from, to }) => bucket.isCopy(from, to), run)) {
      if (step.kind === "extra") continue;
      const { key, at = key } = step.from;
      if (step.kind === "update") {
        run.skip(at, `"${key}" exists with another content, and is kept`);
        continue;
      }
      run.count(step, deleteOld ? { ...step.from, key: at, at: undefined } : undefined);
      if (step.kind === "create" || deleteOld) await changes.add(step);
    }
    if (!(await run.mayStart())) return run.summary;
    await run.each(changes.steps(), async ({ kind, from }) => {
      if (!from) return;
      if (kind === "create") {
        await bucket.repair(from);
        run.advance(from.size);
        run.copied(from);
      }
      if (deleteOld) await run.remove(from, bucket);
    });
    await run.abortLeftUploads(bucket);
    return run.summary;
  } finally {
    await changes.close();
  }
}

interface Peeked {
  isEmpty: boolean;
  items: AsyncGenerator<Item>;
}

/** A listing, and whether it is empty. */
async function peeked(listing: AsyncIterable<Item>): Promise<Peeked> {
  const iterator = listing[Symbol.asyncIterator]();
  const first = await iterator.next();
  async function* items(): AsyncGenerator<Item> {
    for (let next = first; next.done !== true; next = await iterator.next()) yield next.value;
  }
  return { isEmpty: first.done === true, items: items() };
}

type UpdateStep = Extract<FileStep, { kind: "update" }>;
type ChangeStep = UpdateStep | Extract<FileStep, { kind: "create" }>;

function isChange(step: FileStep): step is ChangeStep {
  return step.kind === "create" || step.kind === "update";
}

/** Whether the contents are the same, by reading one of them. The journal records that they are. */
async function isSame(
  from: Disk | Bucket,
  to: Disk | Bucket,
  step: UpdateStep,
  { memory, journal }: MigrationOptions,
): Promise<boolean> {
  const bytes = Math.min(step.from.size, partSizeOf(step.from.size));
  await memory.acquire(bytes);
  try {
    const same =
      to.kind === "bucket"
        ? await to.has(step.to, () => from.read(step.from))
        : from.kind === "bucket" && (await from.has(step.from, () => to.read(step.to)));
    if (same) journal.addSame(step.from, step.to);
    return same;
  } catch (error) {
    // The file is copied then, and the copy shows what is wrong.
    if (error instanceof ContentError) return false;
    throw error;
  } finally {
    memory.release(bytes);
  }
}

/**
 * Replaces unsure updates by sure ones or by `same`, in order, several at once. A file that cannot
 * be compared is a problem, and is left out.
 */
async function* settled(
  steps: AsyncIterable<FileStep>,
  same: (step: UpdateStep) => Promise<boolean>,
  run: MigrationRun,
): AsyncGenerator<FileStep> {
  const settle = (step: UpdateStep): Promise<FileStep | undefined> => {
    const { from, to } = step;
    return same(step).then(
      (isSame) => (isSame ? { kind: "same", from, to } : { ...step, unsure: false }),
      (error: unknown) => {
        run.fail(from.key, error);
        return undefined;
      },
    );
  };
  const queue: (FileStep | Promise<FileStep | undefined>)[] = [];
  for await (const step of steps) {
    if (step.kind === "update" && step.unsure) queue.push(settle(step));
    else if (queue.length === 0) yield step;
    else queue.push(step);
    if (queue.length >= CONNECTIONS) yield* await first(queue);
  }
  while (queue.length > 0) yield* await first(queue);
}

async function first(queue: (FileStep | Promise<FileStep | undefined>)[]): Promise<FileStep[]> {
  const next = await queue.shift();
  return next ? [next] : [];
}

async function copy(
  from: Disk | Bucket,
  to: Disk | Bucket,
  step: FileStep,
  run: MigrationRun,
): Promise<void> {
  if (!isChange(step)) return;
  const { journal, memory } = run.options;
  let item = step.from;
  for (let attempt = 1; ; attempt++) {
    // Larger files request memory part by part.
    const bytes = item.size <= partSizeOf(item.size) ? item.size : 0;
    await memory.acquire(bytes);
    let seen = 0;
    const onBytes = (length: number) => {
      seen += length;
      run.advance(length);
    };
    try {
      const version = await to.write(item.key, counted(from.read(item), onBytes), step.to);
      journal.addSame(item, { ...item, version });
      run.copied(item);
      return;
    } catch (error) {
      run.advance(-seen);
      const failure = asS3Error(error);
      const mayRetry = failure instanceof ContentError || isRetryable(failure);
      if (attempt >= COPY_ATTEMPTS || !mayRetry) throw failure;
      item = await from.refresh(item);
    } finally {
      memory.release(bytes);
    }
  }
}

/** The same content. Reports the length of each chunk that is read. */
function counted(content: Content, onBytes: (length: number) => void): Content {
  async function* chunks(): AsyncGenerator<Buffer> {
    for await (const chunk of content.chunks) {
      onBytes(chunk.length);
      yield chunk;
    }
  }
  return { ...content, chunks: chunks() };
}
