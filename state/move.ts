/**
 * Moves a stack from one home to another. Pulumi's own `stack migrate` copies and encrypts anew; this gives it a folder of its
 * own to do so, compares what came out, and changes the project's file only then. So it can be cut off anywhere and run again.
 */
import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import * as v from "valibot";
import writeFileAtomic from "write-file-atomic";
import { parse } from "yaml";
import { checkSecretsProvider, isSameHome, StateError, type Home } from "./home.ts";
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
  // With --delete-old it would lose the only copy.
  if (isSameHome(from, to)) throw new StateError(`--from "${from.url}" and --to "${to.url}" are one home; a stack is moved to another`);
  const provider = await checkBefore(move);
  progress(`reading ${stack} at both homes`);
  const old = await exportState(move, from);
  const there = await exportState(move, to).catch(noStack);
  const isFull = there !== undefined && there.resources.length > 0;
  const begun = isFull && (await readBegun(move))?.to === to.url;
  if (!isFull) await copyOver(move, provider, old, there);
  if (!isFull || begun) await finish(move, provider);
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

/** What a copy was begun with, kept beside the stack's file of then. */
const Begun = v.object({ to: v.string(), provider: v.string(), state: v.string() });
const BEGUN = "begun.json";

function begunWith({ to }: Move, provider: string, { resources }: State): v.InferOutput<typeof Begun> {
  return { to: to.url, provider, state: createHash("sha256").update(JSON.stringify(resources)).digest("hex") };
}

function beforeName(stack: string): string {
  return `${fileName(stack)}.before`;
}

function workFolder({ workDir, stack }: Move): string {
  return join(workDir, `${basename(stack)}.move`);
}

async function readBegun(move: Move): Promise<v.InferOutput<typeof Begun> | undefined> {
  const text = await readFile(join(workFolder(move), BEGUN), "utf8").catch(() => undefined);
  return text === undefined ? undefined : v.parse(Begun, JSON.parse(text));
}

/** Copies the state to where none is. What an earlier try has left is of its time, so it begins anew. */
async function copyOver(move: Move, provider: string, old: State, there: State | undefined): Promise<void> {
  const { stack, from, to, progress, signal } = move;
  const work = workFolder(move);
  await rm(work, { recursive: true, force: true });
  await begin(move, provider, old);
  // A stack without resources is what a cut off run has left, or nothing that could be lost.
  if (there) await removeEmpty(move);
  progress(`copying ${stack} to its new home`);
  try {
    await pulumi(["stack", "migrate", from.url, stack, "--secrets-provider", provider, "--yes"], { cwd: work, home: to, signal });
  } catch (error) {
    // What cannot be taken away is left to the next run; the error to tell is the copy's.
    await undo(move).catch(() => undefined);
    throw error;
  }
}

/** Takes away what a failed copy has left. A copy that is whole stays, with what the next run needs to finish it. */
async function undo(move: Move): Promise<void> {
  const there = await exportState(move, move.to).catch(noStack);
  if (there !== undefined && there.resources.length > 0) return;
  if (there) await removeEmpty(move);
  await rm(workFolder(move), { recursive: true });
}

/** Pulumi refuses it for a stack with resources. */
async function removeEmpty({ stack, to, projectDir, signal }: Move): Promise<void> {
  await pulumi(["stack", "rm", stack, "--yes", "--preserve-config"], { cwd: projectDir, home: to, signal });
}

/** Sees that nothing is under way, and lays down the work folder whole: its presence says that a copy at the new home is this one. */
async function begin(move: Move, provider: string, old: State): Promise<void> {
  const { stack, projectDir, progress } = move;
  if (old.pending_operations.length > 0) {
    throw new StateError(`an update of "${stack}" was cut off and left operations pending, which a move would lose; run pulumi refresh and pulumi up first`);
  }
  const file = fileName(stack);
  // Read before the preview: what has changed since is found in the end.
  const before = await readFile(join(projectDir, file));
  progress(`previewing ${stack} at its old home`);
  await requireNoChanges(move);
  const folder = `${workFolder(move)}.new`;
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await copyFile(join(projectDir, "Pulumi.yaml"), join(folder, "Pulumi.yaml"));
  for (const name of [file, beforeName(stack)]) await writeFile(join(folder, name), before);
  await writeFile(join(folder, BEGUN), JSON.stringify(begunWith(move, provider, old)));
  await rename(folder, workFolder(move));
}

async function requireNoChanges(move: Move): Promise<void> {
  const fault = await previewFault(move, move.from);
  if (fault === undefined) return;
  // The tool's words for --expect-no-changes; they have no status of their own.
  if (fault.includes("no changes were expected")) throw new StateError(`before a move a preview has to say "no changes"; run pulumi up first. It says:\n${fault}`);
  throw new StateError(`before a move a preview has to say "no changes", and it failed at ${move.from.url}; mend what it says, and run the move again:\n${fault}`);
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

/** Compares both, and gives the project the stack's new file, if neither the state nor the file has become another one since the copy began. */
async function finish(move: Move, provider: string): Promise<void> {
  const { stack, from, to, projectDir, progress } = move;
  const work = workFolder(move);
  const file = fileName(stack);
  progress("comparing");
  const [now, copy] = [await exportState(move, from), await exportState(move, to)];
  requireSame(move, now, copy);
  const after = await readFile(join(work, file), "utf8");
  const before = await readFile(join(work, beforeName(stack)), "utf8");
  const today = await readFile(join(projectDir, file), "utf8");
  const begun = await readBegun(move);
  const changed = [
    ...(begun?.state === begunWith(move, provider, now).state ? [] : [`the state at ${from.url}`]),
    ...(begun?.provider === provider ? [] : ["the secrets provider"]),
    // The new file is there where a run was cut off at its very end.
    ...(today === before || today === after ? [] : [file]),
  ];
  if (changed.length > 0) {
    throw new StateError(
      `since the copy of "${stack}" at ${to.url} was made, what it was made of has changed: ${changed.join(", ")}. Nothing was written. ` +
        `Take the copy away (the cloud is not touched), and run the move again: PULUMI_BACKEND_URL='${to.url}' pulumi stack rm ${stack} --force --preserve-config`,
    );
  }
  await writeFileAtomic(join(projectDir, file), after);
  await rm(work, { recursive: true });
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
