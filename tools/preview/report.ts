/** What there is to say of a plan, before it is put into Markdown or on a terminal. */
import { changesOf, diff, type Change } from "./diff.ts";
import { endangeredBy, type Endangered } from "./guard.ts";
import { isOfSame, nameOf, type Diagnostic, type Plan, type Step, type Violation } from "./plan.ts";
import { purposeOf } from "./purposes.ts";

export type Action = "preview" | "update";

/** The outcome of a preview or of an update. */
export interface Report {
  stack: string;
  /** What it is the outcome of: `update` is `pulumi up`. */
  action: Action;
  /** The commit that was previewed; undefined outside of GitHub. */
  commit: string | undefined;
  /** Whether the check passes. */
  ok: boolean;
  /** Whether the pull request or the user allows that buckets are deleted. */
  deletionAllowed: boolean;
  endangered: Endangered[];
  /** Names of the buckets that lose their protection. */
  unprotected: string[];
  /** Why there is no plan, or no whole one. */
  failure: string | undefined;
  violations: Violation[];
  diagnostics: Diagnostic[];
  groups: Group[];
  unchanged: number;
}

/** The changes below one component. */
export interface Group {
  /** Name of the component. */
  component: string;
  resources: ResourceChange[];
}

/** What happens to one resource. */
export interface ResourceChange {
  /** E.g. `CORS policy`. */
  purpose: string;
  name: string;
  fate: Fate;
  changes: Change[];
}

export type Fate = "created" | "changed" | "replaced" | "deleted" | "imported" | "read" | "made anew" | `operation ${string}`;

const FATES: Readonly<Record<string, Fate>> = {
  create: "created", update: "changed", replace: "replaced", delete: "deleted", import: "imported", read: "read",
  "import-replacement": "replaced", "read-replacement": "replaced", discard: "deleted", "discard-replaced": "deleted",
  "create-replacement": "replaced", "remove-pending-replace": "replaced",
  // Shown where there is no other step of the resource: it is left over from an earlier replacement.
  "delete-replaced": "deleted",
};

/** What there is to say of this plan. Fails where a bucket would go without leave, a policy is violated, or the plan is not whole. */
export function reportOn(stack: string, plan: Plan, options: { deletionAllowed: boolean; commit?: string | undefined; action?: Action }): Report {
  const endangered = endangeredBy(plan);
  const { deletionAllowed, commit, action = "preview" } = options;
  const violations = plan.violations;
  const isBroken = violations.some(({ isMandatory }) => isMandatory);
  const diagnostics = plan.diagnostics.filter(({ message }) => message !== "preview failed" && message !== "update failed");
  const errors = diagnostics.filter(({ severity }) => severity === "error");
  const failure = plan.succeeded || (isBroken && errors.length === 0) ? undefined : failureOf(action, errors, endangered);
  return {
    stack, action, commit, deletionAllowed, endangered, violations, diagnostics, failure,
    ok: plan.succeeded && !isBroken && (deletionAllowed || endangered.length === 0),
    unprotected: plan.unprotected.map(({ name }) => name),
    groups: groupsOf(plan),
    unchanged: plan.unchanged,
  };
}

/** The report of a preview that never got so far as to have a plan. */
export function failedReport(stack: string, failure: string, commit?: string): Report {
  return {
    stack, action: "preview", commit, failure, ok: false, deletionAllowed: false, endangered: [], unprotected: [], violations: [], diagnostics: [], groups: [], unchanged: 0,
  };
}

function failureOf(action: Action, errors: readonly Diagnostic[], endangered: readonly Endangered[]): string {
  if (endangered.some(({ isProtected }) => isProtected)) return "Pulumi refuses this plan, since a bucket in it is protected.";
  return errors.length > 0 ? `Pulumi could not finish the ${action}; its own words are below.` : `Pulumi did not finish the ${action}, and did not say why.`;
}

function groupsOf(plan: Plan): Group[] {
  const groups = new Map<string, ResourceChange[]>();
  for (const step of shownSteps(plan)) {
    const component = componentOf(step);
    groups.set(component, [...(groups.get(component) ?? []), resourceChange(step, plan)]);
  }
  const outputs = outputChanges(plan);
  if (outputs.length > 0) groups.set("", [{ purpose: "Stack outputs", name: "", fate: "changed", changes: outputs }]);
  return [...groups].map(([component, resources]) => ({ component, resources }));
}

/** One step of each resource: of a replacement the one that the program asks for. */
function shownSteps({ steps }: Plan): Step[] {
  return steps.filter((step) => {
    const all = steps.filter((other) => isOfSame(other, step));
    return step === (all.find(({ logical }) => logical) ?? all[0]);
  });
}

function componentOf({ before, after, name }: Step): string {
  const parent = after?.parent ?? before?.parent ?? "";
  return parent === "" || parent.includes("::pulumi:pulumi:Stack::") ? name : nameOf(parent);
}

function resourceChange(step: Step, { gone }: Plan): ResourceChange {
  const known = FATES[step.op] ?? (`operation ${step.op}` as const);
  const fate = known === "created" && gone.includes(step.urn) ? "made anew" : known;
  // Of what goes there is nothing to compare.
  return { purpose: purposeOf(step.type), name: step.name, fate, changes: fate === "deleted" ? [] : changesOf(step) };
}

/** A plan that is not whole has not all outputs either. */
function outputChanges({ outputs, succeeded, steps }: Plan): Change[] {
  const isFirst = steps.length > 0 && steps.every(({ op }) => op === "create");
  return outputs && succeeded && !isFirst ? diff(outputs.before, outputs.after) : [];
}
