/** `npm run verify`: tells whether authentik will work with a stack's storage, or with the variables in an env file. */
import { isatty } from "node:tty";
import { Command, InvalidArgumentError } from "commander";
import { origin as wrongOrigin, authentikVersion as wrongRelease } from "../../config/rules.ts";
import { parseRelease, type Release } from "../../authentik/release.ts";
import { UsageError, interruptible, runCommand, secondsFrom } from "../lib/command.ts";
import { readEnvFile, readStack, type Source } from "../lib/source.ts";

const EXAMPLES = `
Examples:
  npm run verify -- prod
  npm run verify -- prod --json
  npm run verify -- --env-file .env --origin https://authentik.company --release 2026.8

Exit status: 0 when all is well, 1 when a check failed, 2 when the settings cannot be read.`;

interface Options {
  envFile?: string;
  origin?: string[];
  release?: Release;
  timeout: number;
  json?: true;
}

const command = new Command("verify")
  .usage("[stack] [options]")
  .description("Does with a bucket what authentik and its users' browsers do, and says what does not work and what to do about it.")
  .argument("[stack]", "the stack whose outputs are verified")
  .option("--env-file <path>", "verify the variables in this file instead of a stack's")
  .option("--origin <origin>", "an origin of authentik, beside the stack's; may be repeated", collectOrigin)
  .option("--release <release>", "the authentik release that reads an env file's variables", parseReleaseOption)
  .option("--timeout <seconds>", "limit for the whole run", secondsFrom(10, 600), 30)
  .option("--json", "print the results as JSON")
  .addHelpText("after", EXAMPLES)
  .action(run);

function collectOrigin(value: string, previous: string[] = []): string[] {
  const wrong = wrongOrigin(value, previous.length, [...previous, value]);
  if (wrong !== undefined) throw new InvalidArgumentError(`It ${wrong}.`);
  return [...previous, value];
}

function parseReleaseOption(value: string): Release | undefined {
  const wrong = wrongRelease(value);
  if (wrong !== undefined) throw new InvalidArgumentError(`It ${wrong}.`);
  return parseRelease(value);
}

async function run(stack: string | undefined, options: Options): Promise<void> {
  // The AWS SDK takes half a second to load, and pulumi as long to answer.
  const [source, { verify, isWell, renderResults }] = await Promise.all([read(stack, options), import("./verify.ts")]);
  for (const warning of source.warnings) console.error(`warning: ${warning}`);
  const results = await interruptible((signal) => verify(source, { timeoutMs: options.timeout * 1000, signal }));
  const isOk = isWell(results);
  if (options.json) console.log(JSON.stringify({ source: source.name, ok: isOk, results }, undefined, 2));
  else console.log(renderResults(results, { color: isatty(1) }));
  process.exitCode = isOk ? 0 : 1;
  // What the AWS SDK may still wait for, such as a program that gives credentials, is not waited for.
  setTimeout(() => process.exit(), 200).unref();
}

async function read(stack: string | undefined, { envFile, origin = [], release }: Options): Promise<Source> {
  if ((stack === undefined) === (envFile === undefined)) throw new UsageError("name a stack, or an env file with --env-file; see --help");
  if (envFile !== undefined) return readEnvFile(envFile, { origins: origin, release });
  if (release !== undefined) throw new UsageError("--release is for an env file; a stack says its own (authentikVersion)");
  const source = await readStack(stack ?? "");
  return { ...source, origins: [...new Set([...source.origins, ...origin])] };
}

await runCommand(command);
