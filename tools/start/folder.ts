/**
 * The folder of the local server and its stack, with the random values that are generated once. Git
 * ignores it.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import type { Keys } from "../../providers/versitygw.ts";
import { REPOSITORY, userPath } from "../lib/repository.ts";
import { writeWholeFile } from "../lib/write-file.ts";
import { freePort } from "./versitygw.ts";

const KeysSchema = v.object({ accessKey: v.string(), secretKey: v.string() });
const Generated = v.object({
  port: v.number(),
  root: KeysSchema,
  authentik: KeysSchema,
  passphrase: v.string(),
});

/** The local server's folders and generated values. */
export interface LocalFolder {
  /** Everything is below this folder. */
  dir: string;
  binDir: string;
  dataDir: string;
  iamDir: string;
  port: number;
  /** The server's root keys. They create the bucket. */
  root: Keys;
  /** The keys of a user without root's rights. authentik gets these. */
  authentik: Keys;
  /** Encrypts the secrets in the local stack's config and state. */
  passphrase: string;
}

const DEFAULT_DIR = join(REPOSITORY, ".local");

/**
 * Opens the folder. The first time it generates port, keys and passphrase. The file that keeps them
 * has mode 0600.
 *
 * @throws Error when that file is damaged
 */
export async function openLocalFolder(path = DEFAULT_DIR): Promise<LocalFolder> {
  const dir = userPath(path);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const file = join(dir, "server.json");
  const text = await readFile(file, "utf8").catch(() => undefined);
  const generated = text === undefined ? await generate() : parse(text, file);
  if (text === undefined) {
    await writeWholeFile(file, `${JSON.stringify(generated, undefined, 2)}\n`);
  }
  return {
    dir,
    binDir: join(dir, "bin"),
    dataDir: join(dir, "data"),
    iamDir: join(dir, "iam"),
    ...generated,
  };
}

async function generate(): Promise<v.InferOutput<typeof Generated>> {
  const port = await freePort();
  return { port, root: generateKeys(), authentik: generateKeys(), passphrase: random(24) };
}

function generateKeys(): Keys {
  return { accessKey: `AK${random(12)}`, secretKey: random(30) };
}

function random(bytes: number): string {
  return randomBytes(bytes).toString("base64url");
}

function parse(text: string, file: string): v.InferOutput<typeof Generated> {
  try {
    return v.parse(Generated, JSON.parse(text));
  } catch (error) {
    const message = `"${file}" is damaged; remove its folder to start with a new server`;
    throw new Error(message, { cause: error });
  }
}
