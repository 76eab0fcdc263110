/** Policy `least-privilege`: authentik and its gateway have the rights that they need, no others. */
import type { PolicyResource } from "@pulumi/policy";
import { resourceType } from "../providers/index.ts";
import { BLOB_DATA_CONTRIBUTOR, GATEWAY_USERS } from "../providers/versitygw.ts";
import {
  documentRule,
  excessRights,
  excessTrust,
  grantees,
  othersRights,
  type Document,
} from "./documents.ts";
import {
  eachText,
  findIf,
  mustBe,
  needs,
  ofType,
  stackRules,
  type Finding,
  type StoragePolicy,
} from "./rule.ts";

const ACCESS_KEY = "aws:iam/accessKey:AccessKey";
const USER = "aws:iam/user:User";
const ROLE = "aws:iam/role:Role";
const PODS = "aws:eks/podIdentityAssociation:PodIdentityAssociation";
const TOKEN = "cloudflare:index/accountToken:AccountToken";
const ACCOUNT = "azure-native:storage:StorageAccount";
const IDENTITY = "azure-native:managedidentity:UserAssignedIdentity";
const ASSIGNMENT = "azure-native:authorization:RoleAssignment";
const S3_POLICY = "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy";
/** Their documents give authentik its rights. */
const WITH_RIGHTS = [
  "aws:iam/userPolicy:UserPolicy",
  "aws:iam/rolePolicy:RolePolicy",
  "aws:s3/bucketPolicy:BucketPolicy",
  S3_POLICY,
] as const;
/** Their documents give nobody rights. */
const WITHOUT_GRANTEES = [
  "aws:s3/bucket:Bucket",
  "aws:s3/bucketPolicy:BucketPolicy",
  "aws:s3/accessPoint:AccessPoint",
  "aws:s3control/accessPointPolicy:AccessPointPolicy",
] as const;

/** Their ids are the same in every account (Cloudflare, "R2 API tokens"). */
const R2_GROUPS = ["6a018a9f2fc74eb6b293b0c548f38b39", "2efd5506f9c8494dacb1fa10a3e7d5b6"];
const WRITE_GROUPS =
  "is another permission group; " +
  'write "Workers R2 Storage Bucket Item Read" and "Workers R2 Storage Bucket Item Write"';
const ONE_R2_BUCKET = /^\{"com\.cloudflare\.edge\.r2\.bucket\.\w+_[a-z]+_[a-z0-9-]+":"\*"\}$/;
const WRITE_R2_BUCKET =
  "is not one bucket; " +
  'write {"com.cloudflare.edge.r2.bucket.<account>_<jurisdiction>_<bucket>":"*"}';
const BLOB_ROLE = `/${BLOB_DATA_CONTRIBUTOR}`;
const WRITE_ROLE = `is not "Storage Blob Data Contributor"; write the id that ends in ${BLOB_ROLE}`;
const ONE_ACCOUNT = /\/providers\/Microsoft\.Storage\/storageAccounts\/[a-z0-9]+(?:\/|$)/;
const WRITE_ACCOUNT = "is wider than the storage account; write the account's id";

export const leastPrivilege: StoragePolicy = {
  name: "least-privilege",
  description: "authentik and its gateway can do what they need on this bucket and nothing else.",
  validateResource: [
    ...WITH_RIGHTS.map((type) => documentRule(type, excessRights)),
    ...WITHOUT_GRANTEES.map((type) => documentRule(type, othersRights)),
    documentRule(S3_POLICY, manyPrincipals),
    documentRule(ROLE, excessTrust, "assumeRolePolicy"),
    eachText(ROLE, "managedPolicyArns?", () => true, "gives more rights; remove it"),
    mustBe(ROLE, "inlinePolicies", undefined, "it has rights beyond its RolePolicy"),
    eachText(TOKEN, "policies.permissionGroups.id", (id) => !R2_GROUPS.includes(id), WRITE_GROUPS),
    eachText(TOKEN, "policies.resources", (text) => !ONE_R2_BUCKET.test(text), WRITE_R2_BUCKET),
    eachText(ASSIGNMENT, "roleDefinitionId", (id) => !id.endsWith(BLOB_ROLE), WRITE_ROLE),
    eachText(ASSIGNMENT, "scope", (scope) => !ONE_ACCOUNT.test(scope), WRITE_ACCOUNT),
    mustBe(ACCOUNT, "allowSharedKeyAccess", false, "its keys open everything in it"),
    mustBe(ACCOUNT, "isLocalUserEnabled", false, "SFTP users may have access"),
  ],
  validateStack: stackRules(
    needs(ASSIGNMENT, ACCOUNT, "scope is not this stack's account; write its id"),
    needs(ASSIGNMENT, IDENTITY, "principalId is not the gateway's; write its principalId"),
    needs(PODS, ROLE, "roleArn is not this stack's role, which is checked; write its ARN"),
    othersKeys,
    otherBuckets,
  ),
};

/** Keys of users that are not this stack's: such a key has all rights of its user. */
function othersKeys(resources: PolicyResource[]): Finding[] {
  const keys = ofType(resources, ACCESS_KEY);
  if (keys.length === 0) return [];
  const own = ofType(resources, USER).map(({ props }): unknown => props.name);
  const others = keys.filter(({ props }) => !own.includes(props.user));
  return others.map(({ props, urn }) => ({
    finding:
      `user = ${JSON.stringify(props.user)} is not a user of this stack, so the key has rights ` +
      "that no policy checks; write the name of this stack's user",
    urn,
  }));
}

/** It quotes no names: on some servers they are access keys. */
function manyPrincipals(document: Document): string[] {
  const names = grantees(document);
  return findIf(
    names.length > 1 && !names.every((name) => GATEWAY_USERS.includes(name)),
    `policy gives rights to ${names.length} principals; ` +
      "name only authentik's (policyPrincipal in the stack's config)",
  );
}

/** A bucket in a policy document, or in the resources of a token. */
const BUCKET =
  /(?:arn:[a-z-]+:s3:::|com\.cloudflare\.edge\.r2\.bucket\.\w+?_[a-z]+_)([a-z0-9.-]+)(?=["\\/])/g;

/** Rights on buckets that are not this stack's. */
async function otherBuckets(resources: PolicyResource[]): Promise<Finding[]> {
  const own = (await Promise.all(resources.map(ownNames))).flat();
  const types = [...WITH_RIGHTS, TOKEN] as const;
  const granting = types.flatMap((type) => ofType(resources, type));
  return granting.flatMap(({ props, urn }) => {
    const text = JSON.stringify([props.policy, props.policies]);
    const names = new Set([...text.matchAll(BUCKET)].map(([, name = ""]) => name));
    const others = [...names].filter((name) => !own.includes(name));
    return others.map((name) => ({
      finding:
        `gives rights on the bucket "${name}", which is not this stack's (${own.join(", ")}); ` +
        "write only this stack's",
      urn,
    }));
  });
}

/** The names of a resource that is a bucket; none of another resource. */
async function ownNames({ type, props }: PolicyResource): Promise<string[]> {
  const { bucketName = [] } = (await resourceType(type)) ?? {};
  const values = bucketName.map((property): unknown => props[property]);
  return values.filter((value) => typeof value === "string");
}
