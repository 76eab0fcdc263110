/**
 * Finds the buckets that a plan puts at risk: resources that hold authentik's files and would not
 * survive the plan.
 */
import type { ResourceType } from "../../providers/contract.ts";
import { isOfSame, type Plan, type ResourceState, type Step } from "./plan.ts";
import type { TypeLookup } from "./resource-types.ts";

/** The label of a pull request that may delete or replace a bucket. */
export const DELETION_LABEL = "allow-bucket-deletion";

/** A resource that holds files, or is protected, and would not survive the plan. */
export interface BucketAtRisk {
  urn: string;
  /** Name in the program. */
  name: string;
  type: string;
  /**
   * What would happen to it. `left over`: an earlier replacement could not delete it, and it would
   * be deleted now. `unknown`: this guard does not know the operation, which may be any of the
   * others.
   */
  risk: "deleted" | "replaced" | "left over" | "unknown";
  /** Name of the bucket on the server, if it is known. */
  bucket: string | undefined;
  /** Whether Pulumi refuses the operation because the resource is protected. */
  isProtected: boolean;
  /** Whether Pulumi only removes it from the state, and leaves it on the server. */
  isRetained: boolean;
}

/** Operations after which the resource still exists. */
const HARMLESS_OPS: ReadonlySet<string> = new Set([
  "same",
  "create",
  "update",
  "read",
  "refresh",
  "import",
  "diff",
  "extend-parameterize",
]);
const DELETING_OPS: ReadonlySet<string> = new Set(["delete", "discard"]);
/** The last step of a replacement. Alone, it belongs to an earlier replacement. */
const CLEARING_OPS: ReadonlySet<string> = new Set(["delete-replaced", "discard-replaced"]);
const REPLACING_OPS: ReadonlySet<string> = new Set([
  "replace",
  "create-replacement",
  "read-replacement",
  "import-replacement",
  "remove-pending-replace",
]);

/**
 * The resources that hold files, or are protected, and that the plan would delete or replace. An
 * operation that is not known counts too.
 */
export function bucketsAtRisk({ steps, succeeded }: Plan, typeOf: TypeLookup): BucketAtRisk[] {
  const found: { step: Step; atRisk: BucketAtRisk }[] = [];
  for (const step of steps) {
    const all = steps.filter((other) => isOfSame(other, step));
    const type = typeOf(step.type);
    const risk = riskOf(step.op, all);
    if (risk === undefined) continue;
    if (type?.holdsFiles !== true && step.before?.protect !== true) continue;
    const isRefused = !succeeded && isProtected(risk, all);
    const entry = { step, atRisk: atRisk(step, risk, isRefused, type) };
    const known = found.findIndex((other) => isOfSame(other.step, step));
    if (known < 0) found.push(entry);
    else if (found[known]?.atRisk.risk === "unknown") found[known] = entry;
  }
  return found.map(({ atRisk }) => atRisk);
}

/** @param all the steps of the same resource */
function riskOf(op: string, all: readonly Step[]): BucketAtRisk["risk"] | undefined {
  if (HARMLESS_OPS.has(op)) return undefined;
  if (DELETING_OPS.has(op)) return "deleted";
  if (!REPLACING_OPS.has(op) && !CLEARING_OPS.has(op)) return "unknown";
  return all.some((step) => REPLACING_OPS.has(step.op)) ? "replaced" : "left over";
}

/**
 * Whether the engine refuses the operation because of the protection (pulumi/pulumi,
 * `pkg/resource/deploy/step_generator.go` and `step.go`). It refuses a replacement if the resource
 * was protected in the last update and still is, and a deletion if it was protected in the last
 * update. It never refuses to delete what is left over.
 */
function isProtected(risk: BucketAtRisk["risk"], all: readonly Step[]): boolean {
  if (!all.some(({ before }) => before?.protect === true)) return false;
  if (risk === "replaced") return all.some(({ after }) => after?.protect === true);
  return risk === "deleted";
}

function atRisk(
  { urn, name, type, before }: Step,
  risk: BucketAtRisk["risk"],
  isProtected: boolean,
  known: ResourceType | undefined,
): BucketAtRisk {
  const isRetained = before?.retainOnDelete === true;
  return { urn, name, type, risk, isProtected, isRetained, bucket: bucketName(before, known) };
}

/** Most resources that are not buckets have their name in the property `name`. */
function bucketName(
  state: ResourceState | undefined,
  known: ResourceType | undefined,
): string | undefined {
  for (const key of known?.bucketName ?? ["name"]) {
    const value = state?.outputs[key] ?? state?.inputs[key];
    if (typeof value === "string") return value;
  }
  return undefined;
}
