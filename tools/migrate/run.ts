/** One run of a migration: its work on several files at once, and its result. */
import { reasonOf } from "../lib/errors.ts";
import type { Bucket } from "./bucket.ts";
import type { MemoryBudget } from "./content.ts";
import type { Disk } from "./disk.ts";
import type { Journal } from "./journal.ts";
import type { FileStep } from "./plan.ts";
import { CONNECTIONS } from "./s3-client.ts";
import { SkipError, type Item } from "./storage.ts";

/** A number of files and their bytes. */
export interface Amount {
  files: number;
  bytes: number;
}

/** The steps of each kind in a plan. */
export type StepCounts = Record<FileStep["kind"], Amount>;

/** A file that was not copied, and why. */
export interface FileProblem {
  key: string;
  reason: string;
  /** `skipped`: a retry would not help. `failed`: it may succeed another time. */
  kind: "skipped" | "failed";
}

/** How many problems are kept for the end. All are counted. */
const MAX_PROBLEMS = 1000;
const STACK_TRACE_LIMIT = Error.stackTraceLimit;
/** After a signal, work in progress has this much time to end. */
const STOP_MS = 2000;

/** The result of a run. */
export interface Summary {
  plan: StepCounts;
  /** The deletions that follow after everything else has succeeded. */
  deletions: Amount;
  copied: Amount;
  deleted: Amount;
  /** Whether deletions were not carried out, for the reason in the notes. */
  deletionsSkipped: boolean;
  skipped: number;
  failed: number;
  problems: FileProblem[];
  /** For the user, e.g. why nothing was deleted. */
  notes: string[];
  /** Of a run that a signal ended. */
  stopped?: Stop;
}

export interface Stop {
  /** What another run has to copy; undefined before the plan was complete. */
  left: Amount | undefined;
}

/** Shows what happens. */
export interface Reporter {
  /** The counts of the comparison so far. */
  compared(counts: Readonly<StepCounts>): void;
  /** A step of the plan. `same` is not reported, and deletions are reported by `deletion`. */
  step(step: FileStep): void;
  /** A deletion of the plan. */
  deletion(item: Item): void;
  problem(problem: FileProblem): void;
  /** The plan begins again: earlier reports do not count. */
  restart(reason: string): void;
  /** A request has failed and is sent again. */
  retry(reason: string): void;
  /** How much of the plan's work is done. */
  progress(done: Readonly<Amount>, total: Readonly<Amount>): void;
}

export interface MigrationOptions {
  journal: Journal;
  memory: MemoryBudget;
  reporter: Reporter;
  dryRun: boolean;
  /** Stops the run in order. Its reason is an Error. */
  signal: AbortSignal;
  /** Called with the plan if there is something to do. */
  confirm(summary: Summary): Promise<boolean>;
}

export class MigrationRun {
  readonly options: MigrationOptions;
  readonly summary: Summary = {
    plan: { create: nothing(), update: nothing(), same: nothing(), extra: nothing() },
    deletions: nothing(),
    copied: nothing(),
    deleted: nothing(),
    deletionsSkipped: false,
    skipped: 0,
    failed: 0,
    problems: [],
    notes: [],
  };
  private readonly done = nothing();
  private readonly total = nothing();
  private isPlanned = false;

  constructor(options: MigrationOptions) {
    this.options = options;
  }

  /** Does the work until it is done or the signal comes. */
  async untilStopped(work: () => Promise<Summary>): Promise<Summary> {
    const { signal } = this.options;
    try {
      return await Promise.race([work(), rejectedAfter(signal, STOP_MS)]);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
    const { copied } = this.summary;
    const left = {
      files: this.total.files - copied.files,
      bytes: this.total.bytes - copied.bytes,
    };
    this.summary.stopped = { left: this.isPlanned ? left : undefined };
    return this.summary;
  }

  readonly skip = (key: string, reason: string): void => {
    this.problem({ key, reason, kind: "skipped" });
  };

  fail(key: string, error: unknown): void {
    const kind = error instanceof SkipError ? "skipped" : "failed";
    this.problem({ key, reason: reasonOf(error), kind });
  }

  private problem(problem: FileProblem): void {
    this.summary[problem.kind]++;
    if (this.summary.problems.length < MAX_PROBLEMS) this.summary.problems.push(problem);
    this.options.reporter.problem(problem);
  }

  /** Omits deletions. The reason is noted once. */
  skipDeletions(reason: string): void {
    this.summary.deletionsSkipped = true;
    if (!this.summary.notes.includes(reason)) this.summary.notes.push(reason);
  }

  /** @param deleted what the step deletes, at the end or after its copy is checked */
  count(step: FileStep, deleted?: Item): void {
    const { reporter, signal } = this.options;
    signal.throwIfAborted();
    const size = (step.from ?? step.to).size;
    add(this.summary.plan[step.kind], size);
    reporter.compared(this.summary.plan);
    if (step.kind === "create" || step.kind === "update") add(this.total, size);
    // The deletion reports an extra file that is deleted.
    if (step.kind !== "same" && !(step.kind === "extra" && deleted)) reporter.step(step);
    if (!deleted) return;
    add(this.summary.deletions, deleted.size);
    reporter.deletion(deleted);
  }

  /** Whether the plan is accepted. If there is nothing to do, no question is asked. */
  async mayStart(): Promise<boolean> {
    this.isPlanned = true;
    if (this.options.dryRun) return false;
    const { plan, deletions } = this.summary;
    const changes = plan.create.files + plan.update.files + deletions.files;
    return changes === 0 || this.options.confirm(this.summary);
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

  /**
   * Does the work for each step. Its failures become problems, and the other steps go on. All written
   * files are on the disk at the end.
   *
   * @throws the signal's reason when it stops the work, MigrateError when a disk cannot store files
   */
  async each(
    steps: AsyncGenerator<FileStep>,
    work: (step: FileStep) => Promise<void>,
  ): Promise<void> {
    const { journal, signal } = this.options;
    const worker = async () => {
      for (let next = await steps.next(); !next.done; next = await steps.next()) {
        const { key } = next.value.from ?? next.value.to;
        await work(next.value).catch((error: unknown) => {
          if (!signal.aborted) this.fail(key, error);
        });
        signal.throwIfAborted();
      }
    };
    // Only the messages of failures are read. Each closed connection is a failure too.
    Error.stackTraceLimit = 0;
    const ended = await Promise.allSettled(Array.from({ length: CONNECTIONS }, worker));
    Error.stackTraceLimit = STACK_TRACE_LIMIT;
    await journal.flush();
    for (const end of ended) if (end.status === "rejected") throw end.reason;
  }

  async deleteAll(steps: AsyncGenerator<FileStep>, storage: Disk | Bucket): Promise<void> {
    if (this.summary.failed + this.summary.skipped > 0) {
      this.skipDeletions("Nothing was deleted, because not everything was copied.");
      return;
    }
    await this.each(steps, async ({ to }) => {
      if (to) await this.remove(to, storage);
    });
  }

  /** Aborts uploads that earlier runs began. A failure is only noted. */
  async abortLeftUploads(storage: Disk | Bucket): Promise<void> {
    if (storage.kind === "disk") return;
    await storage.abortLeftUploads().catch((error: unknown) => {
      const message = `${storage.name} may still have parts of uploads of an earlier run`;
      this.summary.notes.push(`${message}: ${reasonOf(error)}`);
    });
  }

  async remove(item: Item, storage: Disk | Bucket): Promise<void> {
    await storage.remove(item);
    add(this.summary.deleted, item.size);
  }
}

function rejectedAfter(signal: AbortSignal, ms: number): Promise<never> {
  return new Promise((_, reject) => {
    const giveUp = () => {
      setTimeout(reject, ms, signal.reason);
    };
    signal.addEventListener("abort", giveUp, { once: true });
  });
}

function nothing(): Amount {
  return { files: 0, bytes: 0 };
}

function add(amount: Amount, bytes: number): void {
  amount.files++;
  amount.bytes += bytes;
}
