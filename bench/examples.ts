/** What each example stack costs in process, against an empty program. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PROVIDERS } from "../providers/index.ts";

const PROGRAM = fileURLToPath(new URL("../test/fixtures/in-process.ts", import.meta.url));
const RUNS = 5;

/** Prints the quickest of a few runs in turn, and its ratio to the empty program's. */
export async function benchExamples(): Promise<void> {
  const names = ["empty", ...PROVIDERS];
  const least = new Map(names.map((name): [string, number] => [name, Number.POSITIVE_INFINITY]));
  for (let round = 0; round < RUNS; round += 1) {
    for (const name of names) {
      const start = performance.now();
      await promisify(execFile)(process.execPath, ["--import", "tsx/esm", PROGRAM, name], { timeout: 60_000 });
      least.set(name, Math.min(least.get(name) ?? Number.POSITIVE_INFINITY, performance.now() - start));
    }
  }
  const empty = least.get("empty") ?? Number.NaN;
  console.log(`example stacks in process, the quickest of ${RUNS} runs in turn`);
  for (const [name, milliseconds] of least) {
    console.log(`${name.padEnd(8)} ${milliseconds.toFixed(0).padStart(6)} ms   ${(milliseconds / empty).toFixed(2)} of the empty program's`);
  }
}
