import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import * as v from "valibot";
import { parse } from "yaml";
import { findActionlint } from "./support/actionlint.ts";
import { REPOSITORY } from "./support/engine.ts";

const Permissions = v.record(v.string(), v.picklist(["read", "write"]));
const Step = v.looseObject({
  uses: v.optional(v.string()),
  run: v.optional(v.string()),
  with: v.optional(v.record(v.string(), v.unknown()), {}),
  env: v.optional(v.record(v.string(), v.string()), {}),
});
const Job = v.looseObject({
  if: v.optional(v.string()),
  needs: v.optional(v.unknown()),
  permissions: Permissions,
  "timeout-minutes": v.number(),
  concurrency: v.optional(v.object({ group: v.string(), "cancel-in-progress": v.boolean() })),
  environment: v.optional(v.unknown()),
  steps: v.array(Step),
});
const Workflow = v.looseObject({
  on: v.record(v.string(), v.unknown()),
  permissions: v.strictObject({}),
  concurrency: v.optional(v.object({ group: v.string(), "cancel-in-progress": v.boolean() })),
  jobs: v.record(v.string(), Job),
});
const Action = v.looseObject({ runs: v.object({ using: v.literal("composite"), steps: v.array(Step) }) });
const Package = v.object({ scripts: v.record(v.string(), v.string()) });

const FOLDER = join(REPOSITORY, ".github", "workflows");
const ACTION = join(REPOSITORY, ".github", "actions", "stack", "action.yml");
const read = async (path: string) => readFile(path, "utf8");
const json = async (path: string): Promise<unknown> => JSON.parse(await read(join(REPOSITORY, path)));

/** What each job's token may do. */
const PERMISSIONS: Readonly<Record<string, Record<string, string>>> = {
  "pull-request test": { contents: "read" },
  "pull-request stacks": { contents: "read" },
  "pull-request preview": { contents: "read", "id-token": "write", "pull-requests": "write" },
  "pull-request previewed": { contents: "read" },
  "deploy stacks": { contents: "read" },
  "deploy deploy": { contents: "read", "id-token": "write", "pull-requests": "read" },
  "drift stacks": { contents: "read" },
  "drift drift": { contents: "read", "id-token": "write", issues: "write" },
};
/** The scripts that act on a stack, with the secrets that they get. */
const SECRETS = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "CLOUDFLARE_API_TOKEN", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE"];

describe("workflows", () => {
  const workflows = new Map<string, v.InferOutput<typeof Workflow>>();
  const texts = new Map<string, string>();
  let actionSteps: v.InferOutput<typeof Step>[];

  before(async () => {
    for (const file of await readdir(FOLDER)) {
      const text = await read(join(FOLDER, file));
      texts.set(file, text);
      workflows.set(file.replace(/\.yml$/, ""), v.parse(Workflow, parse(text)));
    }
    texts.set("action.yml", await read(ACTION));
    actionSteps = v.parse(Action, parse(await read(ACTION))).runs.steps;
  });

  const jobs = () => [...workflows].flatMap(([file, { jobs }]) => Object.entries(jobs).map(([name, job]) => ({ id: `${file} ${name}`, job })));
  const steps = () => [...jobs().flatMap(({ id, job }) => job.steps.map((step) => ({ id, step }))), ...actionSteps.map((step) => ({ id: "action stack", step }))];
  const jobOf = (id: string) => {
    const found = jobs().find((job) => job.id === id);
    if (!found) throw new Error(`there is no job "${id}"`);
    return found.job;
  };

  it("pass actionlint", async function () {
    this.timeout(300_000);
    const files = (await readdir(FOLDER)).map((file) => join(FOLDER, file));
    // What is in scripts is tested below; other tools that actionlint would start are not everywhere.
    await promisify(execFile)(await findActionlint(), ["-no-color", "-shellcheck=", "-pyflakes=", ...files], { cwd: REPOSITORY });
  });

  it("name every action by its commit, with its release beside it", () => {
    const uses = [...texts].flatMap(([file, text]) => text.split("\n").filter((line) => line.includes("uses:")).map((line) => `${file} ${line.trim()}`));
    expect(uses.length).to.be.greaterThan(10);
    for (const line of uses) expect(line).to.match(/uses: (?:\.\/\.github\/actions\/stack|[\w.-]+\/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$/);
    const shas = uses.flatMap((line) => /([\w.-]+\/[\w.-]+)@([0-9a-f]{40} # \S+)$/.exec(line)?.slice(1, 3).join("@") ?? []);
    const actions = new Set(shas.map((sha) => sha.split("@")[0]));
    expect(new Set(shas).size, "one release of each").to.equal(actions.size);
  });

  it("give each job the permissions that it needs, and no others", () => {
    expect(Object.fromEntries(jobs().map(({ id, job }) => [id, job.permissions]))).to.deep.equal(PERMISSIONS);
  });

  it("run scripts of package.json alone, and put nothing into a command line but quoted variables", async () => {
    const { scripts } = v.parse(Package, await json("package.json"));
    const runs = steps().flatMap(({ id, step }) => (step.run === undefined ? [] : [{ id, run: step.run.trim() }]));
    expect(runs.length).to.be.greaterThan(8);
    for (const { id, run } of runs) {
      if (run === "npm ci" || run === "npm test") continue;
      const [, script = "", args = ""] = /^npm run (?:-s )?([\w:]+)(?: -- (.*))?$/.exec(run) ?? [];
      expect(scripts, `${id}: ${run}`).to.have.property(script);
      expect(args, id).to.match(/^(?:(?:"\$[A-Z_]+"|--[a-z-]+)(?: |$))*$/);
    }
  });

  it("hand secrets and the token to the step that needs them alone", () => {
    for (const [file, text] of texts) expect(text, file).not.to.match(/secrets: *inherit/);
    for (const { id, step } of steps()) {
      const own = Object.entries(step.env).filter(([, value]) => /secrets\.|github\.token/.test(value)).map(([name]) => name).sort();
      const isOfStack = /npm run (?:preview|deploy|drift) -- "\$STACK"/.test(step.run ?? "");
      expect(own, id).to.deep.equal(isOfStack ? [...SECRETS, "GITHUB_TOKEN"].sort() : []);
      expect(JSON.stringify(step.with), id).not.to.match(/secrets\./);
      if (isOfStack) expect(step.env.CLOUDFLARE_API_TOKEN, id).to.match(/matrix\.provider == 'r2' &&/);
    }
  });

  it("leave no credentials in the checkout", () => {
    const checkouts = steps().filter(({ step }) => step.uses?.startsWith("actions/checkout@"));
    expect(checkouts.length).to.equal(jobs().length);
    for (const { id, step } of checkouts) expect(step.with["persist-credentials"], id).to.equal(false);
  });

  it("end, each of them", () => {
    for (const { id, job } of jobs()) expect(job["timeout-minutes"], id).to.be.within(5, 180);
  });

  it("cancel what a newer push makes idle, and never a deployment", () => {
    expect(workflows.get("pull-request")?.concurrency).to.deep.equal({
      group: "pull-request-${{ github.event.pull_request.number }}", "cancel-in-progress": true,
    });
    expect(jobOf("deploy deploy").concurrency).to.deep.equal({ group: "deploy-${{ matrix.stack }}", "cancel-in-progress": false });
    expect(workflows.get("deploy")?.concurrency).to.equal(undefined);
  });

  it("run when they should, and never with a fork's code and this repository's rights", () => {
    expect(workflows.get("pull-request")?.on).to.deep.equal({ pull_request: { types: ["opened", "synchronize", "reopened", "labeled", "unlabeled"] } });
    expect(workflows.get("deploy")?.on).to.deep.equal({ push: { branches: ["main"] }, workflow_dispatch: null });
    expect(Object.keys(workflows.get("drift")?.on ?? {})).to.deep.equal(["schedule", "workflow_dispatch"]);
    const condition = jobOf("pull-request preview").if ?? "";
    expect(condition).to.contain("head.repo.full_name == github.repository").and.to.contain("github.actor != 'dependabot[bot]'");
    // A person who labels Dependabot's pull request is the actor, and the code is still Dependabot's.
    expect(condition).to.contain("github.event.pull_request.user.login != 'dependabot[bot]'");
    expect(jobOf("pull-request previewed").if).to.equal("always()");
  });

  it("skip a matrix that is empty", () => {
    for (const id of ["pull-request preview", "deploy deploy", "drift drift"]) expect(jobOf(id).if, id).to.contain("needs.stacks.outputs.stacks != '[]'");
  });

  it("deploy with an environment of the stack's own, and look with another that may only read", () => {
    expect(jobOf("deploy deploy").environment).to.equal("${{ matrix.stack }}");
    for (const id of ["pull-request preview", "drift drift"]) {
      expect(jobOf(id).environment, id).to.deep.equal({ name: "${{ matrix.stack }}-preview", deployment: false });
    }
  });

  it("install one release of the command line tool, not older than the SDK", async () => {
    const { version } = v.parse(v.object({ version: v.string() }), await json("node_modules/@pulumi/pulumi/package.json"));
    const tools = steps().filter(({ step }) => step.uses?.startsWith("pulumi/actions@")).map(({ step }) => String(step.with["pulumi-version"]));
    expect(tools).to.have.length(2);
    const [one = "", other] = tools;
    expect(one).to.equal(other);
    const [, minor] = one.split(".").map(Number);
    expect(minor).to.be.at.least(Number(version.split(".")[1])).and.at.least(254);
  });
});
