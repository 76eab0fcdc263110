/**
 * `npm start`: starts a local S3 server, brings the stack `dev` up on it, and verifies its bucket.
 */
import { isatty } from "node:tty";
import { Command } from "commander";
import { messageOf } from "../lib/errors.ts";
import { formatEnv } from "../env/formats.ts";
import { withLocalStack } from "./start.ts";
import { allPassed, renderResults, verify } from "../verify/verify.ts";
import { interruptible, runCommand } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";
import { sourceOfOutputs } from "../lib/source.ts";

const HELP = `
Examples:
  npm start
  npm start -- --dir /var/tmp/authentik-storage

Exit status: 0 if every check passed; 1 if a check failed or the run was stopped; 2 if the server or
the stack cannot be started.`;

const NEXT = "Next, bring up a stack of your own: README.md, To production.";

const command = new Command("npm start --")
  .description(
    "Starts a local S3 server, brings the stack dev up on it, verifies its bucket as authentik " +
      "uses it, and stops the server.",
  )
  .option(
    "--dir <folder>",
    "folder of the server's data, keys and state (default: .local in this repository)",
  )
  .addHelpText("after", HELP)
  .action(run);

async function run({ dir }: { dir?: string }): Promise<void> {
  const progress = createProgress();
  let stopped: string | undefined;
  try {
    await interruptible(async (signal) => {
      signal.addEventListener("abort", () => {
        stopped = `${messageOf(signal.reason)}: the S3 server and pulumi were stopped`;
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
      // A signal after the last result also ends with its message.
      signal.throwIfAborted();
    });
  } catch (error) {
    progress.stop();
    if (stopped === undefined) throw error;
    console.error(stopped);
    // The SDK's installer cannot be stopped, so an interrupted run does not wait for it.
    process.exit(1);
  }
}

await runCommand(command, [Error]);
// After an error, work of the SDK may still run in this process.
if (process.exitCode === 2) process.exit();
