/** `npm run preview -- <stack>`: what `pulumi up` would do, as a reviewer reads it, and whether it may. */
import { isatty } from "node:tty";
import { Command } from "commander";
import { DELETION_LABEL } from "./guard.ts";
import { addToSummary, GitHub, GitHubError, gitHubSettings, type PullRequest, readPullRequest } from "./github.ts";
import { preview } from "./preview.ts";
import { renderMarkdown, renderText } from "./render.ts";
import { checkStackName, StackError } from "./stacks.ts";
import { interruptible, runCommand, secondsFrom } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";

const HELP = `
Examples:
  npm run preview -- prod
  npm run preview -- prod --refresh
  npm run preview -- prod --json
  npm run preview -- prod --comment

--comment is for workflows on pull requests: it needs GITHUB_TOKEN, and the label ${DELETION_LABEL} then allows what --allow-bucket-deletion does.
Exit status: 0 when it may be done, 1 when it fails, violates a policy, or deletes or replaces a bucket without leave, 2 when it cannot be tried or told.`;

interface Options {
  comment?: true;
  allowBucketDeletion?: true;
  refresh?: true;
  timeout: number;
  json?: true;
}

const command = new Command("preview")
  .usage("<stack> [options]")
  .description("Shows what pulumi up would change, with the policy pack, and refuses a bucket's deletion or replacement.")
  .argument("<stack>", "the stack")
  .option("--comment", "write it as the pull request's comment for this stack")
  .option("--allow-bucket-deletion", "let buckets be deleted or replaced")
  .option("--refresh", "look first at what is on the server")
  .option("--timeout <seconds>", "limit for Pulumi's run", secondsFrom(10, 3600), 600)
  .option("--json", "print the report as JSON")
  .addHelpText("after", HELP)
  .action(run);

async function run(name: string, options: Options): Promise<void> {
  const stack = checkStackName(name);
  const progress = createProgress();
  await interruptible(async (signal) => {
    const target = options.comment ? await pullRequest(signal) : undefined;
    const deletionAllowed = options.allowBucketDeletion === true || target?.labels.includes(DELETION_LABEL) === true;
    progress.step(`pulumi preview of ${stack}`);
    const report = await preview(stack, {
      deletionAllowed, signal, commit: target?.commit, refresh: options.refresh, timeoutMs: options.timeout * 1000,
    });
    progress.stop();
    console.log(options.json ? JSON.stringify(report, undefined, 2) : renderText(report, { color: isatty(1) }));
    process.exitCode = report.ok ? 0 : 1;
    // A run that is ended for a newer one must not overwrite what that writes.
    if (!target || signal.aborted) return;
    const markdown = renderMarkdown(report);
    await addToSummary(process.env, markdown);
    await target.gitHub.putComment(target.number, `<!-- authentik-storage preview: ${stack} -->`, markdown);
  });
}

/** Asked before the preview: a label that cannot be read must not cost ten minutes. */
async function pullRequest(signal: AbortSignal): Promise<PullRequest & { gitHub: GitHub; labels: string[] }> {
  const gitHub = new GitHub(gitHubSettings(process.env), { signal });
  const request = await readPullRequest(process.env);
  return { ...request, gitHub, labels: await gitHub.labelsOf(request.number) };
}

await runCommand(command, [GitHubError, StackError]);
