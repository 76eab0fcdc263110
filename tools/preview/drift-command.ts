/** `npm run drift -- <stack>`: whether the server is still as the last `pulumi up` left it. */
import { isatty } from "node:tty";
import { Command } from "commander";
import { addToSummary, GitHub, GitHubError, gitHubSettings, type Notice } from "./github.ts";
import { checkDrift, type Drift } from "./preview.ts";
import { renderMarkdown, renderText } from "./render.ts";
import { checkStackName, StackError } from "./stacks.ts";
import { interruptible, runCommand, secondsFrom } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";

const HELP = `
Examples:
  npm run drift -- prod
  npm run drift -- prod --issue

--issue is for workflows: it needs GITHUB_TOKEN, and opens, updates or closes the one issue of this stack.
Exit status: 0 when there is none, 1 when there is, 2 when that cannot be told.`;

const STATUS: Readonly<Record<Drift["kind"], number>> = { none: 0, drift: 1, error: 2 };

const command = new Command("drift")
  .usage("<stack> [options]")
  .description("Compares a stack with what is on its server (pulumi preview --refresh --expect-no-changes). It changes neither.")
  .argument("<stack>", "the stack")
  .option("--issue", "tell it in an issue of the repository")
  .option("--timeout <seconds>", "limit for Pulumi's run", secondsFrom(10, 3600), 600)
  .addHelpText("after", HELP)
  .action(async (name: string, { issue, timeout }: { issue?: true; timeout: number }) => {
    const stack = checkStackName(name);
    const progress = createProgress();
    await interruptible(async (signal) => {
      const gitHub = issue && new GitHub(gitHubSettings(process.env), { signal });
      progress.step(`pulumi preview of ${stack}, with what is on the server`);
      const drift = await checkDrift(stack, { signal, timeoutMs: timeout * 1000 });
      progress.stop();
      console.log(drift.kind === "none" ? `No drift in ${stack}.` : renderText(drift.report, { color: isatty(1) }));
      process.exitCode = STATUS[drift.kind];
      if (!gitHub || signal.aborted) return;
      const notice = noticeOf(stack, drift);
      await addToSummary(process.env, notice.body);
      await gitHub.putNotice(notice);
    });
  });

function noticeOf(stack: string, drift: Drift): Notice {
  return {
    marker: `<!-- authentik-storage drift: ${stack} -->`,
    label: "drift",
    title: `Drift in the stack ${stack}`,
    body: bodyOf(stack, drift),
    isOpen: drift.kind !== "none",
  };
}

function bodyOf(stack: string, drift: Drift): string {
  switch (drift.kind) {
    case "none":
      return `There is no drift in \`${stack}\` any more.`;
    case "drift":
      return [
        `What is on the server of \`${stack}\` is not what the last \`pulumi up\` left there.`,
        `Put it right with \`npm run deploy -- ${stack} --refresh\`, or change the program. What that would do:\n\n${renderMarkdown(drift.report)}`,
      ].join(" ");
    case "error":
      return `**The drift check of \`${stack}\` could not run: whether there is drift is not known.**\n\n${renderMarkdown(drift.report)}`;
  }
}

await runCommand(command, [GitHubError, StackError]);
