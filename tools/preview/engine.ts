/** Runs `pulumi preview` and `pulumi up`, and reads the engine's events. */
import { access } from "node:fs/promises";
import { join } from "node:path";
import { toolMessage, OutputEnd, runPulumi, type StackLocation } from "../lib/pulumi.ts";
import { REPOSITORY } from "../lib/repository.ts";
import { parseEvent, PlanError, type EngineEvent } from "./plan.ts";
import { redactEvent, redactor, type Redact } from "./secrets.ts";

export interface EngineOptions extends StackLocation {
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  /** Receives each event as it comes, and a function that redacts secrets in names. */
  onEvent?: (event: EngineEvent, redact: Redact) => void;
}

/** The result of a run of the engine. */
export interface EngineRun {
  /** Without secrets in the properties of resources. `redact` later removes the other secrets. */
  events: EngineEvent[];
  /** Redacts the secrets of the tool's environment. */
  redact: Redact;
  /** Exit status. */
  code: number;
  /** The end of the tool's output without the events. */
  output: string;
}

const POLICY_PACK = "policy";
/** The pack's config that allows a bucket without protection. */
const DELETION_CONFIG = "allow-bucket-deletion.json";
/** How long the tool may take to stop in order: `up` finishes what it has begun on the server. */
const GRACE_MS = { preview: 10_000, up: 120_000 } as const;

/**
 * Runs `pulumi preview` or `pulumi up` of a stack.
 *
 * @param args e.g. `["--refresh"]`
 * @throws PulumiError, or PlanError when an event cannot be read
 */
export async function runEngine(
  command: "preview" | "up",
  stack: string,
  args: readonly string[],
  options: EngineOptions,
): Promise<EngineRun> {
  const { workDir, timeoutMs, signal, onEvent } = options;
  const envVars = { ...options.envVars, PULUMI_ENABLE_STREAMING_JSON_PREVIEW: "true" };
  const redact = redactor({ ...process.env, ...envVars });
  const events: EngineEvent[] = [];
  const rest = new OutputEnd();
  let misread: PlanError | undefined;
  const onLine = (line: string) => {
    if (!line.startsWith("{")) {
      rest.add(`${line}\n`);
      return;
    }
    try {
      const event = redactEvent(parseEvent(line, redact), redact);
      events.push(event);
      onEvent?.(event, redact);
    } catch (error) {
      if (!(error instanceof PlanError)) throw error;
      // The run continues: an update that cannot be read must not be cut off.
      misread ??= error;
    }
  };
  const all = [command, "--json", "--color", "never", "--stack", stack, ...args];
  const { code, stderr } = await runPulumi(all, {
    workDir,
    envVars,
    signal,
    onLine,
    timeoutMs,
    timeoutOption: "--timeout",
    graceMs: GRACE_MS[command],
    isUpdate: command === "up",
  });
  if (misread) throw misread;
  return { events, redact, code, output: redact(`${rest.text}${stderr}`.trim()) };
}

/** The tool's output without the events, as a message. */
export function outputOf({ output, code }: Pick<EngineRun, "output" | "code">): string {
  return toolMessage({ stderr: output, code });
}

/**
 * `--policy-pack policy` if the project has the pack, and its config that allows deletion if that is
 * allowed.
 */
export async function policyArgs(
  workDir = REPOSITORY,
  { deletionAllowed }: { deletionAllowed: boolean },
): Promise<string[]> {
  const pack = join(workDir, POLICY_PACK);
  const config = join(pack, DELETION_CONFIG);
  const [hasPack, hasConfig] = await Promise.all([exists(pack), exists(config)]);
  return [
    ...(hasPack ? ["--policy-pack", pack] : []),
    ...(hasConfig && deletionAllowed ? ["--policy-pack-config", config] : []),
  ];
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}
