import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import {
  addToSummary,
  GitHub,
  GitHubError,
  gitHubSettings,
  readPullRequest,
} from "../tools/preview/github.ts";
import { BOT, GitHubServer, TOKEN } from "./support/github-server.ts";

const MARKER = "<!-- authentik-storage preview: prod -->";
const COMMIT = "a".repeat(40);
const LABEL = { name: "allow-bucket-deletion" };
const NOTICE = {
  marker: "<!-- authentik-storage drift: prod -->",
  label: "drift",
  title: "Drift in the stack prod",
  body: "It has drifted.",
  isOpen: true,
};

async function failureOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof GitHubError)) throw new Error(`not a GitHubError: ${String(error)}`);
  expect(error.message).not.to.contain(TOKEN);
  return error.message;
}

describe("GitHub", () => {
  let server: GitHubServer;
  let gitHub: GitHub;
  let pull: number;

  beforeEach(async () => {
    server = new GitHubServer();
    await server.start();
    pull = server.addPull({ labels: [LABEL] }).number;
    gitHub = new GitHub(gitHubSettings(server.env), { firstWaitMs: 5 });
  });
  afterEach(async () => {
    await server.stop();
  });

  const bodies = () => server.comments.map(({ body }) => body);

  describe("a comment", () => {
    it("is written once and then updated", async () => {
      await gitHub.putComment(pull, MARKER, "first");
      await gitHub.putComment(pull, MARKER, "second");
      expect(bodies()).to.deep.equal([`${MARKER}\nsecond`]);
    });

    it("is not written again when it says the same already", async () => {
      await gitHub.putComment(pull, MARKER, "first");
      await gitHub.putComment(pull, MARKER, "first");
      expect(server.requests.filter((request) => !request.startsWith("GET"))).to.have.length(1);
    });

    it("exists once per stack", async () => {
      await gitHub.putComment(pull, MARKER, "prod");
      await gitHub.putComment(pull, MARKER.replace("prod", "staging"), "staging");
      expect(bodies()).to.have.length(2);
    });

    it("is found after many others, on a later page", async () => {
      for (let count = 0; count < 230; count += 1)
        server.addComment(pull, `comment ${count}`, "somebody");
      server.addComment(pull, `${MARKER}\nold`);
      await gitHub.putComment(pull, MARKER, "new");
      expect(bodies().at(-1)).to.equal(`${MARKER}\nnew`);
      expect(server.comments).to.have.length(231);
    });

    it("is not a comment of somebody else with the marker, nor one that quotes it", async () => {
      server.addComment(pull, `${MARKER}\nall checks passed, merge it`, "mallory");
      server.addComment(pull, `> ${MARKER}\nquoted`);
      await gitHub.putComment(pull, MARKER, "the truth");
      expect(bodies()).to.deep.equal([
        `${MARKER}\nall checks passed, merge it`,
        `> ${MARKER}\nquoted`,
        `${MARKER}\nthe truth`,
      ]);
    });

    it("belongs to the account of the token, when that is a person's", async () => {
      server.user = "release-manager";
      server.addComment(pull, `${MARKER}\nthe workflow's`, BOT);
      await gitHub.putComment(pull, MARKER, "one");
      await gitHub.putComment(pull, MARKER, "two");
      expect(bodies()).to.deep.equal([`${MARKER}\nthe workflow's`, `${MARKER}\ntwo`]);
    });

    it("is written once even when the answer was lost", async () => {
      server.faults.push(undefined, undefined, { status: 502, isDone: true });
      await gitHub.putComment(pull, MARKER, "once");
      expect(bodies()).to.deep.equal([`${MARKER}\nonce`]);
    });

    it("fails with the name of the missing permission", async () => {
      server.denied.add("pull-requests: write");
      expect(await failureOf(gitHub.putComment(pull, MARKER, "x"))).to.match(
        /comment on #\d+: HTTP 403.*pull-requests: write/,
      );
    });

    it("fails when the pull request does not exist", async () => {
      expect(await failureOf(gitHub.putComment(999, MARKER, "x"))).to.match(
        /comment on #999: HTTP 404/,
      );
    });

    it("fails when it is too long, without a retry", async () => {
      expect(await failureOf(gitHub.putComment(pull, MARKER, "x".repeat(65_536)))).to.match(
        /HTTP 422/,
      );
      expect(server.requests.filter((request) => request.startsWith("POST"))).to.have.length(1);
    });
  });

  describe("on a flaky network", () => {
    it("retries after server errors and cut connections", async () => {
      server.faults.push({ status: 503 }, { status: 0, isCut: true }, { status: 500 });
      expect(await gitHub.labelsOf(pull)).to.deep.equal(["allow-bucket-deletion"]);
    });

    it("gives up after four attempts", async () => {
      server.faults.push(...Array.from({ length: 10 }, () => ({ status: 503 })));
      expect(await failureOf(gitHub.labelsOf(pull))).to.match(
        /read the labels of #\d+: HTTP 503.*run the job again/,
      );
      expect(server.requests).to.have.length(4);
    });

    it("waits as long as GitHub asks for", async () => {
      server.faults.push({ status: 403, headers: { "retry-after": "1" } });
      const start = performance.now();
      await gitHub.labelsOf(pull);
      expect(performance.now() - start).to.be.within(990, 5000);
    });

    it("does not wait for an hour", async () => {
      const reset = String(Math.round(Date.now() / 1000) + 3600);
      server.faults.push({
        status: 403,
        headers: { "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset },
      });
      expect(await failureOf(gitHub.labelsOf(pull))).to.contain("rate limit");
    });

    it("does not take a rate limit on GET /user for a workflow's account", async () => {
      server.user = "release-manager";
      server.faults.push({ status: 403, headers: { "retry-after": "0" } });
      await gitHub.putComment(pull, MARKER, "x");
      expect(server.comments[0]?.user.login).to.equal("release-manager");
    });

    it("does not retry an invalid request", async () => {
      const other = new GitHub(
        { ...gitHubSettings(server.env), token: "wrong-token" },
        { firstWaitMs: 5 },
      );
      expect(await failureOf(other.labelsOf(pull)))
        .to.contain("HTTP 401")
        .and.to.contain("GITHUB_TOKEN");
      expect(server.requests).to.have.length(1);
    });
  });

  describe("the newest commit", () => {
    it("is the head of the branch, whatever its name", async () => {
      server.branches.set("main", COMMIT).set("release/2026.5", "b".repeat(40));
      expect(await gitHub.headOf("main")).to.equal(COMMIT);
      expect(await gitHub.headOf("release/2026.5")).to.equal("b".repeat(40));
      expect(await failureOf(gitHub.headOf("gone"))).to.match(
        /look up the branch "gone": HTTP 404/,
      );
    });
  });

  it("is not kept from GitHub when the summary cannot be written", async () => {
    await addToSummary({ GITHUB_STEP_SUMMARY: "/dev/null/summary" }, "text");
  });

  describe("the labels of a merged pull request", () => {
    it("belong to the pull request that was merged as the commit", async () => {
      const [merged_at, other] = ["2026-01-01T00:00:00Z", "b".repeat(40)];
      server.addPull({ number: 80, commits: [COMMIT], labels: [LABEL] });
      server.addPull({
        number: 81,
        commits: [COMMIT],
        merged_at,
        merge_commit_sha: other,
        labels: [LABEL],
      });
      const toOther = { merged_at, merge_commit_sha: COMMIT, base: { ref: "release" } };
      server.addPull({ ...toOther, number: 79, labels: [LABEL] });
      server.addPull({
        number: 82,
        merged_at,
        merge_commit_sha: COMMIT,
        labels: [{ name: "docs" }],
      });
      expect(await gitHub.labelsOfMerged(COMMIT, "main")).to.deep.equal(["docs"]);
    });

    it("do not exist for a commit that was pushed, or whose pull request is open", async () => {
      server.addPull({ merge_commit_sha: COMMIT, labels: [LABEL] });
      expect(await gitHub.labelsOfMerged(COMMIT, "main")).to.deep.equal([]);
      expect(await gitHub.labelsOfMerged("c".repeat(40), "main")).to.deep.equal([]);
    });
  });

  describe("the issue about drift", () => {
    const issues = () => server.issues.map(({ title, body, state }) => ({ title, body, state }));
    const written = { title: NOTICE.title, body: `${NOTICE.marker}\n${NOTICE.body}` };

    it("is opened, updated, closed and reopened: one issue", async () => {
      await gitHub.putNotice(NOTICE);
      expect(issues()).to.deep.equal([{ ...written, state: "open" }]);
      expect(server.issues[0]?.labels).to.deep.equal([{ name: "drift" }]);
      await gitHub.putNotice({ ...NOTICE, body: "more" });
      await gitHub.putNotice({ ...NOTICE, body: "gone", isOpen: false });
      expect(issues()).to.deep.equal([
        { title: NOTICE.title, body: `${NOTICE.marker}\ngone`, state: "closed" },
      ]);
      await gitHub.putNotice(NOTICE);
      expect(issues()).to.deep.equal([{ ...written, state: "open" }]);
    });

    it("is the same after a person has changed its label", async () => {
      await gitHub.putNotice(NOTICE);
      const [issue] = server.issues;
      if (issue) issue.labels = [{ name: "infrastructure" }];
      await gitHub.putNotice({ ...NOTICE, body: "more" });
      await gitHub.putNotice({ ...NOTICE, body: "gone", isOpen: false });
      expect(server.issues.map(({ state, labels }) => ({ state, labels }))).to.deep.equal([
        { state: "closed", labels: [{ name: "infrastructure" }] },
      ]);
    });

    it("is not created when there is no drift", async () => {
      await gitHub.putNotice({ ...NOTICE, isOpen: false });
      expect(server.issues).to.have.length(0);
    });

    it("is not changed again after it is closed", async () => {
      server.addIssue({ ...written, labels: [{ name: "drift" }], state: "closed" });
      await gitHub.putNotice({ ...NOTICE, body: "none", isOpen: false });
      expect(issues()).to.deep.equal([{ ...written, state: "closed" }]);
    });

    it("is not an issue of somebody else or of another stack, nor a pull request", async () => {
      server.addIssue({ ...written, labels: [{ name: "drift" }], user: { login: "mallory" } });
      server.addIssue({
        body: NOTICE.marker.replace("prod", "staging"),
        labels: [{ name: "drift" }],
      });
      server.addIssue({ ...written, labels: [{ name: "drift" }], pull_request: { url: "x" } });
      await gitHub.putNotice(NOTICE);
      expect(server.issues).to.have.length(4);
      expect(server.requests.filter((request) => request.startsWith("PATCH"))).to.have.length(0);
    });
  });
});

describe("the environment of a workflow", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-event-"));
  });
  after(async () => {
    await rm(dir, { recursive: true });
  });

  const eventOf = async (event: unknown) => {
    const file = join(dir, "event.json");
    await writeFile(file, typeof event === "string" ? event : JSON.stringify(event));
    return readPullRequest({ GITHUB_EVENT_PATH: file });
  };

  it("names the pull request, its author, its commit and its repository", async () => {
    const pull_request = {
      number: 7,
      user: { login: "stranger" },
      head: { sha: COMMIT, repo: { full_name: "fork/x" } },
    };
    expect(await eventOf({ pull_request })).to.deep.equal({
      number: 7,
      author: "stranger",
      commit: COMMIT,
      from: "fork/x",
    });
    expect(
      await eventOf({ pull_request: { ...pull_request, head: { sha: COMMIT, repo: null } } }),
    ).to.have.property("from", undefined);
  });

  it("is refused when the event is not a pull request, or not JSON", async () => {
    expect(await failureOf(eventOf({ schedule: "17 3 * * *" }))).to.contain(
      "is not a pull request",
    );
    expect(await failureOf(eventOf("{"))).to.contain("cannot be read");
    expect(await failureOf(readPullRequest({}))).to.contain("GITHUB_EVENT_PATH is not set");
  });

  it("is refused when a variable is missing or invalid", () => {
    expect(() => gitHubSettings({ GITHUB_REPOSITORY: "a/b" })).to.throw(
      GitHubError,
      /GITHUB_TOKEN is not set/,
    );
    expect(() => gitHubSettings({ GITHUB_REPOSITORY: "a", GITHUB_TOKEN: "x" })).to.throw(
      GitHubError,
      /owner\/name/,
    );
    expect(gitHubSettings({ GITHUB_REPOSITORY: "a/b", GITHUB_TOKEN: "x" })).to.have.property(
      "apiUrl",
      "https://api.github.com",
    );
  });

  it("gets a summary where it has a file for it", async () => {
    const file = join(dir, "summary.md");
    await addToSummary({}, "x");
    await addToSummary({ GITHUB_STEP_SUMMARY: file }, "one");
    await addToSummary({ GITHUB_STEP_SUMMARY: file }, "two");
    expect(await readFile(file, "utf8")).to.equal("one\ntwo\n");
  });
});
