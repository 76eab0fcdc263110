/** Reads the input of the commands: a stack's outputs, or the variables in an env file. */
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import * as v from "valibot";
import { isStorageVariable, type StorageSettings } from "../../authentik/env.ts";
import { originOf, readEnv } from "../../authentik/read-env.ts";
import { parseRelease, type Release } from "../../authentik/release.ts";
import { DotenvError, parseDotenv, type Entry } from "./dotenv.ts";
import { pulumiJson, PulumiError, type StackLocation } from "./pulumi.ts";
import { userPath } from "./repository.ts";

/** authentik's storage as a stack or an env file describes it. */
export interface Source {
  /** For messages: `stack "dev"`, `env file ".env"`. */
  name: string;
  /** Its name on a command line: `stack:dev`, `env:.env`. */
  argument: string;
  /** Read back from `env` by authentik's rules. */
  settings: StorageSettings;
  /** Names to values, as authentik gets them. An env file's other variables are among them. */
  env: Record<string, string>;
  /** The origins under which browsers reach authentik. */
  origins: string[];
  /** The authentik release; undefined when it is not known. */
  release?: Release | undefined;
  /** Whether some of the names are read only by authentik 2025.12 and later. */
  hasGeneralNames: boolean;
  /** Whether the key is the one that administers the bucket; undefined when that is not known. */
  keyIsAdmin?: boolean | undefined;
  /** The URL at which everyone can read the files if public access is on at the provider. */
  publicUrl?: string | undefined;
  /** The AWS role of authentik's service accounts, if the stack created one. */
  roleArn?: string | undefined;
  /** The service accounts that may have the role, as `namespace/name`. */
  serviceAccounts?: readonly string[] | undefined;
  /** Warnings about the variables. */
  warnings: string[];
}

/** Values that an env file does not have. */
export interface SourceOptions {
  origins?: readonly string[] | undefined;
  release?: Release | undefined;
}

/** A source that cannot be read. The message says what to do. */
export class SourceError extends Error {
  override name = "SourceError";
}

/**
 * Reads `stack:NAME` or `env:FILE`. Any other text, e.g. a folder, gives undefined.
 *
 * @throws SourceError, or EnvReadError when authentik could not use the variables
 */
export async function readSource(text: string): Promise<Source | undefined> {
  const [, kind, rest = ""] = /^(stack|env):(.+)$/s.exec(text) ?? [];
  if (kind === "stack") return readStack(rest);
  return kind === "env" ? readEnvFile(rest) : undefined;
}

/**
 * The tool talks to its backend over the network, and may wait for a passphrase without end.
 */
const PULUMI_TIMEOUT_MS = 60_000;

const Outputs = v.object({
  provider: v.string(),
  origins: v.array(v.string()),
  authentikVersion: v.optional(v.string()),
  publicUrl: v.optional(v.string()),
  roleArn: v.optional(v.string()),
  serviceAccounts: v.optional(v.array(v.string())),
  env: v.record(v.string(), v.string()),
});

/**
 * Reads a stack's outputs, secrets included, and the keys of its config. This runs the tool twice
 * at the same time. The Automation API would run it four times in sequence, and takes a second to
 * load.
 *
 * @throws SourceError, or EnvReadError
 */
export async function readStack(name: string, location: StackLocation = {}): Promise<Source> {
  const [outputs, config] = await Promise.all([
    askPulumi(name, ["stack", "output", "--show-secrets"], location),
    askPulumi(name, ["config"], location),
  ]);
  const configKeys = Object.keys(v.parse(v.record(v.string(), v.unknown()), config));
  const hasAdminKeys = configKeys.some((key) => key.endsWith(":adminAccessKey"));
  return sourceOfOutputs(name, outputs, hasAdminKeys);
}

/**
 * The source that a stack's outputs describe.
 *
 * @param values the outputs, with secrets in plain text
 * @param hasAdminKeys whether the stack's config has separate keys that administer the bucket
 * @throws SourceError, or EnvReadError
 */
export function sourceOfOutputs(name: string, values: unknown, hasAdminKeys: boolean): Source {
  const outputs = v.safeParse(Outputs, values);
  if (!outputs.success) {
    throw new SourceError(
      `the stack "${name}" has no outputs of this program yet; run: pulumi up --stack ${name}`,
    );
  }
  const { provider, origins, authentikVersion, env, ...parts } = outputs.output;
  const release = authentikVersion === undefined ? undefined : parseRelease(authentikVersion);
  // The provider s3 creates no keys. Without separate admin keys, authentik's own keys created the
  // bucket.
  const keyIsAdmin = provider === "s3" && !hasAdminKeys;
  const read = readEnv(env, release);
  const names = { name: `stack "${name}"`, argument: `stack:${name}` };
  return { ...names, env, origins, release, keyIsAdmin, ...parts, ...read };
}

async function askPulumi(
  stack: string,
  command: readonly string[],
  location: StackLocation,
): Promise<unknown> {
  try {
    const args = [...command, "--stack", stack];
    return await pulumiJson(args, { ...location, timeoutMs: PULUMI_TIMEOUT_MS });
  } catch (error) {
    if (!(error instanceof PulumiError)) throw error;
    const message = `the outputs of the stack "${stack}" cannot be read: ${error.message}`;
    throw new SourceError(message, { cause: error });
  }
}

/**
 * Reads an env file as Docker Compose does. References to files are followed if the files exist on
 * this machine.
 *
 * @throws SourceError, or EnvReadError
 */
export async function readEnvFile(
  path: string,
  { origins = [], release }: SourceOptions = {},
): Promise<Source> {
  const entries = parseEnvFile(path, await readText(path));
  const env = Object.fromEntries(
    entries.flatMap(({ name, value }) => (value === undefined ? [] : [[name, value]])),
  );
  const readFileOfVariable = (file: string) => readFileSync(userPath(file), "utf8");
  const { warnings, ...read } = readEnv(env, release, readFileOfVariable);
  return {
    name: `env file "${path}"`,
    argument: `env:${path}`,
    env,
    origins: [...new Set([...origins, originOf(env) ?? []].flat())],
    release,
    ...read,
    warnings: [...warnings, ...entries.flatMap(unsetReferences)],
  };
}

/** A warning when Compose replaces a part of a storage variable's value by nothing. */
function unsetReferences({ name, unset }: Entry): string[] {
  if (!isStorageVariable(name) || unset.length === 0) return [];
  const references = unset.map((variable) => `"$${variable}"`).join(", ");
  return [
    `${name}: Compose replaces ${references} in its value by nothing; ` +
      "put the value into single quotes",
  ];
}

async function readText(path: string): Promise<string> {
  return readFile(userPath(path), "utf8").catch((error: unknown) => {
    const message = `the env file "${userPath(path)}" cannot be read; write the path of a file that exists`;
    throw new SourceError(message, { cause: error });
  });
}

function parseEnvFile(path: string, text: string): Entry[] {
  try {
    return parseDotenv(text, process.env);
  } catch (error) {
    if (!(error instanceof DotenvError)) throw error;
    const message = `Docker Compose cannot read the env file "${path}": ${error.message}`;
    throw new SourceError(message, { cause: error });
  }
}
