/**
 * What policies are made of. A rule judges one type of resource by the inputs that the program registers, a stack rule what
 * has to be there beside them. Both give their findings as texts: key and value, why it is wrong, what to write instead.
 */
import type { PolicyResource, PolicyResourceOptions, ReportViolation, ResourceValidation, ResourceValidationPolicy, StackValidationPolicy } from "@pulumi/policy";
import * as v from "valibot";

/** A policy that judges resources, before they are made, and mostly the whole stack too, at the end of a preview or an update. */
export type StoragePolicy = ResourceValidationPolicy & { validateResource: ResourceValidation[] } & Partial<StackValidationPolicy>;

/** The types that the policies judge, as the providers register them; `typeName` gives their other names. */
export const TYPES = {
  awsBucket: "aws:s3/bucket:Bucket",
  awsAccessPoint: "aws:s3/accessPoint:AccessPoint",
  awsAccessPointPolicy: "aws:s3control/accessPointPolicy:AccessPointPolicy",
  awsBucketAcl: "aws:s3/bucketAcl:BucketAcl",
  awsCors: "aws:s3/bucketCorsConfiguration:BucketCorsConfiguration",
  awsBucketPolicy: "aws:s3/bucketPolicy:BucketPolicy",
  awsPublicAccess: "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
  awsPods: "aws:eks/podIdentityAssociation:PodIdentityAssociation",
  awsRole: "aws:iam/role:Role",
  awsRolePolicy: "aws:iam/rolePolicy:RolePolicy",
  awsUserPolicy: "aws:iam/userPolicy:UserPolicy",
  r2Bucket: "cloudflare:index/r2Bucket:R2Bucket",
  r2Cors: "cloudflare:index/r2BucketCors:R2BucketCors",
  r2CustomDomain: "cloudflare:index/r2CustomDomain:R2CustomDomain",
  r2ManagedDomain: "cloudflare:index/r2ManagedDomain:R2ManagedDomain",
  r2Token: "cloudflare:index/accountToken:AccountToken",
  azureAccount: "azure-native:storage:StorageAccount",
  azureBlobs: "azure-native:storage:BlobServiceProperties",
  azureContainer: "azure-native:storage:BlobContainer",
  azureGateway: "azure-native:app:ContainerApp",
  azureIdentity: "azure-native:managedidentity:UserAssignedIdentity",
  azureRole: "azure-native:authorization:RoleAssignment",
  s3Bucket: "pulumi-nodejs:dynamic/authentik-storage:S3Bucket",
  s3Cors: "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors",
  s3BucketPolicy: "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy",
} as const;

/**
 * A type by the one name that it has in `TYPES`: AWS's resources of S3 have a second one (`aws:s3/bucketV2:BucketV2`), and
 * Azure's may have the version of the API in them (`azure-native:storage/v20230101:StorageAccount`, or with a package of its
 * own `azure-native_storage_v20230101:storage:StorageAccount`).
 */
export function typeName(type: string): string {
  return type
    .replace(/^(aws:s3\/\w+)V2:(\w+)V2$/, "$1:$2")
    .replace(/^azure-native(?:_\w+)?:(\w+)(?:\/v\w+)?:/, "azure-native:$1:");
}

/**
 * A rule for the resources of one type. A property that is not in the form which `schema` knows is a finding too, so that
 * a new release of a provider cannot slip past. A property that is not known before `up` is reported by the framework as
 * an advice, and judged in `up`, before the resource is made.
 */
export function rule<Props>(
  type: string,
  schema: v.GenericSchema<unknown, Props>,
  judge: (props: Props, options: PolicyResourceOptions) => string[],
): ResourceValidation {
  return ({ type: actual, props, opts, urn }, report) => {
    if (typeName(actual) !== type) return;
    for (const finding of judged(schema, props, (known) => judge(known, opts))) report(`${finding} (${urn})`);
  };
}

/** The findings of `judge`, or that the properties cannot be judged. */
export function judged<Props>(schema: v.GenericSchema<unknown, Props>, props: unknown, judge: (props: Props) => string[]): string[] {
  const parsed = v.safeParse(schema, props);
  if (parsed.success) return judge(parsed.output);
  return parsed.issues.map((issue) => {
    const key = v.getDotPath(issue) ?? "the resource";
    // The value itself may be a secret.
    return `${key} is not in a form that this policy can judge (expected: ${issue.expected ?? "JSON"}); correct it, or teach policy/ the new form`;
  });
}

/** The resources of a type, whichever of its names they have. */
export function ofType(resources: readonly PolicyResource[], type: string): PolicyResource[] {
  return resources.filter((resource) => typeName(resource.type) === type);
}

/** A finding of a stack rule, and the resource that it is about. */
export interface Finding {
  finding: string;
  urn: string;
}

/** Reports findings of a stack rule. */
export function reportAll(findings: readonly Finding[], report: ReportViolation): void {
  for (const { finding, urn } of findings) report(`${finding} (${urn})`, urn);
}

/** One finding for each resource of `type` that no `companion` depends on: what is not there has no inputs that a rule could judge. */
export function lonely(resources: readonly PolicyResource[], type: string, companion: string, finding: string): Finding[] {
  const accompanied = new Set(ofType(resources, companion).flatMap(({ dependencies }) => dependencies.map(({ urn }) => urn)));
  return ofType(resources, type).filter(({ urn }) => !accompanied.has(urn)).map(({ urn }) => ({ finding, urn }));
}

/** One finding for each resource of `type` that does not depend on an `owner` of this stack. */
export function foreign(resources: readonly PolicyResource[], type: string, owner: string, finding: string): Finding[] {
  const owners = new Set(ofType(resources, owner).map(({ urn }) => urn));
  return ofType(resources, type).filter(({ dependencies }) => !dependencies.some(({ urn }) => owners.has(urn))).map(({ urn }) => ({ finding, urn }));
}
