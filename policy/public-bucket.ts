/** Policy `no-public-bucket`: nobody reads the files without a signed URL. */
import * as v from "valibot";
import { Document, opensToEveryone } from "./documents.ts";
import { lonely, reportAll, rule, TYPES, type StoragePolicy } from "./rule.ts";

const PublicAccess = v.object({
  blockPublicAcls: v.optional(v.boolean(), false),
  ignorePublicAcls: v.optional(v.boolean(), false),
  blockPublicPolicy: v.optional(v.boolean(), false),
  restrictPublicBuckets: v.optional(v.boolean(), false),
});
const Bucket = v.object({
  acl: v.optional(v.string(), "private"),
  grants: v.optional(v.array(v.unknown()), []),
});
const BucketAcl = v.object({ acl: v.optional(v.string(), "private"), accessControlPolicy: v.optional(v.unknown()) });
/** What has a policy document, or may have one. */
const POLICY_HOLDERS = [TYPES.awsBucket, TYPES.awsBucketPolicy, TYPES.awsAccessPoint, TYPES.awsAccessPointPolicy, TYPES.s3BucketPolicy];
const WithPolicy = v.object({ policy: v.optional(Document) });
const Account = v.object({ allowBlobPublicAccess: v.optional(v.boolean()) });
const Container = v.object({ publicAccess: v.optional(v.string()) });
const Domain = v.object({ enabled: v.optional(v.boolean()) });

export const publicBucket: StoragePolicy = {
  name: "no-public-bucket",
  description: "The files cannot be read without a signed URL.",
  validateResource: [
    rule(TYPES.awsPublicAccess, PublicAccess, (blocks) => Object.entries(blocks).filter(([, isOn]) => !isOn).map(([block]) =>
      `${block} is not true, so an ACL or a policy can make the bucket public; write true`)),
    rule(TYPES.awsBucket, Bucket, ({ acl, grants }) => [
      ...publicAcl(acl),
      ...(grants.length === 0 ? [] : ["grants gives rights to others than the bucket's owner; remove it"]),
    ]),
    rule(TYPES.awsBucketAcl, BucketAcl, ({ acl, accessControlPolicy }) => [
      ...publicAcl(acl),
      ...(accessControlPolicy === undefined ? [] : ['accessControlPolicy can make the bucket public; write acl: "private" instead']),
    ]),
    ...POLICY_HOLDERS.map((type) => rule(type, WithPolicy, ({ policy }) => policy === undefined || !opensToEveryone(policy) ? [] : [
      'policy lets everyone in (Principal "*"); name the principal that is to have the rights',
    ])),
    rule(TYPES.r2ManagedDomain, Domain, ({ enabled }) => enabled === false ? [] : [
      "enabled is not false, so everyone can read the files at r2.dev; write false",
    ]),
    rule(TYPES.r2CustomDomain, Domain, ({ enabled }) => enabled === false ? [] : [
      "a custom domain of R2 shows the files to everyone; remove it: authentik's URLs use the S3 API's host",
    ]),
    rule(TYPES.azureAccount, Account, ({ allowBlobPublicAccess }) => allowBlobPublicAccess === false ? [] : [
      "allowBlobPublicAccess is not false, so a container can be made public; write false",
    ]),
    rule(TYPES.azureContainer, Container, ({ publicAccess = "unset" }) => publicAccess === "None" ? [] : [
      `publicAccess = "${publicAccess}" may show the files to everyone; write "None"`,
    ]),
  ],
  validateStack: ({ resources }, report) => {
    reportAll([
      ...lonely(
        resources, TYPES.awsBucket, TYPES.awsPublicAccess,
        "has no BucketPublicAccessBlock, so an ACL or a policy can make it public; add one with all four blocks",
      ),
      ...lonely(
        resources, TYPES.r2Bucket, TYPES.r2ManagedDomain,
        "has no R2ManagedDomain that turns its r2.dev address off, which an adopted bucket may have on; add one with enabled: false",
      ),
    ], report);
  },
};

function publicAcl(acl: string): string[] {
  return acl === "private" ? [] : [`acl = "${acl}" gives rights to others; write "private", or remove it`];
}
