/** Policy `least-privilege`: authentik, and its gateway, can do what they need on this bucket and nothing else. */
import type { PolicyResource, ResourceValidation } from "@pulumi/policy";
import * as v from "valibot";
import { Document, excessRights, excessTrust, namedBuckets } from "./documents.ts";
import { judged, ofType, reportAll, rule, TYPES, type Finding, type StoragePolicy } from "./rule.ts";

/** What has a policy document. */
const POLICY_HOLDERS = [TYPES.awsUserPolicy, TYPES.awsRolePolicy, TYPES.awsBucketPolicy, TYPES.s3BucketPolicy];
const WithPolicy = v.object({ policy: Document });
const Role = v.object({
  assumeRolePolicy: Document,
  managedPolicyArns: v.optional(v.array(v.string()), []),
  inlinePolicies: v.optional(v.array(v.unknown()), []),
});
const Token = v.object({
  policies: v.array(v.object({
    effect: v.string(),
    permissionGroups: v.array(v.object({ id: v.string() })),
    resources: v.pipe(v.string(), v.parseJson(), v.record(v.string(), v.unknown())),
  })),
});
const RoleAssignment = v.object({ scope: v.string(), roleDefinitionId: v.string() });
const Account = v.object({ allowSharedKeyAccess: v.optional(v.boolean()), isLocalUserEnabled: v.optional(v.boolean(), false) });

/** "Workers R2 Storage Bucket Item Read" and "... Write", whose ids are the same in every account (Cloudflare, "R2 API tokens"). */
const R2_GROUPS = ["6a018a9f2fc74eb6b293b0c548f38b39", "2efd5506f9c8494dacb1fa10a3e7d5b6"];
/** "Storage Blob Data Contributor", whose id is the same everywhere. */
const BLOB_DATA_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe";

/** Types that give rights. Those which the program does not use cannot be judged here. */
const GRANTING = /^(?:aws:iam\/|azure-native:authorization:|cloudflare:index\/(?:apiToken|accountToken):)/;
const JUDGED: readonly string[] = [
  TYPES.awsRole, TYPES.awsRolePolicy, TYPES.awsUserPolicy, TYPES.r2Token, TYPES.azureRole,
  // They give nothing by themselves.
  "aws:iam/user:User", "aws:iam/accessKey:AccessKey",
];

const unknownGrant: ResourceValidation = ({ type, urn }, report) => {
  if (!GRANTING.test(type) || JUDGED.includes(type)) return;
  report(`${type} gives rights that this policy cannot judge; declare it in a stack of its own (${urn})`);
};

export const leastPrivilege: StoragePolicy = {
  name: "least-privilege",
  description: "authentik and its gateway can do what they need on this bucket and nothing else.",
  validateResource: [
    unknownGrant,
    ...POLICY_HOLDERS.map((type) => rule(type, WithPolicy, ({ policy }) => excessRights(policy))),
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
    reportAll(foreignScopes(resources), report);
    reportAll(foreignBuckets(resources), report);
  },
};

function foreignScopes(resources: readonly PolicyResource[]): Finding[] {
  const accounts = ofType(resources, TYPES.azureAccount).map(({ urn }) => urn);
  return ofType(resources, TYPES.azureRole)
    .filter(({ dependencies }) => !dependencies.some(({ urn }) => accounts.includes(urn)))
    .map(({ urn }) => ({ finding: "scope is not the storage account of this stack; write that account's id", urn }));
}

/** Rights on buckets that are not this stack's. */
function foreignBuckets(resources: readonly PolicyResource[]): Finding[] {
  const own = Object.entries(BUCKET_NAMES).flatMap(([type, keys]) =>
    ofType(resources, type).flatMap(({ props }) => keys.flatMap((key) => textsAt(props, key))));
  const foreign = (named: string[]) => named.filter((name) => !own.includes(name)).map((name) =>
    `gives rights on the bucket "${name}", which is not this stack's (${own.join(", ")}); write this stack's alone`);
  return GRANTS.flatMap(({ type, buckets }) => ofType(resources, type).flatMap(({ props, urn }) =>
    judged(buckets, props, foreign).map((finding) => ({ finding, urn }))));
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
