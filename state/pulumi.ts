/** The Pulumi command line tool, told where the state is by its environment: the user's own login is not touched. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import * as v from "valibot";
import { StateError, type Home } from "./home.ts";

/** Where the tool runs. */
export interface ToolOptions {
  /** Folder of the `Pulumi.yaml`. */
  cwd: string;
  home: Home;
  /** Beside this process's own. */
  env?: Readonly<Record<string, string>>;
  signal?: AbortSignal | undefined;
}

const TIMEOUT_MS = 180_000;
const MAX_WORDS = 4000;
const MAX_STATE_BYTES = 256 * 1024 * 1024;
const Failure = v.object({ code: v.unknown(), stdout: v.optional(v.string(), ""), stderr: v.optional(v.string(), "") });

/**
 * Runs the tool, without a terminal, and gives what it wrote to its standard output. Nothing secret may be among the arguments.
 *
 * @throws StateError with the tool's own words. The error of the run itself is left out: it carries the output.
 */
export async function pulumi(args: readonly string[], { cwd, home, env, signal }: ToolOptions): Promise<string> {
  const all = { PULUMI_SKIP_UPDATE_CHECK: "true", ...process.env, ...env, PULUMI_BACKEND_URL: home.url };
  try {
    const { stdout } = await promisify(execFile)("pulumi", [...args, "--non-interactive", "--color", "never"], {
      cwd, env: all, signal, timeout: TIMEOUT_MS, maxBuffer: MAX_STATE_BYTES,
    });
    return stdout;
  } catch (error) {
    if (signal?.aborted === true) throw new StateError("stopped; run it again to go on", { cause: signal.reason });
    const { code, stdout, stderr } = v.parse(Failure, error);
    if (code === "ENOENT") throw new StateError("pulumi is not on PATH; install it: https://www.pulumi.com/docs/install", { cause: error });
    const said = `${stdout}\n${stderr}`.replaceAll(/^error: /gm, "").trim().slice(-MAX_WORDS);
    throw new StateError(said || `no answer within ${TIMEOUT_MS / 1000} s`);
  }
}

/** True when Pulumi will find the passphrase without asking for it. */
export function hasPassphrase(env: NodeJS.ProcessEnv = process.env): boolean {
  return env.PULUMI_CONFIG_PASSPHRASE !== undefined || (env.PULUMI_CONFIG_PASSPHRASE_FILE ?? "") !== "";
}

/** @throws StateError when a passphrase is needed and none is set */
export function requirePassphrase(purpose: string): void {
  if (hasPassphrase()) return;
  throw new StateError(`${purpose} needs the passphrase; put it into PULUMI_CONFIG_PASSPHRASE, or the path of a file with it into PULUMI_CONFIG_PASSPHRASE_FILE. Nothing was done.`);
}
