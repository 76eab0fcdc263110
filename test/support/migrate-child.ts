/** A process to be killed: says that it is ready, waits for a job, does it, and says that it is done. */
import { problemsOf, run, type End } from "./migration.ts";

process.once("message", (job: { from: End; to: End; state: string }) => {
  void run(job.from, job.to, { state: job.state }).then(
    (summary) => process.send?.({ done: problemsOf(summary) }),
    (error: unknown) => process.send?.({ error: String(error) }),
  );
});
process.send?.("ready");
