/** A server on this machine that answers as GitHub's REST API documents for the calls of `preview/github.ts`, and is strict about what it is asked. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { text as readText } from "node:stream/consumers";
import * as v from "valibot";
import { listen, type Listening } from "./listen.ts";

export const REPO = "company/authentik-storage";
export const TOKEN = "ghs_token-of-the-workflow";
export const BOT = "github-actions[bot]";

export interface Comment {
  id: number;
  issue: number;
  body: string;
  user: { login: string };
}

export interface Issue {
  number: number;
  title: string;
  body: string;
  state: "open" | "closed";
  labels: { name: string }[];
  user: { login: string };
  pull_request?: { url: string };
}

export interface Pull {
  number: number;
  labels: { name: string }[];
  merged_at: string | null;
  merge_commit_sha: string;
  /** Further commits that it has. */
  commits: string[];
}

/** An answer in place of the proper one. */
export interface Fault {
  status: number;
  headers?: Record<string, string>;
  /** Whether the request is carried out all the same: its answer is lost. */
  isDone?: boolean;
  /** Cuts the connection instead of answering. */
  isCut?: boolean;
}

interface Answer {
  status: number;
  body: unknown;
  headers?: Record<string, string>;
}

const MAX_BODY = 65_536;
const NewComment = v.object({ body: v.pipe(v.string(), v.nonEmpty(), v.maxLength(MAX_BODY)) });
const NewIssue = v.object({ title: v.pipe(v.string(), v.nonEmpty()), body: v.pipe(v.string(), v.maxLength(MAX_BODY)), labels: v.array(v.string()) });
const IssueUpdate = v.object({
  title: v.optional(v.pipe(v.string(), v.nonEmpty())),
  body: v.optional(v.pipe(v.string(), v.maxLength(MAX_BODY))),
  state: v.optional(v.picklist(["open", "closed"])),
});

export class GitHubServer {
  readonly comments: Comment[] = [];
  readonly issues: Issue[] = [];
  readonly pulls: Pull[] = [];
  /** The newest commit of each branch. */
  readonly branches = new Map<string, string>();
  /** Answers of the next requests, the first first; undefined lets one through. */
  readonly faults: (Fault | undefined)[] = [];
  /** Method and path of every request. */
  readonly requests: string[] = [];
  /** What the token may not do, as the job's permissions say. */
  readonly denied = new Set<"pull-requests: write" | "issues: write">();
  /** Login of the token's owner; undefined for a workflow's own token, which may not ask. */
  user: string | undefined;
  private readonly server = createServer((request, response) => void this.handle(request, response));
  private listening: Listening | undefined;
  private nextId = 1;

  async start(): Promise<string> {
    this.listening = await listen(this.server);
    return this.url;
  }

  get url(): string {
    if (!this.listening) throw new Error("the server does not run");
    return `http://${this.listening.host}`;
  }

  /** What a workflow's step gets from GitHub. */
  get env(): Record<string, string> {
    return { GITHUB_API_URL: this.url, GITHUB_REPOSITORY: REPO, GITHUB_TOKEN: TOKEN };
  }

  async stop(): Promise<void> {
    await this.listening?.stop();
  }

  addComment(issue: number, body: string, login = BOT): Comment {
    const comment = { id: this.nextId++, issue, body, user: { login } };
    this.comments.push(comment);
    return comment;
  }

  addIssue(issue: Partial<Issue>): Issue {
    const added = { number: this.nextId++, title: "x", body: "", state: "open", labels: [], user: { login: BOT }, ...issue } satisfies Issue;
    this.issues.unshift(added);
    return added;
  }

  addPull(pull: Partial<Pull>): Pull {
    const added = { number: this.nextId++, labels: [], merged_at: null, merge_commit_sha: "0", commits: [], ...pull };
    this.pulls.push(added);
    return added;
  }

  private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "", this.url);
    const body = await readText(request);
    this.requests.push(`${request.method} ${url.pathname}`);
    const fault = this.faults.shift();
    const answer = fault && fault.isDone !== true ? undefined : this.answer(request, url, body);
    if (fault?.isCut === true) request.socket.destroy();
    else if (fault) response.writeHead(fault.status, { "content-type": "application/json", ...fault.headers }).end('{"message":"as the test wants it"}');
    else response.writeHead(answer?.status ?? 500, { "content-type": "application/json; charset=utf-8", ...answer?.headers }).end(JSON.stringify(answer?.body));
  }

  private answer(request: IncomingMessage, url: URL, body: string): Answer {
    if (request.headers.authorization !== `Bearer ${TOKEN}`) return message(401, "Bad credentials");
    if (request.headers["user-agent"] === undefined) return message(403, "Request forbidden by administrative rules");
    const [, path = ""] = /^\/repos\/company\/authentik-storage(\/.*)$/.exec(url.pathname) ?? [];
    const parts = path.split("/").slice(1);
    const route = `${request.method} /${parts.map((part) => (/^(?:\d+|[0-9a-f]{40})$/.test(part) ? "*" : part)).join("/")}`;
    const id = parts.find((part) => /^(?:\d+|[0-9a-f]{40})$/.test(part)) ?? "";
    if (url.pathname === "/user" && request.method === "GET") {
      return this.user === undefined ? message(403, "Resource not accessible by integration") : { status: 200, body: { login: this.user } };
    }
    if (request.method === "GET" && parts[0] === "branches") return this.branch(decodeURIComponent(parts.slice(1).join("/")));
    switch (route) {
      case "GET /pulls/*":
        return this.one(this.pulls.find(({ number }) => String(number) === id));
      case "GET /commits/*/pulls":
        return this.page(this.pulls.filter(({ merge_commit_sha, commits }) => [merge_commit_sha, ...commits].includes(id)), url);
      case "GET /issues/*/comments":
        if (!this.pulls.some(({ number }) => String(number) === id)) return message(404, "Not Found");
        return this.page(this.comments.filter(({ issue }) => String(issue) === id), url);
      case "POST /issues/*/comments":
        return this.write("pull-requests: write", NewComment, body, (comment) => ({ status: 201, body: this.addComment(Number(id), comment.body, this.user ?? BOT) }));
      case "PATCH /issues/comments/*":
        return this.write("pull-requests: write", NewComment, body, (change) => this.change(this.comments.find((comment) => String(comment.id) === id), change));
      case "GET /issues":
        return this.listIssues(url);
      case "POST /issues":
        return this.write("issues: write", NewIssue, body, ({ labels, ...issue }) =>
          ({ status: 201, body: this.addIssue({ ...issue, labels: labels.map((name) => ({ name })), user: { login: this.user ?? BOT } }) }));
      case "PATCH /issues/*":
        return this.write("issues: write", IssueUpdate, body, (change) => this.change(this.issues.find(({ number }) => String(number) === id), change));
      default:
        return message(404, "Not Found");
    }
  }

  private listIssues(url: URL): Answer {
    const state = url.searchParams.get("state") ?? "open";
    const creator = url.searchParams.get("creator");
    const fits = (issue: Issue) => (state === "all" || issue.state === state) && (creator === null || issue.user.login === creator);
    return this.page(this.issues.filter(fits), url);
  }

  private branch(name: string): Answer {
    const sha = this.branches.get(name);
    return this.one(sha === undefined ? undefined : { name, commit: { sha } });
  }

  private one(found: object | undefined): Answer {
    return found ? { status: 200, body: found } : message(404, "Not Found");
  }

  private page(items: readonly object[], url: URL): Answer {
    const size = Math.min(100, Number(url.searchParams.get("per_page") ?? 30));
    const page = Number(url.searchParams.get("page") ?? 1);
    const next = new URL(url);
    next.searchParams.set("page", String(page + 1));
    const link: Record<string, string> = page * size < items.length ? { link: `<${next.href}>; rel="next"` } : {};
    return { status: 200, body: items.slice((page - 1) * size, page * size), headers: link };
  }

  private write<T>(permission: "pull-requests: write" | "issues: write", schema: v.GenericSchema<unknown, T>, body: string, work: (value: T) => Answer): Answer {
    if (this.denied.has(permission)) return message(403, "Resource not accessible by integration");
    const parsed = v.safeParse(schema, JSON.parse(body));
    return parsed.success ? work(parsed.output) : message(422, `Validation Failed: ${parsed.issues[0].message}`);
  }

  private change(target: object | undefined, change: object): Answer {
    return target ? { status: 200, body: Object.assign(target, change) } : message(404, "Not Found");
  }
}

function message(status: number, text: string): Answer {
  return { status, body: { message: text, documentation_url: "https://docs.github.com/rest" } };
}
