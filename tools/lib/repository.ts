/** This repository and its files, and paths of the user. */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import * as v from "valibot";

/** Absolute path of the folder of `Pulumi.yaml`, with a slash at its end. */
export const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));

/**
 * The absolute path for a path that a user wrote, relative to the user's folder. npm runs scripts in
 * the package's folder and names the user's folder in `INIT_CWD` (npm, `npm run`).
 */
export function userPath(path: string): string {
  const isMovedByNpm = resolve(process.cwd()) === resolve(REPOSITORY);
  return resolve((isMovedByNpm ? process.env.INIT_CWD : undefined) ?? process.cwd(), path);
}

/** The content of `Pulumi.yaml`. */
export const Project = v.looseObject({
  name: v.string(),
  main: v.optional(v.string(), "."),
  plugins: v.optional(
    v.object({
      providers: v.optional(v.array(v.object({ name: v.string(), path: v.string() })), []),
    }),
    {},
  ),
});

/** The content of `Pulumi.<stack>.yaml`. */
export const StackFile = v.looseObject({
  config: v.optional(v.record(v.string(), v.unknown()), {}),
});
