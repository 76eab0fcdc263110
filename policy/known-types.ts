/** Policy `known-types`: a stack has only resources that this project knows. */
import type { ResourceValidation } from "@pulumi/policy";
import { resourceType, typeName, type RegisteredType } from "../providers/index.ts";

/** Types that the program does not make, and that a change to it may add. */
const ADDITIONAL_TYPES = [
  // Checked by `no-public-bucket` and `least-privilege`.
  "aws:s3/bucketAcl:BucketAcl",
  "aws:s3/accessPoint:AccessPoint",
  "aws:s3control/accessPointPolicy:AccessPointPolicy",
  "cloudflare:index/r2CustomDomain:R2CustomDomain",
  // These give nobody rights.
  "aws:s3/bucketLogging:BucketLogging",
  "aws:s3/bucketMetric:BucketMetric",
  "azure-native:authorization:ManagementLockByScope",
] as const;
type AdditionalType = (typeof ADDITIONAL_TYPES)[number];

/** The types that rules may name. The compiler refuses a token that is in no provider's table. */
export type KnownType = RegisteredType | AdditionalType | "pulumi:pulumi:Stack";

const isKnown: ResourceValidation = async ({ type, urn }, report) => {
  const additional: readonly string[] = ADDITIONAL_TYPES;
  if (type.startsWith("pulumi:") || additional.includes(typeName(type))) return;
  if ((await resourceType(type)) !== undefined) return;
  report(
    `"${type}" is a type that this project does not know, so no policy checks it; ` +
      "declare it in a stack of its own, or, if the storage needs it, " +
      `add it to resources in the provider's file, and its rules to policy/ (${urn})`,
  );
};

export const knownTypes = {
  name: "known-types",
  description: "The stack has no resource of a type that this project does not know.",
  validateResource: [isKnown],
};
