/** The program: read the config, choose the provider, provision, export. */
import { readStackConfig } from "./config/stack.ts";
import { stackOutputs } from "./outputs.ts";
import { chooseProvider } from "./providers/index.ts";

const { config, provision } = await chooseProvider(readStackConfig());
const storage = provision("authentik");

export default stackOutputs(config, storage);
