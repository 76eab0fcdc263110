/** `npm run state`: the home of the stacks' state: make it, check it, start a stack in it, move a stack to it. */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { checkStackName, StackError } from "../preview/stacks.ts";
import { parseHome, StateError } from "../state/home.ts";
import { interruptible, runCommand } from "./process.ts";
import { createProgress } from "./progress.ts";

const REPOSITORY = join(dirname(fileURLToPath(import.meta.url)), "..");

const EXAMPLES = `
Examples:
  npm run state -- create 's3://company-pulumi-state?region=eu-central-1'
  npm run state -- check 's3://company-pulumi-state?region=eu-central-1'
  npm run state -- start prod --backend 's3://company-pulumi-state?region=eu-central-1' --secrets-provider passphrase
  npm run state -- move prod --from file:///srv/state --to 's3://company-pulumi-state?region=eu-central-1'

Exit status: 0 when all is well, 1 when a check or the last preview failed, 2 when it cannot be done. docs/state.md has more.`;

// The subcommands inherit what is set before they are made.
const command = new Command("state").exitOverride().description("The home of the stacks' state. It never touches the login of pulumi.").addHelpText("after", EXAMPLES);

command.command("create")
  .description("Makes a folder or a bucket for state, private and versioned, or tells what is there.")
  .argument("<backend-url>", "where the state will be")
  .option("--json", "print the result as JSON")
  .action(create);

command.command("check")
  .description("Tries with a throwaway stack whether state can be kept there.")
  .argument("<backend-url>", "where the state is or will be")
  .option("--json", "print the results as JSON")
  .action(check);

command.command("start")
  .description("Makes a stack.")
  .argument("<stack>", "its name, e.g. prod")
  .requiredOption("--backend <url>", "where its state will be")
  .requiredOption("--secrets-provider <provider>", "what encrypts its secrets: passphrase, a KMS key's URL, or Pulumi Cloud's default")
  .action(start);

command.command("move")
  .description("Moves a stack from one home to another. The old one keeps it, until --delete-old. Run again, it goes on.")
  .argument("<stack>", "its name, e.g. prod")
  .requiredOption("--from <url>", "where it is")
  .requiredOption("--to <url>", "where it shall be")
  .option("--secrets-provider <provider>", "what encrypts its secrets from then on (default: what does now)")
  .option("--delete-old", "have the old home forget it, once a preview at the new one has shown no changes")
  .option("--json", "print the result as JSON")
  .action(move);

async function create(url: string, { json }: { json?: true }): Promise<void> {
  const { createHome } = await import("../state/create.ts");
  const { created, facts, wants } = await createHome(parseHome(url));
  if (json) console.log(JSON.stringify({ created, facts, wants }, undefined, 2));
  else console.log([`${created ? "made" : "is there already"}: ${url}`, ...facts.map((fact) => `  It ${fact}.`), ...wants.map((want) => `  ${want}`)].join("\n"));
}

async function check(url: string, { json }: { json?: true }): Promise<void> {
  const { checkHome } = await import("../state/check.ts");
  const results = await interruptible((signal) => checkHome(parseHome(url), signal));
  if (json) console.log(JSON.stringify(results, undefined, 2));
  else for (const { step, ok, said, advice } of results) console.log(ok ? `ok    ${step}` : `FAIL  ${step}\n      ${said ?? ""}\n      ${advice ?? ""}`);
  if (results.some(({ ok }) => !ok)) process.exitCode = 1;
}

async function start(name: string, { backend, secretsProvider }: { backend: string; secretsProvider: string }): Promise<void> {
  const stack = checkStackName(name);
  const { startStack } = await import("../state/start.ts");
  await interruptible((signal) => startStack({ stack, home: parseHome(backend), secretsProvider, projectDir: REPOSITORY, signal }));
  console.log(`made the stack ${stack}; from now on, here and in CI:\n  export PULUMI_BACKEND_URL='${backend}'`);
}

interface MoveFlags {
  from: string;
  to: string;
  secretsProvider?: string;
  deleteOld?: true;
  json?: true;
}

async function move(stack: string, { from, to, json, ...flags }: MoveFlags): Promise<void> {
  const { moveStack } = await import("../state/move.ts");
  const progress = createProgress();
  const workDir = join(REPOSITORY, ".local", "state");
  const moved = await interruptible((signal) => moveStack({
    stack, from: parseHome(from), to: parseHome(to), ...flags, projectDir: REPOSITORY, workDir, progress: progress.step, signal,
  })).finally(() => { progress.stop(); });
  const { resources, wasThere, oldDeleted, preview } = moved;
  if (json) console.log(JSON.stringify(moved, undefined, 2));
  else {
    console.log(`${wasThere ? "was there already" : "moved"}: ${stack}, ${resources} resources, the same at both homes`);
    console.log(preview === undefined ? "a preview there shows no changes" : `a preview there does not say "no changes":\n${preview}`);
    console.log(oldDeleted ? "the old home has forgotten it" : `the old home still has it: ${from}`);
    console.log(`from now on, here and in CI:\n  export PULUMI_BACKEND_URL='${to}'\n  pulumi stack select ${stack}`);
  }
  if (preview !== undefined) process.exitCode = 1;
}

await runCommand(command, [StateError, StackError]);
