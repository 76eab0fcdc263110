/** A stack's preview: the plan of the real engine, and what there is to say of it. */
import { EngineError, policyArgs, runEngine, type EngineOptions, type EngineRun } from "./engine.ts";
import { PlanError, planOf, type Plan } from "./plan.ts";
import { failedReport, reportOn, type Report } from "./report.ts";
import { redactReport } from "./secrets.ts";

export interface PreviewOptions extends EngineOptions {
  /** Whether buckets may be deleted or replaced. */
  deletionAllowed: boolean;
  /** The commit that is previewed. */
  commit?: string | undefined;
  /** Whether to look at the server first. */
  refresh?: boolean | undefined;
}

/** Previews a stack with the policy pack. It does not throw for what fails: that is in the report. */
export async function preview(stack: string, options: PreviewOptions): Promise<Report> {
  const { deletionAllowed, commit } = options;
  try {
    const run = await runEngine("preview", stack, await planArgs(options), options);
    return redactReport(reportOn(stack, wholePlan(run), { deletionAllowed, commit }), run.redact);
  } catch (error) {
    if (error instanceof EngineError || error instanceof PlanError) return failedReport(stack, error.message, commit);
    throw error;
  }
}

/** The arguments that `up` has to have as well, for the same plan. */
export async function planArgs({ workDir, refresh, deletionAllowed }: PreviewOptions): Promise<string[]> {
  return [...(await policyArgs(workDir, { deletionAllowed })), ...(refresh === true ? ["--refresh"] : [])];
}

/** The outcome of a drift check: whether the server is as the last update left it. */
export type Drift = { kind: "none" } | { kind: "drift"; report: Report } | { kind: "error"; report: Report };

/** Compares the stack with its server. It changes neither. What cannot be told is an error, never "no drift". */
export async function checkDrift(stack: string, options: EngineOptions): Promise<Drift> {
  try {
    const run = await runEngine("preview", stack, ["--refresh", "--expect-no-changes"], options);
    // The tool fails a plan that has changes, and all else that fails too.
    const plan = planOf(run.events);
    const report = redactReport(reportOn(stack, plan.succeeded ? plan : wholePlan(run), { deletionAllowed: false }), run.redact);
    if (!plan.succeeded) return { kind: "error", report };
    if (plan.steps.length > 0 || plan.gone.length > 0) return { kind: "drift", report };
    if (run.code === 0) return { kind: "none" };
    return { kind: "error", report: failedReport(stack, wordsOf(run)) };
  } catch (error) {
    if (error instanceof EngineError || error instanceof PlanError) return { kind: "error", report: failedReport(stack, error.message) };
    throw error;
  }
}

/** The plan of a run that should have one: a tool that failed has not succeeded, whatever its events say. */
export function wholePlan(run: Omit<EngineRun, "redact">): Plan {
  const plan = planOf(run.events);
  if (run.code === 0 && plan.succeeded) return plan;
  const hasWords = plan.diagnostics.some(({ severity }) => severity === "error");
  if (plan.violations.some(({ isMandatory }) => isMandatory) || hasWords) return { ...plan, succeeded: false };
  return { ...plan, succeeded: false, diagnostics: [...plan.diagnostics, { severity: "error", urn: "", message: wordsOf(run) }] };
}

function wordsOf({ words, code }: Pick<EngineRun, "words" | "code">): string {
  return words.replaceAll(/^error: /gm, "") || `pulumi ended with status ${code} and said nothing`;
}
