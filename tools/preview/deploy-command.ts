/**
 * `npm run deploy -- <stack>`: brings a stack up if its plan is allowed, and verifies the result.
 */
import { isatty } from "node:tty";
import { Command } from "commander";
import { interruptible, runCommand, secondsFrom, UsageError } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";
import { readStack, type Source } from "../lib/source.ts";
import { allPassed, renderResults, verify } from "../verify/verify.ts";
import { deploy } from "./deploy.ts";
import { addToSummary, GitHub, GitHubError, gitHubSettings, required } from "./github.ts";
import { DELETION_LABEL } from "./guard.ts";
import { PlanError } from "./plan.ts";
import { renderMarkdown, renderText } from "./render.ts";
import type { PlanReport } from "./report.ts";
import { checkStackName, StackError } from "./stacks.ts";

const HELP = `
Examples:
  npm run deploy -- prod
  npm run deploy -- prod --refresh
  npm run deploy -- prod --allow-bucket-deletion
  npm run deploy -- prod --commit "$GITHUB_SHA"

--commit is for workflows. It needs GITHUB_TOKEN. If the pull request that was
merged into GITHUB_REF_NAME as this commit has the label ${DELETION_LABEL}, the label allows
what --allow-bucket-deletion allows. The label is read at every run: you can add
it and run the job again. A commit that is not the newest of its branch
(GITHUB_REF_NAME) is refused, because it would revert the commits after it.

When authentik has no keys but a role or a profile, nothing is verified, and the
command says so.

Exit status: 0 when the stack is up and its bucket is verified, if that is
possible; 1 when there is no plan or it is refused, the update fails or a check
of the bucket fails; 2 for any other error, e.g. a wrong option or GitHub's
refusal.`;

/** A new key is refused for some seconds, rarely for longer. */
const NEW_KEY_MS = 30_000;
const VERIFY_MS = 30_000 + NEW_KEY_MS;

interface Options {
  commit?: string;
  allowBucketDeletion?: true;
  allowOlderCommit?: true;
  refresh?: true;
  timeout: number;
}

const command = new Command("deploy")
  .usage("<stack> [options]")
  .description(
    "Previews a stack, refuses to delete, replace or empty a bucket, brings the stack up with the policy " +
      "pack, and verifies its bucket.",
  )
  .argument("<stack>", "the stack")
  .option("--commit <sha>", "the commit that is deployed")
  .option("--allow-bucket-deletion", "allow buckets to be deleted, replaced or emptied")
  .option(
    "--allow-older-commit",
    "with --commit: deploy the commit even if the branch has a newer one",
  )
  .option("--refresh", "read the server first, and repair what has drifted")
  .option("--timeout <seconds>", "time limit of each run of pulumi", secondsFrom(10, 7200), 3600)
  .addHelpText("after", HELP)
  .action(run);

async function run(name: string, options: Options): Promise<void> {
  const { commit, refresh, timeout } = options;
  const stack = checkStackName(name);
  const progress = createProgress();
  await interruptible(async (signal) => {
    const limits = { signal, timeoutMs: timeout * 1000, progress: progress.step };
    const deletionAllowed = await isDeletionAllowed(options, signal);
    const about = { deletionAllowed, commit, refresh };
    const { plan, update } = await deploy(stack, { ...about, ...limits }).finally(progress.stop);
    await show(plan);
    if (update?.ok === true) return verifyStack(stack, signal);
    if (update) {
      console.log("pulumi up failed. The changes that it made stay.");
      await show(update);
    }
    process.exitCode = 1;
  });
  // As in verify: the AWS SDK may still wait for something.
  setTimeout(() => process.exit(), 200).unref();
}

async function show(report: PlanReport): Promise<void> {
  console.log(renderText(report, { color: isatty(1) }));
  await addToSummary(process.env, renderMarkdown(report));
}

async function verifyStack(stack: string, signal: AbortSignal): Promise<void> {
  const source = await readStack(stack);
  if (!hasOwnKeys(source)) {
    console.log(
      "The stack is up. Its bucket was not verified: authentik uses a role or a profile that this " +
        `machine does not have. Run this where authentik runs: npm run verify -- ${stack}`,
    );
    return;
  }
  const progress = createProgress();
  progress.step("verifying the bucket as authentik uses it");
  const limits = { signal, timeoutMs: VERIFY_MS, newKeyMs: NEW_KEY_MS };
  const results = await verify(source, limits).finally(progress.stop);
  console.log(renderResults(results, "authentik can use this storage.", { color: isatty(1) }));
  process.exitCode = allPassed(results) ? 0 : 1;
}

/**
 * Whether authentik signs with keys that are among its variables. Keys that this machine finds by
 * itself are not authentik's.
 */
function hasOwnKeys({ settings: { accessKey, secretKey, sessionProfile } }: Source): boolean {
  return accessKey !== undefined && secretKey !== undefined && sessionProfile === undefined;
}

/**
 * Whether the user, or the pull request that was merged as this commit, allows the deletion of
 * buckets.
 *
 * @throws UsageError when the branch has a newer commit: an older one would silently revert it
 */
async function isDeletionAllowed(options: Options, signal: AbortSignal): Promise<boolean> {
  const { commit, allowBucketDeletion, allowOlderCommit } = options;
  if (commit === undefined) return allowBucketDeletion === true;
  const gitHub = new GitHub(gitHubSettings(process.env), { signal });
  const branch = required(process.env, "GITHUB_REF_NAME");
  if (allowOlderCommit !== true) await checkNewest(gitHub, commit, branch);
  const labels = await gitHub.labelsOfMerged(commit, branch);
  return allowBucketDeletion === true || labels.includes(DELETION_LABEL);
}

async function checkNewest(gitHub: GitHub, commit: string, branch: string): Promise<void> {
  const head = await gitHub.headOf(branch);
  if (head === commit) return;
  throw new UsageError(
    `nothing is done: the commit ${commit} is not the newest of the branch "${branch}", ` +
      `which is ${head}. The run of that commit deploys both. ` +
      "To go back to an earlier state, revert on the branch, or deploy with --allow-older-commit.",
  );
}

await runCommand(command, [PlanError, GitHubError, StackError]);
