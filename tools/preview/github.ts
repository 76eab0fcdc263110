/** Reads labels from GitHub, and writes one comment and one issue for each stack. */
import { appendFile, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { request as octokit } from "@octokit/request";
import { RequestError } from "@octokit/request-error";
import pRetry from "p-retry";
import * as v from "valibot";
import { messageOf } from "../lib/errors.ts";

/**
 * A call to GitHub that failed or cannot be made. The message names the call and says what to do.
 */
export class GitHubError extends Error {
  override name = "GitHubError";
}

/** The repository, from a workflow's environment (GitHub, "Variables reference"). */
export interface GitHubSettings {
  apiUrl: string;
  owner: string;
  repo: string;
  token: string;
}

/**
 * The settings of GITHUB_API_URL, GITHUB_REPOSITORY and GITHUB_TOKEN.
 *
 * @throws GitHubError that names the missing variable
 */
export function gitHubSettings(env: NodeJS.ProcessEnv): GitHubSettings {
  const repository = required(env, "GITHUB_REPOSITORY");
  const [, owner, repo] = /^([^/\s]+)\/([^/\s]+)$/.exec(repository) ?? [];
  if (owner === undefined || repo === undefined) {
    throw new GitHubError(`GITHUB_REPOSITORY is "${repository}"; it must be owner/name`);
  }
  const apiUrl = env.GITHUB_API_URL ?? "https://api.github.com";
  return { apiUrl, owner, repo, token: required(env, "GITHUB_TOKEN") };
}

/**
 * The value of a variable in a workflow's environment.
 *
 * @throws GitHubError
 */
export function required(env: NodeJS.ProcessEnv, name: string): string {
  const value = env[name];
  if (value !== undefined && value !== "") return value;
  throw new GitHubError(
    `${name} is not set; in a workflow it comes from GitHub, or from the step's env`,
  );
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
  /** Login of its author; undefined when that account is deleted. */
  author: string | undefined;
  /** The commit at its head. */
  commit: string;
  /** The repository that it comes from; undefined when that is deleted. */
  from: string | undefined;
}

/**
 * The pull request in the event's file.
 *
 * @throws GitHubError when the workflow does not run for a pull request
 */
export async function readPullRequest(env: NodeJS.ProcessEnv): Promise<PullRequest> {
  const path = required(env, "GITHUB_EVENT_PATH");
  const event = v.safeParse(PullRequestEvent, await readJson(path));
  if (!event.success) {
    throw new GitHubError(`the event in "${path}" is not a pull request; run this on pull_request`);
  }
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

/**
 * Adds Markdown to the summary of the job. Does nothing outside of GitHub. A summary that cannot be
 * written is only reported: the comment or the issue has the same text.
 */
export async function addToSummary(env: NodeJS.ProcessEnv, markdown: string): Promise<void> {
  const file = env.GITHUB_STEP_SUMMARY;
  if (!file) return;
  try {
    await appendFile(file, `${markdown}\n`);
  } catch (error) {
    console.error(
      `The job's summary "${file}" (GITHUB_STEP_SUMMARY) was not written: ${messageOf(error)}`,
    );
  }
}

/** An issue that is open as long as the problem exists. */
export interface Notice {
  /** A comment in the body, by which the issue is found. */
  marker: string;
  /** The label of a new issue. */
  label: string;
  title: string;
  body: string;
  /** Whether the problem exists. No issue is created only to be closed. */
  isOpen: boolean;
}

/** The time limit of each request. */
const REQUEST_TIMEOUT_MS = 15_000;
const RETRIES = 3;
/** When GitHub asks for a longer wait, the operation fails. */
const MAX_WAIT_MS = 90_000;
const PAGE_SIZE = 100;
/** The account of a workflow's own token. That token may not ask for its account. */
const WORKFLOW_ACCOUNT = "github-actions[bot]";

/**
 * The calls to GitHub. When GitHub is at fault, a call is repeated for about two minutes at most.
 */
export class GitHub {
  private readonly place: { owner: string; repo: string };
  private readonly call: typeof octokit;
  private readonly signal: AbortSignal | undefined;
  /** Milliseconds before the first retry. Each further retry waits twice as long. */
  private readonly firstWaitMs: number;

  constructor(
    { apiUrl, owner, repo, token }: GitHubSettings,
    { signal, firstWaitMs = 1000 }: { signal?: AbortSignal; firstWaitMs?: number } = {},
  ) {
    this.place = { owner, repo };
    this.signal = signal;
    this.firstWaitMs = firstWaitMs;
    this.call = octokit.defaults({
      baseUrl: apiUrl,
      headers: {
        authorization: `Bearer ${token}`,
        "x-github-api-version": "2022-11-28",
        "user-agent": "authentik-storage",
      },
      request: { fetch: limitedFetch },
    });
  }

  /**
   * The current labels of a pull request. An event's file has the labels of the time of the event.
   */
  async labelsOf(number: number): Promise<string[]> {
    return this.retry(`read the labels of #${number}`, async () => {
      const { data } = await this.call("GET /repos/{owner}/{repo}/pulls/{pull_number}", {
        ...this.place,
        pull_number: number,
      });
      return data.labels.map(({ name }) => name);
    });
  }

  /** The newest commit of a branch. */
  async headOf(branch: string): Promise<string> {
    return this.retry(`look up the branch "${branch}"`, async () => {
      const { data } = await this.call("GET /repos/{owner}/{repo}/branches/{branch}", {
        ...this.place,
        branch,
      });
      return data.commit.sha;
    });
  }

  /**
   * The labels of the pull request that was merged into this branch as this commit; none for a
   * commit that was pushed. The same commit may be the merge of a pull request into another branch:
   * its reviewers did not allow anything on this one.
   */
  async labelsOfMerged(commit: string, branch: string): Promise<string[]> {
    return this.retry(`look up the pull request of ${commit}`, async () => {
      const { data } = await this.call("GET /repos/{owner}/{repo}/commits/{commit_sha}/pulls", {
        ...this.place,
        commit_sha: commit,
        per_page: PAGE_SIZE,
      });
      // Other pull requests may have the same commit without being merged. Their labels do not
      // count.
      const merged = data.find(({ merged_at, merge_commit_sha, base }) => {
        return merged_at !== null && merge_commit_sha === commit && base.ref === branch;
      });
      return merged?.labels.map(({ name }) => name) ?? [];
    });
  }

  /**
   * Creates or updates the comment that begins with this marker. Only comments of this account
   * count: anyone can write a marker.
   */
  async putComment(number: number, marker: string, text: string): Promise<void> {
    const body = `${marker}\n${text}`;
    await this.retry(`comment on #${number}`, async () => {
      const author = await this.account();
      const issue = { ...this.place, issue_number: number };
      const comments = "/repos/{owner}/{repo}/issues/{issue_number}/comments";
      const found = await this.find(
        (page) => this.call(`GET ${comments}`, { ...issue, per_page: PAGE_SIZE, page }),
        (comment) => comment.user?.login === author && comment.body?.startsWith(marker) === true,
      );
      if (!found) await this.call(`POST ${comments}`, { ...issue, body });
      else if (found.body !== body) {
        await this.call("PATCH /repos/{owner}/{repo}/issues/comments/{comment_id}", {
          ...this.place,
          comment_id: found.id,
          body,
        });
      }
    });
  }

  /** Opens, updates, reopens or closes the one issue with this marker. */
  async putNotice({ marker, label, title, body: text, isOpen }: Notice): Promise<void> {
    const body = `${marker}\n${text}`;
    const state = isOpen ? "open" : "closed";
    await this.retry(`write the issue "${title}"`, async () => {
      const author = await this.account();
      // The label does not count: people may change it.
      const order = { state: "all", sort: "created", per_page: PAGE_SIZE } as const;
      const query = { ...this.place, creator: author, ...order };
      const found = await this.find(
        (page) => this.call("GET /repos/{owner}/{repo}/issues", { ...query, page }),
        (issue) =>
          issue.user?.login === author &&
          issue.body?.startsWith(marker) === true &&
          issue.pull_request === undefined,
      );
      const content = { ...this.place, title, body };
      if (found && (isOpen || found.state !== state)) {
        await this.call("PATCH /repos/{owner}/{repo}/issues/{issue_number}", {
          ...content,
          issue_number: found.number,
          state,
        });
      } else if (!found && isOpen) {
        await this.call("POST /repos/{owner}/{repo}/issues", { ...content, labels: [label] });
      }
    });
  }

  /** The first item of a paged list that matches. */
  private async find<Item>(
    fetchPage: (page: number) => Promise<{ data: Item[]; headers: { link?: string | undefined } }>,
    matches: (item: Item) => boolean,
  ): Promise<Item | undefined> {
    for (let page = 1; ; page += 1) {
      const { data, headers } = await fetchPage(page);
      const found = data.find(matches);
      if (found !== undefined || !/rel="next"/.test(headers.link ?? "")) return found;
    }
  }

  /** Login of the token's account. */
  private async account(): Promise<string> {
    try {
      const { data } = await this.call("GET /user");
      return data.login;
    } catch (error) {
      const isForbidden = error instanceof RequestError && error.status === 403;
      if (isForbidden && requestedWait(error) === undefined) return WORKFLOW_ACCOUNT;
      throw error;
    }
  }

  /** Repeats the whole operation: after a lost answer it must look up again what exists. */
  private async retry<T>(purpose: string, work: () => Promise<T>): Promise<T> {
    const { signal, firstWaitMs: minTimeout } = this;
    const shouldRetry = async ({ error }: { error: Error }): Promise<boolean> => {
      if (!(error instanceof RequestError)) return false;
      const wait = requestedWait(error);
      if (wait === undefined) return error.status >= 500;
      if (wait > MAX_WAIT_MS) return false;
      await sleep(wait, undefined, { signal });
      return true;
    };
    try {
      return await pRetry(work, { retries: RETRIES, minTimeout, shouldRetry, signal });
    } catch (error) {
      throw error instanceof RequestError ? failure(purpose, error) : error;
    }
  }
}

/**
 * The wait in milliseconds that GitHub asks for ("Best practices for using the REST API");
 * undefined when it asks for none.
 */
function requestedWait({ status, response }: RequestError): number | undefined {
  if (status !== 403 && status !== 429) return undefined;
  const headers = response?.headers ?? {};
  const seconds = headers["retry-after"];
  if (seconds !== undefined) return Number(seconds) * 1000;
  if (headers["x-ratelimit-remaining"] === "0") {
    return Math.max(0, Number(headers["x-ratelimit-reset"]) * 1000 - Date.now());
  }
  return status === 429 ? 60_000 : undefined;
}

const ADVICE: Readonly<Record<number, string>> = {
  401: "The token is not valid: pass GITHUB_TOKEN to the step.",
  403:
    "The token is not allowed to do this: give the job the permission " +
    "(pull-requests: write, or issues: write), or wait for the rate limit.",
  404:
    "It does not exist, or the token is not allowed to see it: " +
    "check GITHUB_REPOSITORY and the job's permissions.",
};

function failure(purpose: string, error: RequestError): GitHubError {
  const temporary = error.status >= 500 ? "GitHub does not answer; run the job again." : "";
  const advice = ADVICE[error.status] ?? temporary;
  const message = `could not ${purpose}: HTTP ${error.status}, ${error.message}. ${advice}`;
  return new GitHubError(message.trimEnd(), { cause: error });
}

/**
 * `fetch` with a time limit that includes the body: the library takes a truncated body for a
 * complete one.
 */
const limitedFetch: typeof fetch = async (input, init) => {
  const response = await fetch(input, { ...init, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
  const body = await response.arrayBuffer();
  return new Response(body.byteLength === 0 ? null : body, response);
};
