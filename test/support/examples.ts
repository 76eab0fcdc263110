/** The example stacks, as Pulumi would hand their values to the program. */
import { readFile } from "node:fs/promises";
import { parse } from "yaml";
import * as v from "valibot";
import type { ProviderName } from "../../providers/index.ts";

const NAMESPACE = "authentik-storage:";
const StackFile = v.object({
  config: v.record(v.string(), v.union([v.string(), v.boolean(), v.number(), v.array(v.string())])),
});

/** Values of `examples/Pulumi.<provider>.yaml`, and any for the secrets that it says are to be set. */
export async function exampleValues(provider: ProviderName): Promise<Record<string, string>> {
  const file = new URL(`../../examples/Pulumi.${provider}.yaml`, import.meta.url);
  const text = await readFile(file, "utf8");
  const { config } = v.parse(StackFile, parse(text));
  const secrets = [...text.matchAll(/pulumi config set --secret (\w+)/g)].map(
    ([, key = ""]): [string, string] => [key, `any-${key}`],
  );
  const values = Object.entries(config).map(([key, value]): [string, string] => {
    if (!key.startsWith(NAMESPACE)) throw new Error(`"${key}" is not of this project`);
    return [key.slice(NAMESPACE.length), typeof value === "string" ? value : JSON.stringify(value)];
  });
  return Object.fromEntries([...values, ...secrets]);
}
