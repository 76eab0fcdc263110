/** What a run says: its plan, its progress, its end. */
import type { Amount, Counts, Problem, Reporter, Summary } from "./migrate.ts";
import type { Item, Step } from "./plan.ts";

const TERMINAL_EVERY_MS = 200;
const LINE_EVERY_MS = 10_000;
/** What is only in the destination, and stays, has no sign. */
const SIGNS = { create: "+", update: "~", same: "=", extra: " " } as const;

/** For people: the plan and the end on stdout, the progress on stderr. */
export class TextReport implements Reporter {
  private readonly printsPlan: boolean;
  private readonly isTerminal = process.stderr.isTTY;
  /** Of the copying: neither the plan nor a question count. */
  private start: number | undefined;
  private last = Date.now();
  private hasLine = false;

  constructor(printsPlan: boolean) {
    this.printsPlan = printsPlan;
  }

  step({ kind, from, to }: Step): void {
    this.print(SIGNS[kind], from ?? to);
  }

  deletion(item: Item): void {
    this.print("-", item);
  }

  private print(sign: string, { key, size }: Item): void {
    if (!this.printsPlan) return;
    this.clear();
    process.stdout.write(`${sign} ${printable(key)} (${bytesText(size)})\n`);
  }

  problem({ kind, key, reason }: Problem): void {
    this.clear();
    console.error(`${kind} ${printable(key)}: ${printable(reason)}`);
  }

  compared({ create, update, same, extra }: Readonly<Counts>): void {
    this.now(() => `${create.files + update.files + same.files + extra.files} files compared`);
  }

  progress(done: Readonly<Amount>, total: Readonly<Amount>): void {
    const start = (this.start ??= Date.now());
    this.now((now) => progressText(done, total, (now - start) / 1000));
  }

  /** Says how it goes, if it is time to. */
  private now(text: (now: number) => string): void {
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
    process.stdout.write(`${summaryText(summary)}\n${resultText(summary, seconds)}\n`);
    for (const { kind, key, reason } of summary.problems) process.stdout.write(`  ${kind} ${printable(key)}: ${printable(reason)}\n`);
    const more = summary.refused + summary.failed - summary.problems.length;
    if (more > 0) process.stdout.write(`  and ${more} more, each told of above\n`);
    for (const note of summary.notes) process.stdout.write(`Note: ${printable(note)}\n`);
  }
}

/** For programs: one JSON object a line. */
export class JsonReport implements Reporter {
  step(step: Step): void {
    const { key, size } = step.from ?? step.to;
    this.line({ step: step.kind, key, bytes: size });
  }

  deletion({ key, size }: Item): void {
    this.line({ step: "delete", key, bytes: size });
  }

  problem(problem: Problem): void {
    this.line({ problem: problem.kind, key: problem.key, reason: problem.reason });
  }

  // The last line says it all.
  readonly compared = (): undefined => undefined;
  readonly progress = (): undefined => undefined;

  end(summary: Summary): void {
    this.line({ summary });
  }

  private line(value: unknown): void {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  }
}

/** `3 new (1.2 MB), 1 changed (3 kB), 10 the same, 2 only in the destination, 2 (5 kB) to be deleted`. */
export function summaryText({ plan: { create, update, same, extra }, deletions }: Summary): string {
  const amount = ({ files, bytes }: Amount): string => (files === 0 ? "0" : `${files} (${bytesText(bytes)})`);
  const deleted = deletions.files === 0 ? "" : `, ${amount(deletions)} to be deleted`;
  return `Plan: ${amount(create)} new, ${amount(update)} changed, ${same.files} the same, ${extra.files} only in the destination${deleted}.`;
}

function resultText({ copied, deleted, refused, failed }: Summary, seconds: number): string {
  const rest = [`${deleted.files} deleted`, `${refused} refused`, `${failed} failed`].filter((text) => !text.startsWith("0 "));
  return [`Copied ${copied.files} files, ${bytesText(copied.bytes)}, in ${seconds.toFixed(1)} s`, ...rest].join("; ") + ".";
}

function progressText(done: Readonly<Amount>, total: Readonly<Amount>, seconds: number): string {
  const rate = done.bytes / Math.max(seconds, 0.001);
  const left = rate > 0 ? `, ${Math.ceil((total.bytes - done.bytes) / rate)} s left` : "";
  return `${done.files} of ${total.files} files, ${bytesText(done.bytes)} of ${bytesText(total.bytes)}, ${bytesText(rate)}/s${left}`;
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

/** Control characters in a key must not reach the terminal. */
export function printable(text: string): string {
  return text.replace(/\p{C}/gu, (char) => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`);
}
