/** What every command has in common: errors, exit status, interruption. */
import { CommanderError, InvalidArgumentError, type Command } from "commander";
import { EnvValueError } from "../../authentik/env.ts";
import { EnvReadError } from "../../authentik/read-env.ts";
import { DotenvError } from "./dotenv.ts";
import { messageOf } from "./errors.ts";
import { PulumiError } from "./pulumi.ts";
import { SourceError } from "./source.ts";
import { WriteError } from "./write-file.ts";

/** A command line that is not valid. The message says what to do. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** The errors of every command that a user can fix. */
const EXPECTED_ERRORS = [
  UsageError,
  SourceError,
  PulumiError,
  EnvReadError,
  EnvValueError,
  DotenvError,
  WriteError,
] as const;

/**
 * Runs a command line. An error that the user can fix is printed as one message, and the exit
 * status is 2. Every other error is a defect and keeps its stack trace.
 *
 * @param expected the command's own errors that the user can fix
 * @param textOf the text that is printed for an error
 */
export async function runCommand(
  command: Command,
  expected: readonly (abstract new (...args: never[]) => Error)[] = [],
  textOf: (error: Error) => string = messageOf,
): Promise<void> {
  ignoreClosedOutput();
  try {
    await command.exitOverride().parseAsync();
  } catch (error) {
    // commander has printed what is wrong, or the help, which is not an error.
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else if (error instanceof Error && isExpected(error, expected)) {
      console.error(`error: ${textOf(error)}`);
      process.exitCode = 2;
    } else throw error;
  }
}

function isExpected(
  error: Error,
  expected: readonly (abstract new (...args: never[]) => Error)[],
): boolean {
  return [...EXPECTED_ERRORS, ...expected].some((type) => error instanceof type);
}

/**
 * Lets a command finish with its own exit status after the reader of its output has gone, as in
 * `npm run verify -- prod | head`.
 *
 * @param onClosed for a command that then has nothing left to do
 */
export function ignoreClosedOutput(onClosed: () => void = () => undefined): void {
  const onError = (error: NodeJS.ErrnoException): void => {
    if (error.code !== "EPIPE") throw error;
    onClosed();
  };
  for (const stream of [process.stdout, process.stderr]) stream.on("error", onError);
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

const SAME_SIGNAL_MS = 300;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs work that Ctrl-C, SIGTERM or a closed terminal stops in order. A second signal ends the
 * process at once. npm passes a terminal's Ctrl-C on, so it arrives twice and counts once.
 *
 * The listeners stay until the end: signal-exit, which libraries here use, ends the process when it
 * finds no other listener.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  let firstAt = Infinity;
  const onSignal = (name: NodeJS.Signals) => {
    // Children are killed on the way out.
    if (Date.now() - firstAt > SAME_SIGNAL_MS) process.exit(1);
    if (controller.signal.aborted) return;
    firstAt = Date.now();
    controller.abort(new Error(`stopped by ${name}`));
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of SIGNALS) process.off(name, onSignal);
  }
}
