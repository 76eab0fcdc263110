/** The results of a run, and how they are shown. */
import { createColors } from "picocolors";
import wrapAnsi from "wrap-ansi";
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

export interface RenderOptions {
  color: boolean;
  /** The width of the terminal, at which lines break between words. Undefined never breaks them. */
  columns?: number | undefined;
}

const INDENT = 6;

/**
 * One line for each check. Below a failure or a warning: what was tried, and what to do. At the
 * end: how many checks passed.
 *
 * @param next what to do when all checks have passed, as a sentence
 */
export function renderResults(
  results: readonly CheckResult[],
  next: string,
  { color, columns }: RenderOptions,
): string {
  const { green, yellow, red, dim, bold } = createColors(color);
  const paint = { ok: green, warning: yellow, failed: red, skipped: dim };
  const width = Math.max(0, ...results.map(({ check }) => check.length));
  const wrap = (text: string, indent: number) =>
    columns === undefined
      ? text
      : wrapAnsi(text, Math.max(20, columns - indent), { trim: true }).replaceAll(
          "\n",
          `\n${" ".repeat(indent)}`,
        );
  const indented = (text: string) => " ".repeat(INDENT) + wrap(text, INDENT);
  const lines = results.flatMap((result) => {
    const { check, status, tried, got, symptom, advice, milliseconds } = result;
    const sign = paint[status](SIGNS[status].padEnd(4));
    const start = INDENT + width + 2;
    const answer = wrap(`${got} ${dim(`(${milliseconds} ms)`)}`, start);
    const hasPassed = status === "ok" || status === "skipped";
    return [
      `${sign}  ${check.padEnd(width)}  ${answer}`,
      ...(hasPassed ? [] : [indented(dim(`tried: ${tried}`))]),
      ...(symptom ? [indented(`${bold(symptom)}: ${advice ?? SYMPTOMS[symptom]}`)] : []),
    ];
  });
  return [...lines, "", wrap(summaryOf(results, next), 0)].join("\n");
}

/** How the run ended, in one sentence, and what to do next. */
function summaryOf(results: readonly CheckResult[], next: string): string {
  const count = (status: Status) => results.filter((result) => result.status === status).length;
  const checks = (number: number) => `${number} ${number === 1 ? "check" : "checks"}`;
  const [failed, warnings, skipped] = [count("failed"), count("warning"), count("skipped")];
  const others = [
    ...(warnings > 0 ? [`${warnings} with a warning`] : []),
    ...(skipped > 0 ? [`${skipped} skipped`] : []),
  ].join(", ");
  const rest = others === "" ? "" : ` (${others})`;
  if (failed > 0) {
    return `${checks(failed)} of ${results.length} failed${rest}. Correct what is above, and verify again.`;
  }
  return `${checks(count("ok"))} passed${rest}. ${next}`;
}
