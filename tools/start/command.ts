/**
 * `npm start`: starts a local S3 server, brings the stack `dev` up on it, and verifies its bucket.
 */
import { isatty } from "node:tty";
import { Command } from "commander";
import { messageOf } from "../lib/errors.ts";
import { formatEnv } from "../env/formats.ts";
import { withLocalStack } from "./start.ts";
import { allPassed, renderResults, verify } from "../verify/verify.ts";
import { ignoreClosedOutput, interruptible } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";
import { sourceOfOutputs } from "../lib/source.ts";

const HELP = `
Examples:
  npm start
  npm start -- --dir /var/tmp/authentik-storage`;

const NEXT = "Next, bring up a stack of your own: README.md, To production.";

ignoreClosedOutput();
const { dir } = new Command("npm start --")
  .description(
    "Starts a local S3 server, brings the stack dev up on it, verifies its bucket as authentik " +
      "uses it, and stops the server.",
  )
  .option(
    "--dir <folder>",
    "folder of the server's data, keys and state (default: .local in this repository)",
  )
  .addHelpText("after", HELP)
  .parse()
  .opts<{ dir?: string }>();

const progress = createProgress();
let stopped: string | undefined;
try {
  await interruptible(async (signal) => {
    signal.addEventListener("abort", () => {
      stopped = `${messageOf(signal.reason)}: the S3 server and pulumi do not run any more`;
      progress.step("stopping the S3 server and pulumi");
    });
    const options = { dir, signal, progress: progress.step, notice: progress.notice };
    await withLocalStack(options, async (outputs) => {
      const source = sourceOfOutputs("dev", outputs, true);
      progress.step("verifying the bucket as authentik uses it");
      const results = await verify(source, { signal });
      progress.stop();
      console.log(`authentik's environment:\n\n${formatEnv(source.env, "dotenv")}`);
      console.log(
        renderResults(results, NEXT, { color: isatty(1), columns: process.stdout.columns }),
      );
      if (!allPassed(results)) process.exitCode = 1;
    });
    // A signal after the last result leaves nothing undone, but its progress is shown until it ends.
    signal.throwIfAborted();
  });
} catch (error) {
  progress.stop();
  console.error(stopped ?? `error: ${messageOf(error)}`);
  // The SDK's installer cannot be stopped, so an interrupted run does not wait for it.
  process.exit(1);
}
