/** What every command does with its process: errors, exit status, interruption. */
import { CommanderError, InvalidArgumentError, type Command } from "commander";
import { EnvValueError } from "../../authentik/env.ts";
import { EnvReadError } from "../../authentik/read-env.ts";
import { DotenvError } from "./dotenv.ts";
import { outliveReaders } from "./output.ts";
import { SourceError } from "./source.ts";

/** A command line that cannot be carried out. The message says what to do. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** What the user can mend, in every command. */
const MENDABLE = [UsageError, SourceError, EnvReadError, EnvValueError, DotenvError] as const;

/**
 * Runs a command line. What the user can mend is told in one message and exits with 2; all else is a defect and keeps its stack.
 *
 * @param mendable the errors of this command's own that the user can mend
 * @param wordsOf what is said of one
 */
export async function runCommand(
  command: Command,
  mendable: readonly (abstract new (...args: never[]) => Error)[] = [],
  wordsOf = ({ message }: Error): string => message,
): Promise<void> {
  outliveReaders();
  try {
    await command.exitOverride().parseAsync();
  } catch (error) {
    // commander has said what is wrong, or printed the help, which is no error.
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else if (error instanceof Error && [...MENDABLE, ...mendable].some((type) => error instanceof type)) {
      console.error(`error: ${wordsOf(error)}`);
      process.exitCode = 2;
    } else throw error;
  }
}

/** Reads an option that is a number of seconds within these limits. */
export function secondsFrom(minimum: number, maximum: number): (value: string) => number {
  return (value) => {
    const seconds = Number(value);
    if (!Number.isInteger(seconds) || seconds < minimum || seconds > maximum) {
      throw new InvalidArgumentError(`Write whole seconds from ${minimum} to ${maximum}.`);
    }
    return seconds;
  };
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
