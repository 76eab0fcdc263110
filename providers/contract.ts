/** What every provider's file provides. */
import { RunError } from "@pulumi/pulumi/errors.js";
import type { Output } from "@pulumi/pulumi/output.js";
import type * as v from "valibot";
import type { AddressingStyle } from "../authentik/env.ts";
import { parseProvider, type CommonConfig, type ProviderConfig } from "../config/common.ts";
import type { ConfigReader } from "../config/index.ts";
import type { Retention } from "./retention.ts";

/** What authentik signs with: keys, the name of an AWS profile, or nothing if it has a role. */
export interface Credentials {
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  sessionToken?: string | undefined;
  sessionProfile?: string | undefined;
}

/** A bucket that authentik can use. Each provider's component resource is one. */
export interface AuthentikStorage {
  readonly bucketName: Output<string>;
  /** The region that requests are signed for; undefined if the server needs none. */
  readonly region: Output<string | undefined>;
  /** URL of the S3 API, without the bucket. */
  readonly endpoint: Output<string>;
  /** The host from which browsers load files, without scheme, with the bucket. The default is the endpoint. */
  readonly customDomain?: Output<string> | undefined;
  /** Where everybody could read the files if somebody turned that on at the provider. */
  readonly publicUrl?: Output<string> | undefined;
  /** What authentik signs with. Always a Pulumi secret. */
  readonly credentials: Output<Credentials>;
  /** The AWS role that authentik's pods assume, if the provider creates one. */
  readonly roleArn?: Output<string> | undefined;
  /** The Kubernetes service accounts that may have the role, as `namespace/name`. */
  readonly serviceAccounts?: readonly string[] | undefined;
  /** Where the bucket is in URLs, for releases with that setting; undefined leaves it to boto3. */
  readonly addressingStyle?: AddressingStyle | undefined;
}

/** The provider of a stack, chosen and configured. */
export interface Chosen<Config> {
  config: Config;
  /** Registers the storage that the config describes, below one component of this name. */
  provision: (name: string) => AuthentikStorage;
}

/** What the tools and the policies know of a type of resources. */
export interface ResourceType {
  /** What a reviewer calls it, e.g. `CORS policy`. */
  label: string;
  /** Whether it holds authentik's files: deleting or replacing it deletes them. False by default. */
  holdsFiles?: boolean;
  /** The properties that have the name of the bucket, where the resource is the bucket. */
  bucketName?: readonly string[];
  /**
   * The settings that decide for how long files are kept. A plan that shortens that needs the same
   * label as a deletion.
   */
  keeps?: readonly Retention[];
}

/**
 * What a provider cannot do, and what the user can change. A `RunError`, so that the engine shows
 * its message and no stack. Throw nothing else in an `apply`: on Node 20 and 22 the SDK takes up to
 * two minutes to print a stack (pulumi/pulumi issue 20567).
 */
export class ProviderError extends RunError {
  override name = "ProviderError";
  constructor(message: string, cause?: unknown) {
    super(message);
    this.cause = cause;
    this.stack = "";
  }
}

/**
 * What a provider's function (an `invoke`) answers.
 *
 * @param what what is looked up, e.g. `the permission groups of the account`
 * @param todo what to do when this fails, with the key of the setting
 * @throws ProviderError with both and the provider's reason
 */
export async function lookUp<Answer>(
  what: string,
  todo: string,
  call: () => Promise<Answer>,
): Promise<Answer> {
  try {
    return await call();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ProviderError(`could not look up ${what} (${reason}); ${todo}`, error);
  }
}

/** What a provider's file exports by default. */
export interface Provider<Config, Type extends string = string>
  extends ConfigReader<Chosen<Config>> {
  /**
   * Every type of resources that the provider registers, its component included, and those that
   * keep files and that a change to the program may add, by type token.
   */
  resources: Readonly<Record<Type, ResourceType>>;
}

/** A provider: its part of the config, the types of its resources, and what it makes of the config. */
interface Definition<Keys extends v.ObjectEntries, Config, Type extends string>
  extends ProviderConfig<Keys, Config> {
  /** Every type of resources that `provision` registers, its component included, by type token. */
  resources: Readonly<Record<Type, ResourceType>>;
  /** Creates the component. The names of its resources begin with the component's name. */
  provision: (name: string, config: Config) => AuthentikStorage;
}

/** Binds a provider's config to its component. */
export function defineProvider<
  Keys extends v.ObjectEntries,
  Config extends CommonConfig & { provider: string },
  Type extends string,
>({ resources, provision, ...own }: Definition<Keys, Config, Type>): Provider<Config, Type> {
  return {
    keys: own.keys,
    resources,
    parse: (values, report) => {
      const config = parseProvider(own, values, report);
      return config && { config, provision: (name) => provision(name, config) };
    },
  };
}
