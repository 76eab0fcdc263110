/** The results of a run, and how they are shown. */
import { createColors } from "picocolors";
import { SYMPTOMS, type Symptom } from "./diagnosis.ts";

export type Status = "ok" | "warning" | "failed" | "skipped";

/** The result of one check. */
export interface CheckResult {
  /** The name of the check, e.g. `upload`, `cors https://authentik.company`. */
  check: string;
  status: Status;
  /** What was tried. */
  tried: string;
  /** What came back. */
  got: string;
  symptom?: Symptom | undefined;
  /** What to do after a failure or a warning. */
  advice?: string | undefined;
  milliseconds: number;
}

/** Whether authentik will work with the storage: no check failed. */
export function allPassed(results: readonly CheckResult[]): boolean {
  return results.length > 0 && results.every(({ status }) => status !== "failed");
}

const SIGNS = { ok: "ok", warning: "warn", failed: "FAIL", skipped: "skip" } as const;

/** One line for each check. Below a failure or a warning: what was tried, and what to do. */
export function renderResults(
  results: readonly CheckResult[],
  { color }: { color: boolean },
): string {
  const { green, yellow, red, dim, bold } = createColors(color);
  const paint = { ok: green, warning: yellow, failed: red, skipped: dim };
  const width = Math.max(0, ...results.map(({ check }) => check.length));
  return results
    .flatMap(({ check, status, tried, got, symptom, advice, milliseconds }) => {
      const sign = paint[status](SIGNS[status].padEnd(4));
      const lines = [`${sign}  ${check.padEnd(width)}  ${got} ${dim(`(${milliseconds} ms)`)}`];
      const hasPassed = status === "ok" || status === "skipped";
      if (!hasPassed) lines.push(`      ${dim(`tried: ${tried}`)}`);
      if (symptom) lines.push(`      ${bold(symptom)}: ${advice ?? SYMPTOMS[symptom]}`);
      return lines;
    })
    .join("\n");
}
