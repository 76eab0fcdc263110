/**
 * The stack `dev` on the local server: with the Pulumi command line tool, or in this process if
 * there is none.
 */
import { mkdir, readFile } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Inputs } from "@pulumi/pulumi/output.js";
import * as v from "valibot";
import { parse, stringify } from "yaml";
import { onPath } from "../lib/programs.ts";
import { reasonOf } from "../lib/errors.ts";
import { toolMessage, OutputEnd, PulumiError, pulumiJson, runPulumi } from "../lib/pulumi.ts";
import { Project, REPOSITORY, StackFile } from "../lib/repository.ts";
import { writeWholeFile } from "../lib/write-file.ts";
import type { LocalFolder } from "./folder.ts";
import { runInProcess } from "./in-process.ts";

const STACK = "dev";
const INSTALL_TIMEOUT_MS = 300_000;
const PULUMI_TIMEOUT_MS = 300_000;
const VERSION_TIMEOUT_MS = 30_000;
/** Ctrl-C must leave nothing running within seconds. */
const GRACE_MS = 3_000;

/** The Pulumi command line tool, or why there is none that can be used. */
export type FoundPulumi = { program: string } | { program?: undefined; reason: string };

/**
 * Finds the Pulumi command line tool: the one on PATH, or else one in the server's folder, where
 * the SDK installs it.
 */
export async function findPulumi(
  folder: LocalFolder,
  progress: (step: string) => void,
  signal: AbortSignal,
): Promise<FoundPulumi> {
  const found = await onPath("pulumi");
  if (found !== undefined) {
    const fault = await faultOf(found, folder, signal);
    return fault === undefined ? { program: found } : { reason: `"${found}" fails: ${fault}` };
  }
  progress("installing the Pulumi command line tool (once)");
  const { PulumiCommand } = await import("@pulumi/pulumi/automation/cmd.js");
  const installed = PulumiCommand.install({ root: join(folder.dir, "pulumi") }).then(
    ({ command }): FoundPulumi => ({ program: command }),
    (error: unknown): FoundPulumi => ({
      reason: `it is not on PATH, and its installation failed: ${firstLines(reasonOf(error))}`,
    }),
  );
  const limit = { reason: `its installation took more than ${INSTALL_TIMEOUT_MS / 1000} s` };
  return Promise.race([installed, sleep(INSTALL_TIMEOUT_MS, limit, { ref: false, signal })]);
}

/** Why a tool cannot be used; undefined if it can. */
async function faultOf(
  program: string,
  folder: LocalFolder,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { envVars } = localProject(folder);
  const options = { program, workDir: folder.dir, envVars, signal, timeoutMs: VERSION_TIMEOUT_MS };
  try {
    const result = await runPulumi(["version"], options);
    return result.code === 0 ? undefined : firstLines(toolMessage(result));
  } catch (error) {
    signal.throwIfAborted();
    return firstLines(reasonOf(error));
  }
}

/** The beginning of a message: an installer's output can be long. */
function firstLines(text: string): string {
  return text.trim().split("\n").slice(0, 5).join("\n").slice(0, 500);
}

/**
 * The stack's values from its tracked file and from the local server. The keys have no namespace.
 */
interface StackValues {
  plain: Record<string, unknown>;
  secrets: Record<string, string>;
}

async function stackValues(folder: LocalFolder, endpoint: string): Promise<StackValues> {
  const { config } = await readStackFile(join(REPOSITORY, `Pulumi.${STACK}.yaml`));
  // Every namespace is read: the project may have another name, and only this command reads `local:`.
  const plain = Object.entries(config).map(
    ([key, value]) => [key.replace(/^.*:/, ""), value] as const,
  );
  return {
    plain: { ...Object.fromEntries(plain), endpoint },
    secrets: {
      accessKey: folder.authentik.accessKey,
      secretKey: folder.authentik.secretKey,
      adminAccessKey: folder.root.accessKey,
      adminSecretKey: folder.root.secretKey,
      policyPrincipal: folder.authentik.accessKey,
    },
  };
}

/** The project whose program runs: this repository, or a project that `pulumi new` made of it. */
async function readProject(): Promise<v.InferOutput<typeof Project>> {
  return v.parse(Project, parse(await readFile(join(REPOSITORY, "Pulumi.yaml"), "utf8")));
}

async function readStackFile(file: string): Promise<v.InferOutput<typeof StackFile>> {
  return v.parse(StackFile, parse(await readFile(file, "utf8")));
}

/**
 * The local server's Pulumi project: this program, with its own place for config, state and plugins.
 * Nothing outside the folder is written.
 */
export interface LocalProject {
  /** Folder of its `Pulumi.yaml`. */
  workDir: string;
  /** The backend, which is a folder, the passphrase, and the folder of the tool's own files. */
  envVars: Record<string, string>;
}

/** The local stack's project. It exists after the first `upWithEngine`. */
export function localProject(folder: LocalFolder): LocalProject {
  return {
    workDir: join(folder.dir, "project"),
    envVars: {
      PULUMI_BACKEND_URL: `file://${join(folder.dir, "state")}`,
      PULUMI_CONFIG_PASSPHRASE: folder.passphrase,
      PULUMI_HOME: join(folder.dir, "pulumi-home"),
      PULUMI_SKIP_UPDATE_CHECK: "true",
    },
  };
}

/**
 * `pulumi up` of the stack `dev` against the server at this endpoint.
 *
 * @param program path of the Pulumi command line tool
 * @returns the stack's outputs, with secrets in plain text
 * @throws PulumiError with the tool's messages
 */
export async function upWithEngine(
  program: string,
  folder: LocalFolder,
  endpoint: string,
  signal: AbortSignal,
): Promise<Inputs> {
  const local = localProject(folder);
  const options = { ...local, program, signal, timeoutMs: PULUMI_TIMEOUT_MS, graceMs: GRACE_MS };
  const run = async (args: readonly string[], input = "") => {
    const output = new OutputEnd();
    const onLine = (line: string) => {
      output.add(`${line}\n`);
    };
    const { code, stderr } = await runPulumi(args, { ...options, input, onLine });
    if (code === 0) return;
    const message = toolMessage({ code, stderr: `${output.text}\n${stderr}` });
    throw new PulumiError(`pulumi ${args[0] ?? ""} failed: ${message}`);
  };
  await mkdir(join(folder.dir, "state"), { recursive: true, mode: 0o700 });
  const project = await readProject();
  await writeProject(local.workDir, project);
  await run(["stack", "select", STACK, "--create"]);
  const values = await stackValues(folder, endpoint);
  for (const [key, value] of await writeStackFile(local.workDir, project.name, values)) {
    await run(["config", "set", "--secret", key, "--stack", STACK], value);
  }
  const up = () => run(["up", "--yes", "--skip-preview", "--color", "never", "--stack", STACK]);
  await up().catch(async (error: unknown) => {
    if (!String(error).includes("is currently locked")) throw error;
    // Only one process has the server's port, so the lock belongs to a run that was killed.
    await run(["cancel", "--yes", "--stack", STACK]);
    await up();
  });
  const args = ["stack", "output", "--show-secrets", "--stack", STACK];
  const outputs = await pulumiJson(args, options);
  return v.parse(v.record(v.string(), v.unknown()), outputs);
}

async function writeProject(
  workDir: string,
  project: v.InferOutput<typeof Project>,
): Promise<void> {
  await mkdir(workDir, { recursive: true, mode: 0o700 });
  const main = `${relative(workDir, join(REPOSITORY, project.main)).split(sep).join("/")}/`;
  const providers = project.plugins.providers.map(({ name, path }) => {
    return { name, path: join(REPOSITORY, path) };
  });
  const plugins = { providers };
  await writeWholeFile(join(workDir, "Pulumi.yaml"), stringify({ ...project, main, plugins }));
}

/** Writes the plain values, and returns the secrets that the file does not have yet. */
async function writeStackFile(
  workDir: string,
  project: string,
  { plain, secrets }: StackValues,
): Promise<[key: string, value: string][]> {
  const file = join(workDir, `Pulumi.${STACK}.yaml`);
  const { config: before, ...encryption } = await readStackFile(file);
  const qualified = (key: string) => `${project}:${key}`;
  const secretKeys = Object.keys(secrets).map(qualified);
  const config: Record<string, unknown> = Object.fromEntries([
    ...Object.entries(plain).map(([key, value]) => [qualified(key), value] as const),
    ...Object.entries(before).filter(([key]) => secretKeys.includes(key)),
  ]);
  await writeWholeFile(file, stringify({ ...encryption, config }));
  return Object.entries(secrets).filter(([key]) => !(qualified(key) in before));
}

/**
 * The same program and the same code of the resources in this process. It keeps no state, so use it
 * on throwaway data.
 */
export async function upInProcess(
  folder: LocalFolder,
  endpoint: string,
  signal: AbortSignal,
): Promise<Inputs> {
  const { plain, secrets } = await stackValues(folder, endpoint);
  const config = Object.entries({ ...plain, ...secrets }).map(([key, value]) => {
    return [key, typeof value === "string" ? value : JSON.stringify(value)] as const;
  });
  return runInProcess({
    project: (await readProject()).name,
    stack: STACK,
    config: Object.fromEntries(config),
    secrets: Object.keys(secrets),
    program: async () => (await import("../../index.ts")).default(),
    signal,
  });
}
