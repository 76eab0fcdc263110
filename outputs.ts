/** Turns the provisioned storage into the stack's outputs, with authentik's variables. */
import * as log from "@pulumi/pulumi/log/index.js";
import { all, output, secret, type Output } from "@pulumi/pulumi/output.js";
import { buildEnv, type StorageSettings } from "./authentik/env.ts";
import { parseRelease, type Release } from "./authentik/release.ts";
import { cacheAdvice } from "./authentik/url-cache.ts";
import type { AuthentikStorage } from "./providers/contract.ts";
import type { StorageConfig } from "./providers/index.ts";

/** What a stack exports. */
export interface StackOutputs {
  provider: StorageConfig["provider"];
  bucket: Output<string>;
  region: Output<string>;
  endpoint: Output<string>;
  /** Missing if there is none. */
  customDomain?: Output<string>;
  secureUrls: boolean;
  /** Where nobody may read the files, for `npm run verify`; missing if there is no such URL. */
  publicUrl?: Output<string>;
  /** The AWS role of authentik's service accounts; missing if there is none. */
  roleArn?: Output<string>;
  /** The service accounts that may have the role, as `namespace/name`; missing without a role. */
  serviceAccounts?: readonly string[];
  /** The origins that may load authentik's files. */
  origins: string[];
  /** The release that `env` is for; missing if it is for all releases. */
  authentikVersion?: string;
  /** authentik's variables, names to values. A secret. */
  env: Output<Record<string, string>>;
}

/** The outputs of a stack with this config and this storage. Warnings about them are logged. */
export function stackOutputs(config: StorageConfig, storage: AuthentikStorage): StackOutputs {
  const env = secret(
    all([
      storage.bucketName,
      storage.region,
      storage.endpoint,
      storage.customDomain,
      storage.credentials,
    ]),
  ).apply(([bucketName, region, endpoint, customDomain, credentials]) => {
    const settings: StorageSettings = {
      ...credentials,
      bucketName,
      region,
      endpoint,
      customDomain,
      secureUrls: config.secureUrls,
      addressingStyle: storage.addressingStyle,
      signatureVersion: config.signatureVersion,
      urlExpiry: config.urlExpiry,
      checksums: config.checksums,
    };
    const { env, warnings } = buildEnv(settings, releaseOf(config));
    for (const warning of warnings) void log.warn(warning);
    return env;
  });
  const cached = cacheAdvice(config, releaseOf(config));
  const isRetiring = "retirePreviousKey" in config && config.retirePreviousKey;
  if (isRetiring && cached !== undefined) void log.info(`retirePreviousKey: ${cached}`);
  return {
    provider: config.provider,
    // A name in the config is shown in the first preview too.
    bucket: config.bucketName === undefined ? storage.bucketName : output(config.bucketName),
    region: storage.region.apply((region) => region ?? "us-east-1"),
    endpoint: storage.endpoint,
    ...(storage.customDomain === undefined ? {} : { customDomain: storage.customDomain }),
    secureUrls: config.secureUrls,
    ...(storage.publicUrl === undefined ? {} : { publicUrl: storage.publicUrl }),
    ...(storage.roleArn === undefined ? {} : { roleArn: storage.roleArn }),
    ...(storage.serviceAccounts === undefined ? {} : { serviceAccounts: storage.serviceAccounts }),
    origins: config.origins,
    ...(config.authentikVersion === undefined ? {} : { authentikVersion: config.authentikVersion }),
    env,
  };
}

function releaseOf({ authentikVersion }: StorageConfig): Release | undefined {
  return authentikVersion === undefined ? undefined : parseRelease(authentikVersion);
}
