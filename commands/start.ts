/** `npm start`: a local S3 server, the stack `dev` on it, and a check that authentik can use what came out. */
import { Command } from "commander";
import { withLocalStack } from "../local/start.ts";
import { createProgress } from "./progress.ts";

const program = new Command("npm start --")
  .description("Starts a local S3 server, brings the stack dev up on it, acts on its bucket as authentik does, and stops the server.")
  .option("--dir <folder>", "folder of the server's data, keys and state (default: .local in this repository)")
  .addHelpText("after", "\nExamples:\n  npm start\n  npm start -- --dir /var/tmp/authentik-storage")
  .parse();

const abort = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  // The first one stops in order, a second one at once; the server ends with this process in any case.
  process.once(name, () => {
    process.once(name, () => process.exit(130));
    abort.abort(new Error(`stopped by ${name}`));
  });
}

const progress = createProgress();
try {
  const { dir } = program.opts<{ dir?: string }>();
  await withLocalStack({ dir, signal: abort.signal, progress: progress.step, notice: progress.notice }, async (outputs) => {
    progress.stop();
    console.log(outputs);
    return Promise.resolve();
  });
} catch (error) {
  const cause: unknown = abort.signal.aborted ? abort.signal.reason : error;
  progress.notice(cause instanceof Error ? cause.message : String(cause));
  process.exitCode = abort.signal.aborted ? 130 : 1;
}
