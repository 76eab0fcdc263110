/**
 * A local server that answers the calls of `tools/preview/github.ts` as GitHub's REST API documents
 * it, and refuses what GitHub would refuse.
 */
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
  base: { ref: string };
  /** Its further commits. */
  commits: string[];
}

/** An answer instead of the normal one. */
export interface Fault {
  status: number;
  headers?: Record<string, string>;
  /** Whether the request is carried out anyway, and only its answer is lost. */
  isDone?: boolean;
  /** Cuts the connection instead of answering. */
  isCut?: boolean;
}

interface Answer {
  status: number;
  body: unknown;
  headers?: Record<string, string>;
}

/** A call of a route. */
interface Call {
  /** The number, commit or branch in the path. */
  id: string;
  url: URL;
  body: string;
}

const MAX_BODY = 65_536;
const Title = v.pipe(v.string(), v.nonEmpty());
const Body = v.pipe(v.string(), v.maxLength(MAX_BODY));
const NewComment = v.object({ body: v.pipe(Body, v.nonEmpty()) });
const NewIssue = v.object({ title: Title, body: Body, labels: v.array(v.string()) });
const IssueUpdate = v.object({
  title: v.optional(Title),
  body: v.optional(Body),
  state: v.optional(v.picklist(["open", "closed"])),
});

export class GitHubServer {
  readonly comments: Comment[] = [];
  readonly issues: Issue[] = [];
  readonly pulls: Pull[] = [];
  /** The newest commit of each branch. */
  readonly branches = new Map<string, string>();
  /** The faults of the next requests, in order. Undefined lets a request through. */
  readonly faults: (Fault | undefined)[] = [];
  /** Method and path of every request. */
  readonly requests: string[] = [];
  /** The permissions that the token lacks. */
  readonly denied = new Set<"pull-requests: write" | "issues: write">();
  /** Login of the token's owner; undefined for a workflow's own token. */
  user: string | undefined;
  private readonly server = createServer((request, response) => {
    void this.handle(request, response);
  });
  private listening: Listening | undefined;
  private nextId = 1;

  async start(): Promise<string> {
    this.listening = await listen(this.server);
    return this.url;
  }

  get url(): string {
    if (!this.listening) throw new Error("the server is not running");
    return `http://${this.listening.host}`;
  }

  /** The variables that a workflow's step gets from GitHub. */
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
    const added: Issue = {
      number: this.nextId++,
      title: "x",
      body: "",
      state: "open",
      labels: [],
      user: { login: BOT },
      ...issue,
    };
    this.issues.unshift(added);
    return added;
  }

  addPull(pull: Partial<Pull>): Pull {
    const fresh = {
      labels: [],
      merged_at: null,
      merge_commit_sha: "0",
      commits: [],
      base: { ref: "main" },
    };
    const added = { number: this.nextId++, ...fresh, ...pull };
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
    else send(response, fault ? { ...fault, body: { message: "as the test wants it" } } : answer);
  }

  private answer({ method, headers }: IncomingMessage, url: URL, body: string): Answer {
    if (headers.authorization !== `Bearer ${TOKEN}`) return message(401, "Bad credentials");
    if (headers["user-agent"] === undefined) {
      return message(403, "Request forbidden by administrative rules");
    }
    if (method === "GET" && url.pathname === "/user") return this.account();
    const [, path = ""] = /^\/repos\/company\/authentik-storage(\/.*)$/.exec(url.pathname) ?? [];
    for (const [route, handler] of Object.entries(this.routes)) {
      const [routeMethod, pattern = ""] = route.split(" ");
      const found = new RegExp(`^${pattern}$`).exec(path);
      if (method === routeMethod && found) return handler({ id: found[1] ?? "", url, body });
    }
    return message(404, "Not Found");
  }

  /** The documented routes of a repository. The group in a path is the `id`. */
  private readonly routes: Readonly<Record<string, (call: Call) => Answer>> = {
    "GET /branches/(.+)": ({ id }) => this.branch(decodeURIComponent(id)),
    "GET /pulls/(\\d+)": ({ id }) => this.one(this.pulls.find(isNumber(id))),
    "GET /commits/([0-9a-f]{40})/pulls": ({ id, url }) => {
      const commitsOf = ({ merge_commit_sha: merge, commits }: Pull) => [merge, ...commits];
      const found = this.pulls.filter((pull) => commitsOf(pull).includes(id));
      return this.page(found, url);
    },
    "GET /issues/(\\d+)/comments": ({ id, url }) => {
      if (!this.pulls.some(isNumber(id))) return message(404, "Not Found");
      const comments = this.comments.filter(({ issue }) => String(issue) === id);
      return this.page(comments, url);
    },
    "POST /issues/(\\d+)/comments": ({ id, body }) =>
      this.write("pull-requests: write", NewComment, body, (comment) => {
        const added = this.addComment(Number(id), comment.body, this.user ?? BOT);
        return { status: 201, body: added };
      }),
    "PATCH /issues/comments/(\\d+)": ({ id, body }) =>
      this.write("pull-requests: write", NewComment, body, (change) => {
        const found = this.comments.find((comment) => String(comment.id) === id);
        return this.change(found, change);
      }),
    "GET /issues": ({ url }) => this.listIssues(url),
    "POST /issues": ({ body }) =>
      this.write("issues: write", NewIssue, body, ({ labels, ...issue }) => {
        const user = { login: this.user ?? BOT };
        const added = this.addIssue({ ...issue, labels: labels.map((name) => ({ name })), user });
        return { status: 201, body: added };
      }),
    "PATCH /issues/(\\d+)": ({ id, body }) =>
      this.write("issues: write", IssueUpdate, body, (change) =>
        this.change(this.issues.find(isNumber(id)), change),
      ),
  };

  /** A workflow's own token may not ask for its account. */
  private account(): Answer {
    return this.user === undefined
      ? message(403, "Resource not accessible by integration")
      : { status: 200, body: { login: this.user } };
  }

  private listIssues(url: URL): Answer {
    const state = url.searchParams.get("state") ?? "open";
    const creator = url.searchParams.get("creator");
    const matches = (issue: Issue) =>
      (state === "all" || issue.state === state) &&
      (creator === null || issue.user.login === creator);
    return this.page(this.issues.filter(matches), url);
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
    const headers: Record<string, string> = {};
    if (page * size < items.length) headers.link = `<${next.href}>; rel="next"`;
    return { status: 200, body: items.slice((page - 1) * size, page * size), headers };
  }

  private write<T>(
    permission: "pull-requests: write" | "issues: write",
    schema: v.GenericSchema<unknown, T>,
    body: string,
    work: (value: T) => Answer,
  ): Answer {
    if (this.denied.has(permission)) return message(403, "Resource not accessible by integration");
    const parsed = v.safeParse(schema, JSON.parse(body));
    if (!parsed.success) return message(422, `Validation Failed: ${parsed.issues[0].message}`);
    return work(parsed.output);
  }

  private change(target: object | undefined, change: object): Answer {
    return this.one(target && Object.assign(target, change));
  }
}

function isNumber(id: string): (numbered: { number: number }) => boolean {
  return ({ number }) => String(number) === id;
}

function send(response: ServerResponse, answer: Answer | undefined): void {
  const headers = { "content-type": "application/json; charset=utf-8", ...answer?.headers };
  response.writeHead(answer?.status ?? 500, headers).end(JSON.stringify(answer?.body));
}

function message(status: number, text: string): Answer {
  return { status, body: { message: text, documentation_url: "https://docs.github.com/rest" } };
}
