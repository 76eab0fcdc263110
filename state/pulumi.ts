/** The Pulumi command line tool, told where the state is by its environment: the user's own login is not touched. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
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

/**
 * Sees that Pulumi will find the passphrase of a stack that has one without asking for it. An empty one can be the right one.
 *
 * @throws StateError when none is set
 */
export function requirePassphrase(purpose: string): void {
  const { PULUMI_CONFIG_PASSPHRASE: phrase, PULUMI_CONFIG_PASSPHRASE_FILE: file = "" } = process.env;
  if (phrase !== undefined || file !== "") return;
  throw new StateError(`${purpose} needs the passphrase; put it into PULUMI_CONFIG_PASSPHRASE, or the path of a file with it into PULUMI_CONFIG_PASSPHRASE_FILE. Nothing was done.`);
}

/**
 * The same for secrets that a passphrase is to encrypt from now on: an empty one would keep them from nobody.
 *
 * @throws StateError when none is set, or an empty one
 */
export async function requireNewPassphrase(purpose: string): Promise<void> {
  requirePassphrase(purpose);
  const { PULUMI_CONFIG_PASSPHRASE: phrase, PULUMI_CONFIG_PASSPHRASE_FILE: file = "" } = process.env;
  // As Pulumi does: the variable comes first, even an empty one, and white space around what a file has is left out.
  const found = phrase ?? (await readPassphrase(file));
  if (found !== "") return;
  throw new StateError(
    `${purpose} needs a passphrase, and ${phrase === undefined ? `"${file}"` : "PULUMI_CONFIG_PASSPHRASE"} is empty; put one into PULUMI_CONFIG_PASSPHRASE, ` +
      "or unset that and put the path of a file with one into PULUMI_CONFIG_PASSPHRASE_FILE. Nothing was done.",
  );
}

async function readPassphrase(file: string): Promise<string> {
  try {
    return (await readFile(file, "utf8")).trim();
  } catch (error) {
    throw new StateError(`the file "${file}" of PULUMI_CONFIG_PASSPHRASE_FILE cannot be read; correct the path. Nothing was done.`, { cause: error });
  }
}
