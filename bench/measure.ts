/** What a program takes, measured from outside. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";

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
  const watch = setInterval(() => void largestPeak(child.pid ?? 0).then((peak) => (megabytes = Math.max(megabytes, peak))), 50);
  const code = await once(child, "close").then(([status]: unknown[]) => status).finally(() => { clearInterval(watch); });
  const seconds = (performance.now() - start) / 1000;
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} ends with ${String(code)}${cwd === undefined ? "" : ` in ${cwd}`}`);
  return { seconds, megabytes };
}

/** The highest peak among a process and its descendants so far, in MB; 0 where there is no /proc. */
async function largestPeak(root: number): Promise<number> {
  const pids = (await readdir("/proc").catch(() => [])).filter((name) => /^\d+$/.test(name));
  const processes = await Promise.all(pids.map(async (pid) => ({ pid: Number(pid), status: await readFile(`/proc/${pid}/status`, "utf8").catch(() => "") })));
  const read = (status: string, field: string) => Number(new RegExp(`^${field}:\\s*(\\d+)`, "m").exec(status)?.[1] ?? 0);
  const family = new Set([root]);
  for (const { pid, status } of processes.sort((a, b) => a.pid - b.pid)) if (family.has(read(status, "PPid"))) family.add(pid);
  return Math.max(0, ...processes.filter(({ pid }) => family.has(pid)).map(({ status }) => read(status, "VmHWM") / 1024));
}
