/** `npm run drift -- <stack>`: whether the server is still as the last `pulumi up` left it. */
import { isatty } from "node:tty";
import { Command } from "commander";
import { interruptible, runCommand, secondsFrom } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";
import { addToSummary, GitHub, GitHubError, gitHubSettings, type Notice } from "./github.ts";
import { checkDrift, type Drift } from "./preview.ts";
import { renderMarkdown, renderText } from "./render.ts";
import { checkStackName, StackError } from "./stacks.ts";

const HELP = `
Examples:
  npm run drift -- prod
  npm run drift -- prod --issue

--issue is for workflows. It needs GITHUB_TOKEN. It opens, updates or closes the
one issue of this stack.

Exit status: 0 without drift, 1 with drift, 2 when the check fails.`;

const STATUS: Readonly<Record<Drift["kind"], number>> = { none: 0, drift: 1, error: 2 };

const command = new Command("drift")
  .usage("<stack> [options]")
  .description(
    "Compares a stack with its server (pulumi preview --refresh --expect-no-changes). " +
      "It changes neither.",
  )
  .argument("<stack>", "the stack")
  .option("--issue", "write the result to an issue of the repository")
  .option("--timeout <seconds>", "time limit of pulumi", secondsFrom(10, 3600), 600)
  .addHelpText("after", HELP)
  .action(async (name: string, { issue, timeout }: { issue?: true; timeout: number }) => {
    const stack = checkStackName(name);
    const progress = createProgress();
    await interruptible(async (signal) => {
      const gitHub = issue && new GitHub(gitHubSettings(process.env), { signal });
      progress.step(`comparing ${stack} with its server`);
      const drift = await checkDrift(stack, { signal, timeoutMs: timeout * 1000 });
      progress.stop();
      const text =
        drift.kind === "none"
          ? `No drift in ${stack}.`
          : renderText(drift.report, { color: isatty(1) });
      console.log(text);
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
      return `\`${stack}\` has no drift any more.`;
    case "drift":
      return (
        `The server of \`${stack}\` is not as the last \`pulumi up\` left it. ` +
        `Repair it with \`npm run deploy -- ${stack} --refresh\`, or change the program. ` +
        `The repair would do this:\n\n${renderMarkdown(drift.report)}`
      );
    case "error":
      return (
        `**The drift check of \`${stack}\` could not run. It is not known whether there is drift.**` +
        `\n\n${renderMarkdown(drift.report)}`
      );
  }
}

await runCommand(command, [GitHubError, StackError]);
