/** `npm run env`: authentik's variables of a stack, or of an env file, in the form in which they are handed over. */
import { access } from "node:fs/promises";
import { Command, Option } from "commander";
import { isStorageVariable } from "../../authentik/env.ts";
import { DEFAULT_OPTIONS, FORMATS, KEYS_IN, FormatError, formatEnv, type Format, type FormatOptions } from "./formats.ts";
import { UsageError, runCommand } from "../lib/command.ts";
import { readEnvFile, readStack, type Source } from "../lib/source.ts";

const EXAMPLES = `
Examples:
  npm run -s env -- prod > storage.env
  npm run env -- prod --output .env --merge
  npm run -s env -- prod --format helm --output storage-values.yaml
  npm run -s env -- prod --format secret | kubectl apply -f -
  npm run -s env -- prod --format helm --role-arn arn:aws:iam::123456789012:role/authentik
  npm run -s env -- prod --format ecs --secret-arn arn:aws:secretsmanager:eu-central-1:123456789012:secret:authentik-AbCdEf
  npm run -s env -- --env-file .env --format json

Exit status: 0 when the values were written, 2 when they cannot be read or the form cannot carry them.`;

interface Options extends FormatOptions {
  format: Format;
  envFile?: string;
  output?: string;
  merge?: true;
  overwrite?: true;
}

const command = new Command("env")
  .usage("[stack] [options]")
  .description("Writes the values that authentik needs, secrets included, in the form in which it gets them.")
  .argument("[stack]", "the stack whose outputs are written")
  .option("--env-file <path>", "take the storage variables in this file instead of a stack's")
  .addOption(new Option("--format <format>", "the form").choices(FORMATS).default("dotenv"))
  .option("--output <path>", "write to this file, readable by its owner alone, instead of standard output")
  .option("--merge", "keep the other lines of a .env file that is there already")
  .option("--overwrite", "replace a file that is there already")
  .addOption(new Option("--keys-in <place>", "helm, secret: where the chart finds the keys").choices(KEYS_IN).default(DEFAULT_OPTIONS.keysIn))
  .option("--secret-name <name>", "helm, secret: name of the Kubernetes Secret", DEFAULT_OPTIONS.secretName)
  .option("--role-arn <arn>", "helm: the AWS role of the service account, instead of keys (default: the stack's own)")
  .option("--secret-arn <arn>", "ecs: the Secrets Manager secret (JSON of names and values) or Parameter Store path that has the keys")
  .addHelpText("after", EXAMPLES)
  .action(run);

async function run(stack: string | undefined, options: Options): Promise<void> {
  const { format, output, merge, overwrite } = options;
  if (merge && (format !== "dotenv" || output === undefined)) throw new UsageError("--merge needs --output and the format dotenv");
  const { env, roleArn } = await read(stack, options);
  const form: FormatOptions = { ...options, roleArn: options.roleArn ?? roleArn };
  if (output === undefined) {
    process.stdout.write(formatEnv(env, format, form));
    return;
  }
  const { mergeIntoFile, writeSecretFile } = await import("./write.ts");
  if (merge) {
    for (const { name, old, removed } of await mergeIntoFile(output, env)) {
      console.error(`${removed ? "removed" : "replaced"} ${name} (was ${old})`);
    }
    return;
  }
  const text = formatEnv(env, format, form);
  if (!overwrite && (await exists(output))) {
    throw new UsageError(`"${output}" is there already; keep its other lines with --merge (dotenv), or replace it with --overwrite`);
  }
  await writeSecretFile(output, text);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(() => true, () => false);
}

async function read(stack: string | undefined, { envFile }: Options): Promise<Pick<Source, "env" | "roleArn">> {
  if ((stack === undefined) === (envFile === undefined)) throw new UsageError("name a stack, or an env file with --env-file; see --help");
  if (envFile === undefined) return readStack(stack ?? "");
  const { env } = await readEnvFile(envFile);
  return { env: Object.fromEntries(Object.entries(env).filter(([name]) => isStorageVariable(name))) };
}

await runCommand(command, [FormatError]);
