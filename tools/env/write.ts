/** Writes variables to a file, which may then hold secrets. */
import { isUtf8 } from "node:buffer";
import { readFile } from "node:fs/promises";
import { isCredential } from "../../authentik/env.ts";
import { mergeDotenv, parseDotenv, type Merged } from "../lib/dotenv.ts";
import { regularFile, writeWholeFile } from "../lib/write-file.ts";
import { dotenvValues } from "./formats.ts";

/**
 * Puts variables into a `.env` file, which is created if it does not exist. All its other lines
 * stay, byte for byte, and so do the file's mode and line ends.
 *
 * @returns the variables that had another value, with the old value masked, the names of all
 *   variables in the file, and whether others than its owner can read it
 * @throws FormatError for a value that the file cannot hold, DotenvError if the file is not a
 *   `.env` file, WriteError if it cannot be written
 */
export async function mergeIntoFile(
  path: string,
  env: Readonly<Record<string, string>>,
): Promise<{ replaced: Merged["replaced"]; names: string[]; othersCanRead: boolean }> {
  const exists = (await regularFile(path)) !== undefined;
  const old = exists ? await readFile(path) : Buffer.alloc(0);
  // In Latin-1 each byte is one character, so a file in any other encoding comes back as it was.
  const encoding = isUtf8(old) ? "utf8" : "latin1";
  const asRead = (text: string) => Buffer.from(text).toString(encoding);
  const lines = Object.fromEntries(
    Object.entries(dotenvValues(env)).map(([name, line]) => [name, asRead(line)]),
  );
  const { text, replaced } = mergeDotenv(old.toString(encoding), lines, env);
  const { othersCanRead } = await writeWholeFile(path, Buffer.from(text, encoding));
  return {
    replaced: replaced.map((change) => ({ ...change, old: mask(change.name, change.old) })),
    names: parseDotenv(text).map(({ name }) => name),
    othersCanRead,
  };
}

/** The beginning of a value, to recognize it. A credential or a short value is hidden completely. */
function mask(name: string, value: string): string {
  return isCredential(name) || value.length < 8 ? "****" : `${value.slice(0, 4)}****`;
}
