/** Config of the provider `aws`: Amazon S3 in any partition. */
import { parseRelease, releaseRules } from "../authentik/release.ts";
import { parseTags, rotationKeys, tagKeys, type CommonConfig, type ProviderConfig, type Report, type Sound, type Values } from "./common.ts";
import { integer, list, oneOf, optional, text } from "./values.ts";

export const OWNERSHIPS = ["BucketOwnerPreferred", "BucketOwnerEnforced"] as const;
export const CREDENTIALS = ["user", "role", "profile", "external"] as const;
export const TRUSTS = ["irsa", "podIdentity"] as const;

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

export const aws: ProviderConfig<typeof keys, AwsConfig> = { keys, check, resolve };

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

/** AWS's partitions: how their regions begin, and the domain of their services. Source: the AWS SDKs' `partitions.json`. */
const PARTITIONS = [
  { id: "aws-cn", regions: /^cn-\w+-\d+$/, domain: "amazonaws.com.cn" },
  { id: "aws-us-gov", regions: /^us-gov-\w+-\d+$/, domain: "amazonaws.com" },
  { id: "aws-eusc", regions: /^eusc-de-\w+-\d+$/, domain: "amazonaws.eu" },
  { id: "aws-iso", regions: /^us-iso-\w+-\d+$/, domain: "c2s.ic.gov" },
  { id: "aws-iso-b", regions: /^us-isob-\w+-\d+$/, domain: "sc2s.sgov.gov" },
  { id: "aws-iso-e", regions: /^eu-isoe-\w+-\d+$/, domain: "cloud.adc-e.uk" },
  { id: "aws-iso-f", regions: /^us-isof-\w+-\d+$/, domain: "csp.hci.ic.gov" },
  { id: "aws", regions: /^(?:us|eu|ap|sa|ca|me|af|il|mx)-\w+-\d+$/, domain: "amazonaws.com" },
] as const;

function partitionOf(region: string): (typeof PARTITIONS)[number] | undefined {
  return PARTITIONS.find(({ regions }) => regions.test(region));
}

/** Host of the regional S3 API. Regions that are not out yet work too, so there is no list of them to keep. */
function hostOf(region: string): string {
  return `s3.${region}.${partitionOf(region)?.domain ?? "amazonaws.com"}`;
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
