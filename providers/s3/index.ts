/** The provider `s3`: a bucket on any S3-compatible server. Its config is in `config.ts`. */
import { all, output, secret, type Output } from "@pulumi/pulumi/output.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type CustomResource,
} from "@pulumi/pulumi/resource.js";
import type { AddressingStyle } from "../../authentik/env.ts";
import { authentikPolicy } from "../../authentik/permissions.ts";
import {
  defineProvider,
  type AuthentikStorage,
  type Credentials,
  type ResourceType,
} from "../contract.ts";
import { deletesWhen } from "../retention.ts";
import { check, keys, resolve } from "./config.ts";
import {
  authentikCorsRules,
  S3Bucket,
  S3BucketCors,
  S3BucketPolicy,
  type ConnectionArgs,
} from "./resources.ts";

const resources = {
  "authentik-storage:s3:S3Storage": { label: "Storage" },
  "pulumi-nodejs:dynamic/authentik-storage:S3Bucket": {
    label: "Bucket",
    holdsFiles: true,
    bucketName: ["bucket"],
    keeps: [deletesWhen("forceDestroy")],
  },
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors": { label: "CORS policy" },
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy": { label: "Bucket policy" },
} satisfies Record<string, ResourceType>;

export default defineProvider({
  keys,
  resources,
  check,
  resolve,
  provision: (name, config) => new S3Storage(name, config),
});

/** Arguments of `S3Storage`. The config of a stack has them all. */
export interface S3StorageArgs extends Credentials {
  /** URL of the server's S3 API, with scheme, without the bucket. */
  endpoint: string;
  /** The region that requests are signed for. The default is `us-east-1`. */
  region?: string | undefined;
  addressingStyle?: AddressingStyle | undefined;
  bucketName: string;
  /** Every scheme://host[:port] under which browsers reach authentik. */
  origins: string[];
  /** The host from which browsers load files, without scheme, with the bucket. */
  customDomain: string;
  /** The default is `["Authorization"]`, as on authentik's setup page. */
  corsAllowedHeaders?: string[];
  /** The default is 3000, as on authentik's setup page. */
  corsMaxAgeSeconds?: number;
  /** Whether Pulumi refuses to delete or replace the bucket. The default is true. */
  protect?: boolean;
  /** Whether a bucket that is not empty may be deleted. The default is false. */
  forceDestroy?: boolean;
  /** Whether to manage a bucket that already exists. The default is false. */
  adopt?: boolean;
  /** The principal that gets the rights that authentik needs. Without it, the bucket gets no policy. */
  policyPrincipal?: string | undefined;
  /**
   * Keys that create the bucket, if they are outputs of other resources. The default is the keys in
   * the stack's config.
   */
  adminCredentials?: ConnectionArgs["credentials"];
}

/** A bucket on an S3-compatible server with its CORS policy and, for a principal, a bucket policy. */
export class S3Storage extends ComponentResource implements AuthentikStorage {
  readonly bucketName: Output<string>;
  readonly region: Output<string | undefined>;
  readonly endpoint: Output<string>;
  readonly customDomain: Output<string>;
  readonly credentials: Output<Credentials>;
  readonly addressingStyle: AddressingStyle | undefined;

  constructor(name: string, args: S3StorageArgs, options?: ComponentResourceOptions) {
    super("authentik-storage:s3:S3Storage", name, {}, options);
    const connection = {
      endpoint: args.endpoint,
      region: args.region,
      addressingStyle: args.addressingStyle,
      credentials: args.adminCredentials,
    };
    const bucket = new S3Bucket(
      `${name}-bucket`,
      {
        ...connection,
        bucket: args.bucketName,
        adopt: args.adopt ?? false,
        forceDestroy: args.forceDestroy ?? false,
      },
      { parent: this, protect: args.protect ?? true },
    );
    // They are deleted with the bucket. A bucket that may not be deleted keeps them.
    const ofBucket = { parent: this, dependsOn: bucket, deletedWith: bucket };
    const cors = new S3BucketCors(
      `${name}-cors`,
      { ...connection, bucket: args.bucketName, rules: authentikCorsRules(args) },
      ofBucket,
    );
    const settings: CustomResource[] = [cors];
    if (args.policyPrincipal !== undefined) {
      const rights = authentikPolicy(`arn:aws:s3:::${args.bucketName}`, [args.policyPrincipal]);
      // On some servers the principal is the access key itself.
      const policy = args.policyPrincipal === args.accessKey ? secret(rights) : rights;
      const policyArgs = { ...connection, bucket: args.bucketName, policy };
      settings.push(new S3BucketPolicy(`${name}-policy`, policyArgs, ofBucket));
    }

    // The name resolves only when the settings exist, so that nothing uses the bucket without them.
    this.bucketName = all(settings.map(({ id }) => id)).apply(() => args.bucketName);
    this.region = output(args.region);
    this.endpoint = output(args.endpoint);
    this.customDomain = output(args.customDomain);
    this.credentials = secret({
      accessKey: args.accessKey,
      secretKey: args.secretKey,
      sessionToken: args.sessionToken,
      sessionProfile: args.sessionProfile,
    });
    this.addressingStyle = args.addressingStyle;
    this.registerOutputs({ bucketName: this.bucketName, endpoint: this.endpoint });
  }
}
