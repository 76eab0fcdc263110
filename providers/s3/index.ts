/** The provider `s3`: a bucket on any S3-compatible server. First its config, then its component. */
import { all, output, secret, type Output } from "@pulumi/pulumi/output.js";
import { ComponentResource, type ComponentResourceOptions, type CustomResource } from "@pulumi/pulumi/resource.js";
import { ADDRESSING_STYLES, DEFAULTS, type AddressingStyle } from "../../authentik/env.ts";
import { authentikPolicy } from "../../authentik/permissions.ts";
import { parseRelease, releaseRules } from "../../authentik/release.ts";
import { checkDomainHasBucket, DEFAULT_BUCKET_NAME, type CommonConfig, type Report, type Sound, type Values } from "../../config/common.ts";
import * as rules from "../../config/rules.ts";
import { boolean, oneOf, optional, secretText, text } from "../../config/values.ts";
import { defineProvider, type AuthentikStorage, type Credentials, type ResourceType } from "../contract.ts";
import { authentikCorsRules, S3Bucket, S3BucketCors, S3BucketPolicy, type ConnectionArgs } from "./resources.ts";

const keys = {
  endpoint: text("URL of the server's S3 API, e.g. `https://s3.provider`, without the bucket.", rules.endpoint),
  region: optional(text("Region that requests are signed for. The default is the one in the endpoint of a known service; without any, boto3 and this program sign for `us-east-1`.", rules.region)),
  addressingStyle: optional(oneOf(ADDRESSING_STYLES, "Where the bucket stands in URLs (read from 2025.12): in the `path`, or in the host (`virtual`)."), DEFAULTS.addressingStyle),
  useSsl: optional(boolean("Must agree with the endpoint's scheme, which decides.")),
  accessKey: optional(secretText("Access key that authentik gets.", rules.credential)),
  secretKey: optional(secretText("Secret key that authentik gets.", rules.credential)),
  sessionToken: optional(secretText("Session token, where authentik's keys are temporary.", rules.credential)),
  sessionProfile: optional(text("Profile of the AWS shared config that authentik uses instead of keys.")),
  adminAccessKey: optional(secretText("Access key that creates the bucket and its CORS policy. The default is `accessKey`.", rules.credential)),
  adminSecretKey: optional(secretText("Secret key that creates the bucket and its CORS policy. The default is `secretKey`.", rules.credential)),
  policyPrincipal: optional(text("Principal to whom a bucket policy gives exactly the rights that authentik needs, in the server's own form: an ARN, on versitygw an access key. Without it no policy is put.")),
};

/** A key that only this provider has. */
export type ConfigKey = keyof typeof keys;

const resources = {
  "authentik-storage:s3:S3Storage": { label: "Storage" },
  "pulumi-nodejs:dynamic/authentik-storage:S3Bucket": {
    label: "Bucket",
    holdsFiles: true,
    bucketName: ["bucket"],
  },
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors": { label: "CORS policy" },
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy": { label: "Bucket policy" },
} satisfies Record<string, ResourceType>;

type S3Values = CommonConfig & Values<typeof keys>;

/** The config of an S3-compatible server, complete. */
export interface S3Config extends S3Values {
  provider: "s3";
  bucketName: string;
  customDomain: string;
}

export default defineProvider({ keys, resources, check, resolve, provision: (name, config) => new S3Storage(name, config) });

function check(config: Sound<S3Values>, report: Report): void {
  checkCredentials(config, report);
  const { endpoint, secureUrls, useSsl } = config;
  const bucketName = config.bucketName ?? DEFAULT_BUCKET_NAME;
  if (config.customDomain !== undefined) checkDomainHasBucket(config.customDomain, bucketName, report);
  if (endpoint === undefined) return;
  checkEndpointHasNoBucket(endpoint, bucketName, report);
  const { host, protocol } = new URL(endpoint);
  const secure = protocol === "https:";
  if (useSsl !== undefined && useSsl !== secure) {
    report("useSsl", `contradicts the endpoint "${endpoint}", whose scheme decides; write useSsl: ${secure}, or remove it`);
  }
  const [domainHost = ""] = (config.customDomain ?? defaultDomain(config, endpoint)).split("/");
  const sameHost = domainHost === host || domainHost === `${bucketName}.${host}`;
  if (secureUrls === true && !secure && sameHost) {
    report("secureUrls", `sends browsers to https://${domainHost}, where the endpoint "${endpoint}" speaks http; write secureUrls: false, or an https endpoint`);
  }
}

function checkEndpointHasNoBucket(endpoint: string, bucketName: string, report: Report): void {
  const url = new URL(endpoint);
  const path = url.pathname.split("/").filter((part) => part !== bucketName).join("/").replace(/\/$/, "");
  const host = url.host.startsWith(`${bucketName}.`) ? url.host.slice(bucketName.length + 1) : url.host;
  const without = `${url.protocol}//${host}${path}`;
  if (without !== endpoint) report("endpoint", `has the bucket in it, which would then be there twice; write "${without}"`);
}

function checkCredentials(config: Sound<S3Values>, report: Report): void {
  const { accessKey, secretKey, sessionToken, sessionProfile, adminAccessKey, adminSecretKey } = config;
  const pair = (key: string, value: unknown, other: string, otherValue: unknown) => {
    if (value === undefined && otherValue !== undefined) report(key, `is missing, while ${other} is set; set both, or neither`);
  };
  pair("accessKey", accessKey, "secretKey", secretKey);
  pair("secretKey", secretKey, "accessKey", accessKey);
  pair("adminAccessKey", adminAccessKey, "adminSecretKey", adminSecretKey);
  pair("adminSecretKey", adminSecretKey, "adminAccessKey", adminAccessKey);
  const hasKeys = accessKey !== undefined || secretKey !== undefined;
  if (!hasKeys && sessionProfile === undefined) {
    for (const key of ["accessKey", "secretKey"]) {
      report(key, `is missing; set it: pulumi config set --secret ${key} (or sessionProfile, where authentik has an AWS profile)`);
    }
  }
  if (hasKeys && sessionProfile !== undefined) {
    report("sessionProfile", "is set beside keys, which authentik would then ignore; remove one or the other");
  }
  if (sessionToken !== undefined && !hasKeys) report("sessionToken", "is set without accessKey and secretKey; set them too, or remove it");
}

function resolve(config: S3Values): S3Config {
  return {
    ...config,
    provider: "s3",
    bucketName: config.bucketName ?? DEFAULT_BUCKET_NAME,
    region: config.region ?? regionOf(config.endpoint),
    customDomain: config.customDomain ?? defaultDomain(config, config.endpoint),
  };
}

/** Services that want their region in the signature and have it in their endpoints, or have one for all. */
function regionOf(endpoint: string): string | undefined {
  const { hostname } = new URL(endpoint);
  if (hostname === "storage.googleapis.com" || hostname.endsWith(".r2.cloudflarestorage.com")) return "auto";
  return /^s3[.-]([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|backblazeb2\.com|wasabisys\.com)$/.exec(hostname)?.[1];
}

/** The endpoint's host with the bucket, where this release puts it: in the host only if it reads the addressing style. */
function defaultDomain(config: Sound<S3Values>, endpoint: string): string {
  const { host, pathname } = new URL(endpoint);
  const bucketName = config.bucketName ?? DEFAULT_BUCKET_NAME;
  const release = config.authentikVersion === undefined ? undefined : parseRelease(config.authentikVersion);
  return config.addressingStyle === "virtual" && releaseRules(release).readsAddressingStyle
    ? `${bucketName}.${host}`
    : `${host}${pathname.replace(/\/$/, "")}/${bucketName}`;
}

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
