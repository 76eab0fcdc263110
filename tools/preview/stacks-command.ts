/** `npm run -s stacks`: the stacks of this project, as the matrix of a workflow. */
import { appendFile } from "node:fs/promises";
import { Command } from "commander";
import { GitHubError, required } from "./github.ts";
import { findStacks, StackError } from "./stacks.ts";
import { runCommand } from "../lib/command.ts";
import { REPOSITORY } from "../lib/repository.ts";

const HELP = `
Example:
  npm run -s stacks

Exit status: 0, or 2 when a stack's file cannot be read or has no valid provider.`;

const command = new Command("stacks")
  .description(
    "Prints every stack with a file Pulumi.<stack>.yaml, except dev, as JSON: " +
      '[{"stack":"prod","provider":"aws"}].',
  )
  .option("--github-output", "also write stacks=... to the file in GITHUB_OUTPUT")
  .addHelpText("after", HELP)
  .action(async ({ githubOutput }: { githubOutput?: true }) => {
    const matrix = JSON.stringify(await findStacks(REPOSITORY));
    console.log(matrix);
    if (githubOutput)
      await appendFile(required(process.env, "GITHUB_OUTPUT"), `stacks=${matrix}\n`);
  });

await runCommand(command, [GitHubError, StackError]);
