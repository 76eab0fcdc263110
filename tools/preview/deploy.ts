/** From a stack's config to its server: the guard on a fresh plan, `pulumi up`, and a look at what came of it. */
import { runEngine } from "./engine.ts";
import { nameOf, type EngineEvent } from "./plan.ts";
import { planArgs, preview, wholePlan, type PreviewOptions } from "./preview.ts";
import { purposeOf } from "./purposes.ts";
import { reportOn, type Report } from "./report.ts";
import { redactReport, type Redact } from "./secrets.ts";

export interface DeployOptions extends PreviewOptions {
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
  const { progress, deletionAllowed } = options;
  progress(`pulumi preview of ${stack}`);
  const plan = await preview(stack, options);
  if (!plan.ok) return { plan, update: undefined };
  progress(`pulumi up of ${stack}`);
  const args = ["--yes", "--skip-preview", ...(await planArgs(options))];
  const run = await runEngine("up", stack, args, { ...options, onEvent: (event, redact) => { announce(event, redact, progress); } });
  return { plan, update: redactReport(reportOn(stack, wholePlan(run), { deletionAllowed, action: "update" }), run.redact) };
}

function announce({ resOutputsEvent }: EngineEvent, redact: Redact, progress: (step: string) => void): void {
  const done = resOutputsEvent?.metadata;
  if (done && done.op !== "same" && done.op !== "refresh") progress(redact(`${done.op}: ${purposeOf(done.type)} ${nameOf(done.urn)}`));
}
