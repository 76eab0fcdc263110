/** Reads the running stack's config. Nothing else in the program reads raw config. */
import { getProject } from "@pulumi/pulumi/metadata.js";
import { allConfig, isConfigSecret } from "@pulumi/pulumi/runtime/config.js";
import type { RawConfig } from "./index.ts";

declare module "@pulumi/pulumi/runtime/config.js" {
  /** Part of the SDK, but stripped from its types; there is no public way to ask whether a value is a secret. */
  function isConfigSecret(key: string): boolean;
}

/** The project's name in this repository, and so in its examples. `pulumi new` gives another one. */
const ORIGINAL = "authentik-storage:";

/** The config of the stack that this program runs for, as Pulumi hands it over. */
export function readStackConfig(): RawConfig {
  const namespace = `${getProject()}:`;
  const own = Object.entries(allConfig()).filter(([key]) => key.startsWith(namespace));
  const named = new Set(own.map(([key]) => key.slice(namespace.length)));
  // Those of the tracked `Pulumi.dev.yaml` are answered by `pulumi new` under the new name.
  const copied = Object.keys(allConfig()).filter((key) => key.startsWith(ORIGINAL) && !named.has(key.slice(ORIGINAL.length)));
  return {
    values: Object.fromEntries(own.map(([key, value]) => [key.slice(namespace.length), value])),
    secrets: new Set(own.filter(([key]) => isConfigSecret(key)).map(([key]) => key.slice(namespace.length))),
    misplaced: copied.map((key) => ({ key, instead: `${namespace}${key.slice(ORIGINAL.length)}` })),
  };
}
