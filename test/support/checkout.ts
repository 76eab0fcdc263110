/** A checkout of this project with a stack, where the steps of the workflows run as on a runner. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { text as readText } from "node:stream/consumers";
import * as v from "valibot";
import { parse } from "yaml";
import { run } from "../../tools/lib/programs.ts";
import {
  isOwnStackFile,
  projectName,
  pulumi,
  REPOSITORY,
  setSecrets,
  setValues,
} from "./engine.ts";

/** Files that a checkout does not have, or that other tests write. */
const LEFT_OUT = new Set(["node_modules", ".git", ".local", "test", "bench", "docs"]);
const isOfCheckout = (path: string): boolean => !LEFT_OUT.has(path) && !isOwnStackFile(path);
const Step = v.object({
  run: v.optional(v.string()),
  /** The inputs of an action. */
  with: v.optional(
    v.looseObject({ command: v.optional(v.string()), option: v.optional(v.string()) }),
    {},
  ),
  env: v.optional(v.record(v.string(), v.string()), {}),
});
const Workflow = v.object({ jobs: v.record(v.string(), v.object({ steps: v.array(Step) })) });
const Action = v.object({ runs: v.object({ steps: v.array(Step) }) });

/** The script of a job, and its variables with their expressions. */
interface Script {
  run: string;
  env: Record<string, string>;
  /** Variables whose values are in the workflow. */
  values?: Record<string, string>;
}

export interface StepResult {
  status: number;
  /** The job's log. */
  log: string;
  /** The text in the file of GITHUB_OUTPUT. */
  output: string;
  /** The text in the file of GITHUB_STEP_SUMMARY. */
  summary: string;
}

export class Checkout {
  readonly dir: string;
  /** Everything that the steps have written to their logs and files. */
  written = "";
  /** The variables that the workflows set, with the values of their expressions. */
  readonly variables: Record<string, string>;
  private readonly place: string;

  private constructor(dir: string) {
    this.place = dir;
    this.dir = join(dir, "checkout");
    this.variables = {
      STACK: "prod",
      PULUMI_BACKEND_URL: `file://${join(dir, "state")}`,
      PULUMI_CONFIG_PASSPHRASE: "test",
      PULUMI_ACCESS_TOKEN: "",
      AWS_ACCESS_KEY_ID: "",
      AWS_SECRET_ACCESS_KEY: "",
      CLOUDFLARE_API_TOKEN: "",
      ARM_USE_OIDC: "false",
      ARM_CLIENT_ID: "",
      ARM_TENANT_ID: "",
      ARM_SUBSCRIPTION_ID: "",
    };
  }

  static async create(): Promise<Checkout> {
    const checkout = new Checkout(await mkdtemp(join(tmpdir(), "authentik-storage-checkout-")));
    const filter = (path: string) => isOfCheckout(path.slice(REPOSITORY.length));
    await cp(REPOSITORY, checkout.dir, { recursive: true, filter });
    await symlink(
      await realpath(join(REPOSITORY, "node_modules")),
      join(checkout.dir, "node_modules"),
    );
    await mkdir(join(checkout.place, "state"));
    return checkout;
  }

  /** Creates the stack `prod`. */
  async init(values: Record<string, unknown>, secrets: Record<string, string>): Promise<void> {
    await this.pulumi("stack", "init", "prod");
    await this.configure(values);
    await setSecrets(this.dir, "prod", secrets, this.variables);
  }

  /** Sets values in the stack's file, and removes undefined ones. */
  async configure(values: Record<string, unknown>): Promise<void> {
    await setValues(this.dir, "prod", projectName, values);
  }

  private async pulumi(...args: string[]): Promise<void> {
    await run("pulumi", [...args, "--non-interactive"], { cwd: this.dir, env: this.variables });
  }

  /**
   * Runs the step that runs a script, with the variables of the workflow and of GitHub.
   *
   * @param env the values of GitHub's variables, with the token
   * @param options.args further arguments of the script, as a person would add them
   */
  async step(
    workflow: string,
    job: string,
    env: Record<string, string>,
    { withPulumi = true, args = "" } = {},
  ): Promise<StepResult> {
    const step = await this.scriptStep(workflow, job);
    const values: Record<string, string> = { ...this.variables, ...env, ...step.values };
    const own = Object.keys(step.env).map((name) => {
      const value = values[name];
      if (value === undefined) {
        throw new Error(`the test has no value for ${name}, which ${workflow}.yml sets`);
      }
      return [name, value.replace("${{ github.sha }}", env.GITHUB_SHA ?? "")] as const;
    });
    const [output, summary] = [join(this.place, "output"), join(this.place, "summary")];
    await Promise.all([output, summary].map((file) => writeFile(file, "")));
    const { HOME, PULUMI_HOME } = process.env;
    const result = await shell(`${step.run} ${args}`, this.dir, {
      PATH: withPulumi ? process.env.PATH : pathWithoutPulumi(),
      HOME,
      PULUMI_HOME,
      CI: "true",
      GITHUB_ACTIONS: "true",
      ...env,
      // Only a step that sets the token has it.
      GITHUB_TOKEN: undefined,
      ...Object.fromEntries(own),
      GITHUB_OUTPUT: output,
      GITHUB_STEP_SUMMARY: summary,
    });
    const written = {
      output: await readFile(output, "utf8"),
      summary: await readFile(summary, "utf8"),
    };
    this.written += `${result.log}\n${written.output}\n${written.summary}`;
    return { ...result, ...written };
  }

  /** The script of a job: in a step of its own, or in the action that runs a command on a stack. */
  private async scriptStep(workflow: string, job: string): Promise<Script> {
    const github = join(this.dir, ".github");
    const file = join(github, "workflows", `${workflow}.yml`);
    const { jobs } = v.parse(Workflow, parse(await readFile(file, "utf8")));
    const action = join(github, "actions", "stack", "action.yml");
    const { runs } = v.parse(Action, parse(await readFile(action, "utf8")));
    for (const { run = "", env, with: inputs } of jobs[job]?.steps ?? []) {
      if (run.startsWith("npm run")) return { run: run.trim(), env };
      if (inputs.command === undefined) continue;
      const { run: script = "", env: variables = {} } =
        runs.steps.find((step) => step.run?.includes('"$COMMAND"')) ?? {};
      const values = { COMMAND: inputs.command, OPTION: inputs.option ?? "" };
      return { run: script, env: variables, values };
    }
    throw new Error(`the job "${job}" of ${workflow}.yml runs no script`);
  }

  async remove(): Promise<void> {
    await rm(this.place, { recursive: true, force: true });
  }
}

/** As GitHub's runner does: `bash -e` without input. */
async function shell(
  script: string,
  cwd: string,
  env: NodeJS.ProcessEnv,
): Promise<{ status: number; log: string }> {
  const args = ["--noprofile", "--norc", "-eo", "pipefail", "-c", `(${script}) 2>&1`];
  const child = spawn("bash", args, { cwd, env, stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "close").then(([code]: unknown[]) => Number(code ?? -1));
  const [log, status] = await Promise.all([readText(child.stdout), ended]);
  return { status, log };
}

function pathWithoutPulumi(): string {
  const folders = (process.env.PATH ?? "").split(delimiter);
  const without = pulumi === undefined ? undefined : dirname(pulumi);
  return folders.filter((folder) => folder !== without).join(delimiter);
}
