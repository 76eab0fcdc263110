/** From a stack's config to its server: the guard on a fresh plan, `pulumi up`, and a look at what came of it. */
import { policyArgs, runEngine, type EngineOptions } from "./engine.ts";
import type { EngineEvent } from "./plan.ts";
import { preview, wholePlan } from "./preview.ts";
import { purposeOf } from "./purposes.ts";
import { reportOn, type Report } from "./report.ts";
import { nameOf } from "./plan.ts";

export interface DeployOptions extends EngineOptions {
  deletionAllowed: boolean;
  progress: (step: string) => void;
}

/** How far a deployment came. */
export interface Deployment {
  /** Of the fresh plan. */
  plan: Report;
  /** Of `pulumi up`; undefined where the plan was refused. */
  update: Report | undefined;
}

/**
 * Previews the stack and, if that is well, brings it up.
 *
 * @throws EngineError when `up` was ended before its end; what is done stays done
 */
export async function deploy(stack: string, options: DeployOptions): Promise<Deployment> {
  const { progress, deletionAllowed, workDir } = options;
  progress(`pulumi preview of ${stack}`);
  const plan = await preview(stack, options);
  if (!plan.ok) return { plan, update: undefined };
  progress(`pulumi up of ${stack}`);
  const args = ["--yes", "--skip-preview", ...(await policyArgs(workDir, { deletionAllowed }))];
  const run = await runEngine("up", stack, args, { ...options, onEvent: (event) => { announce(event, progress); } });
  return { plan, update: reportOn(stack, wholePlan(run), { deletionAllowed }) };
}

function announce({ resOutputsEvent }: EngineEvent, progress: (step: string) => void): void {
  const done = resOutputsEvent?.metadata;
  if (done && done.op !== "same" && done.op !== "refresh") progress(`${done.op}: ${purposeOf(done.type)} ${nameOf(done.urn)}`);
}
