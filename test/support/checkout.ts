/** A checkout of this project with a stack of its own, in which the steps of the workflows are run as a runner does. */
import { spawn } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { text as readText } from "node:stream/consumers";
import * as v from "valibot";
import { parse } from "yaml";
import { run } from "../../tools/lib/programs.ts";
import { isOwnStackFile, projectName, pulumi, REPOSITORY, setSecrets, setValues } from "./engine.ts";

/** Not of a checkout, or written by other tests. */
const LEFT_OUT = new Set(["node_modules", ".git", ".local", "test", "bench", "docs"]);
const isOfCheckout = (path: string): boolean => !LEFT_OUT.has(path) && !isOwnStackFile(path);
const Workflow = v.object({
  jobs: v.record(v.string(), v.object({ steps: v.array(v.object({ run: v.optional(v.string()), env: v.optional(v.record(v.string(), v.string()), {}) })) })),
});

export interface StepResult {
  status: number;
  /** The job's log. */
  log: string;
  /** What was added to the file of GITHUB_OUTPUT. */
  output: string;
  /** What was added to the file of GITHUB_STEP_SUMMARY. */
  summary: string;
}

export class Checkout {
  readonly dir: string;
  /** Everything that any step has written to its log or its files. */
  written = "";
  /** The values of the workflows' expressions, by the variable that gets them. */
  readonly variables: Record<string, string>;
  private readonly place: string;

  private constructor(dir: string) {
    this.place = dir;
    this.dir = join(dir, "checkout");
    this.variables = {
      STACK: "prod", PULUMI_BACKEND_URL: `file://${join(dir, "state")}`, PULUMI_CONFIG_PASSPHRASE: "test", PULUMI_ACCESS_TOKEN: "",
      AWS_ACCESS_KEY_ID: "", AWS_SECRET_ACCESS_KEY: "", CLOUDFLARE_API_TOKEN: "",
      ARM_USE_OIDC: "false", ARM_CLIENT_ID: "", ARM_TENANT_ID: "", ARM_SUBSCRIPTION_ID: "",
    };
  }

  static async create(): Promise<Checkout> {
    const checkout = new Checkout(await mkdtemp(join(tmpdir(), "authentik-storage-checkout-")));
    await cp(REPOSITORY, checkout.dir, { recursive: true, filter: (path) => isOfCheckout(path.slice(REPOSITORY.length)) });
    await symlink(await realpath(join(REPOSITORY, "node_modules")), join(checkout.dir, "node_modules"));
    await mkdir(join(checkout.place, "state"));
    return checkout;
  }

  /** Makes the stack `prod`. */
  async init(values: Record<string, unknown>, secrets: Record<string, string>): Promise<void> {
    await this.pulumi("stack", "init", "prod");
    await this.configure(values);
    await setSecrets(this.dir, "prod", secrets, this.variables);
  }

  /** Sets values in the stack's file; those that are undefined are removed. */
  async configure(values: Record<string, unknown>): Promise<void> {
    await setValues(this.dir, "prod", projectName, values);
  }

  private async pulumi(...args: string[]): Promise<void> {
    await run("pulumi", [...args, "--non-interactive"], { cwd: this.dir, env: this.variables });
  }

  /**
   * Runs the step of a workflow's job that runs a script, with the variables that the workflow gives it and those that GitHub gives all.
   *
   * @param env what GitHub's variables are, the token among them
   * @param options.args further arguments of the script, as a person would add them
   */
  async step(workflow: string, job: string, env: Record<string, string>, { withPulumi = true, args = "" } = {}): Promise<StepResult> {
    const { jobs } = v.parse(Workflow, parse(await readFile(join(this.dir, ".github", "workflows", `${workflow}.yml`), "utf8")));
    const step = jobs[job]?.steps.find(({ run }) => run?.startsWith("npm run") === true);
    if (step?.run === undefined) throw new Error(`the job "${job}" of ${workflow}.yml runs no script`);
    const values = { ...this.variables, ...env };
    const own = Object.keys(step.env).map((name) => {
      const value = values[name];
      if (value === undefined) throw new Error(`the test has no value for ${name}, which ${workflow}.yml sets`);
      return [name, value] as const;
    });
    // Only a step that asks for the token has it.
    const gitHub = Object.fromEntries(Object.entries(env).filter(([name]) => name !== "GITHUB_TOKEN"));
    const [output, summary] = [join(this.place, "output"), join(this.place, "summary")];
    await Promise.all([output, summary].map((file) => writeFile(file, "")));
    const given = {
      PATH: withPulumi ? process.env.PATH : pathWithoutPulumi(), HOME: process.env.HOME, PULUMI_HOME: process.env.PULUMI_HOME, CI: "true", GITHUB_ACTIONS: "true",
      ...gitHub, ...Object.fromEntries(own), GITHUB_OUTPUT: output, GITHUB_STEP_SUMMARY: summary,
    };
    const result = await shell(`${step.run.trim()} ${args}`, this.dir, given);
    const written = { output: await readFile(output, "utf8"), summary: await readFile(summary, "utf8") };
    this.written += `${result.log}\n${written.output}\n${written.summary}`;
    return { ...result, ...written };
  }

  async remove(): Promise<void> {
    await rm(this.place, { recursive: true, force: true });
  }
}

/** As GitHub's runner does: `bash -e`, and nothing to read. */
async function shell(script: string, cwd: string, env: NodeJS.ProcessEnv): Promise<{ status: number; log: string }> {
  const child = spawn("bash", ["--noprofile", "--norc", "-eo", "pipefail", "-c", `(${script}) 2>&1`], { cwd, env, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise<number>((resolve, reject) => child.once("close", (code) => { resolve(code ?? -1); }).once("error", reject));
  const [log, status] = await Promise.all([readText(child.stdout), ended]);
  return { status, log };
}

function pathWithoutPulumi(): string {
  return (process.env.PATH ?? "").split(delimiter).filter((folder) => pulumi === undefined || folder !== dirname(pulumi)).join(delimiter);
}
