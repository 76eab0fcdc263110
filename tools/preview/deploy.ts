/** Deploys a stack: checks a new plan, then carries it out by `pulumi up --plan`. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runEngine } from "./engine.ts";
import { nameOf, type EngineEvent } from "./plan.ts";
import { completePlan, planArgs, preview, reportOnRun, type PreviewOptions } from "./preview.ts";
import { logLine } from "./render.ts";
import type { PlanReport } from "./report.ts";
import type { Redact } from "./secrets.ts";

export interface DeployOptions extends PreviewOptions {
  progress: (step: string) => void;
}

/** How far a deployment came. */
export interface Deployment {
  /** The report on the plan. */
  plan: PlanReport;
  /** The report on `pulumi up`; undefined when the plan was refused. */
  update: PlanReport | undefined;
}

/**
 * Previews the stack, and carries out exactly this plan if the report passes. An update that would
 * do something else stops with an error. The engine encrypts the secrets in the plan's file.
 *
 * @throws PulumiError when `up` was stopped before its end; what is done stays done
 */
export async function deploy(stack: string, options: DeployOptions): Promise<Deployment> {
  const folder = await mkdtemp(join(tmpdir(), "authentik-storage-plan-"));
  try {
    return await carryOut(stack, join(folder, "plan.json"), options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function carryOut(
  stack: string,
  savePlan: string,
  options: DeployOptions,
): Promise<Deployment> {
  const { progress, deletionAllowed } = options;
  progress(`pulumi preview of ${stack}`);
  const plan = await preview(stack, { ...options, savePlan, operation: "deploy" });
  if (!plan.ok) return { plan, update: undefined };
  progress(`pulumi up of ${stack}`);
  const args = ["--yes", "--skip-preview", "--plan", savePlan, ...(await planArgs(options))];
  const resources = plan.groups.flatMap((group) => group.resources);
  const labels = new Map(resources.map(({ name, label }) => [name, `${label} ${name}`]));
  const onEvent = ({ resOutputsEvent }: EngineEvent, redact: Redact) => {
    const { op = "same", urn = "" } = resOutputsEvent?.metadata ?? {};
    const name = redact(nameOf(urn));
    if (op !== "same" && op !== "refresh") progress(logLine(`${op}: ${labels.get(name) ?? name}`));
  };
  const run = await runEngine("up", stack, args, { ...options, onEvent });
  const about = { deletionAllowed, operation: "update" } as const;
  return { plan, update: await reportOnRun(stack, run, completePlan(run), about) };
}
