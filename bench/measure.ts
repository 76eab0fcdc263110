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

/** The median of each figure. */
export function medianOf(figures: readonly Figure[]): Figure {
  return {
    seconds: median(figures.map(({ seconds }) => seconds)),
    cpuSeconds: median(figures.map(({ cpuSeconds }) => cpuSeconds)),
    megabytes: median(figures.map(({ megabytes }) => megabytes)),
  };
}

/** How far the times of equal runs are apart: the range as a part of the median. */
export function spreadOf(figures: readonly Figure[]): number {
  const times = figures.map(({ seconds }) => seconds);
  return (Math.max(...times) - Math.min(...times)) / median(times);
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

/**
 * Runs a program to its end.
 *
 * @param env environment variables besides those of this process
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
