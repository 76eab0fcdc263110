/** The output of a run: its plan, its progress, its result. */
import { visible } from "../../config/visible.ts";
import type { FileStep } from "./plan.ts";
import type { Amount, FileProblem, Reporter, StepCounts, Stop, Summary } from "./run.ts";
import type { Item } from "./storage.ts";

const TERMINAL_EVERY_MS = 200;
const LINE_EVERY_MS = 10_000;
const RETRY_EVERY_MS = 1000;
/** A file that is only in the destination and is kept has no sign. */
const SIGNS = { create: "+", update: "~", same: "=", extra: " " } as const;

/** For people: the plan and the result on stdout, the progress on stderr. */
export class TextReporter implements Reporter {
  private readonly printsPlan: boolean;
  private readonly isTerminal = process.stderr.isTTY;
  /** Of the copying, without the plan and the question. */
  private start: number | undefined;
  private last = Date.now();
  private lastRetry = 0;
  private hasLine = false;

  constructor(printsPlan: boolean) {
    this.printsPlan = printsPlan;
  }

  step(step: FileStep): void {
    this.print(SIGNS[step.kind], step.from ?? step.to, storedOf(step));
  }

  deletion(item: Item): void {
    this.print("-", item);
  }

  private print(sign: string, { key, size }: Item, stored?: string): void {
    if (!this.printsPlan) return;
    this.clear();
    const now = stored === undefined ? "" : `, now with ${visible(stored)}`;
    process.stdout.write(`${sign} ${visible(key)} (${bytesText(size)}${now})\n`);
  }

  restart(reason: string): void {
    this.clear();
    console.error(`The plan starts again with a sorted listing: ${visible(reason)}.`);
  }

  problem(problem: FileProblem): void {
    this.clear();
    console.error(problemText(problem));
  }

  /** Many requests may fail at once: one line a second shows it. */
  retry(reason: string): void {
    const now = Date.now();
    if (now - this.lastRetry < RETRY_EVERY_MS) return;
    this.lastRetry = now;
    this.clear();
    console.error(visible(reason));
  }

  compared({ create, update, same, extra }: Readonly<StepCounts>): void {
    this.show(() => `${create.files + update.files + same.files + extra.files} files compared`);
  }

  progress(done: Readonly<Amount>, total: Readonly<Amount>): void {
    const start = (this.start ??= Date.now());
    this.show((now) => progressText(done, total, (now - start) / 1000));
  }

  /** Shows the progress, but not too often. */
  private show(text: (now: number) => string): void {
    const now = Date.now();
    if (now - this.last < (this.isTerminal ? TERMINAL_EVERY_MS : LINE_EVERY_MS)) return;
    this.last = now;
    process.stderr.write(this.isTerminal ? `\r\u001b[K${text(now)}` : `${text(now)}\n`);
    this.hasLine = this.isTerminal;
  }

  private clear(): void {
    if (this.hasLine) process.stderr.write("\r\u001b[K");
    this.hasLine = false;
  }

  end(summary: Summary): void {
    this.clear();
    const end = Date.now();
    const seconds = (end - (this.start ?? end)) / 1000;
    const plan = `${summaryText(summary)}\n`;
    const result = summary.stopped
      ? stopText(summary, summary.stopped)
      : resultText(summary, seconds);
    process.stdout.write(`${summary.stopped ? "" : plan}${result}\n`);
    for (const problem of summary.problems) process.stdout.write(`  ${problemText(problem)}\n`);
    const more = summary.skipped + summary.failed - summary.problems.length;
    if (more > 0) process.stdout.write(`  and ${more} more, which are listed above\n`);
    for (const note of summary.notes) process.stdout.write(`${noteText(note)}\n`);
  }
}

/** For programs: one JSON object a line. */
export class JsonReporter implements Reporter {
  step(step: FileStep): void {
    const { key, size } = step.from ?? step.to;
    this.line({ step: step.kind, key, bytes: size, stored: storedOf(step) });
  }

  deletion({ key, size }: Item): void {
    this.line({ step: "delete", key, bytes: size });
  }

  problem({ kind, key, reason }: FileProblem): void {
    this.line({ problem: kind, key, reason });
  }

  restart(reason: string): void {
    this.line({ restart: reason });
  }

  retry(reason: string): void {
    this.line({ retry: reason });
  }

  // The summary has these numbers.
  readonly compared = (): undefined => undefined;
  readonly progress = (): undefined => undefined;

  end(summary: Summary): void {
    this.line({ summary });
  }

  private line(value: unknown): void {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  }
}

function storedOf(step: FileStep): string | undefined {
  return step.kind === "update" ? step.stored : undefined;
}

export function noteText(note: string): string {
  return `Note: ${visible(note)}`;
}

/** E.g. `Plan: 3 new (1.2 MB), 1 changed (3 kB), 10 the same, 2 only in the destination.` */
export function summaryText({ plan, deletions }: Summary): string {
  const { create, update, same, extra } = plan;
  const counts = [
    `${amountText(create)} new`,
    `${amountText(update)} changed`,
    `${same.files} the same`,
    `${extra.files} only in the destination`,
  ];
  if (deletions.files > 0) counts.push(`${amountText(deletions)} to be deleted`);
  return `Plan: ${counts.join(", ")}.`;
}

function resultText({ copied, deleted, skipped, failed }: Summary, seconds: number): string {
  const time = `${seconds.toFixed(1)} s`;
  const parts = [`Copied ${copied.files} files, ${bytesText(copied.bytes)}, in ${time}`];
  if (deleted.files > 0) parts.push(`${deleted.files} deleted`);
  if (skipped > 0) parts.push(`${skipped} skipped`);
  if (failed > 0) parts.push(`${failed} failed`);
  return `${parts.join("; ")}.`;
}

/** E.g. `Stopped: 3 files (1.2 MB) were copied, 7 files (3 MB) are left.` */
function stopText({ copied }: Summary, { left }: Stop): string {
  const done = `Stopped: ${copied.files} files (${bytesText(copied.bytes)}) were copied`;
  const rest = left
    ? `${left.files} files (${bytesText(left.bytes)}) are left`
    : "the comparison was not complete";
  return `${done}, ${rest}. Run the same command again to continue.`;
}

function problemText({ kind, key, reason }: FileProblem): string {
  return `${kind} ${visible(key)}: ${visible(reason)}`;
}

function progressText(done: Readonly<Amount>, total: Readonly<Amount>, seconds: number): string {
  const rate = done.bytes / Math.max(seconds, 0.001);
  const left = rate > 0 ? `, ${Math.ceil((total.bytes - done.bytes) / rate)} s left` : "";
  const files = `${done.files} of ${total.files} files`;
  const bytes = `${bytesText(done.bytes)} of ${bytesText(total.bytes)}`;
  return `${files}, ${bytes}, ${bytesText(rate)}/s${left}`;
}

function amountText({ files, bytes }: Amount): string {
  return files === 0 ? "0" : `${files} (${bytesText(bytes)})`;
}

function bytesText(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[unit] ?? ""}`;
}
