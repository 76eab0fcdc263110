/** Runs the Pulumi command line tool and reads what its engine does, event by event. */
import { spawn, type ChildProcess } from "node:child_process";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { onPath } from "../lib/programs.ts";
import { parseEvent, PlanError, type EngineEvent } from "./plan.ts";
import { redactEvent, redactor, type Redact } from "./secrets.ts";
import { REPOSITORY } from "../lib/repository.ts";

/** Where a stack's project is, and how long it may take. */
export interface EngineOptions {
  /** Folder of its `Pulumi.yaml`; this repository's by default. */
  workDir?: string | undefined;
  /** Beside this process's own, e.g. `PULUMI_BACKEND_URL`. */
  envVars?: Readonly<Record<string, string>> | undefined;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  /** Told each event as it comes, and how to blot out secrets in names. */
  onEvent?: (event: EngineEvent, redact: Redact) => void;
}

/** What a run of the tool has left. */
export interface EngineRun {
  /** Without secrets but in names, by which they are judged. */
  events: EngineEvent[];
  /** Blots out the secrets of the tool's environment. */
  redact: Redact;
  /** Exit status. */
  code: number;
  /** The end of what it wrote beside the events. */
  words: string;
}

/** The tool cannot be run, or was ended. The message says what to do. */
export class EngineError extends Error {
  override name = "EngineError";
}

const POLICY_PACK = "policy";
/** Config of the pack that lets the protection of a bucket be given up. */
const DELETION_CONFIG = "allow-bucket-deletion.json";
/** How long the tool may take to stop in order: `up` ends what it has begun on the server. */
const GRACE_MS = { preview: 10_000, up: 120_000 } as const;

/**
 * `pulumi preview` or `pulumi up` of a stack. What it asks would go unheard: it runs without a terminal, and its input is closed.
 *
 * @param args e.g. `["--refresh"]`
 * @throws EngineError, or PlanError when what it prints is not understood
 */
export async function runEngine(command: "preview" | "up", stack: string, args: readonly string[], options: EngineOptions): Promise<EngineRun> {
  const { workDir = REPOSITORY, envVars = {}, onEvent } = options;
  const program = await onPath("pulumi");
  if (program === undefined) throw new EngineError("pulumi is not on PATH; install it: https://www.pulumi.com/docs/install");
  const env = { ...process.env, ...envVars, PULUMI_SKIP_UPDATE_CHECK: "true", PULUMI_ENABLE_STREAMING_JSON_PREVIEW: "true" };
  const all = [command, "--json", "--non-interactive", "--color", "never", "--stack", stack, ...args];
  // A group of its own: Ctrl-C reaches it once, from here. A second time it would end at once, with work half done.
  const child = spawn(program, all, { cwd: workDir, env, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const redact = redactor(env);
  const words = new Words();
  child.stderr.on("data", (chunk: Buffer) => { words.add(chunk.toString()); });
  const limit = limitTo(command, child, options);
  try {
    const ended = new Promise<number>((resolve, reject) => child.once("close", (code) => { resolve(code ?? 1); }).once("error", reject));
    const [code, events] = await Promise.all([ended, readEvents(createInterface({ input: child.stdout }), { redact, words, onEvent })]);
    limit.throwIfOver();
    if (events instanceof Error) throw events;
    return { events, redact, code, words: redact(words.text.trim()) };
  } finally {
    limit.end();
  }
}

const MAX_WORDS_LENGTH = 4000;

/** The end of what a program writes, by whole lines: the rest of a secret that is cut would not be known for one. */
class Words {
  text = "";

  add(text: string): void {
    const all = this.text + text;
    this.text = all.length <= MAX_WORDS_LENGTH ? all : all.slice(-MAX_WORDS_LENGTH).replace(/^.*\n/, "");
  }
}

interface Reading {
  redact: Redact;
  /** Where lines go that are no events. */
  words: Words;
  onEvent: EngineOptions["onEvent"] | undefined;
}

/** The events, or the first error of reading one. It reads to the end whatever comes: an update that is not understood must not be cut off. */
async function readEvents(lines: AsyncIterable<string>, { redact, words, onEvent }: Reading): Promise<EngineEvent[] | PlanError> {
  const events: EngineEvent[] = [];
  let misunderstood: PlanError | undefined;
  for await (const line of lines) {
    if (!line.startsWith("{")) {
      words.add(`${line}\n`);
      continue;
    }
    try {
      const event = redactEvent(parseEvent(line, redact), redact);
      events.push(event);
      onEvent?.(event, redact);
    } catch (error) {
      if (!(error instanceof PlanError)) throw error;
      misunderstood ??= error;
    }
  }
  return misunderstood ?? events;
}

/** `--policy-pack policy` where the project has one, and its config for those who may delete buckets. */
export async function policyArgs(workDir = REPOSITORY, { deletionAllowed }: { deletionAllowed: boolean }): Promise<string[]> {
  const pack = join(workDir, POLICY_PACK);
  const config = join(pack, DELETION_CONFIG);
  const [hasPack, hasConfig] = await Promise.all([pack, config].map((path) => access(path).then(() => true, () => false)));
  return [...(hasPack ? ["--policy-pack", pack] : []), ...(hasConfig && deletionAllowed ? ["--policy-pack-config", config] : [])];
}

/** Ends the tool when its time is over or the signal says so: in order, or, when that takes too long, at once with all that it has started. */
function limitTo(command: "preview" | "up", child: ChildProcess, { timeoutMs, signal }: EngineOptions): { throwIfOver: () => void; end: () => void } {
  let reason: string | undefined;
  let forced: NodeJS.Timeout | undefined;
  const stop = (why: string) => {
    if (reason !== undefined) return;
    reason = why;
    killGroup(child, "SIGINT");
    forced = setTimeout(() => { killGroup(child, "SIGKILL"); }, GRACE_MS[command]);
  };
  const seconds = Math.round(timeoutMs / 1000);
  const timer = setTimeout(() => { stop(`pulumi did not end within ${seconds} s; run it again, or give it more time with --timeout`); }, timeoutMs);
  const onAbort = () => { stop("stopped; what pulumi had begun it was told to end in order"); };
  const onExit = () => {
    // An update ends in order by itself, once it is told to.
    if (command === "preview") killGroup(child, "SIGKILL");
    else if (reason === undefined) killGroup(child, "SIGINT");
  };
  signal?.addEventListener("abort", onAbort);
  process.once("exit", onExit);
  if (signal?.aborted === true) onAbort();
  return {
    throwIfOver: () => {
      if (reason !== undefined) throw new EngineError(reason);
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
    // It has ended by itself in the meantime.
  }
}
