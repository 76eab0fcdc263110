/** `npm start`: a local S3 server, the stack `dev` on it, and a check that authentik can use what came out. */
import { Command } from "commander";
import { withLocalStack } from "../local/start.ts";
import { isWell, renderResults, verify } from "../verify/index.ts";
import { interruptible } from "./process.ts";
import { createProgress } from "./progress.ts";
import { sourceOfOutputs } from "./source.ts";

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
      const lines = Object.entries(source.env).map(([name, value]) => `${name}=${value}`);
      console.log(`authentik's environment:\n\n${lines.join("\n")}\n\n${renderResults(results, { color: process.stdout.isTTY })}`);
      if (!isWell(results)) process.exitCode = 1;
    }),
  );
} catch (error) {
  progress.stop();
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  // The SDK's installer cannot be ended, so an interrupted run does not wait for it.
  process.exit(1);
}
