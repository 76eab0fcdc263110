/**
 * The providers. One line of this table registers a provider. Only the chosen provider's file is
 * loaded, because the clouds' packages are large. The others are loaded only to find the owner of a
 * key that the chosen provider does not know.
 */
import { parseConfig, type RawConfig } from "../config/index.ts";
import type { Chosen, Provider, ResourceType } from "./contract.ts";

/** By the provider's name: its file, and the Pulumi packages that its types of resources are from. */
export const providers = {
  aws: { load: () => import("./aws.ts"), packages: ["aws"] },
  r2: { load: () => import("./r2.ts"), packages: ["cloudflare"] },
  azure: { load: () => import("./azure.ts"), packages: ["azure-native", "random"] },
  s3: { load: () => import("./s3/index.ts"), packages: ["pulumi-nodejs"] },
};

export type ProviderName = keyof typeof providers;

/** The closed list of providers. */
export const PROVIDERS: readonly ProviderName[] = Object.keys(providers).filter(isProviderName);

function isProviderName(text: string): text is ProviderName {
  return Object.hasOwn(providers, text);
}

type FileOf<Name extends ProviderName> = Awaited<
  ReturnType<(typeof providers)[Name]["load"]>
>["default"];
type ConfigOf<Name extends ProviderName> =
  FileOf<Name> extends Provider<infer Config> ? Config : never;

/** The config of one stack: a union discriminated by `provider`. */
export type StorageConfig = {
  [Name in ProviderName]: ConfigOf<Name> & { provider: Name };
}[ProviderName];

/**
 * The provider that a stack's config names, with that config typed.
 *
 * @throws ConfigError with every problem of the config
 */
export function chooseProvider(raw: RawConfig): Promise<Chosen<StorageConfig>> {
  return parseConfig<Chosen<StorageConfig>>(raw, providers);
}

/** The token of each type of resources that a provider registers. */
export type RegisteredType = {
  [Name in ProviderName]: keyof FileOf<Name>["resources"];
}[ProviderName];

/**
 * What is known of a type of resources; undefined for a type that no provider registers. It loads only the files of the
 * providers that use the type's package: loading all of them takes more than a second.
 *
 * @param type a type token, under any of its names
 */
export async function resourceType(type: string): Promise<ResourceType | undefined> {
  const token = typeName(type);
  const [packageName = "", module = ""] = token.split(":");
  for (const [name, { load, packages }] of Object.entries(providers)) {
    const isOwn =
      packageName === "authentik-storage" ? module === name : packages.includes(packageName);
    const resources: Record<string, ResourceType> = isOwn ? (await load()).default.resources : {};
    if (Object.hasOwn(resources, token)) return resources[token];
  }
  return undefined;
}

/**
 * The token that the providers' tables have for a type. AWS's resources of S3 have a second name
 * (`aws:s3/bucketV2:BucketV2`). Azure's names may contain the version of the API
 * (`azure-native:storage/v20230101:StorageAccount`, or as a package of its own
 * `azure-native_storage_v20230101:storage:StorageAccount`).
 */
export function typeName(type: string): string {
  return type
    .replace(/^(aws:s3\/\w+)V2:(\w+)V2$/, "$1:$2")
    .replace(/^azure-native(?:_\w+)?:(\w+)(?:\/v\w+)?:/, "azure-native:$1:");
}
