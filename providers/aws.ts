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
import { all, output, secret, type Input, type Output } from "@pulumi/pulumi/output.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type CustomResource,
  type CustomResourceOptions,
} from "@pulumi/pulumi/resource.js";
import { partitionOf, partitionOrDefault } from "../authentik/partitions.ts";
import {
  authentikPolicy,
  type PolicyDocument,
  type PolicyStatement,
} from "../authentik/permissions.ts";
import { parseRelease, releaseRules } from "../authentik/release.ts";
import {
  generationNumber,
  parseTags,
  tagKeys,
  type CommonConfig,
  type ReportProblem,
  type Valid,
  type Values,
} from "../config/common.ts";
import { matching, profile } from "../config/rules.ts";
import { boolean, integer, list, oneOf, optional, text } from "../config/values.ts";
import {
  defineProvider,
  type AuthentikStorage,
  type Credentials,
  type ResourceType,
} from "./contract.ts";
import { recordPlace } from "./guards.ts";
import { deletesByRule, deletesWhen, keepsFor, keepsWhile } from "./retention.ts";
import { guardRotation, idsOf, keySigner, keySlots, recordKeys, type KeySlot } from "./rotation.ts";

const OWNERSHIPS = ["BucketOwnerPreferred", "BucketOwnerEnforced"] as const;
const CREDENTIALS = ["user", "role", "profile", "external"] as const;
const TRUSTS = ["irsa", "podIdentity"] as const;

const awsAccountId = matching(
  /^\d{12}$/,
  "is not an AWS account id; write its 12 digits, in quotes",
);
const kmsKeyArn = matching(
  /^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/[\w-]+$/,
  "is not the ARN of a KMS key; write arn:<partition>:kms:<region>:<account>:key/<id> " +
    "(IAM policies cannot name an alias)",
);
const oidcProviderArn = matching(
  /^arn:aws[a-z-]*:iam::\d{12}:oidc-provider\/[\w./-]+$/,
  "is not the ARN of an OIDC provider; " +
    "write arn:<partition>:iam::<account>:oidc-provider/<issuer without https://>",
);
const clusterName = matching(
  /^[0-9A-Za-z][\w-]{0,99}$/,
  "is not the name of an EKS cluster; write its name, not its ARN",
);
const serviceAccountName = matching(
  /^[a-z0-9][a-z0-9-]{0,62}\/[a-z0-9][a-z0-9.-]{0,252}$/,
  'is not a service account; write namespace/name, e.g. "authentik/authentik"',
);

function serviceAccount(value: string, index: number, all: readonly string[]): string | undefined {
  const wrong = serviceAccountName(value);
  if (wrong !== undefined || all.indexOf(value) === index) return wrong;
  return "is listed twice; remove one";
}

/** Quota of IAM for a role's trust policy, in characters without blanks (AWS, "IAM and STS quotas"). */
const MAX_TRUST_POLICY = 2048;

const keys = {
  region: text("The bucket's region, e.g. `eu-central-1`.", region),
  accountId: optional(text("The only AWS account that `pulumi up` may work in.", awsAccountId)),
  ownership: optional(
    oneOf(
      OWNERSHIPS,
      "Who owns the objects. authentik uploads with the ACL `private`, which `BucketOwnerEnforced` may refuse.",
    ),
    "BucketOwnerPreferred",
  ),
  kmsKeyArn: optional(
    text(
      "ARN of a KMS key that encrypts the files. The default is S3's own key. " +
        "The key's policy must allow IAM policies to grant its use.",
      kmsKeyArn,
    ),
  ),
  noncurrentVersionDays: optional(
    integer("How many days you can restore deleted and overwritten files.", 1, 3650),
    "30",
  ),
  credentials: optional(
    oneOf(
      CREDENTIALS,
      "What authentik signs with: the key of a `user`, a `role` in EKS, a `profile` of " +
        "the AWS shared config, or an existing `external` role or user that gets the policy.",
    ),
    "user",
  ),
  roleTrust: optional(oneOf(TRUSTS, "For `role`: how EKS gives the role to pods.")),
  oidcProviderArn: optional(
    text("For `irsa`: ARN of the cluster's OIDC provider in IAM.", oidcProviderArn),
  ),
  clusterName: optional(text("For `podIdentity`: name of the EKS cluster.", clusterName)),
  serviceAccounts: optional(
    list(
      "For `role`: the service accounts of authentik's server and worker, each `namespace/name`.",
      serviceAccount,
    ),
  ),
  sessionProfile: optional(text("For `profile`: its name on authentik's machine.", profile)),
  attachTo: optional(
    text(
      "For `external`, and optional for `profile`: who gets the policy, `role/NAME` or `user/NAME`, or its ARN.",
      identity,
    ),
  ),
  // Without defaults: a value says that authentik had other credentials before.
  keyGeneration: optional(
    generationNumber(
      "Raise it by one, from 1, to give authentik a new key. The previous key stays valid. " +
        "If `credentials` is not `user`, it keeps the previous IAM user with the key of this generation.",
    ),
  ),
  retirePreviousKey: optional(
    boolean(
      "Deletes the previous key, or the credentials that authentik had before. " +
        "Set it to true only when `urlExpiry` (15 minutes by default) has passed since authentik got the new ones. " +
        "Set it to false in the update that makes the next ones.",
    ),
  ),
  ...tagKeys,
};

/** S3's lifecycle rules. Old versions expire after their days, unless so many newer ones are kept. */
const LIFECYCLE = {
  path: "rules",
  scope: ["filter", "prefix", "tags"],
  parts: { expiration: {}, noncurrentVersionExpiration: { newerNoncurrentVersions: 0 } },
} as const;

const resources = {
  "authentik-storage:aws:AwsStorage": { label: "Storage" },
  "authentik-storage:aws:Keys": { label: "Record of keys" },
  "authentik-storage:aws:Place": { label: "Record of the place" },
  "aws:s3/bucket:Bucket": {
    label: "Bucket",
    holdsFiles: true,
    bucketName: ["bucket"],
    keeps: [
      deletesWhen("forceDestroy"),
      deletesByRule({ ...LIFECYCLE, path: "lifecycleRules" }),
      // The provider leaves the versioning alone when the property is missing.
      keepsWhile("versioning.enabled", true, Infinity),
    ],
  },
  "aws:s3/bucketCorsConfiguration:BucketCorsConfiguration": { label: "CORS policy" },
  "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": {
    label: "Lifecycle rules",
    keeps: [deletesByRule(LIFECYCLE)],
  },
  "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration": {
    label: "Object lock",
    keeps: [keepsFor("rule.defaultRetention", ["days", "years"])],
  },
  "aws:s3/bucketOwnershipControls:BucketOwnershipControls": { label: "Object ownership" },
  "aws:s3/bucketPolicy:BucketPolicy": { label: "Bucket policy" },
  "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": { label: "Public access block" },
  "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": {
    label: "Encryption",
  },
  "aws:s3/bucketVersioning:BucketVersioning": {
    label: "Versioning",
    keeps: [keepsWhile("versioningConfiguration.status", "Enabled")],
  },
  "aws:iam/user:User": { label: "authentik's user" },
  "aws:iam/userPolicy:UserPolicy": { label: "authentik's permissions" },
  "aws:iam/accessKey:AccessKey": { label: "authentik's access key" },
  "aws:iam/role:Role": { label: "authentik's role" },
  "aws:iam/rolePolicy:RolePolicy": { label: "authentik's permissions" },
  "aws:eks/podIdentityAssociation:PodIdentityAssociation": { label: "Role of a service account" },
} satisfies Record<string, ResourceType>;

type AwsValues = CommonConfig & Values<typeof keys>;

/** The config of an S3 bucket on AWS, complete. */
export interface AwsConfig
  extends Omit<
    AwsValues,
    "tags" | "attachTo" | "credentials" | "bucketName" | "keyGeneration" | "retirePreviousKey"
  > {
  provider: "aws";
  /** Undefined leaves the name to Pulumi. */
  bucketName: string | undefined;
  /** The regional S3 API. */
  endpoint: string;
  tags: Record<string, string>;
  credentials: AwsCredentials;
  /** What authentik had before, if it stays valid. */
  previous: AwsCredentials | undefined;
  keyGeneration: number;
  retirePreviousKey: boolean;
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

export default defineProvider({
  keys,
  resources,
  check,
  resolve,
  provision: (name, config) => new AwsStorage(name, config),
});

function check(config: Valid<AwsValues>, report: ReportProblem): void {
  checkAdoption(config, report);
  checkArns(config, report);
  checkCredentials(config, report);
  checkTrustPolicy(config, report);
  checkCustomDomain(config, report);
}

/** Reports a trust policy that IAM would refuse in the middle of an update. */
function checkTrustPolicy(config: Valid<AwsValues>, report: ReportProblem): void {
  const { credentials, roleTrust, serviceAccounts } = config;
  if (credentials !== "role" || serviceAccounts === undefined) return;
  const resolved = resolveCredentials({ ...config, credentials, roleTrust, serviceAccounts });
  if (!("serviceAccounts" in resolved)) return;
  const length = JSON.stringify(trustPolicy(resolved)).length;
  if (length <= MAX_TRUST_POLICY) return;
  report(
    "serviceAccounts",
    `makes the role's trust policy ${length} characters long, and IAM allows ${MAX_TRUST_POLICY}; remove some`,
  );
}

function checkAdoption({ adopt, bucketName }: Valid<AwsValues>, report: ReportProblem): void {
  if (adopt !== true || bucketName !== undefined) return;
  report(
    "bucketName",
    "is missing, and adopt needs it; set it: pulumi config set bucketName <name>",
  );
}

/** A KMS key must be in the bucket's region, and every ARN in the partition of that region. */
function checkArns(config: Valid<AwsValues>, report: ReportProblem): void {
  const { region, kmsKeyArn } = config;
  if (region === undefined) return;
  if (kmsKeyArn !== undefined && kmsKeyArn.split(":")[3] !== region) {
    report("kmsKeyArn", `is not in the bucket's region "${region}"; S3 needs a key of that region`);
  }
  const partition = partitionOf(region)?.id;
  for (const key of ["kmsKeyArn", "oidcProviderArn"] as const) {
    const arn = config[key];
    if (partition === undefined || arn === undefined || arn.split(":")[1] === partition) continue;
    report(key, `is not in the partition "${partition}" of the region "${region}"; check both`);
  }
}

/** The keys that a kind of credentials needs. The key `attachTo` is optional for a profile. */
const NEEDED = {
  user: [],
  role: ["roleTrust", "serviceAccounts"],
  irsa: ["roleTrust", "serviceAccounts", "oidcProviderArn"],
  podIdentity: ["roleTrust", "serviceAccounts", "clusterName"],
  profile: ["sessionProfile"],
  external: ["attachTo"],
} as const satisfies Record<string, readonly (keyof typeof keys)[]>;

/** Every key that only some kinds of credentials use. With another kind it would have no effect. */
const CREDENTIAL_KEYS = [
  "roleTrust",
  "serviceAccounts",
  "oidcProviderArn",
  "clusterName",
  "sessionProfile",
  "attachTo",
] as const;

function checkCredentials(config: Valid<AwsValues>, report: ReportProblem): void {
  const { credentials = "user" } = config;
  const trusted = config.roleTrust ?? "role";
  const kind = credentials === "role" ? trusted : credentials;
  const previous = previousKind(config);
  const needed: readonly string[] = [...NEEDED[kind], ...(previous ? NEEDED[previous] : [])];
  const name = `credentials "${credentials}"${kind === credentials ? "" : ` with roleTrust "${kind}"`}`;
  for (const key of CREDENTIAL_KEYS) {
    const isSet = config[key] !== undefined;
    const isOptional = key === "attachTo" && credentials === "profile";
    if (needed.includes(key) && !isSet) {
      report(key, `is missing, and ${name} needs it; set it: pulumi config set ${key} <value>`);
    } else if (!needed.includes(key) && !isOptional && isSet) {
      report(key, `has no effect with ${name}; remove it, or change credentials`);
    }
  }
}

/**
 * The kind of credentials that authentik had before `user`, from the keys of the other kinds. They
 * count only where `retirePreviousKey` is set, so that forgotten keys create nothing.
 */
function previousKind({
  credentials = "user",
  retirePreviousKey,
  roleTrust,
  attachTo,
}: Valid<AwsValues>): "irsa" | "podIdentity" | "external" | undefined {
  if (credentials !== "user" || retirePreviousKey === undefined) return undefined;
  return roleTrust ?? (attachTo === undefined ? undefined : "external");
}

/** A presigned URL is valid for one host. So it does not work behind a CDN or a CNAME in front of the bucket. */
function checkCustomDomain(config: Valid<AwsValues>, report: ReportProblem): void {
  const { customDomain, bucketName, region, authentikVersion, secureUrls } = config;
  if (customDomain === undefined || region === undefined) return;
  const release = authentikVersion === undefined ? undefined : parseRelease(authentikVersion);
  const own = `${bucketName ?? "<bucket>"}.${hostOf(region)}`;
  if (!releaseRules(release).signsCustomDomain) {
    const which = release
      ? `authentik ${authentikVersion ?? ""} signs`
      : "authentik before 2026.5, which this stack may run because it has no authentikVersion, signs";
    report(
      "customDomain",
      `cannot work: ${which} for the endpoint's host, and S3 refuses the signature on another host; remove it`,
    );
  } else if (bucketName === undefined) {
    report("customDomain", "needs bucketName in the config; set bucketName too, or remove it");
  } else if (bucketName.includes(".")) {
    report(
      "customDomain",
      `cannot work over https: S3's certificate does not cover "${own}", whose bucket has a dot; remove it`,
    );
  } else if (customDomain !== own) {
    report(
      "customDomain",
      `cannot work: presigned URLs do not work behind a CDN or CNAME in front of S3; write "${own}", or remove it`,
    );
  } else if (secureUrls === false) {
    report("secureUrls", "sends browsers to http, which the bucket's policy denies; remove it");
  }
}

function resolve({ tags, attachTo, ...config }: AwsValues): AwsConfig {
  const { keyGeneration = 1, retirePreviousKey = false } = config;
  return {
    ...config,
    provider: "aws",
    bucketName: config.bucketName,
    endpoint: `https://${hostOf(config.region)}`,
    tags: parseTags(tags),
    credentials: resolveCredentials({ ...config, attachTo }),
    previous: retirePreviousKey ? undefined : previousCredentials({ ...config, attachTo }),
    keyGeneration,
    retirePreviousKey,
  };
}

/** The part of the config that decides who authentik is. */
type CredentialValues = Pick<AwsValues, "credentials" | (typeof CREDENTIAL_KEYS)[number]>;

function resolveCredentials(config: CredentialValues): AwsCredentials {
  const { roleTrust, oidcProviderArn = "", clusterName = "", sessionProfile } = config;
  const attachTo = parseIdentity(config.attachTo ?? "");
  const serviceAccounts = (config.serviceAccounts ?? []).map((account) => {
    const [namespace = "", name = ""] = account.split("/");
    return { namespace, name };
  });
  if (config.credentials === "user") return { kind: "user" };
  if (config.credentials !== "role") return { kind: "existing", sessionProfile, attachTo };
  return roleTrust === "irsa"
    ? { kind: "irsa", oidcProviderArn, serviceAccounts }
    : { kind: "podIdentity", clusterName, serviceAccounts };
}

function previousCredentials(config: AwsValues): AwsCredentials | undefined {
  if (config.credentials !== "user")
    return config.keyGeneration === undefined ? undefined : { kind: "user" };
  const kind = previousKind(config);
  if (kind === undefined) return undefined;
  return resolveCredentials({ ...config, credentials: kind === "external" ? kind : "role" });
}

/** Host of the regional S3 API. */
function hostOf(region: string): string {
  return `s3.${region}.${partitionOrDefault(region).dnsSuffix}`;
}

function region(value: string): string | undefined {
  if (partitionOf(value)) return undefined;
  return 'is not an AWS region; write e.g. "eu-central-1" (a region, not its zone, in lower case)';
}

function identity(value: string): string | undefined {
  if (parseIdentity(value)) return undefined;
  return 'is not a role or user of IAM; write e.g. "role/authentik-task"';
}

const IDENTITY =
  /^(?:arn:aws[a-z-]*:iam::\d{12}:)?(role|user)\/(?:[\w+=,.@/-]*\/)?([\w+=,.@-]{1,64})$/;

function parseIdentity(value: string): Identity | undefined {
  const [, kind, name] = IDENTITY.exec(value) ?? [];
  if (name === undefined || (kind !== "role" && kind !== "user")) return undefined;
  return { kind, name };
}

/**
 * A private S3 bucket with its CORS policy, and a user, role or policy that lets authentik do what
 * it needs and nothing else.
 */
export class AwsStorage extends ComponentResource implements AuthentikStorage {
  readonly bucketName: Output<string>;
  readonly region: Output<string | undefined>;
  readonly endpoint: Output<string>;
  readonly customDomain: Output<string> | undefined;
  readonly credentials: Output<Credentials>;
  readonly roleArn: Output<string> | undefined;
  readonly serviceAccounts: readonly string[] | undefined;

  constructor(name: string, args: AwsConfig, options?: ComponentResourceOptions) {
    const { keyGeneration, retirePreviousKey, bucketName } = args;
    super(
      "authentik-storage:aws:AwsStorage",
      name,
      { keyGeneration, retirePreviousKey, signers: namedSigners(args) },
      guardRotation(name, options, true),
    );
    const protectedRecord = { parent: this, protect: args.protect };
    const region = { region: args.region };
    const place = recordPlace("authentik-storage:aws:Place", name, region, protectedRecord);
    const child = { parent: this, provider: this.#provider(name, args, place) };
    const make = (credentials: AwsCredentials) => {
      return this.#signer(name, args, credentials, child);
    };
    const current = make(args.credentials);
    const signers = args.previous ? [current, make(args.previous)] : [current];
    const grant = (bucketArn: Input<string>) => {
      const policy = output(bucketArn).apply((arn) => JSON.stringify(identityPolicy(arn, args)));
      return signers.flatMap((signer) => signer.grant?.(policy) ?? []);
    };
    // A destroy deletes the bucket first. If S3 refuses that, authentik still has its credentials.
    const { id: partition } = partitionOrDefault(args.region);
    const early = bucketName === undefined ? [] : grant(`arn:${partition}:s3:::${bucketName}`);
    const before = [...signers.flatMap(({ resources }) => resources), ...early];
    const bucket = this.#bucket(name, args, { ...child, dependsOn: before });
    const rights = bucketName === undefined ? grant(bucket.arn) : early;
    const settings = this.#settings(name, args, bucket, rights, child);

    // The name resolves only when the settings exist, so that nothing uses the bucket without them.
    this.bucketName = all([bucket.bucket, all(settings.map(({ id }) => id))]).apply(
      ([bucket]) => bucket,
    );
    this.region = output(args.region);
    // Without an endpoint boto3 presigns for the global host, which fails in many regions.
    this.endpoint = output(args.endpoint);
    this.customDomain = args.customDomain === undefined ? undefined : output(args.customDomain);
    const keys = { ...current.keys, ...signers[1]?.keys };
    const record = recordKeys("authentik-storage:aws:Keys", name, keys, protectedRecord);
    const ready = all([...rights.map(({ id }) => id), record.urn]);
    this.credentials = secret(all([current.credentials, ready]).apply(([known]) => known));
    this.roleArn = current.roleArn;
    this.serviceAccounts = accountsOf(args.credentials);
    place.complete({ bucketName: this.bucketName, ...region });
    this.registerOutputs({
      bucketName: this.bucketName,
      endpoint: this.endpoint,
      roleArn: this.roleArn,
      keys: idsOf(keys),
    });
  }

  /** An explicit provider, so that the environment's region and account are never used. */
  #provider(
    name: string,
    { region, accountId, tags }: AwsConfig,
    place: ComponentResource,
  ): Provider {
    return new Provider(
      `${name}-aws`,
      {
        // The guard of the place comes before everything in it.
        region: place.urn.apply(() => region),
        defaultTags: { tags: { application: "authentik", ...tags } },
        ...(accountId === undefined ? {} : { allowedAccountIds: [accountId] }),
      },
      { parent: this },
    );
  }

  #bucket(
    name: string,
    { bucketName, forceDestroy, protect, adopt }: AwsConfig,
    child: CustomResourceOptions,
  ): Bucket {
    const imported = adopt && bucketName !== undefined ? { import: bucketName } : {};
    // A refresh reads these into the bucket too, but each has a resource of its own here.
    const ignoreChanges = [
      "corsRules",
      "lifecycleRules",
      "policy",
      "serverSideEncryptionConfiguration",
      "versioning",
    ];
    // S3 refuses to delete a bucket that is not empty. With forceDestroy the provider empties it first.
    const options = { ...child, protect, ignoreChanges, ...imported };
    return new Bucket(`${name}-media`, { bucket: bucketName, forceDestroy }, options);
  }

  #settings(
    name: string,
    args: AwsConfig,
    bucket: Bucket,
    rights: CustomResource[],
    child: Child,
  ): CustomResource[] {
    // They are deleted with the bucket. A bucket that may not be deleted keeps them.
    // If a replacement of the bucket fails and the config goes back, the new and the old settings
    // belong to the same bucket. Deleting the old ones last would delete the new ones.
    const ofBucket = {
      ...child,
      deletedWith: bucket,
      deleteBeforeReplace: true,
      // A destroy begins with the settings. With protect it ends there, before authentik's rights.
      protect: args.protect,
      dependsOn: rights,
    };
    const after = (resource: CustomResource) => ({ ...ofBucket, dependsOn: [...rights, resource] });
    const publicAccess = new BucketPublicAccessBlock(
      `${name}-public-access`,
      {
        bucket: bucket.bucket,
        blockPublicAcls: true,
        ignorePublicAcls: true,
        blockPublicPolicy: true,
        restrictPublicBuckets: true,
      },
      ofBucket,
    );
    const versioning = new BucketVersioning(
      `${name}-versioning`,
      { bucket: bucket.bucket, versioningConfiguration: { status: "Enabled" } },
      ofBucket,
    );
    // S3 refuses two of these at the same time (OperationAborted), so each waits for the one before.
    const policy = new BucketPolicy(
      `${name}-policy`,
      {
        bucket: bucket.bucket,
        policy: bucket.arn.apply((arn) => JSON.stringify(denyPlainHttp(arn))),
      },
      after(publicAccess),
    );
    const ownership = new BucketOwnershipControls(
      `${name}-ownership`,
      { bucket: bucket.bucket, rule: { objectOwnership: args.ownership } },
      after(policy),
    );
    return [
      publicAccess,
      versioning,
      policy,
      ownership,
      this.#encryption(name, args, bucket, ofBucket),
      this.#lifecycle(name, args, bucket, after(versioning)),
      this.#cors(name, args, bucket, ofBucket),
    ];
  }

  #encryption(
    name: string,
    { kmsKeyArn }: AwsConfig,
    bucket: Bucket,
    options: CustomResourceOptions,
  ): CustomResource {
    const byDefault =
      kmsKeyArn === undefined
        ? { sseAlgorithm: "AES256" }
        : { sseAlgorithm: "aws:kms", kmsMasterKeyId: kmsKeyArn };
    return new BucketServerSideEncryptionConfiguration(
      `${name}-encryption`,
      // One data key for the bucket. One for each file would cost a KMS request for each icon.
      {
        bucket: bucket.bucket,
        rules: [
          {
            applyServerSideEncryptionByDefault: byDefault,
            bucketKeyEnabled: kmsKeyArn !== undefined,
          },
        ],
      },
      options,
    );
  }

  #lifecycle(
    name: string,
    { noncurrentVersionDays }: AwsConfig,
    bucket: Bucket,
    options: CustomResourceOptions,
  ): CustomResource {
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
            // A deleted file leaves a delete marker, which would stay after its last version has expired.
            expiration: { expiredObjectDeleteMarker: true },
          },
        ],
      },
      options,
    );
  }

  #cors(
    name: string,
    args: AwsConfig,
    bucket: Bucket,
    options: CustomResourceOptions,
  ): CustomResource {
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

  /** What authentik signs with, without its rights. */
  #signer(name: string, args: AwsConfig, credentials: AwsCredentials, child: Child): Signer {
    if (credentials.kind === "user") return this.#user(name, args, child);
    if (credentials.kind === "existing") {
      const { sessionProfile, attachTo } = credentials;
      const hasUser = [args.credentials, args.previous].some((signer) => signer?.kind === "user");
      return {
        credentials: output({ sessionProfile }),
        resources: [],
        ...(attachTo && { grant: attach(name, attachTo, hasUser, child) }),
      };
    }
    const role = new Role(
      `${name}-role`,
      { assumeRolePolicy: JSON.stringify(trustPolicy(credentials)) },
      child,
    );
    const resources: CustomResource[] = [role];
    if (credentials.kind === "podIdentity") {
      const { clusterName, serviceAccounts } = credentials;
      // The name `namespace/name` is unique. Earlier versions used `namespace-name`. Of two accounts
      // with the same such name, only the first one had a resource.
      const earlier = serviceAccounts.map((account) => `${account.namespace}-${account.name}`);
      for (const [index, { namespace, name: serviceAccount }] of serviceAccounts.entries()) {
        const joined = `${namespace}-${serviceAccount}`;
        const isFirst = earlier.indexOf(joined) === index;
        const aliases = isFirst ? [{ name: `${name}-pods-${joined}` }] : [];
        resources.push(
          new PodIdentityAssociation(
            `${name}-pods-${namespace}/${serviceAccount}`,
            { clusterName, namespace, serviceAccount, roleArn: role.arn },
            { ...child, aliases },
          ),
        );
      }
    }
    return {
      credentials: output({}),
      roleArn: role.arn,
      resources,
      grant: (policy) =>
        new RolePolicy(`${name}-role-policy`, { role: role.name, policy }, { ...child, ...RIGHTS }),
    };
  }

  /** A user with the keys of both slots; beside other credentials, with its current key alone. */
  #user(name: string, args: AwsConfig, child: Child): Signer {
    const user = new User(`${name}-user`, {}, child);
    const [current, previous] = keySlots(args);
    const make = ({ slot, generation }: KeySlot) =>
      // IAM allows two keys for each user, so the older one is deleted first. authentik uses the key of the other slot.
      new AccessKey(
        `${name}-key-${slot}`,
        // Without a status, a key that was made inactive by hand would be no drift.
        { user: user.name, status: "Active" },
        { ...child, replacementTrigger: generation, deleteBeforeReplace: true },
      );
    const key = make(current);
    const older =
      previous && namedSigners(args) === undefined ? { [previous.generation]: make(previous) } : {};
    const keys = { ...older, [current.generation]: key };
    return {
      credentials: all([key.id, key.secret]).apply(([accessKey, secretKey]) => {
        return { accessKey, secretKey };
      }),
      resources: [user, ...Object.values(keys)],
      keys,
      grant: (policy) =>
        new UserPolicy(`${name}-user-policy`, { user: user.name, policy }, { ...child, ...RIGHTS }),
    };
  }
}

function accountsOf(credentials: AwsCredentials): string[] | undefined {
  if (!("serviceAccounts" in credentials)) return undefined;
  return credentials.serviceAccounts.map(({ namespace, name }) => `${namespace}/${name}`);
}

/** Options of every child. */
interface Child {
  parent: ComponentResource;
  provider: Provider;
}

/** What authentik signs with, or did before. */
interface Signer {
  credentials: Output<Credentials>;
  roleArn?: Output<string>;
  /** What it consists of, without its rights. */
  resources: CustomResource[];
  /** Its keys, by generation. */
  keys?: Record<string, AccessKey>;
  /** Gives it the rights of a policy. */
  grant?: (policy: Output<string>) => CustomResource;
}

/** The signers for the guard, the current one first; undefined if they are the keys of the rotation. */
function namedSigners({ credentials, previous, keyGeneration }: AwsConfig): string[] | undefined {
  if (credentials.kind === "user" && !previous) return undefined;
  return [credentials, ...(previous ? [previous] : [])].map((signer) => {
    if (signer.kind === "user") return keySigner(keyGeneration);
    if (signer.kind === "irsa") return `irsa ${signer.oidcProviderArn}`;
    if (signer.kind === "podIdentity") return `podIdentity ${signer.clusterName}`;
    return signer.attachTo ? `${signer.attachTo.kind}/${signer.attachTo.name}` : "";
  });
}

/**
 * A policy that changes is replaced: the new one is created before the bucket, and the old one is
 * deleted after it. If the bucket fails in between, authentik keeps its rights.
 */
const RIGHTS = { replaceOnChanges: ["policy"] };

/** Gives an identity that exists the rights of a policy. */
function attach(
  name: string,
  identity: Identity,
  hasUser: boolean,
  child: Child,
): (policy: Output<string>) => CustomResource {
  const options = { ...child, ...RIGHTS };
  return (policy) => {
    if (identity.kind === "role")
      return new RolePolicy(`${name}-role-policy`, { role: identity.name, policy }, options);
    return new UserPolicy(
      `${name}-attached-policy`,
      { user: identity.name, policy },
      // The name of earlier versions, which the policy of the stack's own user has too.
      { ...options, aliases: hasUser ? [] : [{ name: `${name}-user-policy` }] },
    );
  };
}

/**
 * What authentik may do: its calls on the bucket and, if a KMS key encrypts the files, the use of
 * that key through S3.
 */
function identityPolicy(bucketArn: string, { kmsKeyArn, endpoint }: AwsConfig): PolicyDocument {
  const policy = authentikPolicy(bucketArn);
  if (kmsKeyArn === undefined) return policy;
  const useKey: PolicyStatement = {
    Sid: "AuthentikKmsKey",
    Effect: "Allow",
    // A read decrypts, a write needs a data key, and a multipart upload decrypts its parts (AWS, "Using SSE-KMS").
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

/** Who may assume the role: the service accounts, and no other pod of the cluster. */
function trustPolicy(credentials: RoleCredentials): object {
  const statement =
    credentials.kind === "irsa" ? irsaTrust(credentials) : podIdentityTrust(credentials);
  return {
    Version: "2012-10-17",
    Statement: [{ Sid: "AuthentikPods", Effect: "Allow", ...statement }],
  };
}

type RoleCredentials = Extract<AwsCredentials, { kind: "irsa" | "podIdentity" }>;

function podIdentityTrust({
  clusterName,
  serviceAccounts,
}: Extract<AwsCredentials, { kind: "podIdentity" }>): object {
  const namespaces = serviceAccounts.map(({ namespace }) => namespace);
  const names = serviceAccounts.map(({ name }) => name);
  return {
    Principal: { Service: "pods.eks.amazonaws.com" },
    Action: ["sts:AssumeRole", "sts:TagSession"],
    Condition: {
      StringEquals: {
        "aws:RequestTag/eks-cluster-name": clusterName,
        "aws:RequestTag/kubernetes-namespace": [...new Set(namespaces)],
        "aws:RequestTag/kubernetes-service-account": [...new Set(names)],
      },
    },
  };
}

function irsaTrust({
  oidcProviderArn,
  serviceAccounts,
}: Extract<AwsCredentials, { kind: "irsa" }>): object {
  const issuer = oidcProviderArn.slice(oidcProviderArn.indexOf("/") + 1);
  const subjects = serviceAccounts.map(({ namespace, name }) => {
    return `system:serviceaccount:${namespace}:${name}`;
  });
  return {
    Principal: { Federated: oidcProviderArn },
    Action: "sts:AssumeRoleWithWebIdentity",
    Condition: {
      StringEquals: { [`${issuer}:aud`]: "sts.amazonaws.com", [`${issuer}:sub`]: subjects },
    },
  };
}
