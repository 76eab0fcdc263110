/** From two places to a plan, and from the plan to the transfers. */
import { mkdtemp, open, rm, type FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { isSameMd5, type Bucket } from "./bucket.ts";
import { ContentError, partSizeOf, type Content, type MemoryBudget } from "./content.ts";
import type { Disk } from "./disk.ts";
import type { Journal } from "./journal.ts";
import { MigrateError, Refusal } from "./place.ts";
import { plan, withoutCollisions, type Item, type Step } from "./plan.ts";
import { connectionError, CONNECTIONS, mayPass } from "./s3.ts";

/** A number of files and their bytes. */
export interface Amount {
  files: number;
  bytes: number;
}

/** What a plan has of each kind. */
export type Counts = Record<Step["kind"], Amount>;

/** A file that was not copied, and why. */
export interface Problem {
  key: string;
  reason: string;
  /** `refused` whatever happens; `failed` may go well another time. */
  kind: "refused" | "failed";
}

/** So many problems are kept for the end; all are counted. */
const MAX_PROBLEMS = 1000;

/** What a run has found and done. */
export interface Summary {
  plan: Counts;
  /** What is to be deleted when all else has gone well. */
  deletions: Amount;
  copied: Amount;
  deleted: Amount;
  /** Whether deletions were left undone, for the reason in the notes. */
  withheld: boolean;
  refused: number;
  failed: number;
  problems: Problem[];
  /** What the user should know, e.g. why nothing was deleted. */
  notes: string[];
}

/** Is told what happens. */
export interface Reporter {
  /** What the comparison has found so far. */
  compared(counts: Readonly<Counts>): void;
  /** Each step of the plan, but `same`; of those to be deleted `deletion` is told instead. */
  step(step: Step): void;
  /** What the plan deletes. */
  deletion(item: Item): void;
  problem(problem: Problem): void;
  /** How much of the plan's work is done. */
  progress(done: Readonly<Amount>, total: Readonly<Amount>): void;
}

export interface Options {
  journal: Journal;
  memory: MemoryBudget;
  reporter: Reporter;
  dryRun: boolean;
  /** Asked when the plan is made and there is something to do. */
  confirm(summary: Summary): Promise<boolean>;
}

/** How often a file is tried that changed while it was read, or whose bytes came wrong. */
const TRIES = 3;

/**
 * Makes `to` have what `from` has.
 *
 * @param deleteExtra whether to delete in `to` what `from` has not; done last, and only when all else went well
 * @throws S3Error where a bucket cannot be listed, MigrateError where the plan cannot be made
 */
export async function migrate(from: Disk | Bucket, to: Disk | Bucket, deleteExtra: boolean, options: Options): Promise<Summary> {
  const run = new Run(options);
  const usages = from.usages.filter((usage) => to.usages.includes(usage));
  for (const usage of from.usages) {
    if (!usages.includes(usage)) await refuseUsage(run, from.list(usage, run.refuse), usage, to.name);
  }
  const changes = await Spool.create();
  const extras = await Spool.create();
  try {
    for (const usage of usages) {
      const { isEmpty, items: source } = await peeked(from.list(usage, run.refuse));
      const wanted = to.kind === "disk" ? withoutCollisions(source, run.refuse) : source;
      const steps = plan(wanted, to.list(usage, () => undefined), (a, b) => options.journal.isSame(a, b) || isSameMd5(a, b) || undefined, run.refuse);
      for await (const step of settled(steps, (step) => isSame(from, to, step, options), run)) {
        const isDeleted = step.kind === "extra" && deleteExtra && !isEmpty;
        run.count(step, isDeleted ? step.to : undefined);
        if (step.kind === "create" || step.kind === "update") await changes.add(step);
        if (isDeleted) await extras.add(step);
        if (step.kind === "extra" && deleteExtra && isEmpty) run.withhold(`No ${usage} are deleted, as there are none to copy: that is hardly what was meant.`);
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

async function refuseUsage(run: Run, items: AsyncIterable<Item>, usage: string, place: string): Promise<void> {
  for await (const { key } of items) {
    run.refuse(key, `"${place}" is a /media folder, which has no place for ${usage}; write a /data folder`);
  }
}

/**
 * Copies what is misplaced in a bucket to where authentik looks, on the server's side. What authentik has in place already
 * stays as it is.
 *
 * @param deleteOld whether to delete each misplaced object once its copy is checked
 */
export async function mendLayout(bucket: Bucket, deleteOld: boolean, options: Options): Promise<Summary> {
  const run = new Run(options);
  const changes = await Spool.create();
  try {
    const steps = plan(bucket.listMisplaced(run.refuse), bucket.list("media", () => undefined), (a, b) => isSameMd5(a, b) || undefined, run.refuse);
    for await (const step of settled(steps, (step) => bucket.isCopy(step.from, step.to), run)) {
      if (step.kind === "extra") continue;
      if (step.kind === "update") {
        run.refuse(step.from.at ?? step.from.key, `"${step.from.key}" is there with another content, and stays`);
        continue;
      }
      run.count(step, deleteOld ? misplaced(step.from) : undefined);
      if (step.kind === "create" || deleteOld) await changes.add(step);
    }
    if (!(await run.mayStart())) return run.summary;
    await run.each(changes.steps(), async ({ kind, from }) => {
      if (!from) return;
      if (kind === "create") {
        await bucket.mend(from);
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

/** The object at the bucket's root, under its own key. */
function misplaced({ at, ...item }: Item): Item {
  return { ...item, key: at ?? item.key };
}

/** A listing, and whether there is anything in it. */
async function peeked(listing: AsyncIterable<Item>): Promise<{ isEmpty: boolean; items: AsyncGenerator<Item> }> {
  const iterator = listing[Symbol.asyncIterator]();
  const first = await iterator.next();
  async function* items(): AsyncGenerator<Item> {
    for (let next = first; next.done !== true; next = await iterator.next()) yield next.value;
  }
  return { isEmpty: first.done === true, items: items() };
}

/** Whether the contents are the same, by reading one of them. The answer is remembered. */
async function isSame(from: Disk | Bucket, to: Disk | Bucket, step: Pair, { memory, journal }: Options): Promise<boolean> {
  const bytes = Math.min(step.from.size, partSizeOf(step.from.size));
  await memory.acquire(bytes);
  try {
    const same = to.kind === "bucket"
      ? await to.has(step.to, () => from.read(step.from))
      : from.kind === "bucket" && (await from.has(step.from, () => to.read(step.to)));
    if (same) journal.addSame(step.from, step.to);
    return same;
  } catch (error) {
    // Then it is copied, and what is wrong shows there.
    if (error instanceof ContentError) return false;
    throw error;
  } finally {
    memory.release(bytes);
  }
}

type Pair = Extract<Step, { kind: "update" }>;

/** Replaces unsure updates by sure ones or by `same`, in order, several at a time. What cannot be compared is a problem, and left out. */
async function* settled(steps: AsyncIterable<Step>, same: (step: Pair) => Promise<boolean>, run: Run): AsyncGenerator<Step> {
  const queue: (Step | Promise<Step | undefined>)[] = [];
  for await (const step of steps) {
    if (step.kind === "update" && step.unsure) {
      const { from, to } = step;
      queue.push(same(step).then(
        (isSame): Step => (isSame ? { kind: "same", from, to } : { ...step, unsure: false }),
        (error: unknown) => { run.fail(from.key, error); return undefined; },
      ));
    } else if (queue.length === 0) yield step;
    else queue.push(step);
    if (queue.length >= CONNECTIONS) yield* await first(queue);
  }
  while (queue.length > 0) yield* await first(queue);
}

async function first(queue: (Step | Promise<Step | undefined>)[]): Promise<Step[]> {
  const next = await queue.shift();
  return next ? [next] : [];
}

async function copy(from: Disk | Bucket, to: Disk | Bucket, step: Step, run: Run): Promise<void> {
  if (step.kind !== "create" && step.kind !== "update") return;
  const { journal, memory } = run.options;
  let item = step.from;
  for (let attempt = 1; ; attempt++) {
    // Larger ones ask for memory part by part.
    const bytes = item.size <= partSizeOf(item.size) ? item.size : 0;
    await memory.acquire(bytes);
    let seen = 0;
    const seeing = (length: number) => {
      seen += length;
      run.advance(length);
    };
    try {
      const version = await to.write(item.key, counted(from.read(item), seeing), step.to);
      journal.addSame(item, { ...item, version });
      run.copied(item);
      return;
    } catch (error) {
      run.advance(-seen);
      const failed = connectionError(error);
      if (attempt >= TRIES || !(failed instanceof ContentError || mayPass(failed))) throw failed;
      item = await from.refresh(item);
    } finally {
      memory.release(bytes);
    }
  }
}

function counted(content: Content, seeing: (length: number) => void): Content {
  async function* chunks(): AsyncGenerator<Buffer> {
    for await (const chunk of content.chunks) {
      seeing(chunk.length);
      yield chunk;
    }
  }
  return { ...content, chunks: chunks() };
}

/** One run: its summary, and the work done several at a time. */
class Run {
  readonly options: Options;
  readonly summary: Summary = {
    plan: { create: nothing(), update: nothing(), same: nothing(), extra: nothing() }, deletions: nothing(),
    copied: nothing(), deleted: nothing(), withheld: false, refused: 0, failed: 0, problems: [], notes: [],
  };
  private readonly done = nothing();
  private readonly total = nothing();

  constructor(options: Options) {
    this.options = options;
  }

  readonly refuse = (key: string, reason: string): void => {
    this.problem({ key, reason, kind: "refused" });
  };

  private problem(problem: Problem): void {
    this.summary[problem.kind]++;
    if (this.summary.problems.length < MAX_PROBLEMS) this.summary.problems.push(problem);
    this.options.reporter.problem(problem);
  }

  fail(key: string, error: unknown): void {
    this.problem({ key, reason: reasonOf(error), kind: error instanceof Refusal ? "refused" : "failed" });
  }

  /** Leaves deletions undone. Told once. */
  withhold(reason: string): void {
    this.summary.withheld = true;
    if (!this.summary.notes.includes(reason)) this.summary.notes.push(reason);
  }

  /** @param deleted what the step deletes, be it at the end or when its copy is checked */
  count(step: Step, deleted?: Item): void {
    const size = (step.from ?? step.to).size;
    add(this.summary.plan[step.kind], size);
    this.options.reporter.compared(this.summary.plan);
    if (step.kind === "create" || step.kind === "update") add(this.total, size);
    // Of an extra that goes, the deletion says it all.
    if (step.kind !== "same" && !(step.kind === "extra" && deleted)) this.options.reporter.step(step);
    if (!deleted) return;
    add(this.summary.deletions, deleted.size);
    this.options.reporter.deletion(deleted);
  }

  /** Whether the plan is agreed to. Where there is nothing to do nobody is asked. */
  async mayStart(): Promise<boolean> {
    if (this.options.dryRun) return false;
    const { plan, deletions } = this.summary;
    return plan.create.files + plan.update.files + deletions.files === 0 || this.options.confirm(this.summary);
  }

  advance(bytes: number): void {
    this.done.bytes += bytes;
    this.options.reporter.progress(this.done, this.total);
  }

  copied({ size }: Item): void {
    add(this.summary.copied, size);
    this.done.files++;
    this.options.reporter.progress(this.done, this.total);
  }

  /** Does the work for each step; what it throws becomes a problem, and the rest goes on. */
  async each(steps: AsyncGenerator<Step>, work: (step: Step) => Promise<void>): Promise<void> {
    const worker = async () => {
      for (let next = await steps.next(); !next.done; next = await steps.next()) {
        const { key } = next.value.from ?? next.value.to;
        await work(next.value).catch((error: unknown) => { this.fail(key, error); });
      }
    };
    await Promise.all(Array.from({ length: CONNECTIONS }, worker));
  }

  async deleteAll(steps: AsyncGenerator<Step>, place: Disk | Bucket): Promise<void> {
    const { failed, refused } = this.summary;
    if (failed + refused > 0) this.withhold("Nothing was deleted, as not everything was copied.");
    else await this.each(steps, async ({ to }) => { if (to) await this.remove(to, place); });
  }

  /** Ends what earlier runs have begun to upload. That it cannot be ended harms nothing. */
  async abortLeftUploads(place: Disk | Bucket): Promise<void> {
    if (place.kind === "disk") return;
    await place.abortLeftUploads().catch((error: unknown) => {
      this.summary.notes.push(`Parts of uploads of an earlier run may be left on ${place.name}: ${reasonOf(error)}`);
    });
  }

  async remove(item: Item, place: Disk | Bucket): Promise<void> {
    await place.remove(item);
    add(this.summary.deleted, item.size);
  }
}

function nothing(): Amount {
  return { files: 0, bytes: 0 };
}

function add(amount: Amount, bytes: number): void {
  amount.files++;
  amount.bytes += bytes;
}

/** An error's message and those of its causes. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? "" : reasonOf(error.cause);
  return cause === "" || error.message.includes(cause) ? error.message : `${error.message}: ${cause}`;
}

const ItemLine = v.object({ key: v.string(), size: v.number(), version: v.string(), at: v.optional(v.string()) });
const StepLine = v.variant("kind", [
  v.object({ kind: v.literal("create"), from: ItemLine }),
  v.object({ kind: v.literal("update"), from: ItemLine, to: ItemLine, unsure: v.boolean() }),
  v.object({ kind: v.literal("same"), from: ItemLine, to: ItemLine }),
  v.object({ kind: v.literal("extra"), to: ItemLine }),
]);
/** How many steps of a plan are in memory. */
const HELD_STEPS = 10_000;
const SPOOL_CHARACTERS = 256 * 1024;

/** A plan's steps: a million of them may be more than memory has, so most are on disk, in a file that is gone with the process. */
class Spool {
  private readonly file: FileHandle;
  private readonly folder: string;
  private readonly held: Step[] = [];
  private lines = "";

  private constructor(file: FileHandle, folder: string) {
    this.file = file;
    this.folder = folder;
  }

  static async create(): Promise<Spool> {
    const folder = await mkdtemp(join(tmpdir(), "migrate-")).catch(cannotSpool);
    const file = await open(join(folder, "plan"), "wx+", 0o600).catch(cannotSpool);
    // NFS and FUSE keep an open file under another name: there the folder goes at the end.
    await rm(folder, { recursive: true }).catch(() => undefined);
    return new Spool(file, folder);
  }

  async add(step: Step): Promise<void> {
    if (this.held.length < HELD_STEPS) {
      this.held.push(step);
      return;
    }
    this.lines += `${JSON.stringify(step)}\n`;
    if (this.lines.length >= SPOOL_CHARACTERS) await this.flush();
  }

  private async flush(): Promise<void> {
    const lines = this.lines;
    this.lines = "";
    await this.file.writeFile(lines).catch(cannotSpool);
  }

  async *steps(): AsyncGenerator<Step> {
    await this.flush();
    yield* this.held;
    for await (const line of this.file.readLines({ start: 0, autoClose: false })) yield v.parse(StepLine, JSON.parse(line));
  }

  async close(): Promise<void> {
    await this.file.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

function cannotSpool(error: unknown): never {
  throw new MigrateError(`the plan cannot be kept in "${tmpdir()}"; name a folder with room in TMPDIR`, { cause: error });
}
