/** The places of this repository and of the user on the machine. */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** Absolute path of the folder of `Pulumi.yaml`, with a slash at its end. */
export const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));

/**
 * The absolute path of what a user means by a path: relative to the folder where the user is. npm
 * runs scripts in the package's folder and names the user's folder in `INIT_CWD` (npm, `npm run`).
 */
export function userPath(path: string): string {
  const isMovedByNpm = resolve(process.cwd()) === resolve(REPOSITORY);
  return resolve((isMovedByNpm ? process.env.INIT_CWD : undefined) ?? process.cwd(), path);
}
