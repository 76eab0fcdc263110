/** The first stack of an environment. */
import { checkHome } from "./check.ts";
import { checkSecretsProvider, StateError, type Home } from "./home.ts";
import { pulumi, requireNewPassphrase } from "./pulumi.ts";

export interface Start {
  stack: string;
  home: Home;
  secretsProvider: string;
  /** Folder of the `Pulumi.yaml`. */
  projectDir: string;
  signal?: AbortSignal | undefined;
}

/**
 * Makes a stack at a home, with its secrets encrypted by the provider, and selects it.
 *
 * @throws StateError when the home cannot keep it, or has it already
 */
export async function startStack({ stack, home, secretsProvider, projectDir, signal }: Start): Promise<void> {
  checkSecretsProvider(secretsProvider, home);
  if (secretsProvider === "passphrase") await requireNewPassphrase(`the stack "${stack}"`);
  const failed = (await checkHome(home, signal)).find(({ ok }) => !ok);
  if (failed) throw new StateError(`${home.url} cannot keep the state (${failed.step}): ${failed.said ?? ""}\n${failed.advice ?? ""}`);
  await pulumi(["stack", "init", stack, "--secrets-provider", secretsProvider], { cwd: projectDir, home, signal });
}
