/** Compares two storages, and copies what differs. */
import { reasonOf } from "../lib/errors.ts";
import type { Bucket } from "./bucket.ts";
import { haveSameMd5 } from "./checksums.ts";
import { ContentError, partSizeOf, type Content } from "./content.ts";
import type { Disk } from "./disk.ts";
import { TYPED } from "./journal.ts";
import { collisionFilter, plan, type FileStep } from "./plan.ts";
import { MigrationRun, type MigrationOptions, type Summary } from "./run.ts";
import { CONNECTIONS } from "./s3-client.ts";
import { asS3Error, isRetryable } from "./s3-retry.ts";
import { UnsortedError } from "./sorted.ts";
import { Spool } from "./spool.ts";
import type { Item } from "./storage.ts";

/** How often a file is tried if it changes while it is read, or if its bytes arrive wrong. */
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
  return againIfUnsorted(options, (run) => migrateOnce(from, to, deleteExtra, run));
}

/** Makes another plan when a listing was not in order. The bucket sorts it from then on. */
async function againIfUnsorted(
  options: MigrationOptions,
  work: (run: MigrationRun) => Promise<Summary>,
): Promise<Summary> {
  for (;;) {
    try {
      const run = new MigrationRun(options);
      return await run.untilStopped(() => work(run));
    } catch (error) {
      if (!(error instanceof UnsortedError)) throw error;
      options.reporter.restart(error.message);
    }
  }
}

async function migrateOnce(
  from: Disk | Bucket,
  to: Disk | Bucket,
  deleteExtra: boolean,
  run: MigrationRun,
): Promise<Summary> {
  await skipUsages(from, to, run);
  const changes = await Spool.create();
  const extras = await Spool.create();
  try {
    const usages = from.usages.filter((usage) => to.usages.includes(usage));
    for (const usage of usages) {
      const { isEmpty, items } = await peekFirst(from.list(usage, run.skip));
      for await (const step of planUsage(items, from, to, usage, run)) {
        const isExtra = step.kind === "extra" && deleteExtra;
        run.count(step, isExtra && !isEmpty ? step.to : undefined);
        if (isChange(step)) await changes.add(step);
        else if (isExtra && isEmpty) run.skipDeletions(emptySource(usage));
        else if (isExtra) await extras.add(step);
      }
    }
    if (!(await run.mayStart())) return run.summary;
    const problems = run.summary.failed + run.summary.skipped;
    await run.each(changes.steps(), (step) => copy(from, to, step, run));
    const areTypesRight = run.summary.failed + run.summary.skipped === problems;
    if (areTypesRight && run.summary.failed === 0) await keepTypesSeen(to, run);
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
function planUsage(
  items: AsyncIterable<Item>,
  from: Disk | Bucket,
  to: Disk | Bucket,
  usage: Disk["usages"][number],
  run: MigrationRun,
): AsyncGenerator<FileStep> {
  const { journal } = run.options;
  const fits = to.kind === "disk" ? collisionFilter(run.skip) : undefined;
  const target = to.list(usage, () => undefined);
  const isKnownSame = (a: Item, b: Item) => journal.isSame(a, b) || haveSameMd5(a, b) || undefined;
  const steps = plan(items, target, isKnownSame, run.skip, fits);
  return examineSteps(steps, (step) => examine(from, to, step, run.options), run);
}

/** The step after its contents and stored headers were compared; undefined if neither is needed. */
function examine(
  from: Disk | Bucket,
  to: Disk | Bucket,
  step: FileStep,
  options: MigrationOptions,
): Promise<FileStep> | undefined {
  if (step.kind === "same") return checkStored(from, to, step, options);
  if (step.kind !== "update" || !step.unsure) return undefined;
  return isSame(from, to, step, options).then((same): FileStep | Promise<FileStep> => {
    if (!same) return { ...step, unsure: false };
    const sameStep = { kind: "same", from: step.from, to: step.to } as const;
    return checkStored(from, to, sameStep, options) ?? sameStep;
  });
}

/**
 * Makes a step an update if the object has the same content but wrong stored headers. Undefined if
 * the headers are known to be unchanged since an earlier run, because a check needs a request.
 */
function checkStored(
  from: Disk | Bucket,
  to: Disk | Bucket,
  step: SameStep,
  { journal }: MigrationOptions,
): Promise<FileStep> | undefined {
  if (to.kind === "disk" || journal.isTyped(step.from, step.to)) return undefined;
  const look = async (): Promise<FileStep> => {
    const source = from.kind === "bucket" ? await from.stored(step.from) : undefined;
    const stored = await to.storedProblem(step.to, source);
    if (stored !== undefined) return { ...step, kind: "update", unsure: false, stored };
    journal.addSame(step.from, step.to, TYPED);
    return step;
  };
  return look();
}

/** Lets the next run check only the objects that are written from now on. */
async function keepTypesSeen(to: Disk | Bucket, { options, summary }: MigrationRun): Promise<void> {
  const time = to.kind === "bucket" ? to.client.serverTime : undefined;
  if (time === undefined) return;
  await options.journal.keepTypesSeen(time).catch((error: unknown) => {
    summary.notes.push(`The next run checks the types of all objects again: ${reasonOf(error)}`);
  });
}

/**
 * Copies misplaced objects of a bucket to where authentik looks, on the server. Objects that are
 * already there are kept.
 *
 * @param deleteOld whether to delete each misplaced object after its copy is checked
 */
export async function repairLayout(
  bucket: Bucket,
  deleteOld: boolean,
  options: MigrationOptions,
): Promise<Summary> {
  return againIfUnsorted(options, (run) => repairLayoutOnce(bucket, deleteOld, run));
}

async function repairLayoutOnce(
  bucket: Bucket,
  deleteOld: boolean,
  run: MigrationRun,
): Promise<Summary> {
  const changes = await Spool.create();
  try {
    const inPlace = bucket.list("media", () => undefined);
    const isKnownSame = (a: Item, b: Item) => haveSameMd5(a, b) || undefined;
    const steps = plan(bucket.listMisplaced(run.skip), inPlace, isKnownSame, run.skip);
    const compare = (step: FileStep): Promise<FileStep> | undefined => {
      if (step.kind !== "update" || !step.unsure) return undefined;
      const { from, to } = step;
      return bucket
        .isCopy(from, to)
        .then((isCopy) => (isCopy ? { kind: "same", from, to } : { ...step, unsure: false }));
    };
    for await (const step of examineSteps(steps, compare, run)) {
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
      } else await bucket.expectCopy(from);
      if (deleteOld) await run.remove(from, bucket);
    });
    await run.abortLeftUploads(bucket);
    return run.summary;
  } finally {
    await changes.close();
  }
}

/**
 * Gives objects the types that authentik gives them, in place, on the server. The contents and the
 * other stored headers stay.
 */
export async function repairTypes(bucket: Bucket, options: MigrationOptions): Promise<Summary> {
  return againIfUnsorted(options, (run) => repairTypesOnce(bucket, run));
}

async function repairTypesOnce(bucket: Bucket, run: MigrationRun): Promise<Summary> {
  const changes = await Spool.create();
  const look = async (step: FileStep): Promise<FileStep> => {
    if (step.kind !== "same") return step;
    const stored = await bucket.storedProblem(step.to);
    return stored === undefined ? step : { ...step, kind: "update", unsure: false, stored };
  };
  try {
    for (const usage of bucket.usages) {
      const steps = eachSame(bucket.list(usage, run.skip));
      for await (const step of examineSteps(steps, look, run)) {
        run.count(step);
        if (isChange(step)) await changes.add(step);
      }
    }
    if (!(await run.mayStart())) return run.summary;
    await run.each(changes.steps(), async ({ to }) => {
      if (to) await repairType(bucket, to, run);
    });
    await run.abortLeftUploads(bucket);
    return run.summary;
  } finally {
    await changes.close();
  }
}

async function repairType(bucket: Bucket, item: Item, run: MigrationRun): Promise<string> {
  const version = await bucket.repairType(item);
  run.advance(item.size);
  run.copied(item);
  return version;
}

async function* eachSame(items: AsyncIterable<Item>): AsyncGenerator<FileStep> {
  for await (const item of items) yield { kind: "same", from: item, to: item };
}

interface Peeked {
  isEmpty: boolean;
  items: AsyncIterable<Item>;
}

/** A listing, and whether it is empty. */
async function peekFirst(listing: AsyncGenerator<Item>): Promise<Peeked> {
  const first = listing.next();
  const { done } = await first;
  let isFirst = true;
  const next = () => {
    if (!isFirst) return listing.next();
    isFirst = false;
    return first;
  };
  return { isEmpty: done === true, items: { [Symbol.asyncIterator]: () => ({ next }) } };
}

type SameStep = Extract<FileStep, { kind: "same" }>;
type UpdateStep = Extract<FileStep, { kind: "update" }>;
type ChangeStep = UpdateStep | Extract<FileStep, { kind: "create" }>;

function isChange(step: FileStep): step is ChangeStep {
  return step.kind === "create" || step.kind === "update";
}

function isOnlyType(step: ChangeStep): step is UpdateStep {
  return step.kind === "update" && step.stored !== undefined;
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
        ? await to.has(step.to, from.read(step.from))
        : from.kind === "bucket" && (await from.has(step.from, to.read(step.to)));
    if (same) journal.addSame(step.from, step.to);
    return same;
  } catch (error) {
    // The file is copied, and the copy reports the problem.
    if (error instanceof ContentError) return false;
    throw error;
  } finally {
    memory.release(bytes);
  }
}

/**
 * Examines steps, several at once, and yields the results in order. A file that cannot be examined is
 * a problem, and its step is left out.
 *
 * @param examineStep returns undefined for a step that needs no examination
 */
async function* examineSteps(
  steps: AsyncIterable<FileStep>,
  examineStep: (step: FileStep) => Promise<FileStep> | undefined,
  run: MigrationRun,
): AsyncGenerator<FileStep> {
  const queue: (FileStep | Promise<FileStep | undefined>)[] = [];
  for await (const step of steps) {
    const examination = examineStep(step)?.catch((error: unknown) => {
      run.fail((step.from ?? step.to).key, error);
      return undefined;
    });
    if (examination) queue.push(examination);
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
  const { journal, memory, signal } = run.options;
  if (isOnlyType(step) && from.kind === "disk" && to.kind === "bucket") {
    const version = await repairType(to, step.to, run);
    journal.addSame(step.from, { ...step.to, version }, TYPED);
    return;
  }
  let item = step.from;
  for (let attempt = 1; ; attempt++) {
    // Larger files request memory part by part.
    const bytes = item.size <= partSizeOf(item.size) ? item.size : 0;
    await memory.acquire(bytes);
    let seen = 0;
    const onBytes = (length: number) => {
      signal.throwIfAborted();
      seen += length;
      run.advance(length);
    };
    try {
      // A small file is counted after it was written.
      const content = bytes > 0 ? from.read(item) : countBytes(from.read(item), onBytes);
      const version = await to.write(item.key, content, step.to);
      run.advance(bytes);
      journal.addSame(item, { ...item, version }, to.kind === "bucket" ? TYPED : "");
      run.copied(item);
      return;
    } catch (error) {
      run.advance(-seen);
      const failure = asS3Error(error);
      const mayRetry = failure instanceof ContentError || isRetryable(failure);
      if (attempt >= COPY_ATTEMPTS || !mayRetry || signal.aborted) throw failure;
      item = await from.refresh(item);
    } finally {
      memory.release(bytes);
    }
  }
}

/** The same content. Reports the length of each chunk that is read. */
function countBytes(content: Content, onBytes: (length: number) => void): Content {
  async function* chunks(): AsyncGenerator<Buffer> {
    for await (const chunk of content.chunks()) {
      onBytes(chunk.length);
      yield chunk;
    }
  }
  return { ...content, chunks };
}
