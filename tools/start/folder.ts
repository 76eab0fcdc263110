/** What the local server and its stack are made of: drawn once, kept in a folder that git ignores. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import writeFileAtomic from "write-file-atomic";
import type { Keys } from "../../providers/versitygw.ts";
import { REPOSITORY } from "../lib/repository.ts";
import { freePort } from "./versitygw.ts";

const KeysSchema = v.object({ accessKey: v.string(), secretKey: v.string() });
const DrawnSchema = v.object({ port: v.number(), root: KeysSchema, authentik: KeysSchema, passphrase: v.string() });

/** The local server's folders, and what was drawn for it. */
export interface LocalHome {
  /** Everything is below this folder. */
  dir: string;
  binDir: string;
  dataDir: string;
  iamDir: string;
  port: number;
  /** The server's root keys: what creates the bucket. */
  root: Keys;
  /** The keys of a user without root's rights: what authentik gets. */
  authentik: Keys;
  /** Encrypts the secrets in the local stack's config and state. */
  passphrase: string;
}

const DEFAULT_DIR = join(REPOSITORY, ".local");

/**
 * Opens the folder, drawing port and keys the first time; the file that keeps them has mode 0600.
 *
 * @throws Error when that file was damaged
 */
export async function openLocalHome(dir = DEFAULT_DIR): Promise<LocalHome> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const file = join(dir, "server.json");
  const text = await readFile(file, "utf8").catch(() => undefined);
  const drawn = text === undefined ? await draw() : parse(text, file);
  if (text === undefined) await writeFileAtomic(file, `${JSON.stringify(drawn, undefined, 2)}\n`, { mode: 0o600 });
  return { dir, binDir: join(dir, "bin"), dataDir: join(dir, "data"), iamDir: join(dir, "iam"), ...drawn };
}

async function draw(): Promise<v.InferOutput<typeof DrawnSchema>> {
  return { port: await freePort(), root: drawKeys(), authentik: drawKeys(), passphrase: random(24) };
}

function drawKeys(): Keys {
  return { accessKey: `AK${random(12)}`, secretKey: random(30) };
}

function random(bytes: number): string {
  return randomBytes(bytes).toString("base64url");
}

function parse(text: string, file: string): v.InferOutput<typeof DrawnSchema> {
  try {
    return v.parse(DrawnSchema, JSON.parse(text));
  } catch (error) {
    throw new Error(`"${file}" is damaged; remove the folder it is in to begin anew`, { cause: error });
  }
}
