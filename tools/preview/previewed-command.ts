/** `npm run -s previewed`: the last job of the pull request's workflow: one result for all stacks, and why there was no preview where there was none. */
import { Command } from "commander";
import { addToSummary, GitHubError, readPullRequest, required } from "./github.ts";
import { outcomeOf } from "./outcome.ts";
import { runCommand } from "../lib/command.ts";

const command = new Command("previewed")
  .description("Says how the jobs went whose results are in the variable NEEDS, and why the preview was skipped if it was.")
  .addHelpText("after", "\nIt is for workflows: NEEDS is the JSON of the context needs.\nExit status: 0 when no job failed, 1 when one did, 2 when that cannot be told.")
  .action(async () => {
    const { from, author } = await readPullRequest(process.env);
    const isFork = from !== required(process.env, "GITHUB_REPOSITORY");
    const { ok, text } = outcomeOf(required(process.env, "NEEDS"), { isFork, author, actor: process.env.GITHUB_ACTOR });
    console.log(text);
    await addToSummary(process.env, text);
    process.exitCode = ok ? 0 : 1;
  });

await runCommand(command, [GitHubError]);
