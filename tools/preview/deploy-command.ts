/** `npm run deploy -- <stack>`: brings a stack up, if its plan is one that may be carried out, and verifies what came of it. */
import { isatty } from "node:tty";
import { Command } from "commander";
import { deploy } from "./deploy.ts";
import { EngineError } from "./engine.ts";
import { DELETION_LABEL } from "./guard.ts";
import { addToSummary, GitHub, GitHubError, gitHubSettings, required } from "./github.ts";
import { PlanError } from "./plan.ts";
import { renderMarkdown, renderText } from "./render.ts";
import { checkStackName, StackError } from "./stacks.ts";
import { allPassed, renderResults, verify } from "../verify/verify.ts";
import { interruptible, runCommand, secondsFrom, UsageError } from "../lib/command.ts";
import { createProgress } from "../lib/progress.ts";
import { readStack, type Source } from "../lib/source.ts";

const HELP = `
Examples:
  npm run deploy -- prod
  npm run deploy -- prod --refresh
  npm run deploy -- prod --allow-bucket-deletion
  npm run deploy -- prod --commit "$GITHUB_SHA"

--commit is for workflows: it needs GITHUB_TOKEN, and the label ${DELETION_LABEL} on the pull request that was merged as this commit then allows
what --allow-bucket-deletion does. It is looked up at every run: set it and run the job again. A commit that is not the newest of its branch
(GITHUB_REF_NAME) is refused, as it would take back what came after it.
Where authentik has no keys of its own but a role or a profile, nothing is verified, and that is said.
Exit status: 0 when the stack is up and, where it can be, verified, 1 when the plan is refused, the update failed or a check of the bucket did, 2 when it cannot be tried or told.`;

/** A new key is refused for seconds, seldom for longer. */
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
  .description("Previews a stack, refuses a bucket's deletion or replacement, brings the stack up with the policy pack, and verifies its bucket.")
  .argument("<stack>", "the stack")
  .option("--commit <sha>", "the commit that is deployed")
  .option("--allow-bucket-deletion", "let buckets be deleted or replaced")
  .option("--allow-older-commit", "with --commit: deploy it even where the branch has a newer one")
  .option("--refresh", "look first at what is on the server, and put right what has drifted")
  .option("--timeout <seconds>", "limit for each of Pulumi's runs", secondsFrom(10, 7200), 3600)
  .addHelpText("after", HELP)
  .action(run);

async function run(name: string, { commit, allowBucketDeletion, allowOlderCommit, refresh, timeout }: Options): Promise<void> {
  const stack = checkStackName(name);
  const progress = createProgress();
  await interruptible(async (signal) => {
    const isLabelled = commit !== undefined && (await checkCommit(commit, allowOlderCommit === true, signal));
    const deletionAllowed = allowBucketDeletion === true || isLabelled;
    const options = { deletionAllowed, commit, refresh, signal, timeoutMs: timeout * 1000, progress: progress.step };
    const { plan, update } = await deploy(stack, options).finally(progress.stop);
    console.log(renderText(plan, { color: isatty(1) }));
    await addToSummary(process.env, renderMarkdown(plan));
    if (update?.ok !== true) {
      if (update) {
        console.log(`pulumi up failed; what is done stays done.\n${renderText(update, { color: isatty(1) })}`);
        await addToSummary(process.env, renderMarkdown(update));
      }
      process.exitCode = 1;
      return;
    }
    const source = await readStack(stack);
    if (!hasOwnKeys(source)) {
      console.log(notVerified(stack));
      return;
    }
    progress.step("acting as authentik");
    const results = await verify(source, { signal, timeoutMs: VERIFY_MS, newKeyMs: NEW_KEY_MS }).finally(progress.stop);
    console.log(renderResults(results, { color: isatty(1) }));
    process.exitCode = allPassed(results) ? 0 : 1;
  });
  // As in verify: what the AWS SDK may still wait for is not waited for.
  setTimeout(() => process.exit(), 200).unref();
}

/** Whether authentik signs with keys that are among its variables. Those that this machine finds by itself are not authentik's. */
function hasOwnKeys({ settings: { accessKey, secretKey, sessionProfile } }: Source): boolean {
  return accessKey !== undefined && secretKey !== undefined && sessionProfile === undefined;
}

function notVerified(stack: string): string {
  return `The stack is up. Its bucket was not verified: that needs authentik's own identity (a role or a profile), which is not here. Where authentik runs: npm run verify -- ${stack}`;
}

/**
 * Whether the pull request that was merged as this commit lets buckets be deleted.
 *
 * @throws UsageError where the branch has a newer commit: an older one would take back what that has brought, unasked
 */
async function checkCommit(commit: string, mayBeOlder: boolean, signal: AbortSignal): Promise<boolean> {
  const gitHub = new GitHub(gitHubSettings(process.env), { signal });
  if (!mayBeOlder) await checkNewest(gitHub, commit);
  const merged = await gitHub.mergedAs(commit);
  return merged?.labels.includes(DELETION_LABEL) === true;
}

async function checkNewest(gitHub: GitHub, commit: string): Promise<void> {
  const branch = required(process.env, "GITHUB_REF_NAME");
  const head = await gitHub.headOf(branch);
  if (head !== commit) {
    throw new UsageError([
      `nothing is done: the commit ${commit} is not the newest of the branch "${branch}", which is ${head}. Its own run brings up both.`,
      "To go back to what was before, revert on the branch, or deploy with --allow-older-commit.",
    ].join(" "));
  }
}

await runCommand(command, [EngineError, PlanError, GitHubError, StackError]);
