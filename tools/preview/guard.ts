/** Finds what a plan would do to the buckets: the resources that hold authentik's files. */
import { typeName } from "../../policy/rule.ts";
import { isOfSame, type Plan, type State, type Step } from "./plan.ts";

/** The label of a pull request that may delete or replace a bucket. */
export const DELETION_LABEL = "allow-bucket-deletion";

/** A resource that holds files and would not outlive the plan. */
export interface Endangered {
  urn: string;
  /** Name in the program. */
  name: string;
  type: string;
  /**
   * `left over`: an earlier replacement could not delete it, and it would be deleted now. `unknown`: an operation that this guard
   * does not know, which may be any of these.
   */
  fate: "deleted" | "replaced" | "left over" | "unknown";
  /** Name of the bucket on the server, where it is known. */
  bucket: string | undefined;
  /** Whether Pulumi refuses it, as the resource is protected. */
  isProtected: boolean;
  /** Whether Pulumi lets go of it and leaves it on the server. */
  isRetained: boolean;
}

/** Types of which a resource holds files, by the names that `typeName` gives. */
const HOLDING_TYPES: ReadonlySet<string> = new Set([
  "aws:s3/bucket:Bucket",
  "cloudflare:index/r2Bucket:R2Bucket",
  "azure-native:storage:StorageAccount",
  "azure-native:storage:BlobContainer",
  "pulumi-nodejs:dynamic/authentik-storage:S3Bucket",
  "aws-native:s3:Bucket",
]);

/** Of a resource that is there before and after. */
const HARMLESS_OPS: ReadonlySet<string> = new Set(["same", "create", "update", "read", "refresh", "import", "diff", "extend-parameterize"]);
const DELETING_OPS: ReadonlySet<string> = new Set(["delete", "discard"]);
const REPLACING_OPS: ReadonlySet<string> = new Set([
  "replace", "create-replacement", "delete-replaced", "read-replacement", "discard-replaced", "import-replacement", "remove-pending-replace",
]);
/** Of those, the last step of a replacement. Alone, it is of an earlier one. */
const CLEARING_OPS: ReadonlySet<string> = new Set(["delete-replaced", "discard-replaced"]);

/** Whether resources of this type hold files. */
export function holdsFiles(type: string): boolean {
  return HOLDING_TYPES.has(typeName(type));
}

/**
 * The resources that hold files, or are protected, and that the plan would delete or replace. An operation that is not known
 * counts as one that does.
 */
export function endangeredBy({ steps, succeeded }: Plan): Endangered[] {
  const found: { step: Step; endangered: Endangered }[] = [];
  for (const step of steps) {
    const all = steps.filter((other) => isOfSame(other, step));
    const fate = fateOf(step.op, all);
    if (fate === undefined || !(holdsFiles(step.type) || step.before?.protect === true)) continue;
    const known = found.findIndex((other) => isOfSame(other.step, step));
    const entry = { step, endangered: endangered(step, fate, !succeeded && isProtected(fate, all)) };
    if (known < 0) found.push(entry);
    else if (found[known]?.endangered.fate === "unknown") found[known] = entry;
  }
  return found.map(({ endangered }) => endangered);
}

/** @param all the steps of the same resource */
function fateOf(op: string, all: readonly Step[]): Endangered["fate"] | undefined {
  if (HARMLESS_OPS.has(op)) return undefined;
  if (DELETING_OPS.has(op)) return "deleted";
  if (!REPLACING_OPS.has(op)) return "unknown";
  return all.some((step) => REPLACING_OPS.has(step.op) && !CLEARING_OPS.has(step.op)) ? "replaced" : "left over";
}

/**
 * Whether the engine refuses it for its protection (pulumi/pulumi, `pkg/resource/deploy/step_generator.go` and `step.go`): a
 * replacement if it was protected in the last update and still is, a deletion if it was, and what is left over never.
 */
function isProtected(fate: Endangered["fate"], all: readonly Step[]): boolean {
  const was = all.some(({ before }) => before?.protect === true);
  return was && (fate === "deleted" || (fate === "replaced" && all.some(({ after }) => after?.protect === true)));
}

function endangered({ urn, name, type, before }: Step, fate: Endangered["fate"], isProtected: boolean): Endangered {
  return { urn, name, type, fate, isProtected, bucket: bucketName(before), isRetained: before?.retainOnDelete === true };
}

function bucketName(state: State | undefined): string | undefined {
  for (const key of ["bucket", "containerName", "accountName", "name"]) {
    const value = state?.outputs[key] ?? state?.inputs[key];
    if (typeof value === "string") return value;
  }
  return undefined;
}
