/**
 * Finds the files that a plan puts at risk: resources that hold authentik's files and would not
 * survive the plan, and settings that would delete files or keep deleted files for a shorter time.
 */
import type { ResourceType } from "../../providers/contract.ts";
import type { Retention } from "../../providers/retention.ts";
import { byResource, type Plan, type ResourceState, type Step } from "./plan.ts";
import type { TypeLookup } from "./resource-types.ts";

/** The label of a pull request that may delete, replace or empty a bucket. */
export const DELETION_LABEL = "allow-bucket-deletion";

/** A resource that holds files, or keeps them, and would no longer do so after the plan. */
export interface BucketAtRisk {
  urn: string;
  /** Name in the program. */
  name: string;
  type: string;
  /**
   * What would happen to it. `left over`: an earlier replacement could not delete it, and it would
   * be deleted now. `emptied`: its settings would delete files, or keep deleted files for a shorter
   * time. `unknown`: this guard does not know the operation, which may be any of the others.
   */
  risk: "deleted" | "replaced" | "left over" | "emptied" | "unknown";
  /** For `emptied`: each setting with its new value. */
  settings: string[];
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
  return byResource(steps).flatMap((all) => {
    const found = all.flatMap((step) => {
      const type = typeOf(step.type);
      const risk = riskOf(step.op, all);
      if (risk === undefined) return [];
      if (type?.holdsFiles !== true && step.before?.protect !== true) return [];
      return atRisk(step, risk, !succeeded && isProtected(risk, all), type);
    });
    return found.find(({ risk }) => risk !== "unknown") ?? found.slice(0, 1);
  });
}

/** The settings that would delete files, or keep deleted files for a shorter time. */
export function emptiedByPlan(plan: Plan, typeOf: TypeLookup): BucketAtRisk[] {
  const { steps, unretained } = plan;
  const isNew = ({ op }: Step) => op === "create" || op === "create-replacement";
  /** In a new bucket there is nothing to delete. */
  const isOfNewBucket = (step: Step) =>
    steps.some((other) => {
      const isSibling = other.urn === step.urn || other.after?.parent === step.after?.parent;
      return isSibling && isNew(other) && typeOf(other.type)?.holdsFiles === true;
    });
  const changed = byResource(steps).flatMap((all) => {
    const [step] = all;
    const type = typeOf(step.type);
    const before = all.find((one) => one.before)?.before;
    const after = all.find((one) => one.after)?.after;
    const isIgnored = after
      ? !before && isOfNewBucket(step)
      : type?.holdsFiles === true || before?.retainOnDelete === true;
    if (isIgnored) return [];
    const settings = (type?.keeps ?? []).flatMap((retention) => {
      return shortened(retention, before?.inputs ?? {}, after?.inputs ?? {});
    });
    return settings.length === 0 ? [] : [{ step, settings }];
  });
  const isHolder = ({ type }: Step) => typeOf(type)?.holdsFiles === true;
  const kept = unretained.filter(isHolder).map((step) => {
    return { step, settings: ["forceDestroy: a later deletion also deletes it on the server"] };
  });
  return [...changed, ...kept].map(({ step, settings }) => {
    return { ...atRisk(step, "emptied", false, typeOf(step.type)), settings };
  });
}

/** `softDelete.days: 7, before 30`, for each setting that keeps files for a shorter time. */
function shortened({ read, whenMissing }: Retention, before: unknown, after: unknown): string[] {
  const [old, next] = [read(before), read(after)];
  return [...new Set([...Object.keys(old), ...Object.keys(next)])].flatMap((key) => {
    const [from, to] = [old[key] ?? whenMissing, next[key] ?? whenMissing];
    return to < from ? [`${key}: ${keptFor(to)}, before: ${keptFor(from)}`] : [];
  });
}

function keptFor(time: number): string {
  if (time === 0) return "not kept";
  return time === Infinity ? "kept" : `kept for ${time}`;
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
 * update. It never refuses to delete a resource that is left over.
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
  const bucket = bucketName(before, known);
  return { urn, name, type, risk, settings: [], isProtected, isRetained, bucket };
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
