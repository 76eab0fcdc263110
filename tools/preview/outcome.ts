/** The outcome of a workflow's jobs. */
import * as v from "valibot";

const Job = v.object({
  result: v.picklist(["success", "failure", "cancelled", "skipped"]),
  outputs: v.optional(v.record(v.string(), v.string()), {}),
});
const Needs = v.record(v.string(), Job);

/** Where a pull request comes from. */
export interface Origin {
  isFork: boolean;
  /** Login of its author. */
  author: string | undefined;
  /** Login of the user who started the workflow, e.g. by a label. */
  actor: string | undefined;
}

/**
 * Whether every job succeeded, and one sentence that says so.
 *
 * @param needs the JSON of a workflow's context `needs`, with the jobs `stacks` and `preview`
 * @throws ValiError, SyntaxError for another text
 */
export function outcomeOf(needs: string, origin: Origin): { ok: boolean; text: string } {
  const jobs = v.parse(Needs, JSON.parse(needs));
  const failed = Object.entries(jobs)
    .filter(([, { result }]) => result === "failure" || result === "cancelled")
    .map(([job, { result }]) => `The job ${job}: ${result}.`);
  if (failed.length > 0) return { ok: false, text: failed.join(" ") };
  if (jobs.preview?.result === "success") return { ok: true, text: "Every stack was previewed." };
  const reason = skipReason(origin, jobs.stacks?.outputs.stacks === "[]");
  // The preview may have been switched off.
  return reason === undefined
    ? { ok: false, text: "The preview was skipped for no known reason." }
    : { ok: true, text: `The preview was skipped: ${reason}` };
}

function skipReason({ isFork, author, actor }: Origin, hasNoStacks: boolean): string | undefined {
  if (hasNoStacks) return "there is no Pulumi.<stack>.yaml except the local stack's.";
  const instead =
    "To preview it, a maintainer can review the change, push it to this repository " +
    "and open another pull request.";
  if (isFork) return `the pull request comes from a fork, and forks get no credentials. ${instead}`;
  if ([author, actor].includes("dependabot[bot]")) {
    return `the pull request comes from Dependabot, which gets no credentials. ${instead}`;
  }
  return undefined;
}
