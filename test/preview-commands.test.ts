import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { GetBucketCorsCommand, HeadBucketCommand, PutBucketCorsCommand, type S3Client } from "@aws-sdk/client-s3";
import { expect } from "chai";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { Checkout } from "./support/checkout.ts";
import { projectName, pulumi } from "./support/engine.ts";
import { BOT, GitHubServer, REPO, TOKEN } from "./support/github-server.ts";
import { AUTHENTIK, ROOT, rootClient, startTestServer } from "./support/server.ts";

const SECRETS = {
  accessKey: AUTHENTIK.accessKey, secretKey: AUTHENTIK.secretKey, adminAccessKey: ROOT.accessKey, adminSecretKey: ROOT.secretKey, policyPrincipal: AUTHENTIK.accessKey,
};
const SHA = "d".repeat(40);
const LABEL = { name: "allow-bucket-deletion" };

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
    env = { ...gitHub.env, GITHUB_EVENT_PATH: join(checkout.dir, "..", "event.json"), GITHUB_SHA: SHA, GITHUB_REF_NAME: "main", GITHUB_ACTOR: "somebody" };
    gitHub.branches.set("main", SHA);
    await event(REPO);
  });
  after(async () => {
    await gitHub.stop();
    await checkout.remove();
  });

  async function event(from: string, login = "somebody"): Promise<void> {
    // The labels in the file are those of the time of the event.
    const pull_request = { number: pull, user: { login }, labels: [], head: { sha: SHA, repo: { full_name: from } } };
    await writeFile(join(checkout.dir, "..", "event.json"), JSON.stringify({ pull_request }));
  }
  const comments = () => gitHub.comments.map(({ body }) => body).join("\n");
  const issues = () => gitHub.issues.map(({ state, body }) => ({ state, body }));

  describe("without the Pulumi command line tool", () => {
    const options = { withPulumi: false };

    it("find no stack but the local one", async () => {
      expect(await checkout.step("pull-request", "stacks", env, options)).to.deep.include({ status: 0, log: "[]\n", output: "stacks=[]\n" });
    });

    it("find a stack by its file", async () => {
      await checkout.configure({ provider: "s3", endpoint: "https://s3.provider", origins: ["https://authentik.company"] });
      const matrix = '[{"stack":"prod","provider":"s3"}]';
      for (const workflow of ["pull-request", "deploy", "drift"]) {
        expect(await checkout.step(workflow, "stacks", env, options)).to.deep.include({ status: 0, log: `${matrix}\n`, output: `stacks=${matrix}\n` });
      }
    });

    it("name the file that has no provider", async () => {
      const file = join(checkout.dir, "Pulumi.broken.yaml");
      await writeFile(file, `config:\n  ${projectName}:provider: gcp\n`);
      const { status, log } = await checkout.step("pull-request", "stacks", env, options);
      expect({ status, log }).to.have.property("log").that.contains(`Pulumi.broken.yaml": ${projectName}:provider is "gcp"; write one of aws, r2, azure, s3`);
      expect(status).to.equal(2);
      await writeFile(file, "");
      expect((await checkout.step("pull-request", "stacks", env, options)).log).to.contain("is missing");
      await rm(file);
    });

    it("fail a preview, and say in the comment what is missing", async () => {
      const { status, log, summary } = await checkout.step("pull-request", "preview", env, options);
      expect(status).to.equal(1);
      for (const text of [log, summary, comments()]) expect(text).to.contain("pulumi is not on PATH");
      expect(gitHub.comments).to.have.length(1);
    });

    it("fail a deployment before anything is done", async () => {
      expect(await checkout.step("deploy", "deploy", env, options)).to.include({ status: 1 }).and.property("log").contains("pulumi is not on PATH");
    });

    it("never say that there is no drift", async () => {
      expect((await checkout.step("drift", "drift", env, options)).status).to.equal(2);
      expect(issues()).to.have.length(1);
      expect(issues()[0]?.body).to.contain("could not run").and.to.contain("pulumi is not on PATH");
    });

    it("say that GitHub refuses, with another status", async () => {
      const { status, log } = await checkout.step("pull-request", "preview", { ...env, GITHUB_TOKEN: "wrong-token" }, options);
      expect(log).to.contain("HTTP 401").and.not.to.contain("wrong-token");
      expect(status).to.equal(2);
    });

    it("say why a fork's pull request has no preview", async () => {
      const needs = (preview: string) => JSON.stringify({
        test: { result: "success", outputs: {} }, stacks: { result: "success", outputs: { stacks: "[{}]" } }, preview: { result: preview, outputs: {} },
      });
      await event("stranger/fork");
      const { status, log, summary } = await checkout.step("pull-request", "previewed", { ...env, NEEDS: needs("skipped") }, options);
      expect(status).to.equal(0);
      for (const text of [log, summary]) expect(text).to.contain("comes from a fork");
      await event(REPO, "dependabot[bot]");
      expect(await checkout.step("pull-request", "previewed", { ...env, NEEDS: needs("skipped") }, options)).to.include({ status: 0 }).and.property("log").contains("comes from Dependabot");
      await event(REPO);
      expect((await checkout.step("pull-request", "previewed", { ...env, NEEDS: needs("skipped") }, options)).status).to.equal(1);
      expect((await checkout.step("pull-request", "previewed", { ...env, NEEDS: needs("failure") }, options)).status).to.equal(1);
      expect((await checkout.step("pull-request", "previewed", { ...env, NEEDS: needs("success") }, options)).status).to.equal(0);
    });
  });

  (pulumi ? describe : describe.skip)("on the real Pulumi engine", () => {
    let server: RunningServer;
    let s3: S3Client;

    before(async () => {
      server = await startTestServer();
      s3 = rootClient(server);
      await checkout.init({ endpoint: server.endpoint, secureUrls: false, protect: false }, SECRETS);
      gitHub.issues.length = 0;
    });
    after(async () => {
      s3.destroy();
      await server.stop();
    });

    it("bring a stack up and verify it", async () => {
      const { status, log, summary } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(0);
      expect(log).to.match(/ok +upload/).and.to.contain("create: Bucket authentik-bucket");
      expect(summary).to.contain("to be created");
    });

    it("find no drift right after it, and open no issue", async () => {
      expect(await checkout.step("drift", "drift", env)).to.include({ status: 0 }).and.property("log").contains("No drift in prod.");
      expect(issues()).to.deep.equal([]);
    });

    it("open one issue for a CORS policy changed by hand", async () => {
      const rule = { AllowedOrigins: ["*"], AllowedMethods: ["GET"] };
      await s3.send(new PutBucketCorsCommand({ Bucket: "authentik-media", CORSConfiguration: { CORSRules: [rule] } }));
      expect((await checkout.step("drift", "drift", env)).status).to.equal(1);
      expect(issues()).to.have.length(1);
      expect(issues()[0]?.body).to.contain("- *\n+ https://authentik.company");
    });

    it("do not close it while the check cannot run", async () => {
      checkout.variables.PULUMI_CONFIG_PASSPHRASE = "wrong";
      expect((await checkout.step("drift", "drift", env)).status).to.equal(2);
      checkout.variables.PULUMI_CONFIG_PASSPHRASE = "test";
      expect(issues()).to.have.length(1);
      expect(issues()[0]).to.have.property("state", "open");
      expect(issues()[0]?.body).to.contain("It is not known whether there is drift").and.to.contain("incorrect passphrase");
    });

    it("show a changed origin in the one comment of the stack", async () => {
      gitHub.addComment(pull, "<!-- authentik-storage preview: prod -->\nall is well", "mallory");
      await checkout.configure({ origins: ["https://auth.company"] });
      const { status, log } = await checkout.step("pull-request", "preview", env);
      expect(status, log).to.equal(0);
      expect(gitHub.comments.filter(({ user }) => user.login === BOT)).to.have.length(1);
      expect(comments()).to.contain("**CORS policy `authentik-cors` will be updated**").and.to.contain("+ https://auth.company");
      expect(comments()).not.to.contain("pulumi is not on PATH");
    });

    it("close the issue once the server is again as it was deployed", async () => {
      await checkout.configure({ origins: ["https://authentik.company"] });
      const rule = { AllowedOrigins: ["https://authentik.company"], AllowedMethods: ["GET"], AllowedHeaders: ["Authorization"], MaxAgeSeconds: 3000 };
      await s3.send(new PutBucketCorsCommand({ Bucket: "authentik-media", CORSConfiguration: { CORSRules: [rule] } }));
      expect((await checkout.step("drift", "drift", env)).status).to.equal(0);
      expect(issues()).to.have.length(1);
      expect(issues()[0]).to.have.property("state", "closed");
    });

    it("fail a bucket's replacement, until the pull request has the label", async () => {
      await checkout.configure({ bucketName: "other-media" });
      expect((await checkout.step("pull-request", "preview", env)).status).to.equal(1);
      expect(comments()).to.contain("[!CAUTION]").and.to.contain("This is refused until");
      gitHub.pulls[0]?.labels.push(LABEL);
      const { status, log } = await checkout.step("pull-request", "preview", env);
      expect(status, log).to.equal(0);
      expect(comments()).to.contain("The label `allow-bucket-deletion` allows it.");
    });

    it("refuse it again on merge, unless that very pull request has the label", async () => {
      gitHub.addPull({ merged_at: "2026-01-01T00:00:00Z", merge_commit_sha: SHA });
      expect((await checkout.step("deploy", "deploy", env)).status).to.equal(1);
      expect((await s3.send(new HeadBucketCommand({ Bucket: "authentik-media" }))).$metadata.httpStatusCode).to.equal(200);
      gitHub.pulls.at(-1)?.labels.push(LABEL);
      const { status, log } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(0);
      expect((await s3.send(new GetBucketCorsCommand({ Bucket: "other-media" }))).CORSRules?.[0]?.AllowedOrigins).to.deep.equal(["https://authentik.company"]);
      const gone: unknown = await s3.send(new HeadBucketCommand({ Bucket: "authentik-media" })).catch((error: unknown) => error);
      expect(gone).to.have.property("name", "NotFound");
    });

    it("do not take back what a newer commit has brought, unless they are told to", async () => {
      const older = { ...env, GITHUB_SHA: "e".repeat(40) };
      await checkout.configure({ origins: ["https://older.company"] });
      const { status, log } = await checkout.step("deploy", "deploy", older);
      expect(status, log).to.equal(2);
      expect(log).to.contain(`nothing is done: the commit ${older.GITHUB_SHA} is not the newest of the branch "main", which is ${SHA}`);
      const origins = async () => (await s3.send(new GetBucketCorsCommand({ Bucket: "other-media" }))).CORSRules?.[0]?.AllowedOrigins;
      expect(await origins()).to.deep.equal(["https://authentik.company"]);
      expect(await checkout.step("deploy", "deploy", older, { args: "--allow-older-commit" })).to.include({ status: 0 });
      expect(await origins()).to.deep.equal(["https://older.company"]);
    });

    it("say that the stack is up and its bucket is not well", async () => {
      const secret = SECRETS.secretKey;
      await server.stop();
      const { status, log } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(1);
      expect(log).to.contain("FAIL").and.not.to.contain(secret);
    });

    it("do not verify with whatever credentials are there, where authentik has none of its own", async () => {
      await checkout.configure({ accessKey: undefined, secretKey: undefined, sessionProfile: "authentik" });
      const { status, log } = await checkout.step("deploy", "deploy", env);
      expect(status, log).to.equal(0);
      expect(log).to.contain("Its bucket was not verified: authentik uses a role or a profile").and.to.contain("npm run verify -- prod").and.not.to.contain("FAIL");
    });

    it("write no secret to logs, comments, issues, summaries", () => {
      const everything = [checkout.written, comments(), JSON.stringify(gitHub.issues)].join("\n");
      expect(everything).to.contain("authentik-cors");
      for (const secret of [...Object.values(SECRETS), TOKEN]) expect(everything.includes(secret), secret).to.equal(false);
    });
  });
});
