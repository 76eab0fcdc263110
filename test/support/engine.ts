/**
 * The real Pulumi engine on throwaway projects. Tests that need it are skipped by name where
 * `pulumi` is not on PATH.
 */
import { execFile } from "node:child_process";
import { access, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { isAbsolute, join, relative } from "node:path";
import * as v from "valibot";
import { parse, stringify } from "yaml";
import { onPath, run } from "../../tools/lib/programs.ts";
import { REPOSITORY, StackFile } from "../../tools/lib/repository.ts";

export { REPOSITORY };
export const STACK = "test";
const TIMEOUT_MS = 120_000;

/** The tool's path, if it is there. */
export const pulumi = await onPath("pulumi");

const PackageFile = v.object({ version: v.string() });

/** Whether the plugin of `@pulumi/<name>` is on PATH, or installed in exactly its version. */
export async function hasPlugin(name: string): Promise<boolean> {
  if ((await onPath(`pulumi-resource-${name}`)) !== undefined) return true;
  const file = join(REPOSITORY, `node_modules/@pulumi/${name}/package.json`);
  const { version } = v.parse(PackageFile, JSON.parse(await readFile(file, "utf8")));
  const home = process.env.PULUMI_HOME ?? join(homedir(), ".pulumi");
  return access(join(home, "plugins", `resource-${name}-v${version}`)).then(
    () => true,
    () => false,
  );
}

const ProjectFile = v.object({ name: v.string() });

/** The name of the project whose tests run: `pulumi new` gives another one. */
export const projectName = v.parse(
  ProjectFile,
  parse(await readFile(join(REPOSITORY, "Pulumi.yaml"), "utf8")),
).name;

/** Whether a path in the repository is the file of one of your own stacks. No test may see it. */
export function isOwnStackFile(path: string): boolean {
  return /^Pulumi\.(?!dev\.)[^/]+\.yaml$/.test(path);
}

const Plan = v.object({
  steps: v.optional(v.array(v.object({ op: v.string(), urn: v.string() })), []),
});

const State = v.looseObject({
  deployment: v.looseObject({
    resources: v.array(
      v.looseObject({
        urn: v.string(),
        type: v.string(),
        inputs: v.optional(v.record(v.string(), v.unknown())),
        outputs: v.optional(v.record(v.string(), v.unknown())),
        replacementTrigger: v.optional(v.unknown()),
      }),
    ),
  }),
});
/** A resource, as the state has it. */
type StoredResource = v.InferOutput<typeof State>["deployment"]["resources"][number];

export interface RunResult {
  ok: boolean;
  /** Standard output and standard error. */
  text: string;
}

/** Sets values in a stack's file, which it may create, and removes those that are undefined. */
export async function setValues(
  dir: string,
  stack: string,
  project: string,
  values: Record<string, unknown>,
): Promise<void> {
  const file = join(dir, `Pulumi.${stack}.yaml`);
  const content = v.parse(StackFile, parse(await readFile(file, "utf8").catch(() => "")) ?? {});
  const changes = Object.entries(values).map(([key, value]): [string, unknown] => [
    `${project}:${key}`,
    value,
  ]);
  await writeFile(
    file,
    stringify({ ...content, config: { ...content.config, ...Object.fromEntries(changes) } }),
  );
}

/** Sets secrets of a stack, by the tool itself. */
export async function setSecrets(
  dir: string,
  stack: string,
  secrets: Record<string, string>,
  env: Record<string, string>,
): Promise<void> {
  for (const [key, value] of Object.entries(secrets)) {
    const args = ["config", "set", "--secret", key, "--stack", stack, "--non-interactive"];
    await run("pulumi", args, { cwd: dir, env, input: value });
  }
}

interface ProjectOptions {
  name?: string;
  main?: string;
  repository?: string;
}

/** Options of the runtime for a program that is not this repository's. */
const TYPESCRIPT = { nodeargs: "--import tsx/esm" };

/** A cloud's API on this machine. */
interface FakeCloud {
  /** What the provider's plugin needs in its environment. */
  env: Record<string, string>;
  stop(): Promise<void>;
}

/** Starts a fake cloud for each test of a suite, and a project with this config in front of it. */
export function useCloud<Fake extends FakeCloud>(
  start: () => Promise<Fake>,
  config: Record<string, unknown>,
  use: (fake: Fake, project: EngineProject) => void,
): void {
  let stop = async (): Promise<void> => {};
  beforeEach(async () => {
    const fake = await start();
    const project = await EngineProject.create();
    stop = async () => {
      await project.remove();
      await fake.stop();
    };
    Object.assign(project.env, fake.env);
    use(fake, project);
    await project.configure(config);
  });
  afterEach(() => stop());
}

/** A project with one stack and a state of its own. */
export class EngineProject {
  readonly dir: string;
  /** Everything that the tool has written so far. */
  written = "";
  /** What the tool needs: backend and passphrase. */
  readonly env: Record<string, string>;

  private readonly name: string;

  private readonly providers: { name: string; path: string }[];

  private constructor(dir: string, name: string, plugins: string[]) {
    this.dir = dir;
    this.name = name;
    this.providers = plugins.map((path) => ({ name: "pulumi-nodejs", path }));
    this.env = {
      PULUMI_BACKEND_URL: `file://${join(dir, "state")}`,
      PULUMI_CONFIG_PASSPHRASE: "test",
      PULUMI_SKIP_UPDATE_CHECK: "true",
    };
  }

  /**
   * A project that runs this repository's program, a copy's, or the one in the folder `main`. Only
   * the last has no plugin of its own, and so the SDK's process of the S3 resources.
   */
  static async create(options: ProjectOptions = {}): Promise<EngineProject> {
    const { name = "authentik-storage", repository = REPOSITORY } = options;
    const { main = join(repository, "program") } = options;
    const dir = await mkdtemp(join(tmpdir(), "authentik-storage-engine-"));
    const plugin = join(repository, "providers/s3/plugin");
    const isOwn = options.main === undefined;
    const project = new EngineProject(dir, name, isOwn ? [plugin] : []);
    await mkdir(join(dir, "state"));
    await project.setMain(main, isOwn ? {} : TYPESCRIPT);
    await project.expectOk("stack", "init", STACK);
    return project;
  }

  /** Sets the folder where the program starts, which is TypeScript by default. */
  async setMain(folder: string, options: object = TYPESCRIPT): Promise<void> {
    const main = isAbsolute(folder) ? relative(this.dir, folder) : folder;
    const { name, providers } = this;
    const runtime = { name: "nodejs", options: { typescript: false, ...options } };
    const project = { name, runtime, plugins: { providers }, main: `${main}/` };
    await writeFile(join(this.dir, "Pulumi.yaml"), stringify(project));
  }

  /** Sets values in the stack's file, removes those that are undefined, and sets secrets. */
  async configure(
    values: Record<string, unknown>,
    secrets: Record<string, string> = {},
  ): Promise<void> {
    await setValues(this.dir, STACK, this.name, values);
    await setSecrets(this.dir, STACK, secrets, this.env);
  }

  async run(...args: string[]): Promise<RunResult> {
    const isInit = args[0] === "stack" && args[1] === "init";
    const all = [...args, "--non-interactive", ...(isInit ? [] : ["--stack", STACK])];
    const env = { ...process.env, ...this.env };
    const options = { cwd: this.dir, env, timeout: TIMEOUT_MS, maxBuffer: 50_000_000 };
    const result = await new Promise<RunResult>((resolve) => {
      execFile("pulumi", all, options, (error, stdout, stderr) => {
        resolve({ ok: error === null, text: stdout + stderr });
      });
    });
    if (!args.includes("--show-secrets")) this.written += result.text;
    return result;
  }

  async expectOk(...args: string[]): Promise<string> {
    const { ok, text } = await this.run(...args);
    if (!ok) throw new Error(`pulumi ${args.join(" ")} failed:\n${text}`);
    return text;
  }

  /** @returns what the command wrote before it failed */
  async expectFailure(...args: string[]): Promise<string> {
    const { ok, text } = await this.run(...args);
    if (ok) throw new Error(`pulumi ${args.join(" ")} did not fail:\n${text}`);
    return text;
  }

  /** The operations that a preview plans, by the resource's name, without unchanged resources. */
  async plan(...args: string[]): Promise<Record<string, string>> {
    const { steps } = v.parse(Plan, JSON.parse(await this.expectOk("preview", "--json", ...args)));
    return Object.fromEntries(
      steps
        .filter(({ op }) => op !== "same")
        .map(({ op, urn }) => [urn.split("::").at(-1) ?? urn, op]),
    );
  }

  /** Changes the state. */
  async editState(change: (state: string) => string): Promise<void> {
    const file = join(this.dir, "edited.json");
    await writeFile(file, change(await this.expectOk("stack", "export", "--show-secrets")));
    await this.expectOk("stack", "import", "--file", file);
  }

  /** Changes the resources of the state, and removes those for which `change` returns false. */
  async editResources(change: (resource: StoredResource) => unknown): Promise<void> {
    await this.editState((text) => {
      const state = v.parse(State, JSON.parse(text));
      const { deployment } = state;
      deployment.resources = deployment.resources.filter((resource) => change(resource) !== false);
      return JSON.stringify(state);
    });
  }

  /** All files of state and config, as text. */
  async stored(): Promise<string> {
    const files = await readdir(this.dir, { recursive: true, withFileTypes: true });
    const paths = files
      .filter((file) => file.isFile())
      .map((file) => join(file.parentPath, file.name));
    const texts = await Promise.all(paths.map((path) => readFile(path, "utf8")));
    return texts.join("\n");
  }

  async remove(): Promise<void> {
    await rm(this.dir, { recursive: true, force: true });
  }
}
