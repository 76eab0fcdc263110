/**
 * Moves a stack from one home to another. Pulumi's own `stack migrate` copies and encrypts anew; this gives it a folder of its
 * own to do so, compares what came out, and changes the project's file only then. So it can be cut off anywhere and run again.
 */
import { access, copyFile, mkdir, mkdtemp, readFile, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import * as v from "valibot";
import writeFileAtomic from "write-file-atomic";
import { parse } from "yaml";
import { checkSecretsProvider, StateError, type Home } from "./home.ts";
import { pulumi, requireNewPassphrase, requirePassphrase } from "./pulumi.ts";

export interface Move {
  stack: string;
  from: Home;
  to: Home;
  /** The one of today by default. */
  secretsProvider?: string | undefined;
  /** Whether the old home forgets the stack, once all else is done. */
  deleteOld?: boolean;
  /** Folder of the `Pulumi.yaml`. */
  projectDir: string;
  /** Where a move that was cut off leaves what the next run needs: the stack's file, before and after. Its secrets are encrypted. */
  workDir: string;
  progress: (step: string) => void;
  signal?: AbortSignal | undefined;
}

/** What a move has done. */
export interface Moved {
  /** Resources in the state, the stack itself included. */
  resources: number;
  /** Whether they were at the new home before, from an earlier run. */
  wasThere: boolean;
  /** What a preview at the new home says, where it is not "no changes". */
  preview?: string;
  oldDeleted: boolean;
}

/** The first release of the command line tool with `stack migrate`. */
const FIRST_WITH_MIGRATE = [3, 254] as const;

/**
 * Moves a stack.
 *
 * @throws StateError that says what to do, with the old home as it was
 */
export async function moveStack(move: Move): Promise<Moved> {
  const { stack, from, to, projectDir, progress } = move;
  if (from.url === to.url) throw new StateError(`--from and --to are both "${from.url}"`);
  const provider = await checkBefore(move);
  progress(`reading ${stack} at both homes`);
  const old = await exportState(move, from);
  const there = await exportState(move, to).catch(noStack);
  const begun = await isThere(workFolder(move));
  const isFull = there !== undefined && there.resources.length > 0;
  if (!isFull || begun) await transfer(move, provider, old, there);
  else requireSame(move, old, there);

  progress(`previewing ${stack} at its new home`);
  const preview = await previewFault(move, to);
  const oldDeleted = move.deleteOld === true && preview === undefined;
  if (oldDeleted) {
    progress(`deleting ${stack} at its old home`);
    await pulumi(["stack", "rm", stack, "--yes", "--force", "--preserve-config"], { cwd: projectDir, home: from, signal: move.signal });
  }
  return { resources: old.resources.length, wasThere: isFull && !begun, oldDeleted, ...(preview === undefined ? {} : { preview }) };
}

/** Everything that can be known to be wrong before anything is done; gives the secrets provider. */
async function checkBefore({ stack, to, secretsProvider, projectDir, signal }: Move): Promise<string> {
  const file = await readStackFile(projectDir, stack);
  const today = file.secretsprovider ?? (file.encryptionsalt === undefined ? "default" : "passphrase");
  const provider = secretsProvider ?? today;
  checkSecretsProvider(provider, to);
  if (today === "passphrase") requirePassphrase(`moving "${stack}"`);
  else if (provider === "passphrase") await requireNewPassphrase(`moving "${stack}"`);
  const version = (await pulumi(["version"], { cwd: projectDir, home: to, signal })).trim();
  const [, major = 0, minor = 0] = (/^v?(\d+)\.(\d+)/.exec(version) ?? []).map(Number);
  if (major < FIRST_WITH_MIGRATE[0] || (major === FIRST_WITH_MIGRATE[0] && minor < FIRST_WITH_MIGRATE[1])) {
    throw new StateError(`pulumi ${version} has no "stack migrate"; install ${FIRST_WITH_MIGRATE.join(".")} or later`);
  }
  return provider;
}

const StackFile = v.looseObject({ encryptionsalt: v.optional(v.string()), secretsprovider: v.optional(v.string()) });

function fileName(stack: string): string {
  return `Pulumi.${basename(stack)}.yaml`;
}

async function readStackFile(dir: string, stack: string): Promise<v.InferOutput<typeof StackFile>> {
  const path = join(dir, fileName(stack));
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    throw new StateError(`the stack's file "${path}" cannot be read; move the stack in the project that it is of`, { cause: error });
  });
  return v.parse(StackFile, parse(text) ?? {});
}

/** What an export holds that a move must not lose. */
const Deployment = v.object({
  resources: v.optional(v.array(v.looseObject({ urn: v.string() })), []),
  pending_operations: v.optional(v.array(v.unknown()), []),
});
type State = v.InferOutput<typeof Deployment>;

async function exportState({ stack, projectDir, signal }: Move, home: Home): Promise<State> {
  const text = await pulumi(["stack", "export", "--stack", stack], { cwd: projectDir, home, signal });
  return v.parse(v.object({ deployment: Deployment }), JSON.parse(text)).deployment;
}

/** The tool's answer for a stack that is not there, by its words: it has no status of its own. */
function noStack(error: unknown): undefined {
  if (error instanceof StateError && /no stack named/.test(error.message)) return undefined;
  throw error;
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(() => true, () => false);
}

function workFolder({ workDir, stack }: Move): string {
  return join(workDir, basename(stack));
}

/** Copies the state, compares both, and gives the project the stack's new file. */
async function transfer(move: Move, provider: string, old: State, there: State | undefined): Promise<void> {
  const { stack, from, to, projectDir, progress, signal } = move;
  const work = workFolder(move);
  const file = fileName(stack);
  if (!(await isThere(work))) await begin(move, old);
  if (there === undefined || there.resources.length === 0) {
    // A stack without resources is what a cut off run has left, or nothing that could be lost.
    if (there) await pulumi(["stack", "rm", stack, "--yes", "--preserve-config"], { cwd: projectDir, home: to, signal });
    progress(`copying ${stack} to its new home`);
    await copyFile(join(work, `${file}.before`), join(work, file));
    await pulumi(["stack", "migrate", from.url, stack, "--secrets-provider", provider, "--yes"], { cwd: work, home: to, signal });
  }
  progress("comparing");
  const [now, copy] = [await exportState(move, from), await exportState(move, to)];
  requireSame(move, now, copy);
  await writeFileAtomic(join(projectDir, file), await readFile(join(work, file)));
  await rm(work, { recursive: true });
}

/** Sees that nothing is under way, and lays down the work folder whole: its presence says that a copy at the new home is this one. */
async function begin(move: Move, { pending_operations }: State): Promise<void> {
  const { stack, from, projectDir, workDir, progress } = move;
  if (pending_operations.length > 0) {
    throw new StateError(`an update of "${stack}" was cut off and left operations pending, which a move would lose; run pulumi refresh and pulumi up first`);
  }
  progress(`previewing ${stack} at its old home`);
  const fault = await previewFault(move, from);
  if (fault !== undefined) throw new StateError(`before a move a preview has to say "no changes"; run pulumi up first. It says:\n${fault}`);
  await mkdir(workDir, { recursive: true, mode: 0o700 });
  const folder = await mkdtemp(join(workDir, ".new-"));
  await copyFile(join(projectDir, "Pulumi.yaml"), join(folder, "Pulumi.yaml"));
  await copyFile(join(projectDir, fileName(stack)), join(folder, `${fileName(stack)}.before`));
  await rename(folder, workFolder(move));
}

async function previewFault({ stack, projectDir, signal }: Move, home: Home): Promise<string | undefined> {
  try {
    await pulumi(["preview", "--stack", stack, "--expect-no-changes", "--diff"], { cwd: projectDir, home, signal });
    return undefined;
  } catch (error) {
    if (error instanceof StateError) return error.message;
    throw error;
  }
}

function requireSame({ stack, from, to }: Move, old: State, copy: State): void {
  const differing = differences(old.resources, copy.resources);
  if (differing.length === 0) return;
  throw new StateError(
    `"${stack}" is at ${to.url} too, and differs from the one at ${from.url} in ${differing.length} resources: ${differing.slice(0, 5).join(", ")}. ` +
      `See which of them you want; the other goes with: PULUMI_BACKEND_URL='<its home>' pulumi stack rm ${stack} --force --preserve-config (the cloud is not touched)`,
  );
}

/** The URNs of the resources that are not the same in both, whatever their secrets are encrypted with. */
export function differences(old: State["resources"], copy: State["resources"]): string[] {
  const plain = (resources: State["resources"]) => new Map(resources.map((resource) => [resource.urn, JSON.stringify(withoutCiphertext(resource))]));
  const [before, after] = [plain(old), plain(copy)];
  return [...new Set([...before.keys(), ...after.keys()])].filter((urn) => before.get(urn) !== after.get(urn));
}

/** A secret in a state is an object with Pulumi's mark for one and its ciphertext. */
function withoutCiphertext(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutCiphertext);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, key === "ciphertext" ? "" : withoutCiphertext(item)]));
}
