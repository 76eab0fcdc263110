/**
 * `npm run verify`: checks whether authentik works with a stack's storage, or with the variables in
 * an env file.
 */
import { isatty } from "node:tty";
import { Command, InvalidArgumentError } from "commander";
import { parseRelease, type Release } from "../../authentik/release.ts";
import {
  authentikVersion as problemOfRelease,
  origin as problemOfOrigin,
} from "../../config/rules.ts";
import { UsageError, interruptible, runCommand, secondsFrom } from "../lib/command.ts";
import { readEnvFile, readStack, type Source } from "../lib/source.ts";

const EXAMPLES = `
Examples:
  npm run verify -- prod
  npm run verify -- prod --json
  npm run verify -- --env-file .env --origin https://authentik.company --release 2026.8

Exit status: 0 if every check passed, 1 if a check failed, 2 if the settings cannot be read.`;

interface Options {
  envFile?: string;
  origin?: string[];
  release?: Release;
  timeout: number;
  json?: true;
}

const command = new Command("verify")
  .usage("[stack] [options]")
  .description(
    "Does with a bucket what authentik and its users' browsers do, " +
      "and says what does not work and what to do about it.",
  )
  .argument("[stack]", "verify the outputs of this stack")
  .option("--env-file <path>", "verify the variables in this file instead of a stack's outputs")
  .option(
    "--origin <origin>",
    "an origin of authentik, in addition to the stack's; can be repeated",
    addOrigin,
  )
  .option(
    "--release <release>",
    "the authentik release that reads the variables of the env file",
    readRelease,
  )
  .option("--timeout <seconds>", "the limit of the whole run", secondsFrom(10, 600), 30)
  .option("--json", "print the results as JSON")
  .addHelpText("after", EXAMPLES)
  .action(run);

function addOrigin(value: string, previous: string[] = []): string[] {
  const origins = [...previous, value];
  const problem = problemOfOrigin(value, previous.length, origins);
  if (problem !== undefined) throw new InvalidArgumentError(`It ${problem}.`);
  return origins;
}

function readRelease(value: string): Release | undefined {
  const problem = problemOfRelease(value);
  if (problem !== undefined) throw new InvalidArgumentError(`It ${problem}.`);
  return parseRelease(value);
}

async function run(stack: string | undefined, options: Options): Promise<void> {
  // The AWS SDK takes half a second to load, and pulumi takes as long to answer.
  const [source, { verify, allPassed, renderResults }] = await Promise.all([
    read(stack, options),
    import("./verify.ts"),
  ]);
  for (const warning of source.warnings) console.error(`warning: ${warning}`);
  const timeoutMs = options.timeout * 1000;
  const results = await interruptible((signal) => verify(source, { timeoutMs, signal }));
  const ok = allPassed(results);
  console.log(
    options.json
      ? JSON.stringify({ source: source.name, ok, results }, undefined, 2)
      : renderResults(results, nextStep(stack), {
          color: isatty(1),
          columns: process.stdout.columns,
        }),
  );
  process.exitCode = ok ? 0 : 1;
  // The AWS SDK may still wait for something, such as a program that gives credentials.
  setTimeout(() => process.exit(), 200).unref();
}

function nextStep(stack: string | undefined): string {
  return stack === undefined
    ? "authentik can use this storage."
    : `Next, give authentik the values: npm run env -- ${stack} --output .env --merge`;
}

async function read(stack: string | undefined, options: Options): Promise<Source> {
  const { envFile, origin = [], release } = options;
  if ((stack === undefined) === (envFile === undefined)) {
    throw new UsageError("name either a stack, or an env file with --env-file; see --help");
  }
  if (envFile !== undefined) return readEnvFile(envFile, { origins: origin, release });
  if (release !== undefined) {
    throw new UsageError(
      "--release is for an env file; the release of a stack is its authentikVersion",
    );
  }
  const source = await readStack(stack ?? "");
  return { ...source, origins: [...new Set([...source.origins, ...origin])] };
}

await runCommand(command);
