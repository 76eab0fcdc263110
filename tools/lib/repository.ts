/** The place of this repository on the machine. */
import { fileURLToPath } from "node:url";

/** Absolute path of the folder of `Pulumi.yaml`, with a slash at its end. */
export const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
