/** What every command does with its process: errors, exit status, interruption. */
import { EnvReadError, EnvValueError } from "../authentik/env.ts";
import { SourceError } from "./source.ts";

/** Runs a command. What the user can mend is told in one message and exits with 2; all else is a defect and keeps its stack. */
export async function exitWith(command: () => Promise<unknown>): Promise<void> {
  try {
    await command();
  } catch (error) {
    if (!(error instanceof SourceError || error instanceof EnvReadError || error instanceof EnvValueError)) throw error;
    console.error(`error: ${error.message}`);
    process.exitCode = 2;
  }
}

/** Runs work that Ctrl-C, SIGTERM or a closed terminal end in order. A second one ends the process at once. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const abort = (name: NodeJS.Signals) => { controller.abort(new Error(`stopped by ${name}`)); };
  for (const name of SIGNALS) process.once(name, abort);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of SIGNALS) process.off(name, abort);
  }
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
