/** Measures time and memory of a program from outside. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";

export interface Figure {
  seconds: number;
  /** CPU time of it and its descendants; NaN on a machine without /proc. */
  cpuSeconds: number;
  /** Memory peak of its largest process. */
  megabytes: number;
}

/** One run of a tool, in a column of the table. */
export interface Sample {
  column: string;
  tool: string;
  figure: Figure;
}

/** A tool's figures in a column. */
interface Cell extends Omit<Sample, "figure"> {
  median: Figure;
  /** How far the times of equal runs are apart: the range as a part of the median. */
  spread: number;
}

/** Equal runs that are so far apart do not tell which tool is faster. */
const NOISY_SPREAD = 0.3;

/**
 * Prints the medians of the samples, then how much of the other tools' time, CPU time and memory the
 * tool `own` takes, and which cells are too noisy. With `json` it prints the same as JSON.
 *
 * @param title what the table shows
 */
export function report(
  title: string,
  samples: readonly Sample[],
  own: string,
  { json }: { json: boolean },
): void {
  const measured = cellsOf(samples);
  const cells = measured.map((cell) => {
    const base = measured.find(({ column, tool }) => column === cell.column && tool === own);
    return {
      ...cell,
      ratio: base && cell.tool !== own ? ratio(base.median, cell.median) : undefined,
    };
  });
  if (json) {
    console.log(JSON.stringify({ title, own, cells }, undefined, 2));
    return;
  }
  console.log(title);
  console.table(
    tableOf(cells, ({ median, spread }) => `${text(median)}, spread ${percent(spread)}`),
  );
  console.log(`what "${own}" takes of the others' time, CPU time and memory:`);
  console.table(
    tableOf(cells, (cell) => {
      if (cell.ratio === undefined) return "";
      const { seconds, cpuSeconds, megabytes } = cell.ratio;
      return [seconds, cpuSeconds, megabytes].map((part) => part.toFixed(2)).join(", ");
    }),
  );
  const noisy = cells.filter(({ spread }) => spread > NOISY_SPREAD);
  if (noisy.length > 0) console.log("The machine was too noisy to tell; equal runs were apart:");
  for (const { tool, column, spread } of noisy) {
    console.log(`  ${column}, ${tool}: ${percent(spread)}`);
  }
}

function cellsOf(samples: readonly Sample[]): Cell[] {
  const groups = new Map<string, Sample[]>();
  for (const sample of samples) {
    const key = `${sample.column}, ${sample.tool}`;
    groups.set(key, [...(groups.get(key) ?? []), sample]);
  }
  return [...groups.values()].flatMap(([first, ...others]) => {
    if (first === undefined) return [];
    const figures = [first, ...others].map(({ figure }) => figure);
    const times = figures.map(({ seconds }) => seconds);
    const median = medianOf(figures);
    const spread = (Math.max(...times) - Math.min(...times)) / median.seconds;
    return [{ column: first.column, tool: first.tool, median, spread }];
  });
}

/** Rows by tool, columns by what was measured. */
function tableOf<T extends Cell>(cells: readonly T[], show: (cell: T) => string) {
  const rows: Record<string, Record<string, string>> = {};
  for (const cell of cells) (rows[cell.tool] ??= {})[cell.column] = show(cell);
  return rows;
}

function ratio(own: Figure, other: Figure): Figure {
  return {
    seconds: own.seconds / other.seconds,
    cpuSeconds: own.cpuSeconds / other.cpuSeconds,
    megabytes: own.megabytes / other.megabytes,
  };
}

function text({ seconds, cpuSeconds, megabytes }: Figure): string {
  return `${seconds.toFixed(2)} s, CPU ${cpuSeconds.toFixed(2)} s, ${megabytes.toFixed(0)} MB`;
}

function percent(part: number): string {
  return `${(part * 100).toFixed(0)} %`;
}

/** The median of each figure. */
function medianOf(figures: readonly Figure[]): Figure {
  return {
    seconds: median(figures.map(({ seconds }) => seconds)),
    cpuSeconds: median(figures.map(({ cpuSeconds }) => cpuSeconds)),
    megabytes: median(figures.map(({ megabytes }) => megabytes)),
  };
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

/**
 * Runs a program to its end.
 *
 * @param env environment variables in addition to those of this process
 * @throws Error when it fails
 */
export async function measure(
  program: string,
  args: readonly string[],
  { cwd, env }: { cwd?: string; env: Readonly<Record<string, string>> },
): Promise<Figure> {
  const start = performance.now();
  const cpuStart = cpuOfEnded();
  const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: "ignore" });
  let megabytes = 0;
  const watch = setInterval(() => {
    megabytes = Math.max(megabytes, largestPeak(child.pid ?? 0));
  }, 50);
  const closed: Promise<unknown[]> = once(child, "close");
  const [code] = await closed.finally(() => {
    clearInterval(watch);
  });
  const seconds = (performance.now() - start) / 1000;
  if (code !== 0) {
    const place = cwd === undefined ? "" : ` in ${cwd}`;
    throw new Error(`${program} ${args.join(" ")} ended with status ${String(code)}${place}`);
  }
  return { seconds, cpuSeconds: cpuOfEnded() - cpuStart, megabytes };
}

/** The clock of /proc on Linux ticks 100 times a second. */
const TICKS = 100;

/** CPU seconds of all descendants that have ended, from `cutime` and `cstime` (proc(5)). */
function cpuOfEnded(): number {
  const stat = unlessGone(() => readFileSync("/proc/self/stat", "utf8"), "");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) / TICKS;
}

/**
 * The highest peak so far of a process and its descendants, in MB; 0 on a machine without /proc. It
 * reads only these processes: to read all of them so often would slow down what is measured.
 */
function largestPeak(pid: number): number {
  const status = unlessGone(() => readFileSync(`/proc/${pid}/status`, "utf8"), "");
  const peak = Number(/^VmHWM:\s*(\d+)/m.exec(status)?.[1] ?? 0) / 1024;
  return Math.max(peak, ...childrenOf(pid).map(largestPeak));
}

/** The processes that each thread has started. */
function childrenOf(pid: number): number[] {
  const threads = unlessGone(() => readdirSync(`/proc/${pid}/task`), []);
  return threads.flatMap((thread) => {
    const file = `/proc/${pid}/task/${thread}/children`;
    const children = unlessGone(() => readFileSync(file, "utf8"), "");
    return children.split(" ").filter(Boolean).map(Number);
  });
}

/** A process may end at any moment. */
function unlessGone<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch {
    return otherwise;
  }
}
