/** Reads the running stack's config. Nothing else in the program reads raw config. */
import { getProject } from "@pulumi/pulumi/metadata.js";
import { allConfig, isConfigSecret } from "@pulumi/pulumi/runtime/config.js";
import type { RawConfig } from "./index.ts";

declare module "@pulumi/pulumi/runtime/config.js" {
  /** Part of the SDK, but not of its types. There is no public way to find out whether a value is a secret. */
  function isConfigSecret(key: string): boolean;
}

/** The project's name in this repository and its examples. `pulumi new` gives a project another name. */
const ORIGINAL = "authentik-storage:";

/** The config of the running stack, as Pulumi passes it to the program. */
export function readStackConfig(): RawConfig {
  const namespace = `${getProject()}:`;
  const own = Object.entries(allConfig()).filter(([key]) => key.startsWith(namespace));
  const values = Object.fromEntries(
    own.map(([key, value]) => [key.slice(namespace.length), value]),
  );
  const secrets = own.map(([key]) => key).filter((key) => isConfigSecret(key));
  // `pulumi new` sets the keys of the tracked `Pulumi.dev.yaml` under the new name. The others were copied by hand.
  const misplaced = Object.keys(allConfig())
    .filter((key) => key.startsWith(ORIGINAL) && !(key.slice(ORIGINAL.length) in values))
    .map((key) => ({ key, instead: `${namespace}${key.slice(ORIGINAL.length)}` }));
  return {
    values,
    secrets: new Set(secrets.map((key) => key.slice(namespace.length))),
    misplaced,
  };
}
