/** What every provider module gives, whatever the provider. */
import type { ComponentResourceOptions } from "@pulumi/pulumi/resource.js";
import type { Output } from "@pulumi/pulumi/output.js";
import type { AddressingStyle } from "../authentik/env.ts";

/** What authentik signs with: keys, or the name of an AWS profile, or nothing where it has a role. */
export interface Credentials {
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  sessionToken?: string | undefined;
  sessionProfile?: string | undefined;
}

/** A bucket that authentik can use. Each provider's component resource is one. */
export interface AuthentikStorage {
  readonly bucketName: Output<string>;
  /** The region that requests are signed for; undefined where the server does not care. */
  readonly region: Output<string | undefined>;
  /** URL of the S3 API, without the bucket. */
  readonly endpoint: Output<string>;
  /** Where browsers load files from, without scheme, with the bucket. Absent: from the endpoint. */
  readonly customDomain?: Output<string> | undefined;
  /** What authentik signs with. Always a Pulumi secret. */
  readonly credentials: Output<Credentials>;
  /** The AWS role that authentik's pods are to take on, where one was made for them. */
  readonly roleArn?: Output<string> | undefined;
  /** Where the bucket stands in URLs, for the releases that can be told; undefined leaves it to boto3. */
  readonly addressingStyle?: AddressingStyle | undefined;
}

/**
 * What a provider's file exports as `provision`: declares its resources below one component.
 *
 * @param name the component's name, from which its resources' names are made
 */
export type Provision<Config> = (name: string, config: Config, options?: ComponentResourceOptions) => AuthentikStorage;
