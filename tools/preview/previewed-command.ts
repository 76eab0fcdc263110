/**
 * `npm run -s previewed`: the last job of the pull request's workflow. It gives one result for all
 * stacks, and the reason when there was no preview.
 */
import { Command } from "commander";
import { addToSummary, GitHubError, readPullRequest, required } from "./github.ts";
import { outcomeOf } from "./outcome.ts";
import { runCommand } from "../lib/command.ts";

const HELP = `
This command is for workflows. NEEDS is the JSON of the context needs.

Exit status: 0 when no job failed, 1 when one failed, 2 when that is not known.`;

const command = new Command("previewed")
  .description(
    "Reports the results of the jobs in the variable NEEDS, and why the preview was skipped.",
  )
  .addHelpText("after", HELP)
  .action(async () => {
    const { from, author } = await readPullRequest(process.env);
    const isFork = from !== required(process.env, "GITHUB_REPOSITORY");
    const actor = process.env.GITHUB_ACTOR;
    const { ok, text } = outcomeOf(required(process.env, "NEEDS"), { isFork, author, actor });
    console.log(text);
    await addToSummary(process.env, text);
    process.exitCode = ok ? 0 : 1;
  });

await runCommand(command, [GitHubError]);
