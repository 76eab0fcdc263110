/** Writes variables to a file, which may then hold secrets. */
import { readFile } from "node:fs/promises";
import writeFileAtomic from "write-file-atomic";
import { isCredential } from "../../authentik/env.ts";
import { mergeDotenv, parseDotenv, type Merged } from "../lib/dotenv.ts";
import { dotenvValues } from "./formats.ts";

/** Only the owner of the file can read it. */
const MODE = 0o600;

/** Writes a whole file or nothing. An existing file is replaced. */
export async function writeSecretFile(path: string, text: string): Promise<void> {
  await writeFileAtomic(path, text, { mode: MODE });
}

/**
 * Puts variables into a `.env` file, which is created if it does not exist. All its other lines
 * stay.
 *
 * @returns the variables that had another value, with the old value masked, and the names of all
 *   variables in the file
 * @throws FormatError for a value that the file cannot hold, DotenvError if the file is not a
 *   `.env` file
 */
export async function mergeIntoFile(
  path: string,
  env: Readonly<Record<string, string>>,
): Promise<{ replaced: Merged["replaced"]; names: string[] }> {
  const old = await readFile(path, "utf8").catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return "";
    throw error;
  });
  const { text, replaced } = mergeDotenv(old, dotenvValues(env), env);
  await writeSecretFile(path, text);
  return {
    replaced: replaced.map((change) => ({ ...change, old: mask(change.name, change.old) })),
    names: parseDotenv(text).map(({ name }) => name),
  };
}

/** The beginning of a value, to recognise it. Nothing of a credential or a short value is shown. */
function mask(name: string, value: string): string {
  return isCredential(name) || value.length < 8 ? "****" : `${value.slice(0, 4)}****`;
}
