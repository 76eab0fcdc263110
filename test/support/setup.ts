/**
 * Before all tests: the local S3 server is installed, once. Without it on PATH, this takes up to
 * some minutes, and each `npm start` of a test would install it again in its own folder.
 */
import { delimiter, join } from "node:path";
import { REPOSITORY } from "../../tools/lib/repository.ts";
import { findVersitygw } from "../../tools/start/versitygw.ts";

/** Where programs are installed that are not on PATH. */
export const BIN_DIR = join(REPOSITORY, ".local/bin");

process.env.PATH = [process.env.PATH, BIN_DIR].join(delimiter);

export async function mochaGlobalSetup(): Promise<void> {
  await findVersitygw(BIN_DIR);
}
