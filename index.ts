/** The program: read the config, choose the provider, provision, export. */
import { readStackConfig } from "./config/stack.ts";
import { stackOutputs, type StackOutputs } from "./outputs.ts";
import { chooseProvider } from "./providers/index.ts";

/**
 * Runs the program in the running stack.
 *
 * @throws ConfigError with every problem of the config
 */
export default async function program(): Promise<StackOutputs> {
  const { config, provision } = await chooseProvider(readStackConfig());
  return stackOutputs(config, provision("authentik"));
}
