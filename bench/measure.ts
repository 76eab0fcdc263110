/** What a program takes, measured from outside. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";

export interface Figure {
  seconds: number;
  /** Of its largest process. */
  megabytes: number;
}

/** The median time, and the median peak. */
export function medianOf(figures: readonly Figure[]): Figure {
  const middle = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
  return { seconds: middle(figures.map(({ seconds }) => seconds)), megabytes: middle(figures.map(({ megabytes }) => megabytes)) };
}

/**
 * Runs a program to its end.
 *
 * @param env beside this process's own
 * @throws Error when it fails
 */
export async function measure(program: string, args: readonly string[], { cwd, env }: { cwd?: string; env: Readonly<Record<string, string>> }): Promise<Figure> {
  const start = performance.now();
  const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: "ignore" });
  let megabytes = 0;
  const watch = setInterval(() => { megabytes = Math.max(megabytes, largestPeak(child.pid ?? 0)); }, 50);
  const code = await once(child, "close").then(([status]: unknown[]) => status).finally(() => { clearInterval(watch); });
  const seconds = (performance.now() - start) / 1000;
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} ends with ${String(code)}${cwd === undefined ? "" : ` in ${cwd}`}`);
  return { seconds, megabytes };
}

/**
 * The highest peak among a process and its descendants so far, in MB; 0 where there is no /proc. It looks at these alone: to
 * read of all processes so often would slow down what is measured.
 */
function largestPeak(pid: number): number {
  const status = unlessGone(() => readFileSync(`/proc/${pid}/status`, "utf8"), "");
  const peak = Number(/^VmHWM:\s*(\d+)/m.exec(status)?.[1] ?? 0) / 1024;
  return Math.max(peak, ...childrenOf(pid).map(largestPeak));
}

/** Each thread has those that it has started. */
function childrenOf(pid: number): number[] {
  const threads = unlessGone(() => readdirSync(`/proc/${pid}/task`), []);
  return threads.flatMap((thread) => unlessGone(() => readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8"), "").split(" ").filter(Boolean).map(Number));
}

/** A process may end at any moment. */
function unlessGone<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch {
    return otherwise;
  }
}
