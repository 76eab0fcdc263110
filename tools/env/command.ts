/**
 * `npm run env`: writes authentik's variables, from a stack or an env file, in the format of a
 * tool.
 */
import { Command, Option } from "commander";
import { isStorageVariable } from "../../authentik/env.ts";
import { unreadVariables } from "../../authentik/unread.ts";
import { cacheAdvice } from "../../authentik/url-cache.ts";
import { UsageError, runCommand } from "../lib/command.ts";
import { userPath } from "../lib/repository.ts";
import { readEnvFile, readStack, type Source } from "../lib/source.ts";
import { regularFile, writeWholeFile } from "../lib/write-file.ts";
import {
  DEFAULT_OPTIONS,
  FORMATS,
  FormatError,
  KEYS_IN,
  formatEnv,
  type Format,
  type FormatOptions,
} from "./formats.ts";

const SECRET_ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:authentik-AbCdEf";
const EXAMPLES = `
Examples:
  npm run -s env -- prod > storage.env
  npm run env -- prod --output .env --merge
  npm run -s env -- prod --format helm --output storage-values.yaml
  npm run -s env -- prod --format secret | kubectl apply -f -
  npm run -s env -- prod --format helm --role-arn arn:aws:iam::123456789012:role/authentik
  npm run -s env -- prod --format ecs --secret-arn ${SECRET_ARN}
  npm run -s env -- --env-file .env --format json

Exit status: 0 if the variables were written, 2 if they cannot be read or written in this format.`;

interface Options extends FormatOptions {
  format: Format;
  envFile?: string;
  output?: string;
  merge?: true;
  overwrite?: true;
}

const command = new Command("env")
  .usage("[stack] [options]")
  .description(
    "Writes authentik's variables, secrets included, in the format of the tool that reads them.",
  )
  .argument("[stack]", "write the variables in this stack's outputs")
  .option("--env-file <path>", "write the storage variables of this file, not those of a stack")
  .addOption(new Option("--format <format>", "the format").choices(FORMATS).default("dotenv"))
  .option(
    "--output <path>",
    "write to this file instead of standard output; only its owner can read a new file",
  )
  .option("--merge", "keep the other lines of a .env file that exists")
  .option("--overwrite", "replace a file that exists")
  .addOption(
    new Option("--keys-in <place>", "helm, secret: where the chart finds the keys")
      .choices(KEYS_IN)
      .default(DEFAULT_OPTIONS.keysIn),
  )
  .option(
    "--secret-name <name>",
    "helm, secret: the name of the Kubernetes Secret",
    DEFAULT_OPTIONS.secretName,
  )
  .option(
    "--role-arn <arn>",
    "helm: the AWS role of the service accounts, instead of keys (default: the stack's role)",
  )
  .option(
    "--secret-arn <arn>",
    "ecs: the ARN of a Secrets Manager secret (JSON of names and values) " +
      "or of a Parameter Store path that has the keys",
  )
  .addHelpText("after", EXAMPLES)
  .action(run);

async function run(stack: string | undefined, options: Options): Promise<void> {
  const { format, output, merge, overwrite } = options;
  if (merge && (format !== "dotenv" || output === undefined)) {
    throw new UsageError("--merge needs --output and the format dotenv");
  }
  const source = await read(stack, options);
  const { env, roleArn, serviceAccounts } = source;
  if (output !== undefined && merge) {
    await mergeInto(userPath(output), source);
    return;
  }
  const text = formatEnv(env, format, {
    ...options,
    serviceAccounts,
    roleArn: options.roleArn ?? roleArn,
  });
  if (output === undefined) process.stdout.write(text);
  else await writeTo(userPath(output), text, overwrite === true);
}

async function read(stack: string | undefined, { envFile }: Options): Promise<Source> {
  if ((stack === undefined) === (envFile === undefined)) {
    throw new UsageError("name either a stack, or an env file with --env-file; see --help");
  }
  if (envFile === undefined) return readStack(stack ?? "");
  const source = await readEnvFile(envFile);
  for (const warning of source.warnings) console.error(`warning: ${warning}`);
  const storage = Object.entries(source.env).filter(([name]) => isStorageVariable(name));
  return { ...source, env: Object.fromEntries(storage) };
}

async function mergeInto(path: string, source: Source): Promise<void> {
  const { mergeIntoFile } = await import("./write.ts");
  const { replaced, names, othersCanRead } = await mergeIntoFile(path, source.env);
  for (const { name, old, removed } of replaced) {
    console.error(`${removed ? "removed" : "replaced"} ${name} (was ${old})`);
  }
  reportWritten(path, othersCanRead);
  for (const warning of unreadVariables(names, source)) console.error(`warning: ${warning}`);
  const advice = cacheAdvice(source.settings, source.release);
  if (advice !== undefined && replaced.some(({ name }) => changesUrls(name))) console.error(advice);
}

/** Whether authentik's URLs are others after a change of this variable. */
function changesUrls(name: string): boolean {
  return /__S3__(?!URL_EXPIRY$)/i.test(name);
}

async function writeTo(path: string, text: string, overwrite: boolean): Promise<void> {
  if ((await regularFile(path)) !== undefined && !overwrite) {
    throw new UsageError(
      `"${path}" exists; keep its other lines with --merge (dotenv), ` +
        "or replace it with --overwrite",
    );
  }
  const { othersCanRead } = await writeWholeFile(path, text);
  reportWritten(path, othersCanRead);
}

function reportWritten(path: string, othersCanRead: boolean): void {
  console.error(`wrote ${path}`);
  if (!othersCanRead) return;
  console.error(`warning: other users can read the keys in it; run: chmod 600 "${path}"`);
}

await runCommand(command, [FormatError]);
