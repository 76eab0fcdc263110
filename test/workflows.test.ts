/** Rules of the workflows that actionlint does not check. Most of them protect credentials. */
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import * as v from "valibot";
import { parse } from "yaml";
import { findActionlint } from "./support/actionlint.ts";
import { REPOSITORY } from "./support/engine.ts";

const Step = v.looseObject({
  uses: v.optional(v.string()),
  run: v.optional(v.string()),
  with: v.optional(v.record(v.string(), v.unknown()), {}),
  env: v.optional(v.record(v.string(), v.string()), {}),
});
const Job = v.looseObject({
  if: v.optional(v.string()),
  permissions: v.record(v.string(), v.picklist(["read", "write"])),
  "timeout-minutes": v.pipe(v.number(), v.maxValue(180)),
  environment: v.optional(v.union([v.string(), v.object({ name: v.string() })])),
  concurrency: v.optional(v.object({ "cancel-in-progress": v.boolean() })),
  strategy: v.optional(v.object({ matrix: v.record(v.string(), v.unknown()) })),
  steps: v.array(Step),
});
const Workflow = v.looseObject({
  on: v.record(v.string(), v.unknown()),
  permissions: v.strictObject({}),
  jobs: v.record(v.string(), Job),
});
const Action = v.object({ runs: v.object({ steps: v.array(Step) }) });
const Package = v.object({
  version: v.string(),
  scripts: v.optional(v.record(v.string(), v.string()), {}),
});

const FOLDER = join(REPOSITORY, ".github", "workflows");
const USES_ACTION = "./.github/actions/stack";
const ACTION = join(REPOSITORY, ".github", "actions", "stack", "action.yml");
/** The secrets of a stack, as the action that runs a command on it gets them. */
const SECRETS = [
  "aws-access-key-id",
  "aws-secret-access-key",
  "cloudflare-api-token",
  "pulumi-access-token",
  "pulumi-config-passphrase",
];

const files = (await readdir(FOLDER)).map((file) => join(FOLDER, file));
const texts = await Promise.all([...files, ACTION].map((file) => readFile(file, "utf8")));
const workflows = texts.slice(0, -1).map((text) => v.parse(Workflow, parse(text)));
const action = v.parse(Action, parse(texts.at(-1) ?? ""));
const jobs = workflows.flatMap((workflow) =>
  Object.entries(workflow.jobs).map(([name, job]) => ({ name, job })),
);
const steps = [...jobs.flatMap(({ job }) => job.steps), ...action.runs.steps];

async function readPackage(folder: string): Promise<v.InferOutput<typeof Package>> {
  const text = await readFile(join(REPOSITORY, folder, "package.json"), "utf8");
  return v.parse(Package, JSON.parse(text));
}

function jobOf(name: string): v.InferOutput<typeof Job> {
  const found = jobs.find((job) => job.name === name);
  if (!found) throw new Error(`there is no job "${name}"`);
  return found.job;
}

describe("workflows", () => {
  it("pass actionlint", async function () {
    this.timeout(300_000);
    // The scripts are tested below. Not every machine has the tools that actionlint can start.
    const args = ["-no-color", "-shellcheck=", "-pyflakes=", ...files];
    await promisify(execFile)(await findActionlint(), args, { cwd: REPOSITORY });
  });

  it("name every action by its commit, with its release as a comment", () => {
    const uses = texts.flatMap((text) => text.split("\n").filter((line) => line.includes("uses:")));
    const remote = uses.filter((line) => !line.endsWith(`uses: ${USES_ACTION}`));
    const pin = /uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/;
    for (const line of remote) expect(line).to.match(pin);
    const pinned = new Set(remote.map((line) => line.replace(/^.*uses: /, "")));
    const actions = new Set([...pinned].map((line) => line.split("@")[0]));
    expect(pinned.size, "one release of each action").to.equal(actions.size);
  });

  it("give write permissions to jobs with an environment only", () => {
    for (const { name, job } of jobs) {
      const writes = Object.values(job.permissions).includes("write");
      expect(writes, name).to.equal(job.environment !== undefined);
    }
  });

  it("run scripts of package.json only, with quoted variables as arguments", async () => {
    const { scripts } = await readPackage("");
    const lines = steps.flatMap(({ run }) => run?.trim() ?? []);
    // What is not a script has no value of the pull request in it.
    const isOther = (line: string) =>
      /^(?:npm (?:ci|test)|git diff [^$]*\n.*GITHUB_OUTPUT"|exit 1)$/.test(line);
    for (const line of lines.filter((line) => !isOther(line))) {
      const [, script = "", args = ""] =
        /^npm run (?:-s )?("\$COMMAND"|\w+)(?: -- (.*))?$/.exec(line) ?? [];
      const commands = script === '"$COMMAND"' ? ["preview", "deploy", "drift"] : [script];
      expect(scripts, line).to.include.keys(commands);
      expect(args, line).to.match(/^(?:(?:"\$[A-Z_]+"|--[a-z-]+)(?: |$))*$/);
    }
  });

  it("give secrets and the token only to the step that needs them", () => {
    expect(texts.join("\n")).not.to.match(/secrets: *inherit/);
    const isSecret = (value: unknown) => /secrets\.|github\.token/.test(String(value));
    for (const { env, uses, with: inputs } of jobs.flatMap(({ job }) => job.steps)) {
      const names = Object.keys(inputs).filter((name) => isSecret(inputs[name]));
      expect(names.sort(), uses).to.deep.equal(uses === USES_ACTION ? SECRETS : []);
      expect(Object.values(env).filter(isSecret), uses).to.deep.equal([]);
      const cloudflare = inputs["cloudflare-api-token"] ?? "matrix.provider == 'r2' &&";
      expect(cloudflare).to.contain("matrix.provider == 'r2' &&");
    }
    const isInput = (value: unknown) =>
      isSecret(value) || SECRETS.some((name) => String(value).includes(`inputs.${name}`));
    for (const { env, run, with: inputs } of action.runs.steps) {
      expect(Object.values(inputs).filter(isInput), run).to.deep.equal([]);
      const isCommand = run?.includes('"$COMMAND"') === true;
      expect(Object.values(env).filter(isInput), run).to.have.length(isCommand ? 6 : 0);
    }
  });

  it("leave no credentials in the checkout", () => {
    const checkouts = steps.filter(({ uses }) => uses?.startsWith("actions/checkout@"));
    expect(checkouts.length).to.equal(jobs.filter(({ name }) => name !== "tested").length);
    for (const checkout of checkouts) expect(checkout.with["persist-credentials"]).to.equal(false);
  });

  it("never run the code of a fork or of Dependabot with credentials", () => {
    for (const { on } of workflows) {
      expect(on).not.to.have.any.keys("pull_request_target", "workflow_run");
    }
    const condition = jobOf("preview").if ?? "";
    expect(condition).to.contain("head.repo.full_name == github.repository");
    // When a person sets a label on Dependabot's pull request, that person is the actor.
    for (const login of ["github.actor", "github.event.pull_request.user.login"]) {
      expect(condition).to.contain(`${login} != 'dependabot[bot]'`);
    }
  });

  it("deploy with the environment of the stack, and read with its -preview environment", () => {
    expect(jobOf("deploy").environment).to.equal("${{ matrix.stack }}");
    for (const name of ["preview", "drift"]) {
      expect(jobOf(name).environment, name).to.include({ name: "${{ matrix.stack }}-preview" });
    }
  });

  it("never cancel a deployment, and skip an empty matrix", () => {
    expect(jobOf("deploy").concurrency).to.include({ "cancel-in-progress": false });
    const overStacks = jobs.filter(({ job }) => job.strategy?.matrix.include !== undefined);
    expect(overStacks.map(({ name }) => name)).to.have.members(["preview", "deploy", "drift"]);
    for (const { name, job } of overStacks) {
      expect(job.if, name).to.contain("needs.stacks.outputs.stacks != '[]'");
    }
  });

  it("report one result for a pull request, whatever the other jobs do", () => {
    for (const name of ["previewed", "tested"]) expect(jobOf(name).if).to.equal("always()");
  });

  it("preview without waiting for tests, and again for the one label only", () => {
    expect(jobOf("preview")).to.deep.include({ needs: "stacks" });
    const label = "github.event.label.name == 'allow-bucket-deletion'";
    const stacks = jobs.filter(({ name }) => name === "stacks");
    expect(stacks.filter(({ job }) => job.if?.includes(label))).to.have.length(1);
    // Another label must not replace the result of `previewed`.
    expect(jobOf("previewed").name).to.contain(`${label}) && 'previewed' ||`);
  });

  it("install one release of pulumi, not older than the SDK", async () => {
    const { version } = await readPackage("node_modules/@pulumi/pulumi");
    const releases = steps.flatMap((step) => step.with["pulumi-version"] ?? []).map(String);
    const [release = ""] = releases;
    expect(releases).to.deep.equal([release, release]);
    const minor = (text: string) => Number(text.split(".")[1]);
    expect(minor(release)).to.be.at.least(minor(version));
  });
});
