/**
 * `npm run preview -- <stack>`: shows what `pulumi up` would do, as a reviewer reads it, and
 * whether it is allowed.
 */
import { isatty } from "node:tty";
import { Command } from "commander";
import { interruptible, runCommand, secondsFrom } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";
import {
  addToSummary,
  GitHub,
  GitHubError,
  gitHubSettings,
  readPullRequest,
  type PullRequest,
} from "./github.ts";
import { DELETION_LABEL } from "./guard.ts";
import { preview } from "./preview.ts";
import { renderJson, renderMarkdown, renderText } from "./render.ts";
import { checkStackName, StackError } from "./stacks.ts";

const HELP = `
Examples:
  npm run preview -- prod
  npm run preview -- prod --refresh
  npm run preview -- prod --json
  npm run preview -- prod --comment

--comment is for workflows on pull requests. It needs GITHUB_TOKEN. The label
${DELETION_LABEL} then allows what --allow-bucket-deletion allows.

Exit status: 0 when the plan is allowed; 1 when there is no plan, or it violates
a policy, or deletes, replaces or empties a bucket and that is not allowed; 2
for any other error, e.g. a wrong option or GitHub's refusal.`;

interface Options {
  comment?: true;
  allowBucketDeletion?: true;
  refresh?: true;
  timeout: number;
  json?: true;
}

const command = new Command("preview")
  .usage("<stack> [options]")
  .description(
    "Shows what pulumi up would change, with the policy pack. " +
      "Refuses to delete, replace or empty a bucket.",
  )
  .argument("<stack>", "the stack")
  .option("--comment", "write the report as the pull request's comment for this stack")
  .option("--allow-bucket-deletion", "allow buckets to be deleted, replaced or emptied")
  .option("--refresh", "read the server first")
  .option("--timeout <seconds>", "time limit of pulumi", secondsFrom(10, 3600), 600)
  .option("--json", "print the report as JSON")
  .addHelpText("after", HELP)
  .action(run);

async function run(name: string, options: Options): Promise<void> {
  const { refresh, timeout } = options;
  const stack = checkStackName(name);
  const progress = createProgress();
  await interruptible(async (signal) => {
    const target = options.comment ? await pullRequest(signal) : undefined;
    const isLabeled = target?.labels.includes(DELETION_LABEL) === true;
    const deletionAllowed = options.allowBucketDeletion === true || isLabeled;
    const limits = { signal, timeoutMs: timeout * 1000 };
    progress.step(`pulumi preview of ${stack}`);
    const report = await preview(stack, {
      deletionAllowed,
      refresh,
      commit: target?.commit,
      ...limits,
    });
    progress.stop();
    const text = options.json ? renderJson(report) : renderText(report, { color: isatty(1) });
    console.log(text);
    process.exitCode = report.ok ? 0 : 1;
    // A run that is stopped for a newer one must not overwrite the comment of that one.
    if (!target || signal.aborted) return;
    const markdown = renderMarkdown(report);
    await addToSummary(process.env, markdown);
    const marker = `<!-- authentik-storage preview: ${stack} -->`;
    await target.gitHub.putComment(target.number, marker, markdown);
  });
}

/**
 * Called before the preview: if the labels cannot be read, the command fails at once and not after ten
 * minutes.
 */
async function pullRequest(
  signal: AbortSignal,
): Promise<PullRequest & { gitHub: GitHub; labels: string[] }> {
  const gitHub = new GitHub(gitHubSettings(process.env), { signal });
  const request = await readPullRequest(process.env);
  return { ...request, gitHub, labels: await gitHub.labelsOf(request.number) };
}

await runCommand(command, [GitHubError, StackError]);
