/** The provider `aws`: a bucket on Amazon S3, in any partition. First its config, then its resources. */
import { PodIdentityAssociation } from "@pulumi/aws/eks/podIdentityAssociation.js";
import { AccessKey } from "@pulumi/aws/iam/accessKey.js";
import { Role } from "@pulumi/aws/iam/role.js";
import { RolePolicy } from "@pulumi/aws/iam/rolePolicy.js";
import { User } from "@pulumi/aws/iam/user.js";
import { UserPolicy } from "@pulumi/aws/iam/userPolicy.js";
import { Provider } from "@pulumi/aws/provider.js";
import { Bucket } from "@pulumi/aws/s3/bucket.js";
import { BucketCorsConfiguration } from "@pulumi/aws/s3/bucketCorsConfiguration.js";
import { BucketLifecycleConfiguration } from "@pulumi/aws/s3/bucketLifecycleConfiguration.js";
import { BucketOwnershipControls } from "@pulumi/aws/s3/bucketOwnershipControls.js";
import { BucketPolicy } from "@pulumi/aws/s3/bucketPolicy.js";
import { BucketPublicAccessBlock } from "@pulumi/aws/s3/bucketPublicAccessBlock.js";
import { BucketServerSideEncryptionConfiguration } from "@pulumi/aws/s3/bucketServerSideEncryptionConfiguration.js";
import { BucketVersioning } from "@pulumi/aws/s3/bucketVersioning.js";
import { all, output, secret, type Output } from "@pulumi/pulumi/output.js";
import { ComponentResource, type ComponentResourceOptions, type CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { partitionOf, partitionOrDefault } from "../authentik/partitions.ts";
import { authentikPolicy, type PolicyDocument, type PolicyStatement } from "../authentik/permissions.ts";
import { parseRelease, releaseRules } from "../authentik/release.ts";
import { parseTags, rotationKeys, tagKeys, type CommonConfig, type Report, type Sound, type Values } from "../config/common.ts";
import { integer, list, oneOf, optional, text } from "../config/values.ts";
import { defineProvider, type AuthentikStorage, type Credentials, type ResourceType } from "./contract.ts";
import { guardRotation, keySlots } from "./rotation.ts";

const OWNERSHIPS = ["BucketOwnerPreferred", "BucketOwnerEnforced"] as const;
const CREDENTIALS = ["user", "role", "profile", "external"] as const;
const TRUSTS = ["irsa", "podIdentity"] as const;

const keys = {
  region: text("The bucket's region, e.g. `eu-central-1`.", region),
  accountId: optional(text("The only AWS account that `pulumi up` may work in.", accountId)),
  ownership: optional(oneOf(OWNERSHIPS, "Who owns the objects. authentik uploads with the ACL `private`, which `BucketOwnerEnforced` may refuse."), "BucketOwnerPreferred"),
  kmsKeyArn: optional(text("ARN of a KMS key that encrypts the files; S3's own key without it. The key's policy must let IAM policies grant it.", kmsKeyArn)),
  noncurrentVersionDays: optional(integer("How many days deleted and overwritten files can still be had back.", 1, 3650), "30"),
  credentials: optional(oneOf(CREDENTIALS, "What authentik signs with: a `user`'s key, a `role` in EKS, a `profile` of the AWS shared config, or an `external` role or user that exists and gets the policy."), "user"),
  roleTrust: optional(oneOf(TRUSTS, "For `role`: how EKS hands the role to pods.")),
  oidcProviderArn: optional(text("For `irsa`: ARN of the cluster's OIDC provider in IAM.", oidcProviderArn)),
  clusterName: optional(text("For `podIdentity`: name of the EKS cluster.", clusterName)),
  serviceAccounts: optional(list("For `role`: the service accounts of authentik's server and worker, each `namespace/name`.", serviceAccount)),
  sessionProfile: optional(text("For `profile`: its name, as authentik's machine knows it.")),
  attachTo: optional(text("For `external`, and for `profile` if wanted: who gets the policy, `role/NAME` or `user/NAME`, or its ARN.", identity)),
  ...rotationKeys,
  ...tagKeys,
};

const resources = {
  "authentik-storage:aws:AwsStorage": { label: "Storage" },
  "aws:s3/bucket:Bucket": { label: "Bucket", holdsFiles: true, bucketName: ["bucket"] },
  "aws:s3/bucketCorsConfiguration:BucketCorsConfiguration": { label: "CORS policy" },
  "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": { label: "Lifecycle rules" },
  "aws:s3/bucketOwnershipControls:BucketOwnershipControls": { label: "Object ownership" },
  "aws:s3/bucketPolicy:BucketPolicy": { label: "Bucket policy" },
  "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": { label: "Public access block" },
  "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": {
    label: "Encryption",
  },
  "aws:s3/bucketVersioning:BucketVersioning": { label: "Versioning" },
  "aws:iam/user:User": { label: "authentik's user" },
  "aws:iam/userPolicy:UserPolicy": { label: "authentik's permissions" },
  "aws:iam/accessKey:AccessKey": { label: "authentik's access key" },
  "aws:iam/role:Role": { label: "authentik's role" },
  "aws:iam/rolePolicy:RolePolicy": { label: "authentik's permissions" },
  "aws:eks/podIdentityAssociation:PodIdentityAssociation": { label: "Role of a service account" },
} satisfies Record<string, ResourceType>;

type AwsValues = CommonConfig & Values<typeof keys>;

/** The config of an S3 bucket on AWS, complete. */
export interface AwsConfig extends Omit<AwsValues, "tags" | "attachTo" | "credentials" | "bucketName"> {
  provider: "aws";
  /** Undefined leaves the name to Pulumi. */
  bucketName: string | undefined;
  /** The regional S3 API. */
  endpoint: string;
  tags: Record<string, string>;
  credentials: AwsCredentials;
}

/** Who authentik is, with what that kind needs. */
export type AwsCredentials =
  | { kind: "user" }
  | { kind: "irsa"; oidcProviderArn: string; serviceAccounts: ServiceAccount[] }
  | { kind: "podIdentity"; clusterName: string; serviceAccounts: ServiceAccount[] }
  | { kind: "existing"; sessionProfile?: string | undefined; attachTo?: Identity | undefined };

/** A Kubernetes service account. */
export interface ServiceAccount {
  namespace: string;
  name: string;
}

/** A role or user of IAM that exists. */
export interface Identity {
  kind: "role" | "user";
  name: string;
}

export default defineProvider({ keys, resources, check, resolve, provision: (name, config) => new AwsStorage(name, config) });

function check(config: Sound<AwsValues>, report: Report): void {
  const { region, kmsKeyArn, adopt, bucketName, oidcProviderArn } = config;
  if (adopt === true && bucketName === undefined) report("bucketName", "is missing, and adopt has to know which bucket; set it: pulumi config set bucketName <name>");
  if (region !== undefined && kmsKeyArn !== undefined && kmsKeyArn.split(":")[3] !== region) {
    report("kmsKeyArn", `is not of the region "${region}", where the bucket is; S3 takes a key of its own region alone`);
  }
  const partition = region === undefined ? undefined : partitionOf(region)?.id;
  for (const [key, arn] of [["kmsKeyArn", kmsKeyArn], ["oidcProviderArn", oidcProviderArn]] as const) {
    if (partition !== undefined && arn !== undefined && arn.split(":")[1] !== partition) report(key, `is not of the partition "${partition}" of the region "${region ?? ""}"; check both`);
  }
  checkCredentials(config, report);
  checkCustomDomain(config, report);
}

/** What each kind of credentials needs; other kinds' keys would have no effect. */
function checkCredentials(config: Sound<AwsValues>, report: Report): void {
  const { credentials = "user", roleTrust } = config;
  const needed: Partial<Record<keyof typeof keys, boolean>> = {
    roleTrust: credentials === "role",
    serviceAccounts: credentials === "role",
    oidcProviderArn: credentials === "role" && roleTrust === "irsa",
    clusterName: credentials === "role" && roleTrust === "podIdentity",
    sessionProfile: credentials === "profile",
    attachTo: credentials === "external",
  };
  for (const key of ["roleTrust", "serviceAccounts", "oidcProviderArn", "clusterName", "sessionProfile", "attachTo"] as const) {
    const how = roleTrust && credentials === "role" ? `credentials "role" with roleTrust "${roleTrust}"` : `credentials "${credentials}"`;
    if (needed[key] && config[key] === undefined) report(key, `is missing, and ${how} needs it; set it: pulumi config set ${key} <value>`);
    const optionalHere = key === "attachTo" && credentials === "profile";
    if (!needed[key] && !optionalHere && config[key] !== undefined) report(key, `has no effect with ${how}; remove it, or change credentials`);
  }
  const rotates = (config.keyGeneration ?? 1) > 1 || config.retirePreviousKey === true;
  if (credentials !== "user" && rotates) report("keyGeneration", `has no effect with credentials "${credentials}", which has no key; remove it and retirePreviousKey`);
}

/** A presigned URL is good for the host that it is signed for, so it survives no CDN and no CNAME in front of the bucket. */
function checkCustomDomain(config: Sound<AwsValues>, report: Report): void {
  const { customDomain, bucketName, region, authentikVersion, secureUrls } = config;
  if (customDomain === undefined || region === undefined) return;
  const release = authentikVersion === undefined ? undefined : parseRelease(authentikVersion);
  const own = `${bucketName ?? "<bucket>"}.${hostOf(region)}`;
  if (!releaseRules(release).signsCustomDomain) {
    const which = release ? `authentik ${authentikVersion ?? ""} signs` : "authentik before 2026.5, which this stack may run (it names no authentikVersion), signs";
    report("customDomain", `cannot work: ${which} for the endpoint's host, and S3 refuses the signature on another; remove it`);
  } else if (bucketName === undefined) {
    report("customDomain", "needs a bucketName that is written in the config; set bucketName too, or remove it");
  } else if (bucketName.includes(".")) {
    report("customDomain", `cannot work over https: S3's certificate does not cover "${own}", whose bucket has a dot; remove it`);
  } else if (customDomain !== own) {
    report("customDomain", `cannot work: presigned URLs do not survive a CDN or CNAME in front of S3; write "${own}", or remove it`);
  } else if (secureUrls === false) {
    report("secureUrls", "sends browsers to http, which the bucket's policy denies; remove it");
  }
}

function resolve({ tags, attachTo, ...config }: AwsValues): AwsConfig {
  return {
    ...config,
    provider: "aws",
    bucketName: config.bucketName,
    endpoint: `https://${hostOf(config.region)}`,
    tags: parseTags(tags),
    credentials: resolveCredentials({ ...config, attachTo }),
  };
}

function resolveCredentials(config: Pick<AwsValues, "credentials" | "roleTrust" | "oidcProviderArn" | "clusterName" | "serviceAccounts" | "sessionProfile" | "attachTo">): AwsCredentials {
  const { roleTrust, oidcProviderArn = "", clusterName = "", sessionProfile } = config;
  const serviceAccounts = (config.serviceAccounts ?? []).map((account) => {
    const [namespace = "", name = ""] = account.split("/");
    return { namespace, name };
  });
  if (config.credentials === "user") return { kind: "user" };
  if (config.credentials !== "role") return { kind: "existing", sessionProfile, attachTo: parseIdentity(config.attachTo ?? "") };
  return roleTrust === "irsa" ? { kind: "irsa", oidcProviderArn, serviceAccounts } : { kind: "podIdentity", clusterName, serviceAccounts };
}

/** Host of the regional S3 API. */
function hostOf(region: string): string {
  return `s3.${region}.${partitionOrDefault(region).dnsSuffix}`;
}

function region(value: string): string | undefined {
  return partitionOf(value) ? undefined : 'is not an AWS region; write e.g. "eu-central-1" (a region, not its zone, in lower case)';
}

function accountId(value: string): string | undefined {
  return /^\d{12}$/.test(value) ? undefined : "is not an AWS account id; write its 12 digits, in quotes";
}

function kmsKeyArn(value: string): string | undefined {
  return /^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/[\w-]+$/.test(value) ? undefined : "is not the ARN of a KMS key; write arn:<partition>:kms:<region>:<account>:key/<id> (not an alias, which IAM policies cannot name)";
}

function oidcProviderArn(value: string): string | undefined {
  return /^arn:aws[a-z-]*:iam::\d{12}:oidc-provider\/[\w./-]+$/.test(value) ? undefined : "is not the ARN of an OIDC provider; write arn:<partition>:iam::<account>:oidc-provider/<issuer without https://>";
}

function clusterName(value: string): string | undefined {
  return /^[0-9A-Za-z][\w-]{0,99}$/.test(value) ? undefined : "is not the name of an EKS cluster; write its name, not its ARN";
}

function serviceAccount(value: string): string | undefined {
  return /^[a-z0-9][a-z0-9-]{0,62}\/[a-z0-9][a-z0-9.-]{0,252}$/.test(value) ? undefined : 'is not a service account; write namespace/name, e.g. "authentik/authentik"';
}

function identity(value: string): string | undefined {
  return parseIdentity(value) ? undefined : 'is not a role or user of IAM; write e.g. "role/authentik-task"';
}

function parseIdentity(value: string): Identity | undefined {
  const [, kind, name] = /^(?:arn:aws[a-z-]*:iam::\d{12}:)?(role|user)\/(?:[\w+=,.@/-]*\/)?([\w+=,.@-]{1,64})$/.exec(value) ?? [];
  return name !== undefined && (kind === "role" || kind === "user") ? { kind, name } : undefined;
}

/** Arguments of `AwsStorage`; the config of a stack is one. */
export type AwsStorageArgs = Pick<
  AwsConfig,
  | "region" | "accountId" | "bucketName" | "origins" | "endpoint" | "customDomain" | "corsAllowedHeaders" | "corsMaxAgeSeconds"
  | "protect" | "forceDestroy" | "adopt" | "ownership" | "kmsKeyArn" | "noncurrentVersionDays" | "credentials" | "tags"
  | "keyGeneration" | "retirePreviousKey"
>;

/** A private S3 bucket with its CORS policy, and a user, role or policy that lets authentik do what it needs and nothing else. */
export class AwsStorage extends ComponentResource implements AuthentikStorage {
  readonly bucketName: Output<string>;
  readonly region: Output<string | undefined>;
  readonly endpoint: Output<string>;
  readonly customDomain: Output<string> | undefined;
  readonly credentials: Output<Credentials>;
  readonly roleArn: Output<string> | undefined;

  constructor(name: string, args: AwsStorageArgs, options?: ComponentResourceOptions) {
    const { keyGeneration, retirePreviousKey } = args;
    super("authentik-storage:aws:AwsStorage", name, { keyGeneration, retirePreviousKey }, guardRotation(name, options));
    const child = { parent: this, provider: this.#provider(name, args) };
    const bucket = this.#bucket(name, args, child);
    const settings = this.#settings(name, args, bucket, child);
    const identity = this.#identity(name, args, bucket, child);

    // Known before its settings are made, but of no use until they are.
    this.bucketName = all([bucket.bucket, all(settings.map(({ id }) => id))]).apply(([bucket]) => bucket);
    this.region = output(args.region);
    // Named even where boto3 would find one: without it boto3 presigns for the global host, which fails in many regions.
    this.endpoint = output(args.endpoint);
    this.customDomain = args.customDomain === undefined ? undefined : output(args.customDomain);
    this.credentials = secret(identity.credentials);
    this.roleArn = identity.roleArn;
    this.registerOutputs({ bucketName: this.bucketName, endpoint: this.endpoint, roleArn: this.roleArn });
  }

  /** Explicit, so that no region or account of the environment can come in between. */
  #provider(name: string, { region, accountId, tags }: AwsStorageArgs): Provider {
    return new Provider(
      `${name}-aws`,
      {
        region,
        defaultTags: { tags: { application: "authentik", ...tags } },
        ...(accountId === undefined ? {} : { allowedAccountIds: [accountId] }),
      },
      { parent: this },
    );
  }

  #bucket(name: string, { bucketName, forceDestroy, protect, adopt }: AwsStorageArgs, child: Child): Bucket {
    const imported = adopt && bucketName !== undefined ? { import: bucketName } : {};
    // S3 refuses to delete a bucket that is not empty; forceDestroy has the provider empty it first.
    return new Bucket(`${name}-media`, { bucket: bucketName, forceDestroy }, { ...child, protect, ...imported });
  }

  #settings(name: string, args: AwsStorageArgs, bucket: Bucket, child: Child): CustomResource[] {
    // Deleting the bucket deletes these too; a bucket that may not be deleted must not lose them on the way.
    const ofBucket = { ...child, deletedWith: bucket };
    const publicAccess = new BucketPublicAccessBlock(
      `${name}-public-access`,
      { bucket: bucket.bucket, blockPublicAcls: true, ignorePublicAcls: true, blockPublicPolicy: true, restrictPublicBuckets: true },
      ofBucket,
    );
    const versioning = new BucketVersioning(
      `${name}-versioning`,
      { bucket: bucket.bucket, versioningConfiguration: { status: "Enabled" } },
      ofBucket,
    );
    // S3 answers two of these at once with a conflict (OperationAborted), so each waits for the one before.
    const policy = new BucketPolicy(
      `${name}-policy`,
      { bucket: bucket.bucket, policy: bucket.arn.apply((arn) => JSON.stringify(denyPlainHttp(arn))) },
      { ...ofBucket, dependsOn: publicAccess },
    );
    const ownership = new BucketOwnershipControls(
      `${name}-ownership`,
      { bucket: bucket.bucket, rule: { objectOwnership: args.ownership } },
      { ...ofBucket, dependsOn: policy },
    );
    return [
      publicAccess,
      versioning,
      policy,
      ownership,
      this.#encryption(name, args, bucket, ofBucket),
      this.#lifecycle(name, args, bucket, { ...ofBucket, dependsOn: versioning }),
      this.#cors(name, args, bucket, ofBucket),
    ];
  }

  #encryption(name: string, { kmsKeyArn }: AwsStorageArgs, bucket: Bucket, options: CustomResourceOptions): CustomResource {
    const byDefault = kmsKeyArn === undefined ? { sseAlgorithm: "AES256" } : { sseAlgorithm: "aws:kms", kmsMasterKeyId: kmsKeyArn };
    return new BucketServerSideEncryptionConfiguration(
      `${name}-encryption`,
      // One data key for the bucket instead of one a file: icons would cost a KMS request each.
      { bucket: bucket.bucket, rules: [{ applyServerSideEncryptionByDefault: byDefault, bucketKeyEnabled: kmsKeyArn !== undefined }] },
      options,
    );
  }

  #lifecycle(name: string, { noncurrentVersionDays }: AwsStorageArgs, bucket: Bucket, options: CustomResourceOptions): CustomResource {
    return new BucketLifecycleConfiguration(
      `${name}-lifecycle`,
      {
        bucket: bucket.bucket,
        rules: [
          {
            id: "clean-up",
            status: "Enabled",
            filter: { prefix: "" },
            abortIncompleteMultipartUpload: { daysAfterInitiation: 7 },
            noncurrentVersionExpiration: { noncurrentDays: noncurrentVersionDays },
            // A deleted file leaves a marker, which stays when its last version has expired.
            expiration: { expiredObjectDeleteMarker: true },
          },
        ],
      },
      options,
    );
  }

  #cors(name: string, args: AwsStorageArgs, bucket: Bucket, options: CustomResourceOptions): CustomResource {
    return new BucketCorsConfiguration(
      `${name}-cors`,
      {
        bucket: bucket.bucket,
        corsRules: [
          {
            allowedOrigins: args.origins,
            allowedHeaders: args.corsAllowedHeaders,
            allowedMethods: ["GET"],
            maxAgeSeconds: args.corsMaxAgeSeconds,
          },
        ],
      },
      options,
    );
  }

  #identity(name: string, args: AwsStorageArgs, bucket: Bucket, child: Child): { credentials: Output<Credentials>; roleArn?: Output<string> } {
    const policy = bucket.arn.apply((arn) => JSON.stringify(identityPolicy(arn, args)));
    const { credentials } = args;
    if (credentials.kind === "user") return { credentials: this.#user(name, args, policy, child) };
    if (credentials.kind === "existing") {
      if (credentials.attachTo) attach(name, credentials.attachTo, policy, child);
      return { credentials: output({ sessionProfile: credentials.sessionProfile }) };
    }
    const role = new Role(`${name}-role`, { assumeRolePolicy: JSON.stringify(trustPolicy(credentials)) }, child);
    new RolePolicy(`${name}-role-policy`, { role: role.name, policy }, child);
    if (credentials.kind === "podIdentity") {
      for (const { namespace, name: serviceAccount } of credentials.serviceAccounts) {
        new PodIdentityAssociation(
          `${name}-pods-${namespace}-${serviceAccount}`,
          { clusterName: credentials.clusterName, namespace, serviceAccount, roleArn: role.arn },
          child,
        );
      }
    }
    return { credentials: output({}), roleArn: role.arn };
  }

  /** A user with its keys of both slots; gives the current one. */
  #user(name: string, args: AwsStorageArgs, policy: Output<string>, child: Child): Output<Credentials> {
    const user = new User(`${name}-user`, {}, child);
    const attached = new UserPolicy(`${name}-user-policy`, { user: user.name, policy }, child);
    const [current, previous] = keySlots(args);
    const make = ({ slot, generation }: typeof current) =>
      // IAM allows a user two keys, so the older has to go before the new one comes. authentik has the other slot's.
      new AccessKey(`${name}-key-${slot}`, { user: user.name }, { ...child, replacementTrigger: generation, deleteBeforeReplace: true });
    if (previous) make(previous);
    const key = make(current);
    return all([key.id, key.secret, attached.id]).apply(([accessKey, secretKey]) => ({ accessKey, secretKey }));
  }
}

/** Options of every child. */
interface Child {
  parent: ComponentResource;
  provider: Provider;
}

function attach(name: string, identity: Identity, policy: Output<string>, child: Child): void {
  if (identity.kind === "role") new RolePolicy(`${name}-role-policy`, { role: identity.name, policy }, child);
  else new UserPolicy(`${name}-user-policy`, { user: identity.name, policy }, child);
}

/** What authentik may do: its calls on the bucket and, where a KMS key encrypts the files, that key's use through S3. */
function identityPolicy(bucketArn: string, { kmsKeyArn, endpoint }: AwsStorageArgs): PolicyDocument {
  const policy = authentikPolicy(bucketArn);
  if (kmsKeyArn === undefined) return policy;
  const useKey: PolicyStatement = {
    Sid: "AuthentikKmsKey",
    Effect: "Allow",
    // Reading decrypts; writing takes a data key; a multipart upload decrypts the parts it joins (AWS, "Using SSE-KMS").
    Action: ["kms:Decrypt", "kms:GenerateDataKey"],
    Resource: kmsKeyArn,
    Condition: { StringEquals: { "kms:ViaService": new URL(endpoint).host } },
  };
  return { ...policy, Statement: [...policy.Statement, useKey] };
}

function denyPlainHttp(bucketArn: string): PolicyDocument {
  return {
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "DenyPlainHttp",
        Effect: "Deny",
        Principal: "*",
        Action: "s3:*",
        Resource: [bucketArn, `${bucketArn}/*`],
        Condition: { Bool: { "aws:SecureTransport": "false" } },
      },
    ],
  };
}

/** Who may take the role: the service accounts, and no other pod of the cluster. */
function trustPolicy(credentials: Extract<AwsCredentials, { kind: "irsa" | "podIdentity" }>): object {
  const accounts = credentials.serviceAccounts;
  const statement =
    credentials.kind === "irsa"
      ? irsaTrust(credentials.oidcProviderArn, accounts.map(({ namespace, name }) => `system:serviceaccount:${namespace}:${name}`))
      : {
          Principal: { Service: "pods.eks.amazonaws.com" },
          Action: ["sts:AssumeRole", "sts:TagSession"],
          Condition: {
            StringEquals: {
              "aws:RequestTag/eks-cluster-name": credentials.clusterName,
              "aws:RequestTag/kubernetes-namespace": [...new Set(accounts.map(({ namespace }) => namespace))],
              "aws:RequestTag/kubernetes-service-account": [...new Set(accounts.map(({ name }) => name))],
            },
          },
        };
  return { Version: "2012-10-17", Statement: [{ Sid: "AuthentikPods", Effect: "Allow", ...statement }] };
}

function irsaTrust(oidcProviderArn: string, subjects: string[]): object {
  const issuer = oidcProviderArn.slice(oidcProviderArn.indexOf("/") + 1);
  return {
    Principal: { Federated: oidcProviderArn },
    Action: "sts:AssumeRoleWithWebIdentity",
    Condition: { StringEquals: { [`${issuer}:aud`]: "sts.amazonaws.com", [`${issuer}:sub`]: subjects } },
  };
}
