/**
 * Which types of resources give access to files, to keys or to an account. What the program makes of them is judged in
 * `least-privilege.ts`, the others are refused. What only works through a role (a function, a file gateway, replication)
 * gives nothing beyond that role, which is judged.
 */
import { TYPES, typeName } from "./rule.ts";

/** By patterns, so that a type which a new release of a package adds is refused until someone has looked at it. */
const GIVING = [
  /^aws:(?:iam|ssoadmin|identitystore)\//,
  /^aws:s3(?:control)?\/\w*(?:policy|acl|grant|accesspoint)/i,
  /^aws:kms\/(?:grant|keyPolicy):/,
  /^aws:eks\/(?:access|podIdentity)/,
  /^aws:lakeformation\/(?:permissions|resource):/,
  // The same by Cloud Control, whose properties have other names.
  /^aws-native:(?:iam|sso|identitystore):/,
  /^aws-native:s3\w*:(?:Bucket$|\w*(?:Policy|Grant|AccessPoint))/,
  /^azure-native:(?:authorization|managedservices):/,
  // Users and shares of an account, and copies of it in another one.
  /^azure-native:storage:(?:LocalUser|DataShare|ObjectReplicationPolicy)$/,
  // Tokens from elsewhere that become an identity, and a repository that replaces the gateway.
  /^azure-native:managedidentity:\w*Credential/,
  /^azure-native:app:ContainerAppsSourceControl$/,
  /^cloudflare:index\/(?:\w*Token|accountMember|userGroup\w*):/,
];

/** Among them, what is judged, and what gives nothing by itself. */
const KNOWN = [
  ...[TYPES.awsRole, TYPES.awsRolePolicy, TYPES.awsUserPolicy, TYPES.awsBucketPolicy, TYPES.awsBucketAcl, TYPES.awsPods, TYPES.azureRole, TYPES.r2Token]
    .map((type) => new RegExp(`^${type}$`)),
  /^aws:iam\/(?:user|accessKey|group|openIdConnectProvider|samlProvider|serverCertificate|virtualMfaDevice|account\w+):/,
  /^aws:identitystore\/(?:user|group):/,
  // Locks and policies take rights away, or watch.
  /^azure-native:authorization:(?:ManagementLock|Policy|DenyAssignment|Variable|PrivateLink|ResourceManagementPrivateLink|\w*AccessReview)/,
  // For pages behind Cloudflare Access.
  /^cloudflare:index\/(?:access|zeroTrustAccess)ServiceToken:/,
];

/** Whether a type gives access in a way that cannot be judged. */
export function isUnjudgedGrant(type: string): boolean {
  const name = typeName(type);
  return GIVING.some((pattern) => pattern.test(name)) && !KNOWN.some((pattern) => pattern.test(name));
}
