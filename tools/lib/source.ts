/** What the commands work on: a stack's outputs, or the variables in an env file. */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { promisify } from "node:util";
import * as v from "valibot";
import { isStorageVariable, type StorageSettings } from "../../authentik/env.ts";
import { readEnv } from "../../authentik/read-env.ts";
import { parseRelease, type Release } from "../../authentik/release.ts";
import { DotenvError, parseDotenv, type Entry } from "./dotenv.ts";
import { REPOSITORY } from "./repository.ts";

/** authentik's storage as a stack or an env file describes it. */
export interface Source {
  /** For messages: `stack "dev"`, `env file ".env"`. */
  name: string;
  /** Read back from `env` by authentik's rules. */
  settings: StorageSettings;
  /** Names to values, as authentik gets them. An env file's other variables are among them. */
  env: Record<string, string>;
  /** Under which browsers reach authentik. */
  origins: string[];
  /** Undefined where it is not known. */
  release?: Release | undefined;
  /** Whether there are names among them that no release before 2025.12 reads. */
  hasGeneralNames: boolean;
  /** Whether the key is the bucket's administrator's; undefined where that is not known. */
  keyIsAdmin?: boolean | undefined;
  /** The AWS role of authentik's service accounts, where the stack has made one. */
  roleArn?: string | undefined;
  /** What the user should know of the variables. */
  warnings: string[];
}

/** What an env file does not say. */
export interface SourceOptions {
  origins?: readonly string[] | undefined;
  release?: Release | undefined;
}

/** Where a stack's project is. */
export interface StackLocation {
  /** Folder of its `Pulumi.yaml`; this repository's by default. */
  workDir?: string | undefined;
  /** Beside this process's own, e.g. `PULUMI_BACKEND_URL`. */
  envVars?: Readonly<Record<string, string>> | undefined;
}

/** A source that cannot be read. The message says what to do. */
export class SourceError extends Error {
  override name = "SourceError";
}

/**
 * Reads `stack:NAME` or `env:FILE`; undefined for any other text, which may be a folder or an S3 URL.
 *
 * @throws SourceError, or EnvReadError where the variables give authentik no working storage
 */
export async function readSource(text: string, options: SourceOptions = {}): Promise<Source | undefined> {
  const [, kind, rest = ""] = /^(stack|env):(.+)$/s.exec(text) ?? [];
  if (kind === "stack") return readStack(rest);
  return kind === "env" ? readEnvFile(rest, options) : undefined;
}

/** The command line tool talks to its backend over the network, and may wait for a passphrase that does not come. */
const PULUMI_TIMEOUT_MS = 60_000;

const Outputs = v.object({
  provider: v.string(),
  origins: v.array(v.string()),
  authentikVersion: v.optional(v.string()),
  roleArn: v.optional(v.string()),
  env: v.record(v.string(), v.string()),
});

/**
 * Reads a stack's outputs, secrets included, and which keys its config has. That takes two runs of the command line tool at
 * the same time; the Automation API would run it four times, one after the other, and takes a second to load.
 *
 * @throws SourceError, or EnvReadError
 */
export async function readStack(name: string, location: StackLocation = {}): Promise<Source> {
  const [outputs, config] = await Promise.all([
    pulumi(name, ["stack", "output", "--show-secrets"], location),
    pulumi(name, ["config"], location),
  ]);
  const configKeys = Object.keys(v.parse(v.record(v.string(), v.unknown()), config)).map((key) => key.split(":").pop());
  return sourceOfOutputs(name, outputs, configKeys.includes("adminAccessKey"));
}

/**
 * The source that a stack's outputs describe, secrets in clear.
 *
 * @param hasAdminKeys whether its config has other keys to administer the bucket
 * @throws SourceError, or EnvReadError
 */
export function sourceOfOutputs(name: string, values: unknown, hasAdminKeys: boolean): Source {
  const outputs = v.safeParse(Outputs, values);
  if (!outputs.success) {
    throw new SourceError(`the stack "${name}" has no outputs of this program yet; run: pulumi up --stack ${name}`);
  }
  const { provider, origins, authentikVersion, roleArn, env } = outputs.output;
  const release = authentikVersion === undefined ? undefined : parseRelease(authentikVersion);
  // The provider s3 makes no keys: without keys of the administrator's own, authentik's have created the bucket.
  const keyIsAdmin = provider === "s3" && !hasAdminKeys;
  return { name: `stack "${name}"`, env, origins, release, keyIsAdmin, roleArn, ...readEnv(env, release) };
}

async function pulumi(stack: string, command: readonly string[], { workDir = REPOSITORY, envVars = {} }: StackLocation): Promise<unknown> {
  const args = [...command, "--json", "--non-interactive", "--stack", stack];
  const env = { PULUMI_SKIP_UPDATE_CHECK: "true", ...process.env, ...envVars };
  try {
    const { stdout } = await promisify(execFile)("pulumi", args, { cwd: workDir, env, timeout: PULUMI_TIMEOUT_MS });
    const result: unknown = JSON.parse(stdout);
    return result;
  } catch (error) {
    throw unreadableStack(stack, error);
  }
}

/** The tool's own words, which name the cause: no such stack, no passphrase, no backend. The error itself is left out: it carries the output, with secrets. */
function unreadableStack(name: string, error: unknown): SourceError {
  const { code, stderr } = v.parse(v.object({ code: v.unknown(), stderr: v.optional(v.string(), "") }), error);
  if (code === "ENOENT") {
    return new SourceError("pulumi is not on PATH; install it (https://www.pulumi.com/docs/install), or name an env file instead of a stack", { cause: error });
  }
  const words = stderr.replaceAll(/^error: /gm, "").trim() || `pulumi did not answer within ${PULUMI_TIMEOUT_MS / 1000} s`;
  return new SourceError(`the outputs of the stack "${name}" cannot be read: ${words}`);
}

/**
 * Reads an env file as Docker Compose does. References to files are followed where this machine has them.
 *
 * @throws SourceError, or EnvReadError
 */
export async function readEnvFile(path: string, { origins = [], release }: SourceOptions = {}): Promise<Source> {
  const entries = parseEnvFile(path, await readText(path));
  const env = Object.fromEntries(entries.flatMap(({ name, value }) => (value === undefined ? [] : [[name, value]])));
  const { warnings, ...read } = readEnv(env, release, (file) => readFileSync(resolve(file), "utf8"));
  const replaced = entries.filter(({ name, unset }) => isStorageVariable(name) && unset.length > 0).map(({ name, unset }) =>
    `${name}: Compose replaces ${unset.map((variable) => `"$${variable}"`).join(", ")} in its value by nothing; put the value into single quotes`);
  return { name: `env file "${path}"`, env, origins: [...origins], release, ...read, warnings: [...warnings, ...replaced] };
}

async function readText(path: string): Promise<string> {
  return readFile(path, "utf8").catch((error: unknown) => {
    throw new SourceError(`the env file "${path}" cannot be read; write the path of one that is there`, { cause: error });
  });
}

function parseEnvFile(path: string, text: string): Entry[] {
  try {
    return parseDotenv(text, process.env);
  } catch (error) {
    if (error instanceof DotenvError) throw new SourceError(`Compose does not read the env file "${path}": ${error.message}`, { cause: error });
    throw error;
  }
}
