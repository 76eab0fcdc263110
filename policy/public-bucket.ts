/** Policy `no-public-bucket`: nobody reads the files without a signed URL. */
import { documentRule, opensToEveryone } from "./documents.ts";
import { eachText, mustBe, needs, stackRules, type StoragePolicy } from "./rule.ts";

const BUCKET = "aws:s3/bucket:Bucket";
const BUCKET_ACL = "aws:s3/bucketAcl:BucketAcl";
const BLOCK = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock";
const R2_BUCKET = "cloudflare:index/r2Bucket:R2Bucket";
const R2_DEV = "cloudflare:index/r2ManagedDomain:R2ManagedDomain";
const R2_DOMAIN = "cloudflare:index/r2CustomDomain:R2CustomDomain";
const ACCOUNT = "azure-native:storage:StorageAccount";
const CONTAINER = "azure-native:storage:BlobContainer";
const WITH_DOCUMENT = [
  BUCKET,
  "aws:s3/bucketPolicy:BucketPolicy",
  "aws:s3/accessPoint:AccessPoint",
  "aws:s3control/accessPointPolicy:AccessPointPolicy",
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy",
] as const;
const WRITE_PRIVATE = 'gives rights to others; write "private"';
const OPEN_BY_ACL = "an ACL can make the bucket public";
const OPEN_BY_POLICY = "a policy can make the bucket public";

export const publicBucket: StoragePolicy = {
  name: "no-public-bucket",
  description: "The files cannot be read without a signed URL.",
  validateResource: [
    mustBe(BLOCK, "blockPublicAcls", true, OPEN_BY_ACL),
    mustBe(BLOCK, "ignorePublicAcls", true, OPEN_BY_ACL),
    mustBe(BLOCK, "blockPublicPolicy", true, OPEN_BY_POLICY),
    mustBe(BLOCK, "restrictPublicBuckets", true, OPEN_BY_POLICY),
    eachText(BUCKET, "acl?", isShared, WRITE_PRIVATE),
    mustBe(BUCKET, "grants", undefined, "others than its owner have rights"),
    eachText(BUCKET_ACL, "acl?", isShared, WRITE_PRIVATE),
    mustBe(BUCKET_ACL, "accessControlPolicy", undefined, "others may have rights"),
    ...WITH_DOCUMENT.map((type) => documentRule(type, opensToEveryone)),
    mustBe(R2_DEV, "enabled", false, "everyone can read the files at r2.dev"),
    mustBe(R2_DOMAIN, "enabled", false, "everyone can read the files at this domain"),
    mustBe(ACCOUNT, "allowBlobPublicAccess", false, "a container can be made public"),
    mustBe(CONTAINER, "publicAccess", "None", "everyone may be able to read the files"),
  ],
  validateStack: stackRules(
    needs(
      BUCKET,
      BLOCK,
      "has no BucketPublicAccessBlock, so an ACL or a policy can make it public; " +
        "add one with all four blocks",
    ),
    needs(
      R2_BUCKET,
      R2_DEV,
      "has no R2ManagedDomain that turns its r2.dev address off, and an adopted bucket may have " +
        "it on; add one with enabled: false",
    ),
  ),
};

function isShared(acl: string): boolean {
  return acl !== "private";
}
