/**
 * The providers. A line of this table is all that registers one. Only the chosen one's file is loaded, because the clouds'
 * packages are large; the others' are too where a config has a key that it does not know, to say whose it is.
 */
import { parseConfig, type RawConfig } from "../config/index.ts";
import type { Chosen, Provider } from "./contract.ts";

export const providers = {
  aws: () => import("./aws.ts"),
  r2: () => import("./r2.ts"),
  azure: () => import("./azure.ts"),
  s3: () => import("./s3/index.ts"),
};

export type ProviderName = keyof typeof providers;

/** The closed list of providers. */
export const PROVIDERS: readonly ProviderName[] = Object.keys(providers).filter(isProviderName);

function isProviderName(text: string): text is ProviderName {
  return Object.hasOwn(providers, text);
}

type ConfigOf<Name extends ProviderName> = Awaited<ReturnType<(typeof providers)[Name]>>["default"] extends Provider<infer Config> ? Config : never;

/** The config of one stack: a union discriminated by `provider`, which each config has to have as the table names it. */
export type StorageConfig = { [Name in ProviderName]: ConfigOf<Name> & { provider: Name } }[ProviderName];

/**
 * The provider that a stack's config names, with that config typed.
 *
 * @throws ConfigError with every problem of the config
 */
export function chooseProvider(raw: RawConfig): Promise<Chosen<StorageConfig>> {
  return parseConfig<Chosen<StorageConfig>>(raw, providers);
}
