/** The provider `s3`: a bucket on any S3-compatible server. */
import { all, output, secret, type Output } from "@pulumi/pulumi/output.js";
import { ComponentResource, type ComponentResourceOptions, type CustomResource } from "@pulumi/pulumi/resource.js";
import type { AddressingStyle } from "../../authentik/env.ts";
import { authentikPolicy } from "../../authentik/permissions.ts";
import type { S3Config } from "../../config/s3.ts";
import type { AuthentikStorage, Credentials, Provision } from "../contract.ts";
import { authentikCorsRules, S3Bucket, S3BucketCors, S3BucketPolicy, type ConnectionArgs } from "./resources.ts";

/** Arguments of `S3Storage`; the config of a stack is one. */
export interface S3StorageArgs extends Credentials {
  /** URL of the server's S3 API, with scheme, without the bucket. */
  endpoint: string;
  /** The region that requests are signed for; `us-east-1` without one. */
  region?: string | undefined;
  addressingStyle?: AddressingStyle | undefined;
  bucketName: string;
  /** Every scheme://host[:port] under which browsers reach authentik. */
  origins: string[];
  /** Where browsers load files from, without scheme, with the bucket. */
  customDomain: string;
  /** `["Authorization"]` by default, as the setup page has it. */
  corsAllowedHeaders?: string[];
  /** 3000 by default, as the setup page has it. */
  corsMaxAgeSeconds?: number;
  /** Whether Pulumi refuses to delete or replace the bucket; true by default. */
  protect?: boolean;
  /** Whether a bucket that is not empty may be deleted; false by default. */
  forceDestroy?: boolean;
  /** Whether a bucket that exists already is taken over; false by default. */
  adopt?: boolean;
  /** To whom a bucket policy gives the rights that authentik needs; no policy without it. */
  policyPrincipal?: string | undefined;
  /** Keys that create the bucket, where they are outputs of other resources; else they come from the stack's config. */
  adminCredentials?: ConnectionArgs["credentials"];
}

/** A bucket on an S3-compatible server, its CORS policy and, for a named principal, its bucket policy. */
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
      { ...connection, bucket: args.bucketName, adopt: args.adopt ?? false, forceDestroy: args.forceDestroy ?? false },
      { parent: this, protect: args.protect ?? true },
    );
    // Deleting the bucket deletes these too; a bucket that may not be deleted must not lose them on the way.
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
      settings.push(new S3BucketPolicy(`${name}-policy`, { ...connection, bucket: args.bucketName, policy }, ofBucket));
    }

    // Known before the resources are made, but of no use until they are.
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

export const provision = ((name: string, config: S3Config, options?: ComponentResourceOptions) =>
  new S3Storage(name, config, options)) satisfies Provision<S3Config>;
