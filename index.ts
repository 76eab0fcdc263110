/** The program: read the config, choose the provider, provision, export. */
import { readStackConfig } from "./config/stack.ts";
import { stackOutputs } from "./outputs.ts";
import { provision } from "./providers/index.ts";

const config = readStackConfig();
const storage = await provision("authentik", config);

export default stackOutputs(config, storage);
