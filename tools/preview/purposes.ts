/** What resources are for, in words. */

/** The types that this program registers; of any other type its own name is taken apart. */
const PURPOSES: Readonly<Record<string, string>> = {
  "authentik-storage:aws:AwsStorage": "Storage",
  "authentik-storage:r2:R2Storage": "Storage",
  "authentik-storage:azure:AzureStorage": "Storage",
  "authentik-storage:s3:S3Storage": "Storage",
  "aws:s3/bucket:Bucket": "Bucket",
  "aws:s3/bucketCorsConfiguration:BucketCorsConfiguration": "CORS policy",
  "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": "Lifecycle rules",
  "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": "Encryption",
  "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "Public access block",
  "aws:s3/bucketOwnershipControls:BucketOwnershipControls": "Object ownership",
  "aws:s3/bucketVersioning:BucketVersioning": "Versioning",
  "aws:iam/user:User": "authentik's user",
  "aws:iam/userPolicy:UserPolicy": "authentik's permissions",
  "aws:iam/accessKey:AccessKey": "authentik's access key",
  "aws:iam/role:Role": "authentik's role",
  "aws:iam/rolePolicy:RolePolicy": "authentik's permissions",
  "aws:eks/podIdentityAssociation:PodIdentityAssociation": "Role of a service account",
  "cloudflare:index/r2Bucket:R2Bucket": "Bucket",
  "cloudflare:index/r2BucketCors:R2BucketCors": "CORS policy",
  "cloudflare:index/r2BucketLifecycle:R2BucketLifecycle": "Lifecycle rules",
  "cloudflare:index/r2ManagedDomain:R2ManagedDomain": "Public r2.dev domain",
  "cloudflare:index/accountToken:AccountToken": "authentik's access key",
  "azure-native:storage:BlobContainer": "Container",
  "azure-native:storage:BlobServiceProperties": "Soft deletion and versioning",
  "azure-native:storage:ManagementPolicy": "Lifecycle rules",
  "azure-native:app:ContainerApp": "Gateway",
  "azure-native:app:ManagedEnvironment": "Gateway's environment",
  "azure-native:managedidentity:UserAssignedIdentity": "Gateway's identity",
  "azure-native:authorization:RoleAssignment": "Gateway's permissions",
  "pulumi-nodejs:dynamic/authentik-storage:S3Bucket": "Bucket",
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors": "CORS policy",
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy": "Bucket policy",
};

/** What a resource of this type is for: `CORS policy`; of an unknown `aws:sns/topicPolicy:TopicPolicy`, `Topic policy`. */
export function purposeOf(type: string): string {
  const known = PURPOSES[type.replace(/^(azure-native:\w+)\/v\w+:/, "$1:")];
  if (known !== undefined) return known;
  const [, cloud = ""] = /^pulumi:providers:(.+)$/.exec(type) ?? [];
  if (cloud !== "") return `Access to ${cloud}`;
  const words = (type.split(":").at(-1) ?? type).replace(/([a-z0-9])([A-Z])/g, (_, left: string, right: string) => `${left} ${right.toLowerCase()}`);
  return words === "" ? "Resource" : words;
}
