/** The outcome of a workflow's jobs. */
import * as v from "valibot";

const Needs = v.record(v.string(), v.object({
  result: v.picklist(["success", "failure", "cancelled", "skipped"]),
  outputs: v.optional(v.record(v.string(), v.string()), {}),
}));

/** Whose changes a pull request brings. */
export interface Origin {
  isFork: boolean;
  /** Login of who has opened it. */
  author: string | undefined;
  /** Login of who started the workflow, which may be who has set a label. */
  actor: string | undefined;
}

/**
 * Whether every job went well, in one sentence for people.
 *
 * @param needs the JSON of a workflow's context `needs`, with the jobs `stacks` and `preview`
 * @throws ValiError, SyntaxError when it is none
 */
export function outcomeOf(needs: string, origin: Origin): { ok: boolean; text: string } {
  const jobs = v.parse(Needs, JSON.parse(needs));
  const bad = Object.entries(jobs).filter(([, { result }]) => result === "failure" || result === "cancelled");
  if (bad.length > 0) return { ok: false, text: bad.map(([job, { result }]) => `The job ${job}: ${result}.`).join(" ") };
  if (jobs.preview?.result === "success") return { ok: true, text: "Every stack was previewed." };
  const reason = skipReason(origin, jobs.stacks?.outputs.stacks === "[]");
  // A preview that was skipped for no reason that is known may be one that somebody has switched off.
  return reason === undefined
    ? { ok: false, text: "The preview was skipped, and there is no reason for it." }
    : { ok: true, text: `The preview was skipped: ${reason}` };
}

function skipReason({ isFork, author, actor }: Origin, hasNoStacks: boolean): string | undefined {
  if (hasNoStacks) return "there is no Pulumi.<stack>.yaml but the local one's.";
  const instead = "A maintainer can push it to this repository and open a pull request of their own, after reading it, to have it previewed.";
  if (isFork) return `this comes from a fork, and forks get no credentials. ${instead}`;
  if ([author, actor].includes("dependabot[bot]")) return `this comes from Dependabot, which gets no credentials. ${instead}`;
  return undefined;
}
