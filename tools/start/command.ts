/** `npm start`: a local S3 server, the stack `dev` on it, and a check that authentik can use what came out. */
import { isatty } from "node:tty";
import { Command } from "commander";
import { formatEnv } from "../env/formats.ts";
import { withLocalStack } from "./start.ts";
import { allPassed, renderResults, verify } from "../verify/verify.ts";
import { outliveReaders } from "../lib/output.ts";
import { interruptible } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";
import { sourceOfOutputs } from "../lib/source.ts";

outliveReaders();
const { dir } = new Command("npm start --")
  .description("Starts a local S3 server, brings the stack dev up on it, acts on its bucket as authentik does, and stops the server.")
  .option("--dir <folder>", "folder of the server's data, keys and state (default: .local in this repository)")
  .addHelpText("after", "\nExamples:\n  npm start\n  npm start -- --dir /var/tmp/authentik-storage")
  .parse()
  .opts<{ dir?: string }>();

const progress = createProgress();
try {
  await interruptible((signal) =>
    withLocalStack({ dir, signal, progress: progress.step, notice: progress.notice }, async (outputs) => {
      const source = sourceOfOutputs("dev", outputs, true);
      progress.step("acting as authentik");
      const results = await verify(source, { signal });
      progress.stop();
      console.log(`authentik's environment:\n\n${formatEnv(source.env, "dotenv")}\n${renderResults(results, { color: isatty(1) })}`);
      if (!allPassed(results)) process.exitCode = 1;
    }),
  );
} catch (error) {
  progress.stop();
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  // The SDK's installer cannot be ended, so an interrupted run does not wait for it.
  process.exit(1);
}
