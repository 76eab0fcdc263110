/**
 * The program is `../index.ts`. It starts here because the engine fetches the plugin of every cloud
 * package that it finds below the folder where the program starts, each hundreds of megabytes. It
 * finds none below this folder, and fetches only the chosen provider's when a resource needs it.
 *
 * This file is plain JavaScript, because nothing compiles it. The engine finds it by `main` in
 * package.json.
 *
 * Stacks of earlier versions store paths from this folder: docs/architecture.md says until when it
 * stays one folder below the top.
 */
import { fileURLToPath } from "node:url";
import { requirePulumiVersion } from "@pulumi/pulumi/runtime/settings.js";
import { importTypeScript } from "./typescript.js";

const [{ default: program }] = await Promise.all([
  importTypeScript(fileURLToPath(new URL("../index.ts", import.meta.url))),
  // Older engines ignore `replacementTrigger`: a rotation would export an old key as the new one.
  requirePulumiVersion(">=3.208.0"),
]);

export default program;
