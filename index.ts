/** The program: read the config, choose the provider, provision, export. */
import { requirePulumiVersion } from "@pulumi/pulumi/runtime/settings.js";
import { readStackConfig } from "./config/stack.ts";
import { stackOutputs } from "./outputs.ts";
import { chooseProvider } from "./providers/index.ts";

// Older tools ignore `replacementTrigger`, so that a rotation would export an old key as the new one.
await requirePulumiVersion(">=3.208.0");

const { config, provision } = await chooseProvider(readStackConfig());
const storage = provision("authentik");

export default stackOutputs(config, storage);
