/** The stack `dev` on the local server: by the Pulumi command line tool, or in this process where there is none. */
import { mkdir, readFile } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { PulumiCommand } from "@pulumi/pulumi/automation/cmd.js";
import type { Inputs } from "@pulumi/pulumi/output.js";
import * as v from "valibot";
import writeFileAtomic from "write-file-atomic";
import { parse, stringify } from "yaml";
import type { LocalHome } from "./folder.ts";
import { runInProcess } from "./in-process.ts";
import { run } from "../lib/programs.ts";
import { REPOSITORY } from "../lib/repository.ts";

const STACK = "dev";
const INSTALL_TIMEOUT_MS = 300_000;

/**
 * The Pulumi command line tool: the one on PATH, else one of the server's folder, installed there by the SDK if need be.
 *
 * @returns undefined when none can be had
 */
export async function findPulumi(
  home: LocalHome,
  progress: (step: string) => void,
  signal: AbortSignal,
): Promise<PulumiCommand | undefined> {
  const { PulumiCommand } = await import("@pulumi/pulumi/automation/cmd.js");
  const root = join(home.dir, "pulumi");
  try {
    return await PulumiCommand.get();
  } catch {
    progress("installing the Pulumi command line tool (once)");
  }
  const timeout = sleep(INSTALL_TIMEOUT_MS, undefined, { ref: false, signal });
  return Promise.race([PulumiCommand.install({ root }).catch(() => undefined), timeout]);
}

/** The stack's values: those of its tracked file, and the local server's. Each key is without a namespace. */
interface StackValues {
  plain: Record<string, unknown>;
  secrets: Record<string, string>;
}

const Project = v.looseObject({ name: v.string(), main: v.string() });
const StackFile = v.looseObject({ config: v.optional(v.record(v.string(), v.unknown()), {}) });

async function stackValues(home: LocalHome, endpoint: string): Promise<StackValues> {
  const { config } = await readStackFile(join(REPOSITORY, `Pulumi.${STACK}.yaml`));
  // Whatever stands before the colon: the project may have got another name, and `local:` is for this alone.
  const plain = Object.entries(config).map(([key, value]) => [key.replace(/^.*:/, ""), value] as const);
  return {
    plain: { ...Object.fromEntries(plain), endpoint },
    secrets: {
      accessKey: home.authentik.accessKey,
      secretKey: home.authentik.secretKey,
      adminAccessKey: home.root.accessKey,
      adminSecretKey: home.root.secretKey,
      policyPrincipal: home.authentik.accessKey,
    },
  };
}

/** The project whose program runs: this repository, or what `pulumi new` has made of it under another name. */
async function readProject(): Promise<v.InferOutput<typeof Project>> {
  return v.parse(Project, parse(await readFile(join(REPOSITORY, "Pulumi.yaml"), "utf8")));
}

async function readStackFile(file: string): Promise<v.InferOutput<typeof StackFile>> {
  return v.parse(StackFile, parse(await readFile(file, "utf8")));
}

/** A Pulumi project of the local server's own: this program, another place for config and state. No tracked file is written. */
export interface LocalProject {
  /** Folder of its `Pulumi.yaml`. */
  workDir: string;
  /** What the command line tool needs: the backend, which is a folder, and the passphrase. */
  envVars: Record<string, string>;
}

/** Where the local stack's project is. It is there after the first `upWithEngine`. */
export function localProject(home: LocalHome): LocalProject {
  return {
    workDir: join(home.dir, "project"),
    envVars: {
      PULUMI_BACKEND_URL: `file://${join(home.dir, "state")}`,
      PULUMI_CONFIG_PASSPHRASE: home.passphrase,
      PULUMI_SKIP_UPDATE_CHECK: "true",
    },
  };
}

/**
 * `pulumi up` of the stack `dev` against the server at this endpoint.
 *
 * @returns the stack's outputs; what is secret among them is in clear
 * @throws Error with the tool's own words
 */
export async function upWithEngine(pulumiCommand: PulumiCommand, home: LocalHome, endpoint: string, signal: AbortSignal): Promise<Inputs> {
  const { LocalWorkspace } = await import("@pulumi/pulumi/automation/localWorkspace.js");
  const { workDir, envVars } = localProject(home);
  await mkdir(join(home.dir, "state"), { recursive: true, mode: 0o700 });
  const project = await readProject();
  await writeProject(workDir, project);
  const stack = await LocalWorkspace.createOrSelectStack({ stackName: STACK, workDir }, { pulumiCommand, envVars });
  await writeStackFile(pulumiCommand, { workDir, envVars }, project.name, await stackValues(home, endpoint), signal);
  // Only one process has the server's port, so a lock is what an interrupted run has left behind.
  const up = () => stack.up({ signal, color: "never" });
  const { outputs } = await up().catch(async (error: unknown) => {
    if (!String(error).includes("is currently locked")) throw error;
    await stack.cancel();
    return up();
  });
  return Object.fromEntries(Object.entries(outputs).map(([name, { value }]): [string, unknown] => [name, value]));
}

async function writeProject(workDir: string, project: v.InferOutput<typeof Project>): Promise<void> {
  await mkdir(workDir, { recursive: true, mode: 0o700 });
  const main = `${relative(workDir, join(REPOSITORY, project.main)).split(sep).join("/")}/`;
  await writeFileAtomic(join(workDir, "Pulumi.yaml"), stringify({ ...project, main }));
}

async function writeStackFile(
  tool: PulumiCommand,
  { workDir, envVars }: LocalProject,
  project: string,
  { plain, secrets }: StackValues,
  signal: AbortSignal,
): Promise<void> {
  const file = join(workDir, `Pulumi.${STACK}.yaml`);
  const { config: before, ...encryption } = await readStackFile(file);
  const qualified = (values: Record<string, unknown>) => Object.fromEntries(Object.entries(values).map(([key, value]) => [`${project}:${key}`, value]));
  const kept = Object.fromEntries(Object.entries(before).filter(([key]) => key in qualified(secrets)));
  await writeFileAtomic(file, stringify({ ...encryption, config: { ...qualified(plain), ...kept } }), { mode: 0o600 });
  for (const [key, value] of Object.entries(secrets)) {
    if (!(`${project}:${key}` in kept)) await setSecret(tool, { workDir, envVars }, key, value, signal);
  }
}

/** The Automation API would put the value into the tool's arguments, where every user of the machine can read it. */
async function setSecret(tool: PulumiCommand, { workDir, envVars }: LocalProject, key: string, value: string, signal: AbortSignal): Promise<void> {
  const args = ["config", "set", "--secret", key, "--stack", STACK, "--non-interactive"];
  await run(tool.command, args, { cwd: workDir, env: envVars, input: value, signal });
}

/** The same program and the same resource code in this process. It keeps no state: the server's data should be thrown away. */
export async function upInProcess(home: LocalHome, endpoint: string): Promise<Inputs> {
  const { plain, secrets } = await stackValues(home, endpoint);
  const config = Object.entries({ ...plain, ...secrets }).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)] as const);
  return runInProcess({
    project: (await readProject()).name,
    stack: STACK,
    config: Object.fromEntries(config),
    secrets: Object.keys(secrets),
    program: async () => (await import("../../index.ts")).default,
  });
}
