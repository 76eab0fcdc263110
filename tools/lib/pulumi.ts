/**
 * Runs the Pulumi command line tool. Every command here that needs the tool starts it by this file.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { onPath } from "./programs.ts";
import { REPOSITORY } from "./repository.ts";

/** Where a stack's project is. */
export interface StackLocation {
  /** Folder of its `Pulumi.yaml`. The default is this repository's. */
  workDir?: string | undefined;
  /** Environment variables in addition to this process's own, e.g. `PULUMI_BACKEND_URL`. */
  envVars?: Readonly<Record<string, string>> | undefined;
}

export interface PulumiOptions extends StackLocation {
  /** Path of the tool. The default is the one on PATH. */
  program?: string | undefined;
  /** Written to standard input. Secrets go here: every user of the machine can read arguments. */
  input?: string;
  timeoutMs: number;
  /** The command's option that raises the limit, e.g. `--timeout`. Messages name it. */
  timeoutOption?: string;
  /** Stops the tool in order. */
  signal?: AbortSignal | undefined;
  /** How long the tool may take to stop in order before it is killed. The default is 10 s. */
  graceMs?: number;
  /**
   * Whether the tool changes a server, so that it must stop in order even when this process exits.
   */
  isUpdate?: boolean;
  /** Receives each line of standard output instead of `stdout`. */
  onLine?: (line: string) => void;
}

/** The result of a run of the tool. */
export interface PulumiResult {
  /** Exit status. */
  code: number;
  /** Standard output. It may have secrets, so that no message may quote it. Empty with `onLine`. */
  stdout: string;
  /** The end of standard error. */
  stderr: string;
}

/** The tool cannot be run, was stopped, or failed. The message says what to do. */
export class PulumiError extends Error {
  override name = "PulumiError";
}

const DEFAULT_GRACE_MS = 10_000;
const MAX_OUTPUT_LENGTH = 4000;

/**
 * Runs the tool without a terminal. It cannot ask questions.
 *
 * @param args e.g. `["preview", "--stack", "prod"]`; nothing secret
 * @throws PulumiError when the tool is missing, does not end in time, or is stopped by the signal
 */
export async function runPulumi(
  args: readonly string[],
  options: PulumiOptions,
): Promise<PulumiResult> {
  const { workDir = REPOSITORY, envVars = {}, input = "", onLine } = options;
  const program = options.program ?? (await onPath("pulumi"));
  if (program === undefined) {
    throw new PulumiError("pulumi is not on PATH; install it: https://www.pulumi.com/docs/install");
  }
  if (options.signal?.aborted === true) throw new PulumiError(STOPPED);
  const child = spawn(program, [...args, "--non-interactive"], {
    cwd: workDir,
    env: { PULUMI_SKIP_UPDATE_CHECK: "true", ...process.env, ...envVars },
    stdio: ["pipe", "pipe", "pipe"],
    // A process group of its own: Ctrl-C reaches the tool once, from here. A second Ctrl-C would
    // end it with work half done.
    detached: true,
  });
  child.stdout.setEncoding("utf8");
  child.stderr.setEncoding("utf8");
  const stderr = new OutputEnd();
  child.stderr.on("data", (text: string) => {
    stderr.add(text);
  });
  // A tool that ends before it has read everything says why on standard error.
  child.stdin.on("error", () => undefined).end(input);
  const limit = limitTo(child, options);
  try {
    const ended = new Promise<number>((resolve, reject) => {
      child
        .once("close", (code) => {
          resolve(code ?? 1);
        })
        .once("error", reject);
    });
    const [code, stdout] = await Promise.all([ended, readOutput(child.stdout, onLine)]);
    limit.throwIfStopped();
    return { code, stdout, stderr: stderr.text };
  } finally {
    limit.end();
  }
}

/**
 * Runs a command of the tool and returns the JSON that it prints.
 *
 * @throws PulumiError with the tool's own message
 */
export async function pulumiJson(
  args: readonly string[],
  options: PulumiOptions,
): Promise<unknown> {
  const result = await runPulumi([...args, "--json"], options);
  if (result.code !== 0) throw new PulumiError(toolMessage(result));
  const value: unknown = JSON.parse(result.stdout);
  return value;
}

/** The message of a tool that failed. */
export function toolMessage({ stderr, code }: Pick<PulumiResult, "stderr" | "code">): string {
  const message = stderr.replaceAll(/^error: /gm, "").trim();
  return message || `pulumi ended with status ${code} and printed no error`;
}

/** Reads standard output to its end: an update must not be cut off. */
async function readOutput(
  stream: NodeJS.ReadableStream,
  onLine: PulumiOptions["onLine"],
): Promise<string> {
  let text = "";
  if (onLine) for await (const line of createInterface({ input: stream })) onLine(line);
  else for await (const chunk of stream) text += chunk.toString();
  return text;
}

/**
 * The end of a program's output, in whole lines: a part of a secret would not be recognized and
 * redacted.
 */
export class OutputEnd {
  text = "";

  add(text: string): void {
    const all = this.text + text;
    this.text =
      all.length <= MAX_OUTPUT_LENGTH ? all : all.slice(-MAX_OUTPUT_LENGTH).replace(/^.*\n/, "");
  }
}

const STOPPED = "stopped; pulumi was told to finish what it had begun";

/**
 * Stops the tool when its time is over or the signal is aborted: in order, or killed when that
 * takes too long.
 */
function limitTo(
  child: ChildProcess,
  options: PulumiOptions,
): { throwIfStopped: () => void; end: () => void } {
  const {
    timeoutMs,
    timeoutOption,
    signal,
    graceMs = DEFAULT_GRACE_MS,
    isUpdate = false,
  } = options;
  let reason: string | undefined;
  let forced: NodeJS.Timeout | undefined;
  const stop = (why: string) => {
    if (reason !== undefined) return;
    reason = why;
    killGroup(child, "SIGINT");
    forced = setTimeout(() => {
      killGroup(child, "SIGKILL");
    }, graceMs);
  };
  const seconds = Math.round(timeoutMs / 1000);
  const hint = timeoutOption === undefined ? "" : `, or raise the limit with ${timeoutOption}`;
  const timer = setTimeout(() => {
    stop(`pulumi did not end within ${seconds} s; run it again${hint}`);
  }, timeoutMs);
  const onAbort = () => {
    stop(STOPPED);
  };
  const onExit = () => {
    if (!isUpdate) killGroup(child, "SIGKILL");
    else if (reason === undefined) killGroup(child, "SIGINT");
  };
  signal?.addEventListener("abort", onAbort);
  process.once("exit", onExit);
  return {
    throwIfStopped: () => {
      if (reason !== undefined) throw new PulumiError(reason);
    },
    end: () => {
      clearTimeout(timer);
      clearTimeout(forced);
      signal?.removeEventListener("abort", onAbort);
      process.off("exit", onExit);
    },
  };
}

function killGroup({ pid, exitCode, signalCode }: ChildProcess, name: NodeJS.Signals): void {
  if (pid === undefined || exitCode !== null || signalCode !== null) return;
  try {
    process.kill(-pid, name);
  } catch {
    // The process has ended in the meantime.
  }
}
