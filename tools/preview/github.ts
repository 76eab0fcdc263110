/** What is read from GitHub and written to it: labels, one comment a stack, one issue a stack. */
import { readFile, appendFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { request as octokit } from "@octokit/request";
import { RequestError } from "@octokit/request-error";
import * as v from "valibot";

/** A call to GitHub that failed, or cannot be made. The message says which and what to do. */
export class GitHubError extends Error {
  override name = "GitHubError";
}

/** What a workflow's environment says of the repository (GitHub, "Variables reference"). */
export interface GitHubSettings {
  apiUrl: string;
  owner: string;
  repo: string;
  token: string;
}

/**
 * The settings of GITHUB_API_URL, GITHUB_REPOSITORY and GITHUB_TOKEN.
 *
 * @throws GitHubError that names what is missing
 */
export function gitHubSettings(env: NodeJS.ProcessEnv): GitHubSettings {
  const [, owner, repo] = /^([^/\s]+)\/([^/\s]+)$/.exec(required(env, "GITHUB_REPOSITORY")) ?? [];
  if (owner === undefined || repo === undefined) throw new GitHubError(`GITHUB_REPOSITORY is "${env.GITHUB_REPOSITORY}"; it has to be owner/name`);
  return { apiUrl: env.GITHUB_API_URL ?? "https://api.github.com", owner, repo, token: required(env, "GITHUB_TOKEN") };
}

/**
 * Value of an environment variable that a workflow has.
 *
 * @throws GitHubError
 */
export function required(env: NodeJS.ProcessEnv, name: string): string {
  const value = env[name];
  if (value === undefined || value === "") throw new GitHubError(`${name} is not set; in a workflow it comes from GitHub, or from the step's env`);
  return value;
}

const PullRequestEvent = v.object({
  pull_request: v.object({
    number: v.number(),
    user: v.nullable(v.object({ login: v.string() })),
    head: v.object({ sha: v.string(), repo: v.nullable(v.object({ full_name: v.string() })) }),
  }),
});

/** The pull request that a workflow runs for. */
export interface PullRequest {
  number: number;
  /** Login of who has opened it; undefined where that account is deleted. */
  author: string | undefined;
  /** The commit at its head. */
  commit: string;
  /** The repository it comes from; undefined where that is deleted. */
  from: string | undefined;
}

/**
 * The pull request in the event's file.
 *
 * @throws GitHubError when the workflow runs for something else
 */
export async function readPullRequest(env: NodeJS.ProcessEnv): Promise<PullRequest> {
  const path = required(env, "GITHUB_EVENT_PATH");
  const event = v.safeParse(PullRequestEvent, await readJson(path));
  if (!event.success) throw new GitHubError(`the event in "${path}" is not a pull request's; run this on pull_request`);
  const { number, user, head } = event.output.pull_request;
  return { number, author: user?.login, commit: head.sha, from: head.repo?.full_name };
}

async function readJson(path: string): Promise<unknown> {
  try {
    const value: unknown = JSON.parse(await readFile(path, "utf8"));
    return value;
  } catch (error) {
    throw new GitHubError(`the event's file "${path}" cannot be read`, { cause: error });
  }
}

/** Adds Markdown to the summary of the job, where there is one. */
export async function addToSummary(env: NodeJS.ProcessEnv, markdown: string): Promise<void> {
  if (env.GITHUB_STEP_SUMMARY) await appendFile(env.GITHUB_STEP_SUMMARY, `${markdown}\n`);
}

/** An issue that is there as long as what it tells of. */
export interface Notice {
  /** Hidden in the body; the issue is found by it. */
  marker: string;
  /** That it gets when it is opened. */
  label: string;
  title: string;
  body: string;
  /** Whether it shall be open. One that is not there is not made for being closed. */
  isOpen: boolean;
}

/** Every request ends within this. */
const REQUEST_TIMEOUT_MS = 15_000;
const ATTEMPTS = 4;
/** A wait that GitHub asks for is not longer than this; the whole operation then fails. */
const MAX_WAIT_MS = 90_000;
const PAGE_SIZE = 100;
/** The account behind a workflow's own token, which may not ask who it is. */
const WORKFLOW_ACCOUNT = "github-actions[bot]";

/** The calls that are made. What fails for GitHub's own reasons is tried again, for two minutes or so at most. */
export class GitHub {
  private readonly place: { owner: string; repo: string };
  private readonly call: typeof octokit;
  private readonly signal: AbortSignal | undefined;
  /** Milliseconds before the second attempt; doubled for each further one. */
  private readonly firstWaitMs: number;

  constructor({ apiUrl, owner, repo, token }: GitHubSettings, { signal, firstWaitMs = 1000 }: { signal?: AbortSignal; firstWaitMs?: number } = {}) {
    this.place = { owner, repo };
    this.signal = signal;
    this.firstWaitMs = firstWaitMs;
    this.call = octokit.defaults({
      baseUrl: apiUrl,
      headers: { authorization: `Bearer ${token}`, "x-github-api-version": "2022-11-28", "user-agent": "authentik-storage" },
      request: { fetch: limitedFetch },
    });
  }

  /** The labels that a pull request has now. An event's file has those of the time when the event was. */
  async labelsOf(number: number): Promise<string[]> {
    return this.retrying(`read the labels of #${number}`, async () => {
      const { data } = await this.call("GET /repos/{owner}/{repo}/pulls/{pull_number}", { ...this.place, pull_number: number });
      return data.labels.map(({ name }) => name);
    });
  }

  /** The newest commit of a branch. */
  async headOf(branch: string): Promise<string> {
    return this.retrying(`look up the branch "${branch}"`, async () => {
      const { data } = await this.call("GET /repos/{owner}/{repo}/branches/{branch}", { ...this.place, branch });
      return data.commit.sha;
    });
  }

  /** The pull request whose merge this commit is, with its labels; undefined for a commit that was pushed. */
  async mergedAs(commit: string): Promise<{ number: number; labels: string[] } | undefined> {
    return this.retrying(`look up the pull request of ${commit}`, async () => {
      const { data } = await this.call("GET /repos/{owner}/{repo}/commits/{commit_sha}/pulls", { ...this.place, commit_sha: commit, per_page: PAGE_SIZE });
      // Others may hold the same commit and have not been merged; their labels say nothing.
      const merged = data.find(({ merged_at, merge_commit_sha }) => merged_at !== null && merge_commit_sha === commit);
      return merged && { number: merged.number, labels: merged.labels.map(({ name }) => name) };
    });
  }

  /** Writes the comment that begins with this marker, or writes it anew. Only comments of this account count: anyone can write a marker. */
  async putComment(number: number, marker: string, text: string): Promise<void> {
    const body = `${marker}\n${text}`;
    await this.retrying(`comment on #${number}`, async () => {
      const author = await this.account();
      const issue = { ...this.place, issue_number: number };
      const found = await this.find(
        (page) => this.call("GET /repos/{owner}/{repo}/issues/{issue_number}/comments", { ...issue, per_page: PAGE_SIZE, page }),
        (comment) => comment.user?.login === author && comment.body?.startsWith(marker) === true,
      );
      if (!found) await this.call("POST /repos/{owner}/{repo}/issues/{issue_number}/comments", { ...issue, body });
      else if (found.body !== body) {
        await this.call("PATCH /repos/{owner}/{repo}/issues/comments/{comment_id}", { ...this.place, comment_id: found.id, body });
      }
    });
  }

  /** Opens, updates, opens again or closes the one issue of this marker. */
  async putNotice({ marker, label, title, body: text, isOpen }: Notice): Promise<void> {
    const body = `${marker}\n${text}`;
    const state = isOpen ? "open" : "closed";
    await this.retrying(`write the issue "${title}"`, async () => {
      const author = await this.account();
      // Not by its label, which is people's to change.
      const found = await this.find(
        (page) => this.call("GET /repos/{owner}/{repo}/issues", { ...this.place, creator: author, state: "all", sort: "created", per_page: PAGE_SIZE, page }),
        (issue) => issue.user?.login === author && issue.body?.startsWith(marker) === true && issue.pull_request === undefined,
      );
      if (found && (isOpen || found.state !== state)) {
        await this.call("PATCH /repos/{owner}/{repo}/issues/{issue_number}", { ...this.place, issue_number: found.number, title, body, state });
      } else if (!found && isOpen) {
        await this.call("POST /repos/{owner}/{repo}/issues", { ...this.place, title, body, labels: [label] });
      }
    });
  }

  /** The first of a paged list that fits. */
  private async find<Item>(
    fetchPage: (page: number) => Promise<{ data: Item[]; headers: { link?: string | undefined } }>,
    fits: (item: Item) => boolean,
  ): Promise<Item | undefined> {
    for (let page = 1; ; page += 1) {
      const { data, headers } = await fetchPage(page);
      const found = data.find(fits);
      if (found !== undefined || !/rel="next"/.test(headers.link ?? "")) return found;
    }
  }

  /** Login of the token's account. */
  private async account(): Promise<string> {
    try {
      const { data } = await this.call("GET /user");
      return data.login;
    } catch (error) {
      if (error instanceof RequestError && error.status === 403 && waitAsked(error) === undefined) return WORKFLOW_ACCOUNT;
      throw error;
    }
  }

  /** The whole operation again: after a lost answer it has to be looked up anew what is there. */
  private async retrying<T>(purpose: string, work: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        this.signal?.throwIfAborted();
        return await work();
      } catch (error) {
        if (!(error instanceof RequestError)) throw error;
        const wait = waitAsked(error) ?? (error.status >= 500 ? this.firstWaitMs * 2 ** (attempt - 1) : undefined);
        if (wait === undefined || wait > MAX_WAIT_MS || attempt === ATTEMPTS || this.signal?.aborted === true) throw failure(purpose, error);
        await sleep(wait, undefined, { signal: this.signal });
      }
    }
  }
}

/** Milliseconds that GitHub wants to be left alone for ("Best practices for using the REST API"); undefined where it does not. */
function waitAsked({ status, response }: RequestError): number | undefined {
  if (status !== 403 && status !== 429) return undefined;
  const { "retry-after": seconds, "x-ratelimit-remaining": remaining, "x-ratelimit-reset": reset } = response?.headers ?? {};
  if (seconds !== undefined) return Number(seconds) * 1000;
  if (remaining === "0") return Math.max(0, Number(reset) * 1000 - Date.now());
  return status === 429 ? 60_000 : undefined;
}

function failure(purpose: string, error: RequestError): GitHubError {
  const advice: Readonly<Record<number, string>> = {
    401: "The token does not hold: pass GITHUB_TOKEN to the step.",
    403: "The token may not do this: give the job the permission (pull-requests: write, or issues: write), or wait for the rate limit.",
    404: "There is no such thing, or the token may not see it: check GITHUB_REPOSITORY and the job's permissions.",
  };
  const otherAdvice = error.status >= 500 ? "GitHub does not answer; run the job again." : "";
  const message = `could not ${purpose}: HTTP ${error.status}, ${error.message}. ${advice[error.status] ?? otherAdvice}`;
  return new GitHubError(message.trimEnd(), { cause: error });
}

/** `fetch` with a limit, body included: the library takes one that breaks off for a whole one. */
const limitedFetch: typeof fetch = async (input, init) => {
  const response = await fetch(input, { ...init, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
  const body = await response.arrayBuffer();
  return new Response(body.byteLength === 0 ? null : body, response);
};
