/** Measures each example stack in process, compared with an empty program. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PROVIDERS } from "../providers/index.ts";

const PROGRAM = fileURLToPath(new URL("../test/fixtures/in-process.ts", import.meta.url));
const RUNS = 5;

/** Prints the fastest of several alternating runs, and its ratio to the empty program's. */
export async function benchExamples(): Promise<void> {
  const names = ["empty", ...PROVIDERS];
  const fastest = new Map<string, number>();
  for (let round = 0; round < RUNS; round += 1) {
    for (const name of names) {
      const start = performance.now();
      const args = ["--import", "tsx/esm", PROGRAM, name];
      await promisify(execFile)(process.execPath, args, { timeout: 60_000 });
      fastest.set(name, Math.min(fastest.get(name) ?? Infinity, performance.now() - start));
    }
  }
  const empty = fastest.get("empty") ?? NaN;
  console.log(`example stacks in process, the fastest of ${RUNS} alternating runs`);
  for (const [name, milliseconds] of fastest) {
    const time = `${milliseconds.toFixed(0).padStart(6)} ms`;
    const ratio = (milliseconds / empty).toFixed(2);
    console.log(`${name.padEnd(8)} ${time}   ${ratio} of the empty program's`);
  }
}
