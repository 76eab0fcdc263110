import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  GetBucketCorsCommand,
  HeadBucketCommand,
  PutBucketCorsCommand,
  type CORSRule,
  type S3Client,
} from "@aws-sdk/client-s3";
import { expect } from "chai";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { Checkout } from "./support/checkout.ts";
import { projectName, pulumi } from "./support/engine.ts";
import { BOT, GitHubServer, REPO, TOKEN } from "./support/github-server.ts";
import { AUTHENTIK, ROOT, rootClient, startTestServer } from "./support/server.ts";

const SECRETS = {
  accessKey: AUTHENTIK.accessKey,
  secretKey: AUTHENTIK.secretKey,
  adminAccessKey: ROOT.accessKey,
  adminSecretKey: ROOT.secretKey,
  policyPrincipal: AUTHENTIK.accessKey,
};
const SHA = "d".repeat(40);
const LABEL = { name: "allow-bucket-deletion" };
const ORIGIN = "https://authentik.company";

describe("the steps of the workflows", function () {
  this.timeout(240_000);
  this.slow(15_000);
  let gitHub: GitHubServer;
  let checkout: Checkout;
  let env: Record<string, string>;
  let pull: number;

  before(async () => {
    gitHub = new GitHubServer();
    await gitHub.start();
    checkout = await Checkout.create();
    pull = gitHub.addPull({}).number;
    env = {
      ...gitHub.env,
      GITHUB_EVENT_PATH: join(checkout.dir, "..", "event.json"),
      GITHUB_SHA: SHA,
      GITHUB_REF_NAME: "main",
      GITHUB_ACTOR: "somebody",
    };
    gitHub.branches.set("main", SHA);
    await event(REPO);
  });
  after(async () => {
    await gitHub.stop();
    await checkout.remove();
  });

  async function event(from: string, login = "somebody"): Promise<void> {
    const head = { sha: SHA, repo: { full_name: from } };
    // The file has the labels of the time of the event.
    const pull_request = { number: pull, user: { login }, labels: [], head };
    await writeFile(join(checkout.dir, "..", "event.json"), JSON.stringify({ pull_request }));
  }
  const comments = () => gitHub.comments.map(({ body }) => body).join("\n");
  const issues = () => gitHub.issues.map(({ state, body }) => ({ state, body }));

  describe("without the Pulumi command line tool", () => {
    const options = { withPulumi: false };

    const expectStacks = async (workflow: string, matrix: string) => {
      const { status, log, output } = await checkout.step(workflow, "stacks", env, options);
      expect({ status, log, output }).to.deep.equal({
        status: 0,
        log: `${matrix}\n`,
        output: `stacks=${matrix}\n`,
      });
    };

    it("ignore the local stack", async () => {
      await expectStacks("pull-request", "[]");
    });

    it("find a stack by its file", async () => {
      const endpoint = "https://s3.provider";
      await checkout.configure({ provider: "s3", endpoint, origins: [ORIGIN] });
      for (const workflow of ["pull-request", "deploy", "drift"]) {
        await expectStacks(workflow, '[{"stack":"prod","provider":"s3"}]');
      }
    });

    it("fail for a file without a valid provider", async () => {
      const file = join(checkout.dir, "Pulumi.broken.yaml");
      await writeFile(file, `config:\n  ${projectName}:provider: gcp\n`);
      const { status, log } = await checkout.step("pull-request", "stacks", env, options);
      expect(log).to.contain(
        `Pulumi.broken.yaml": ${projectName}:provider is "gcp"; write one of aws, r2, azure, s3`,
      );
      expect(status).to.equal(2);
      await writeFile(file, "");
      const empty = await checkout.step("pull-request", "stacks", env, options);
      expect(empty.log).to.contain("is missing");
      await rm(file);
    });

    it("fail a preview, and name what is missing in the comment", async () => {
      const { status, log, summary } = await checkout.step("pull-request", "preview", env, options);
      expect(status).to.equal(1);
      for (const text of [log, summary, comments()]) {
        expect(text).to.contain("pulumi is not on PATH");
      }
      expect(gitHub.comments).to.have.length(1);
    });

    it("fail a deployment before it starts", async () => {
      const { status, log } = await checkout.step("deploy", "deploy", env, options);
      expect(status).to.equal(1);
      expect(log).to.contain("pulumi is not on PATH");
    });

    it("never report that there is no drift", async () => {
      expect((await checkout.step("drift", "drift", env, options)).status).to.equal(2);
      expect(issues()).to.have.length(1);
      expect(issues()[0]?.body).to.contain("could not run").and.to.contain("pulumi is not on PATH");
    });

    it("fail with another status when GitHub refuses", async () => {
      const refused = { ...env, GITHUB_TOKEN: "wrong-token" };
      const { status, log } = await checkout.step("pull-request", "preview", refused, options);
      expect(log).to.contain("HTTP 401").and.not.to.contain("wrong-token");
      expect(status).to.equal(2);
    });

    it("report why a fork's pull request has no preview", async () => {
      const previewed = async (result: string) => {
        const NEEDS = JSON.stringify({
          test: { result: "success", outputs: {} },
          stacks: { result: "success", outputs: { stacks: "[{}]" } },
          preview: { result, outputs: {} },
        });
        return checkout.step("pull-request", "previewed", { ...env, NEEDS }, options);
      };
      await event("stranger/fork");
      const { status, log, summary } = await previewed("skipped");
      expect(status).to.equal(0);
      for (const text of [log, summary]) expect(text).to.contain("comes from a fork");
      await event(REPO, "dependabot[bot]");
      const dependabot = await previewed("skipped");
      expect(dependabot.status).to.equal(0);
      expect(dependabot.log).to.contain("comes from Dependabot");
      await event(REPO);
      for (const [result, status] of Object.entries({ skipped: 1, failure: 1, success: 0 })) {
        expect((await previewed(result)).status, result).to.equal(status);
      }
    });
  });

  (pulumi ? describe : describe.skip)("on the real Pulumi engine", () => {
    let server: RunningServer;
    let s3: S3Client;

    before(async () => {
      server = await startTestServer();
      s3 = rootClient(server);
      await checkout.init(
        { endpoint: server.endpoint, secureUrls: false, protect: false },
        SECRETS,
      );
      gitHub.issues.length = 0;
    });
    after(async () => {
      s3.destroy();
      await server.stop();
    });

    async function putCors(rule: CORSRule): Promise<void> {
      const CORSConfiguration = { CORSRules: [rule] };
      await s3.send(new PutBucketCorsCommand({ Bucket: "authentik-media", CORSConfiguration }));
    }
    async function origins(): Promise<string[] | undefined> {
      const { CORSRules } = await s3.send(new GetBucketCorsCommand({ Bucket: "other-media" }));
      return CORSRules?.[0]?.AllowedOrigins;
    }
    async function exists(Bucket: string): Promise<boolean> {
      try {
        await s3.send(new HeadBucketCommand({ Bucket }));
        return true;
      } catch (error) {
        expect(error).to.have.property("name", "NotFound");
        return false;
      }
    }

    it("bring a stack up and verify it", async () => {
      const { status, log, summary } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(0);
      expect(log).to.match(/ok +upload/);
      expect(log).to.contain("create: Bucket authentik-bucket");
      expect(summary).to.contain("to be created");
    });

    it("find no drift right after it, and open no issue", async () => {
      const { status, log } = await checkout.step("drift", "drift", env);
      expect(status).to.equal(0);
      expect(log).to.contain("No drift in prod.");
      expect(issues()).to.deep.equal([]);
    });

    it("open one issue for a CORS policy changed by hand", async () => {
      await putCors({ AllowedOrigins: ["*"], AllowedMethods: ["GET"] });
      expect((await checkout.step("drift", "drift", env)).status).to.equal(1);
      expect(issues()).to.have.length(1);
      expect(issues()[0]?.body).to.contain("- origins: *\n+ origins: https://authentik.company");
    });

    it("keep the issue open while the check cannot run", async () => {
      checkout.variables.PULUMI_CONFIG_PASSPHRASE = "wrong";
      expect((await checkout.step("drift", "drift", env)).status).to.equal(2);
      checkout.variables.PULUMI_CONFIG_PASSPHRASE = "test";
      expect(issues()).to.have.length(1);
      expect(issues()[0]).to.have.property("state", "open");
      expect(issues()[0]?.body).to.contain("It is not known whether there is drift");
      expect(issues()[0]?.body).to.contain("incorrect passphrase");
    });

    it("show a changed origin in the one comment of the stack", async () => {
      gitHub.addComment(
        pull,
        "<!-- authentik-storage preview: prod -->\nall checks passed",
        "mallory",
      );
      await checkout.configure({ origins: ["https://auth.company"] });
      const { status, log } = await checkout.step("pull-request", "preview", env);
      expect(status, log).to.equal(0);
      expect(gitHub.comments.filter(({ user }) => user.login === BOT)).to.have.length(1);
      expect(comments()).to.contain("**CORS policy `authentik-cors` will be updated**");
      expect(comments()).to.contain("+ origins: https://auth.company");
      expect(comments()).not.to.contain("pulumi is not on PATH");
    });

    it("close the issue when the server is as deployed again", async () => {
      await checkout.configure({ origins: [ORIGIN] });
      await putCors({
        AllowedOrigins: [ORIGIN],
        AllowedMethods: ["GET"],
        AllowedHeaders: ["Authorization"],
        MaxAgeSeconds: 3000,
      });
      expect((await checkout.step("drift", "drift", env)).status).to.equal(0);
      expect(issues()).to.have.length(1);
      expect(issues()[0]).to.have.property("state", "closed");
    });

    it("refuse to replace a bucket, until the pull request has the label", async () => {
      await checkout.configure({ bucketName: "other-media" });
      expect((await checkout.step("pull-request", "preview", env)).status).to.equal(1);
      expect(comments()).to.contain("[!CAUTION]").and.to.contain("This is refused until");
      gitHub.pulls[0]?.labels.push(LABEL);
      const { status, log } = await checkout.step("pull-request", "preview", env);
      expect(status, log).to.equal(0);
      expect(comments()).to.contain("The label `allow-bucket-deletion` allows it.");
    });

    it("refuse it again on merge, unless the merged pull request has the label", async () => {
      gitHub.addPull({ merged_at: "2026-01-01T00:00:00Z", merge_commit_sha: SHA });
      expect((await checkout.step("deploy", "deploy", env)).status).to.equal(1);
      expect(await exists("authentik-media")).to.equal(true);
      gitHub.pulls.at(-1)?.labels.push(LABEL);
      const { status, log } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(0);
      expect(await origins()).to.deep.equal([ORIGIN]);
      expect(await exists("authentik-media")).to.equal(false);
    });

    it("do not revert a newer commit, unless --allow-older-commit is set", async () => {
      const older = { ...env, GITHUB_SHA: "e".repeat(40) };
      await checkout.configure({ origins: ["https://older.company"] });
      const { status, log } = await checkout.step("deploy", "deploy", older);
      expect(status, log).to.equal(2);
      expect(log).to.contain(
        `nothing is done: the commit ${older.GITHUB_SHA} is not the newest of the branch "main", ` +
          `which is ${SHA}`,
      );
      expect(await origins()).to.deep.equal([ORIGIN]);
      const allowed = { args: "--allow-older-commit" };
      expect(await checkout.step("deploy", "deploy", older, allowed)).to.include({ status: 0 });
      expect(await origins()).to.deep.equal(["https://older.company"]);
    });

    it("fail when the stack is up and a check of its bucket fails", async () => {
      const secret = SECRETS.secretKey;
      await server.stop();
      const { status, log } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(1);
      expect(log).to.contain("FAIL").and.not.to.contain(secret);
    });

    it("do not verify with the machine's credentials when authentik has no keys", async () => {
      await checkout.configure({
        accessKey: undefined,
        secretKey: undefined,
        sessionProfile: "authentik",
      });
      const { status, log } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(0);
      expect(log).to.contain("Its bucket was not verified: authentik uses a role or a profile");
      expect(log).to.contain("npm run verify -- prod").and.not.to.contain("FAIL");
    });

    it("write no secret to logs, comments, issues and summaries", () => {
      const everything = [checkout.written, comments(), JSON.stringify(gitHub.issues)].join("\n");
      expect(everything).to.contain("authentik-cors");
      for (const secret of [...Object.values(SECRETS), TOKEN]) {
        expect(everything.includes(secret), secret).to.equal(false);
      }
    });
  });
});
