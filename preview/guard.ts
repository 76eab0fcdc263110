/** Finds what a plan would do to the buckets: the resources that hold authentik's files. */
import type { Plan, State, Step } from "./plan.ts";

/** The label of a pull request that may delete or replace a bucket. */
export const DELETION_LABEL = "allow-bucket-deletion";

/** A resource that holds files and would not outlive the plan. */
export interface Endangered {
  urn: string;
  /** Name in the program. */
  name: string;
  type: string;
  /** `unknown`: an operation that this guard does not know, which may be either. */
  fate: "deleted" | "replaced" | "unknown";
  /** Name of the bucket on the server, where it is known. */
  bucket: string | undefined;
  /** Whether Pulumi refuses it, as the resource is protected in the stack's state. */
  isProtected: boolean;
  /** Whether Pulumi lets go of it and leaves it on the server. */
  isRetained: boolean;
}

/** Types of which a resource holds files, without the version that Azure's names may have. The last are their names of other releases. */
const HOLDING_TYPES: ReadonlySet<string> = new Set([
  "aws:s3/bucket:Bucket",
  "cloudflare:index/r2Bucket:R2Bucket",
  "azure-native:storage:StorageAccount",
  "azure-native:storage:BlobContainer",
  "pulumi-nodejs:dynamic/authentik-storage:S3Bucket",
  "aws:s3/bucketV2:BucketV2",
  "aws-native:s3:Bucket",
]);

/** Of a resource that is there before and after. */
const HARMLESS_OPS: ReadonlySet<string> = new Set(["same", "create", "update", "read", "refresh", "import", "diff", "extend-parameterize"]);
const DELETING_OPS: ReadonlySet<string> = new Set(["delete", "discard"]);
const REPLACING_OPS: ReadonlySet<string> = new Set([
  "replace", "create-replacement", "delete-replaced", "read-replacement", "discard-replaced", "import-replacement", "remove-pending-replace",
]);

/** Whether resources of this type hold files. */
export function holdsFiles(type: string): boolean {
  // azure-native:storage/v20230101:BlobContainer
  return HOLDING_TYPES.has(type.replace(/^(azure-native:\w+)\/v\w+:/, "$1:"));
}

/**
 * The resources that hold files, or are protected, and that the plan would delete or replace. An operation that is not known
 * counts as one that does.
 */
export function endangeredBy({ steps }: Plan): Endangered[] {
  const found = new Map<string, Endangered>();
  for (const step of steps) {
    const fate = fateOf(step.op);
    if (fate === undefined || !(holdsFiles(step.type) || step.before?.protect === true)) continue;
    const known = found.get(step.urn);
    if (known && known.fate !== "unknown") continue;
    found.set(step.urn, endangered(step, fate));
  }
  return [...found.values()];
}

function fateOf(op: string): Endangered["fate"] | undefined {
  if (HARMLESS_OPS.has(op)) return undefined;
  if (DELETING_OPS.has(op)) return "deleted";
  return REPLACING_OPS.has(op) ? "replaced" : "unknown";
}

function endangered({ urn, name, type, before }: Step, fate: Endangered["fate"]): Endangered {
  return {
    urn, name, type, fate,
    bucket: bucketName(before),
    isProtected: before?.protect === true,
    isRetained: before?.retainOnDelete === true,
  };
}

function bucketName(state: State | undefined): string | undefined {
  for (const key of ["bucket", "containerName", "accountName", "name"]) {
    const value = state?.outputs[key] ?? state?.inputs[key];
    if (typeof value === "string") return value;
  }
  return undefined;
}
