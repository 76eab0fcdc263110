/** Policy `least-privilege`: authentik, and its gateway, can do what they need on this bucket and nothing else. */
import type { PolicyResource, ResourceValidation } from "@pulumi/policy";
import * as v from "valibot";
import { Document, excessRights, excessTrust, grantees, namedBuckets } from "./documents.ts";
import { isUnjudgedGrant } from "./grants.ts";
import { foreign, judged, ofType, reportAll, rule, TYPES, type Finding, type StoragePolicy } from "./rule.ts";

/** What has a policy document. */
const POLICY_HOLDERS = [TYPES.awsUserPolicy, TYPES.awsRolePolicy, TYPES.awsBucketPolicy, TYPES.s3BucketPolicy];
const WithPolicy = v.object({ policy: Document });
const MayHavePolicy = v.object({ policy: v.optional(Document) });
const Role = v.object({
  assumeRolePolicy: Document,
  managedPolicyArns: v.optional(v.array(v.string()), []),
  inlinePolicies: v.optional(v.array(v.unknown()), []),
});
/** Without a policy of its own a key obeys the policies of its account's users and roles. */
const KMS_KEYS = ["aws:kms/key:Key", "aws:kms/externalKey:ExternalKey", "aws:kms/replicaKey:ReplicaKey", "aws:kms/replicaExternalKey:ReplicaExternalKey"];
const Key = v.object({ policy: v.optional(v.unknown()) });
const Token = v.object({
  policies: v.array(v.object({
    effect: v.string(),
    permissionGroups: v.array(v.object({ id: v.string() })),
    resources: v.pipe(v.string(), v.parseJson(), v.record(v.string(), v.unknown())),
  })),
});
/** Code at Cloudflare, which gets every right on a bucket without any token. */
const WORKERS = ["cloudflare:index/workersScript:WorkersScript", "cloudflare:index/workerScript:WorkerScript", "cloudflare:index/workerVersion:WorkerVersion"];
const Worker = v.object({ bindings: v.optional(v.array(v.object({ type: v.string() })), []) });
const Site = v.optional(v.object({ r2Buckets: v.optional(v.record(v.string(), v.unknown()), {}) }));
const Pages = v.object({ deploymentConfigs: v.optional(v.object({ preview: Site, production: Site })) });
const RoleAssignment = v.object({ scope: v.string(), roleDefinitionId: v.string() });
const Account = v.object({ allowSharedKeyAccess: v.optional(v.boolean()), isLocalUserEnabled: v.optional(v.boolean(), false) });

/** "Workers R2 Storage Bucket Item Read" and "... Write", whose ids are the same in every account (Cloudflare, "R2 API tokens"). */
const R2_GROUPS = ["6a018a9f2fc74eb6b293b0c548f38b39", "2efd5506f9c8494dacb1fa10a3e7d5b6"];
/** "Storage Blob Data Contributor", whose id is the same everywhere. */
const BLOB_DATA_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe";

/** Users of the gateway on Azure, one for each of authentik's two keys. */
const GATEWAY_USERS = ["authentik-0", "authentik-1"];

const unjudgedGrant: ResourceValidation = ({ type, urn }, report) => {
  if (isUnjudgedGrant(type)) report(`${type} gives rights that this policy cannot judge; declare it in a stack of its own (${urn})`);
};

export const leastPrivilege: StoragePolicy = {
  name: "least-privilege",
  description: "authentik and its gateway can do what they need on this bucket and nothing else.",
  validateResource: [
    unjudgedGrant,
    ...POLICY_HOLDERS.map((type) => rule(type, WithPolicy, ({ policy }) => excessRights(policy))),
    ...[TYPES.awsBucket, TYPES.awsBucketPolicy].map((type) => rule(type, MayHavePolicy, ({ policy }) => (policy ? grantees(policy) : []).map((name) =>
      `policy gives rights to "${name}"; remove the statement: authentik's rights are in the policy of its user or role`))),
    // Names of users may be secret here.
    rule(TYPES.s3BucketPolicy, WithPolicy, ({ policy }) => grantees(policy).length <= 1 || grantees(policy).every((name) => GATEWAY_USERS.includes(name)) ? [] : [
      `policy gives rights to ${grantees(policy).length} principals; name authentik's alone (policyPrincipal in the stack's config)`,
    ]),
    ...KMS_KEYS.map((type) => rule(type, Key, ({ policy }) => policy === undefined ? [] : [
      "policy gives rights on the key that this policy cannot judge; remove it, or declare the key in a stack of its own (kmsKeyArn in this stack's config)",
    ])),
    rule(TYPES.awsRole, Role, ({ assumeRolePolicy, managedPolicyArns, inlinePolicies }) => [
      ...excessTrust(assumeRolePolicy),
      ...managedPolicyArns.map((arn) => `managedPolicyArns has "${arn}"; remove it: the role's own policy has every right that authentik needs`),
      ...(inlinePolicies.length === 0 ? [] : ["inlinePolicies gives rights that this policy cannot judge; write a RolePolicy instead"]),
    ]),
    rule(TYPES.r2Token, Token, ({ policies }) => policies.filter(({ effect }) => effect !== "deny").flatMap(({ permissionGroups, resources }) => [
      ...permissionGroups.filter(({ id }) => !R2_GROUPS.includes(id)).map(({ id }) =>
        `policies.permissionGroups has "${id}"; write the groups "Workers R2 Storage Bucket Item Read" and "... Write" alone`),
      ...(bucketsOf(resources).length === 1 && Object.keys(resources).length === 1 ? [] : [
        `policies.resources = ${JSON.stringify(Object.keys(resources))}; ` +
        "write the one bucket: com.cloudflare.edge.r2.bucket.<account>_<jurisdiction>_<bucket>",
      ]),
    ])),
    ...WORKERS.map((type) => rule(type, Worker, ({ bindings }) => bindings.some(({ type }) => type === "r2_bucket") ? [
      'bindings has an "r2_bucket", and what the code shows of it cannot be judged; remove it',
    ] : [])),
    rule("cloudflare:index/pagesProject:PagesProject", Pages, ({ deploymentConfigs = {} }) => Object.entries(deploymentConfigs)
      .filter(([, site]) => Object.keys(site?.r2Buckets ?? {}).length > 0)
      .map(([name]) => `deploymentConfigs.${name}.r2Buckets is set, and what the code shows of it cannot be judged; remove it`)),
    rule(TYPES.azureRole, RoleAssignment, ({ scope, roleDefinitionId }) => [
      ...(roleDefinitionId.endsWith(`/${BLOB_DATA_CONTRIBUTOR}`) ? [] : [
        `roleDefinitionId = "${roleDefinitionId}" is another role than "Storage Blob Data Contributor" (${BLOB_DATA_CONTRIBUTOR}); write that`,
      ]),
      ...(/\/providers\/Microsoft\.Storage\/storageAccounts\/[a-z0-9]+(?:\/|$)/.test(scope) ? [] : [
        `scope = "${scope}" is wider than the storage account; write the account's id`,
      ]),
    ]),
    rule(TYPES.azureAccount, Account, ({ allowSharedKeyAccess, isLocalUserEnabled }) => [
      ...(allowSharedKeyAccess === false ? [] : ["allowSharedKeyAccess is not false, so the account's keys open everything in it; write false"]),
      ...(isLocalUserEnabled ? ["isLocalUserEnabled is true, which gives SFTP users access; write false"] : []),
    ]),
  ],
  validateStack: ({ resources }, report) => {
    reportAll([
      ...foreign(resources, TYPES.azureRole, TYPES.azureAccount, "scope is not the storage account of this stack; write that account's id"),
      ...foreign(resources, TYPES.azureRole, TYPES.azureIdentity, "principalId is not the gateway's identity; write its principalId"),
      ...foreign(resources, TYPES.awsPods, TYPES.awsRole, "roleArn is not the role of this stack, whose rights are judged; write that role's ARN"),
      ...foreignBuckets(resources),
    ], report);
  },
};

/** Rights on buckets that are not this stack's. */
function foreignBuckets(resources: readonly PolicyResource[]): Finding[] {
  const own = Object.entries(BUCKET_NAMES).flatMap(([type, keys]) =>
    ofType(resources, type).flatMap(({ props }) => keys.flatMap((key) => textsAt(props, key))));
  const foreignAmong = (named: string[]) => named.filter((name) => !own.includes(name)).map((name) =>
    `gives rights on the bucket "${name}", which is not this stack's (${own.join(", ")}); write this stack's alone`);
  return GRANTS.flatMap(({ type, buckets }) => ofType(resources, type).flatMap(({ props, urn }) =>
    judged(buckets, props, foreignAmong).map((finding) => ({ finding, urn }))));
}

/** Where the outputs of a bucket have its name. Behind a gateway the container is the bucket. */
const BUCKET_NAMES = {
  [TYPES.awsBucket]: ["bucket"],
  [TYPES.s3Bucket]: ["bucket"],
  [TYPES.r2Bucket]: ["name"],
  // The name is an output of its own, and the input is no output.
  [TYPES.azureContainer]: ["name", "containerName"],
} as const;

/** What gives rights on buckets, and which of its outputs names them. */
const GRANTS = [
  ...POLICY_HOLDERS.map((type) => ({ type, buckets: v.pipe(WithPolicy, v.transform(({ policy }) => namedBuckets(policy))) })),
  {
    type: TYPES.r2Token,
    buckets: v.pipe(Token, v.transform(({ policies }) => policies.flatMap(({ resources }) => bucketsOf(resources)))),
  },
];

function textsAt(props: Record<string, unknown>, key: string): string[] {
  const text = props[key];
  return typeof text === "string" ? [text] : [];
}

/** The buckets among the resources of a Cloudflare token: `com.cloudflare.edge.r2.bucket.<account>_<jurisdiction>_<bucket>`. */
function bucketsOf(resources: Record<string, unknown>): string[] {
  const bucket = /^com\.cloudflare\.edge\.r2\.bucket\.[0-9a-f]{32}_[a-z]+_([a-z0-9-]+)$/;
  return Object.keys(resources).flatMap((resource) => bucket.exec(resource)?.[1] ?? []);
}
