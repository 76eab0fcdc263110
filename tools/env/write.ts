/** Writing a form to a file that may hold secrets. */
import { readFile } from "node:fs/promises";
import writeFileAtomic from "write-file-atomic";
import { isCredential } from "../../authentik/env.ts";
import { mergeDotenv, type Merged } from "../lib/dotenv.ts";
import { dotenvLines } from "./formats.ts";

/** Readable by its owner alone. */
const MODE = 0o600;

/** Writes a file whole or not at all, over whatever is there. */
export async function writeSecretFile(path: string, text: string): Promise<void> {
  await writeFileAtomic(path, text, { mode: MODE });
}

/**
 * Puts variables into a `.env` file, which is made if it is not there. All its other lines stay.
 *
 * @returns what became of old values, which are masked
 * @throws FormatError, or DotenvError where the file cannot be read
 */
export async function mergeIntoFile(path: string, env: Readonly<Record<string, string>>): Promise<Merged["replaced"]> {
  const old = await readFile(path, "utf8").catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return "";
    throw error;
  });
  const { text, replaced } = mergeDotenv(old, dotenvLines(env), env);
  await writeSecretFile(path, text);
  return replaced.map((change) => ({ ...change, old: mask(change.name, change.old) }));
}

/** Enough to recognise a setting; nothing of a secret but that it was there. */
function mask(name: string, value: string): string {
  return isCredential(name) || value.length < 8 ? "****" : `${value.slice(0, 4)}****`;
}
