/** Measures time and memory of a program from outside. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";

export interface Figure {
  seconds: number;
  /** Memory peak of its largest process. */
  megabytes: number;
}

/** The median time and the median peak. */
export function medianOf(figures: readonly Figure[]): Figure {
  return {
    seconds: median(figures.map(({ seconds }) => seconds)),
    megabytes: median(figures.map(({ megabytes }) => megabytes)),
  };
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
  return { seconds, megabytes };
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
