/** The report on a plan, before it is rendered as Markdown or for a terminal. */
import { changesOf, diff, type Change } from "./diff.ts";
import { bucketsAtRisk, emptiedByPlan, type BucketAtRisk } from "./guard.ts";
import {
  byResource,
  nameOf,
  type Diagnostic,
  type Plan,
  type Step,
  type Violation,
} from "./plan.ts";
import { labelOf, type TypeLookup } from "./resource-types.ts";

/** The run that a report is about: the plan of a command, or `pulumi up` within `deploy`. */
export type Operation = "preview" | "drift" | "deploy" | "update";

/** The outcome of a preview or of an update. */
export interface PlanReport {
  stack: string;
  operation: Operation;
  /** The commit that was previewed; undefined outside of GitHub. */
  commit: string | undefined;
  /** Whether the check passes. */
  ok: boolean;
  /** Whether the pull request or the user allows the deletion of buckets. */
  deletionAllowed: boolean;
  atRisk: BucketAtRisk[];
  /** Names of the buckets that lose their protection. */
  unprotected: string[];
  /** Why there is no plan, or no complete one. */
  failure: string | undefined;
  violations: Violation[];
  diagnostics: Diagnostic[];
  groups: Group[];
  unchanged: number;
}

/**
 * The properties of a report with words of this program. They are never data, so no secret is in
 * them.
 */
export const FIXED_PROPERTIES: readonly string[] = ["operation", "action", "risk", "severity"];

/** The changes below one component. */
export interface Group {
  /** Name of the component; empty for the stack's outputs. */
  component: string;
  resources: ResourceChange[];
}

/** What happens to one resource. */
export interface ResourceChange {
  /** The resource's kind for a reviewer, e.g. `CORS policy`. */
  label: string;
  name: string;
  action: Action;
  changes: Change[];
}

export type Action =
  | "created"
  | "updated"
  | "replaced"
  | "deleted"
  | "imported"
  | "read"
  | "recreated"
  | `operation ${string}`;

const ACTIONS: Readonly<Record<string, Action>> = {
  create: "created",
  update: "updated",
  replace: "replaced",
  delete: "deleted",
  import: "imported",
  read: "read",
  "import-replacement": "replaced",
  "read-replacement": "replaced",
  discard: "deleted",
  "discard-replaced": "deleted",
  "create-replacement": "replaced",
  "remove-pending-replace": "replaced",
  // Shown when the resource has no other step: it is left over from an earlier replacement.
  "delete-replaced": "deleted",
};

export interface ReportOptions {
  deletionAllowed: boolean;
  typeOf: TypeLookup;
  commit?: string | undefined;
  operation?: Operation;
}

/**
 * The report on a plan. It fails when a bucket would be deleted and that is not allowed, when a
 * mandatory policy is violated, and when the plan is not complete.
 */
export function reportOn(stack: string, plan: Plan, options: ReportOptions): PlanReport {
  const { deletionAllowed, typeOf, commit, operation = "preview" } = options;
  const atRisk = [...bucketsAtRisk(plan, typeOf), ...emptiedByPlan(plan, typeOf)];
  const violations = plan.violations;
  const isViolated = violations.some(({ isMandatory }) => isMandatory);
  const diagnostics = plan.diagnostics.filter(({ message }) => !SUMMARIES.includes(message));
  const errors = diagnostics.filter(({ severity }) => severity === "error");
  const isExplained = plan.succeeded || (isViolated && errors.length === 0);
  return {
    stack,
    operation,
    commit,
    deletionAllowed,
    atRisk,
    violations,
    diagnostics,
    failure: isExplained ? undefined : failureOf(operation, errors, atRisk),
    ok: plan.succeeded && !isViolated && (deletionAllowed || atRisk.length === 0),
    unprotected: plan.unprotected.map(({ name }) => name),
    groups: groupsOf(plan, typeOf),
    unchanged: plan.unchanged,
  };
}

/** Messages of the engine that only say that it failed. */
const SUMMARIES: readonly string[] = ["preview failed", "update failed"];

/** The report of a preview that has no plan. */
export function failedReport(
  stack: string,
  failure: string,
  { operation = "preview", commit }: { operation?: Operation; commit?: string | undefined } = {},
): PlanReport {
  return {
    stack,
    operation,
    commit,
    failure,
    ok: false,
    deletionAllowed: false,
    atRisk: [],
    unprotected: [],
    violations: [],
    diagnostics: [],
    groups: [],
    unchanged: 0,
  };
}

function failureOf(
  operation: Operation,
  errors: readonly Diagnostic[],
  atRisk: readonly BucketAtRisk[],
): string {
  if (atRisk.some(({ isProtected }) => isProtected)) {
    return "Pulumi refuses this plan because a bucket in it is protected.";
  }
  const run = operation === "update" ? operation : "preview";
  return errors.length > 0
    ? `Pulumi could not finish the ${run}. Its messages are below.`
    : `Pulumi did not finish the ${run} and reported no error.`;
}

function groupsOf(plan: Plan, typeOf: TypeLookup): Group[] {
  const groups = new Map<string, ResourceChange[]>();
  for (const step of shownSteps(plan)) {
    const component = componentOf(step);
    groups.set(component, [...(groups.get(component) ?? []), resourceChange(step, plan, typeOf)]);
  }
  const changes = outputChanges(plan, [...groups.values()].flat());
  if (changes.length > 0) {
    groups.set("", [{ label: "Stack outputs", name: "", action: "updated", changes }]);
  }
  return [...groups].map(([component, resources]) => ({ component, resources }));
}

/** One step of each resource. Of a replacement, it is the step that the program asks for. */
function shownSteps({ steps }: Plan): Step[] {
  return byResource(steps).map((all) => all.find(({ logical }) => logical) ?? all[0]);
}

function componentOf({ before, after, name }: Step): string {
  const parent = after?.parent ?? before?.parent ?? "";
  return parent === "" || parent.includes("::pulumi:pulumi:Stack::") ? name : nameOf(parent);
}

function resourceChange(step: Step, { gone }: Plan, typeOf: TypeLookup): ResourceChange {
  const known = ACTIONS[step.op] ?? (`operation ${step.op}` as const);
  const action = known === "created" && gone.includes(step.urn) ? "recreated" : known;
  const label = labelOf(step.type, typeOf);
  // A resource that is deleted has nothing to compare.
  return { label, name: step.name, action, changes: action === "deleted" ? [] : changesOf(step) };
}

/**
 * The changes of the stack's outputs, without those that only repeat the change of a setting. A plan
 * that is not complete does not have all outputs.
 */
function outputChanges(
  { outputs, succeeded, steps }: Plan,
  resources: readonly ResourceChange[],
): Change[] {
  const isFirst = steps.length > 0 && steps.every(({ op }) => op === "create");
  if (!outputs || !succeeded || isFirst) return [];
  const valuesOf = ({ removed, added }: Change) => JSON.stringify([removed, added]);
  const shown = new Set(resources.flatMap(({ changes }) => changes.map(valuesOf)));
  return diff(outputs.before, outputs.after).filter((change) => !shown.has(valuesOf(change)));
}
