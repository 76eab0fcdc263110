/** A stack's preview and its drift check: the engine's plan, and the report on it. */
import { PulumiError } from "../lib/pulumi.ts";
import { outputOf, policyArgs, runEngine, type EngineOptions, type EngineRun } from "./engine.ts";
import { PlanError, planOf, type Plan } from "./plan.ts";
import {
  failedReport,
  FIXED_PROPERTIES,
  reportOn,
  type Operation,
  type PlanReport,
} from "./report.ts";
import { lookUpTypes } from "./resource-types.ts";
import { redactDeep } from "./secrets.ts";

export interface PreviewOptions extends EngineOptions {
  /** Whether buckets may be deleted or replaced. */
  deletionAllowed: boolean;
  /** The command that makes the plan; `preview` by default. */
  operation?: Operation;
  /** The commit that is previewed. */
  commit?: string | undefined;
  /** Where to save the engine's plan, so that `up` carries out this plan or none. */
  savePlan?: string;
  /** Whether to read the server first. */
  refresh?: boolean | undefined;
}

/**
 * Previews a stack with the policy pack. It does not throw when the preview fails: the report has
 * the failure.
 */
export async function preview(stack: string, options: PreviewOptions): Promise<PlanReport> {
  const { operation = "preview" } = options;
  try {
    const saved = options.savePlan === undefined ? [] : ["--save-plan", options.savePlan];
    const args = [...(await planArgs(options)), ...saved];
    const run = await runEngine("preview", stack, args, options);
    return await reportOnRun(stack, run, completePlan(run), { ...options, operation });
  } catch (error) {
    return failedReport(stack, expectedMessage(error), { ...options, operation });
  }
}

/** The report on a run, without secrets. */
export async function reportOnRun(
  stack: string,
  run: EngineRun,
  plan: Plan,
  options: { deletionAllowed: boolean; commit?: string | undefined; operation: Operation },
): Promise<PlanReport> {
  const { deletionAllowed, commit, operation } = options;
  const typeOf = await lookUpTypes(plan.steps.map(({ type }) => type));
  const report = reportOn(stack, plan, { deletionAllowed, commit, operation, typeOf });
  return redactDeep(report, run.redact, { except: FIXED_PROPERTIES });
}

/** The message of an error of the tool or of its output. Any other error is a defect. */
function expectedMessage(error: unknown): string {
  if (error instanceof PulumiError || error instanceof PlanError) return error.message;
  throw error;
}

/** The arguments that `preview` and `up` need for the same plan. */
export async function planArgs({
  workDir,
  refresh,
  deletionAllowed,
}: PreviewOptions): Promise<string[]> {
  const policies = await policyArgs(workDir, { deletionAllowed });
  return [...policies, ...(refresh === true ? ["--refresh"] : [])];
}

/** Whether the server is as the last update left it. */
export type Drift =
  | { kind: "none" }
  | { kind: "drift"; report: PlanReport }
  | { kind: "error"; report: PlanReport };

/**
 * Compares the stack with its server, and changes neither. A failure gives an error, never "no
 * drift".
 */
export async function checkDrift(stack: string, options: EngineOptions): Promise<Drift> {
  const operation = "drift";
  try {
    const args = ["--refresh", "--expect-no-changes"];
    const run = await runEngine("preview", stack, args, options);
    // The tool fails for a plan with changes, and for every other failure.
    const plan = planOf(run.events);
    const shown = plan.succeeded ? plan : completePlan(run);
    const about = { deletionAllowed: false, operation } as const;
    const report = await reportOnRun(stack, run, shown, about);
    if (!plan.succeeded) return { kind: "error", report };
    if (plan.steps.length > 0 || plan.gone.length > 0) return { kind: "drift", report };
    if (run.code === 0) return { kind: "none" };
    return { kind: "error", report: failedReport(stack, outputOf(run), { operation }) };
  } catch (error) {
    return { kind: "error", report: failedReport(stack, expectedMessage(error), { operation }) };
  }
}

/**
 * The plan of a run that must have a complete one. When the tool failed, the plan has not succeeded,
 * even if its events say so.
 */
export function completePlan(run: Omit<EngineRun, "redact">): Plan {
  const plan = planOf(run.events);
  if (run.code === 0 && plan.succeeded) return plan;
  const hasReason =
    plan.diagnostics.some(({ severity }) => severity === "error") ||
    plan.violations.some(({ isMandatory }) => isMandatory);
  const reason = { severity: "error", urn: "", message: outputOf(run) } as const;
  const diagnostics = hasReason ? plan.diagnostics : [...plan.diagnostics, reason];
  return { ...plan, succeeded: false, diagnostics };
}
