/** The stacks of a project, found from their files. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { parse } from "yaml";
import { PROVIDERS, type ProviderName } from "../../providers/index.ts";
import { Project, StackFile } from "../lib/repository.ts";

/** One entry of a workflow's matrix. */
export interface StackEntry {
  stack: string;
  provider: ProviderName;
}

/** A stack's file or name that cannot be used. The message says what to do. */
export class StackError extends Error {
  override name = "StackError";
}

/** The stack of `npm start`. It has no preview. */
const LOCAL_STACK = "dev";
/**
 * Pulumi's rule for names of stacks (`sdk/go/common/tokens/stack.go`), with an optional
 * organization and project.
 */
const NAME = /^(?:[\w.-]{1,100}\/){0,2}[\w.-]{1,100}$/;
/**
 * The end of the name of a GitHub environment for previews. Everyone who can push a branch can use
 * it. GitHub ignores case.
 */
const PREVIEW_ENVIRONMENT = /-preview$/i;

/**
 * Every stack with a file `Pulumi.<stack>.yaml` in this folder, except `dev`, sorted by name.
 *
 * @throws StackError when a file has no valid provider or name
 */
export async function findStacks(folder: string): Promise<StackEntry[]> {
  const files = await readdir(folder);
  const { name: project } = v.parse(Project, await readYaml(join(folder, "Pulumi.yaml")));
  const key = `${project}:provider`;
  const names = files
    .flatMap((file) => /^Pulumi\.(.+)\.yaml$/.exec(file)?.[1] ?? [])
    .filter((name) => name !== LOCAL_STACK)
    .sort()
    .map(checkStackName);
  checkEnvironments(names);
  return Promise.all(
    names.map(async (stack) => {
      return { stack, provider: await providerOf(join(folder, `Pulumi.${stack}.yaml`), key) };
    }),
  );
}

/**
 * Checks a stack's name and returns it. The name is used in command lines, paths and comments, and
 * it is the name of the GitHub environment that deploys the stack.
 *
 * @throws StackError
 */
export function checkStackName(name: string): string {
  // The name must not look like an option or a folder.
  const isFolder = name.split("/").some((part) => /^\.{1,2}$/.test(part));
  if (!NAME.test(name) || name.startsWith("-") || isFolder) {
    throw new StackError(
      `${JSON.stringify(name)} is not a valid stack name; use letters, digits, "-", "_" and ".", ` +
        'and not "." or ".." alone',
    );
  }
  if (PREVIEW_ENVIRONMENT.test(name)) {
    const other = name.replace(PREVIEW_ENVIRONMENT, "");
    throw new StackError(
      `the stack "${name}" would be deployed in the GitHub environment for previews of "${other}", ` +
        "which has no reviewers; choose a name that does not end in -preview: " +
        "pulumi stack rename <name>",
    );
  }
  return name;
}

/** @throws StackError when two stacks would share a GitHub environment: GitHub ignores case */
function checkEnvironments(names: readonly string[]): void {
  const seen = new Map<string, string>();
  for (const name of names) {
    const other = seen.get(name.toLowerCase());
    if (other !== undefined) {
      throw new StackError(
        `the stacks "${other}" and "${name}" would share one GitHub environment, ` +
          "because GitHub ignores case; " +
          "rename one of them: pulumi stack rename <name>",
      );
    }
    seen.set(name.toLowerCase(), name);
  }
}

async function providerOf(file: string, key: string): Promise<ProviderName> {
  const content = v.safeParse(StackFile, await readYaml(file));
  const value = content.success ? content.output.config[key] : undefined;
  const provider = PROVIDERS.find((name) => name === value);
  if (provider === undefined) {
    const what = value === undefined ? "missing" : JSON.stringify(value);
    throw new StackError(`"${file}": ${key} is ${what}; write one of ${PROVIDERS.join(", ")}`);
  }
  return provider;
}

async function readYaml(file: string): Promise<unknown> {
  try {
    const content: unknown = parse(await readFile(file, "utf8"));
    return content;
  } catch (error) {
    throw new StackError(`"${file}" is not valid YAML`, { cause: error });
  }
}
