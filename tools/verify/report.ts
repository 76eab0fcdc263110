/** What a run found, and how it is shown. */
import { createColors } from "picocolors";
import { SYMPTOMS, type Symptom } from "./diagnosis.ts";

export type Status = "ok" | "warning" | "failed" | "skipped";

/** One check. */
export interface CheckResult {
  /** E.g. `upload`, `cors https://authentik.company`. */
  check: string;
  status: Status;
  /** What was tried. */
  tried: string;
  /** What came back. */
  got: string;
  symptom?: Symptom | undefined;
  /** What to do, where it did not go well. */
  advice?: string | undefined;
  milliseconds: number;
}

/** Whether authentik will work: no check failed, and none was left out for a failure. */
export function isWell(results: readonly CheckResult[]): boolean {
  return results.length > 0 && results.every(({ status }) => status !== "failed");
}

const SIGNS = { ok: "ok", warning: "warn", failed: "FAIL", skipped: "skip" } as const;

/** One line a check, and below it what to do where something is to be done. */
export function renderResults(results: readonly CheckResult[], { color }: { color: boolean }): string {
  const colors = createColors(color);
  const paint = { ok: colors.green, warning: colors.yellow, failed: colors.red, skipped: colors.dim };
  const width = Math.max(0, ...results.map(({ check }) => check.length));
  const lines = results.flatMap(({ check, status, tried, got, symptom, advice, milliseconds }) => [
    `${paint[status](SIGNS[status].padEnd(4))}  ${check.padEnd(width)}  ${got} ${colors.dim(`(${milliseconds} ms)`)}`,
    ...(status === "failed" || status === "warning" ? [`      ${colors.dim(`tried: ${tried}`)}`] : []),
    ...(symptom === undefined ? [] : [`      ${colors.bold(symptom)}: ${advice ?? SYMPTOMS[symptom]}`]),
  ]);
  return lines.join("\n");
}
