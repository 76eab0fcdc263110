/** The provider `aws`: a bucket on Amazon S3, in any partition. */
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
import { authentikPolicy, type PolicyDocument, type PolicyStatement } from "../authentik/permissions.ts";
import type { AwsConfig, AwsCredentials, Identity } from "../config/aws.ts";
import type { AuthentikStorage, Credentials, Provision } from "./contract.ts";
import { guardRotation, keySlots } from "./rotation.ts";

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

export const provision = ((name: string, config: AwsConfig, options?: ComponentResourceOptions) =>
  new AwsStorage(name, config, options)) satisfies Provision<AwsConfig>;
