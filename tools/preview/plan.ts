/**
 * What Pulumi means to do, read from the events of its engine. `pulumi preview --json` alone prints a digest that lacks policy
 * violations; with PULUMI_ENABLE_STREAMING_JSON_PREVIEW it prints every event, one a line, as `up --json` does
 * (pulumi/pulumi, `sdk/go/common/apitype/events.go`). The engine has replaced each secret in them by a mark.
 */
import * as v from "valibot";

/** A resource before or after a step. */
export interface State {
  /** The server's; empty where it is not known yet. */
  id: string;
  /** As the program or the last update gave them. A secret is the text `[secret]`. */
  inputs: Record<string, unknown>;
  outputs: Record<string, unknown>;
  parent: string;
  protect: boolean;
  /** Whether Pulumi lets go of it instead of deleting it. */
  retainOnDelete: boolean;
}

/** One operation on one resource. A replacement is several of them, one of which is `logical`. */
export interface Step {
  /** One of the engine's `display.StepOp`, or one that a later engine has. */
  op: string;
  urn: string;
  type: string;
  /** Name in the program. */
  name: string;
  /** Whether the program asks for it, and not the way in which it is carried out. */
  logical: boolean;
  before: State | undefined;
  after: State | undefined;
  /** The inputs that make it a replacement. */
  replaceKeys: string[];
  /** Paths of the properties that the provider says are changed; empty where it does not say. */
  changedPaths: string[];
}

export interface Diagnostic {
  severity: "info" | "warning" | "error";
  /** Of the resource; empty where it is about none. */
  urn: string;
  message: string;
}

/** What a policy found. */
export interface Violation {
  policy: string;
  urn: string;
  message: string;
  /** Whether it fails the preview. */
  isMandatory: boolean;
}

export interface Plan {
  /** Whether the engine came to the end of it without an error. */
  succeeded: boolean;
  /** Without the stack itself and what stays the same. */
  steps: Step[];
  /** How many resources stay the same. */
  unchanged: number;
  /** URNs of resources that are no longer on the server, found by `--refresh`. */
  gone: string[];
  /** Resources that stay and lose their protection. */
  unprotected: Step[];
  /** The stack's outputs; undefined where the plan did not come so far. */
  outputs: { before: Record<string, unknown>; after: Record<string, unknown> } | undefined;
  diagnostics: Diagnostic[];
  violations: Violation[];
}

/** What the engine printed is no plan. */
export class PlanError extends Error {
  override name = "PlanError";
}

const Properties = v.nullish(v.record(v.string(), v.unknown()), {});
const StateSchema = v.object({
  id: v.optional(v.string(), ""),
  inputs: Properties,
  outputs: Properties,
  parent: v.optional(v.string(), ""),
  protect: v.optional(v.boolean(), false),
  retainOnDelete: v.optional(v.boolean(), false),
});
const Metadata = v.object({
  op: v.string(),
  urn: v.string(),
  type: v.string(),
  old: v.nullish(StateSchema),
  new: v.nullish(StateSchema),
  keys: v.nullish(v.array(v.string()), []),
  diffs: v.nullish(v.array(v.string()), []),
  detailedDiff: v.nullish(v.record(v.string(), v.unknown()), {}),
  logical: v.optional(v.boolean(), false),
});
const ResourceEvent = v.object({ metadata: Metadata });
const Event = v.object({
  diagnosticEvent: v.optional(v.object({
    urn: v.optional(v.string(), ""),
    message: v.string(),
    severity: v.string(),
    ephemeral: v.optional(v.boolean(), false),
  })),
  policyEvent: v.optional(v.object({
    resourceUrn: v.optional(v.string(), ""),
    message: v.string(),
    policyName: v.string(),
    enforcementLevel: v.string(),
  })),
  resourcePreEvent: v.optional(ResourceEvent),
  resOutputsEvent: v.optional(ResourceEvent),
  errorEvent: v.optional(v.object({ error: v.string() })),
  summaryEvent: v.optional(v.object({ result: v.optional(v.string()) })),
});

/** One event of the engine; those of kinds that no plan is made of are empty. */
export type EngineEvent = v.InferOutput<typeof Event>;
type StepMetadata = v.InferOutput<typeof Metadata>;

/**
 * Reads one line of the engine's output.
 *
 * @param redact blots out what no message may show
 * @throws PlanError when it is no event, or one whose form has changed: a step that is not understood must not be overlooked
 */
export function parseEvent(line: string, redact = (text: string): string => text): EngineEvent {
  try {
    return v.parse(Event, JSON.parse(line));
  } catch (error) {
    const hint = "this command line tool may be too old or too new; the workflows name one that fits";
    throw new PlanError(`pulumi printed a line that is no event of its engine: ${JSON.stringify(redact(line).slice(0, 200))} (${hint})`, { cause: error });
  }
}

const STACK_TYPE = "pulumi:pulumi:Stack";

/** The plan that these events tell of. Without the engine's summary at their end it has not succeeded. */
export function planOf(events: readonly EngineEvent[]): Plan {
  const before = events.flatMap(({ resourcePreEvent }) => (resourcePreEvent ? [resourcePreEvent.metadata] : []));
  const after = events.flatMap(({ resOutputsEvent }) => (resOutputsEvent ? [resOutputsEvent.metadata] : []));
  const steps = before.filter(({ op, type }) => op !== "refresh" && type !== STACK_TYPE).map(stepOf);
  const changed = steps.filter(({ op }) => op !== "same");
  const same = steps.filter((step) => step.op === "same" && !changed.some((other) => isOfSame(other, step)));
  const stack = after.findLast(({ type, op }) => type === STACK_TYPE && op !== "refresh");
  const refreshed = new Set(before.filter(({ op }) => op === "refresh").map(({ urn }) => urn));
  return {
    succeeded: events.some(({ summaryEvent }) => summaryEvent?.result === "succeeded") && !events.some(({ errorEvent }) => errorEvent),
    steps: changed,
    unchanged: same.length,
    gone: after.filter(({ op, urn, new: found }) => refreshed.has(urn) && (op === "refresh" || op === "delete") && !found).map(({ urn }) => urn),
    unprotected: steps.filter(({ op, before, after }) => (op === "same" || op === "update") && before?.protect === true && after?.protect === false),
    outputs: stack && { before: plain(stack.old?.outputs ?? {}), after: plain(stack.new?.outputs ?? {}) },
    diagnostics: events.flatMap(diagnosticOf),
    violations: events.flatMap(({ policyEvent }) => (policyEvent ? [violationOf(policyEvent)] : [])),
  };
}

/**
 * Whether both steps are of one resource on the server. A URN alone does not say so: a replacement whose old resource could not be
 * deleted leaves that in the state beside the new one.
 */
export function isOfSame(left: Step, right: Step): boolean {
  return left.urn === right.urn && left.before?.id === right.before?.id;
}

function stepOf({ op, urn, type, old, new: next, keys, diffs, detailedDiff, logical }: StepMetadata): Step {
  return {
    op, urn, type, logical,
    name: nameOf(urn),
    before: old ? stateOf(old) : undefined,
    after: next ? stateOf(next) : undefined,
    replaceKeys: keys,
    changedPaths: [...new Set([...Object.keys(detailedDiff), ...diffs])],
  };
}

function stateOf({ inputs, outputs, ...state }: v.InferOutput<typeof StateSchema>): State {
  return { ...state, inputs: plain(inputs), outputs: plain(outputs) };
}

/** The name in the program, which is what stands behind a URN's last `::`. */
export function nameOf(urn: string): string {
  return urn.split("::").slice(3).join("::") || urn;
}

/** How the engine marks what is not a plain value (`sdk/go/common/resource/properties.go`: `SigKey` and its values). */
const SIGNATURE = "4dabf18193072939515e22adb298388d";
const SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270";
/** What stands for a secret. */
export const SECRET = "[secret]";

function plain(properties: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(properties).map(([key, value]) => [key, plainValue(value)]));
}

function plainValue(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plainValue);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value);
  const signature: unknown = entries.find(([key]) => key === SIGNATURE)?.[1];
  if (signature === SECRET_SIGNATURE) return SECRET;
  // Files, resources, outputs: what they are is not for a diff.
  if (signature !== undefined) return "[a value that is not shown]";
  return Object.fromEntries(entries.map(([key, item]) => [key, plainValue(item)]));
}

function diagnosticOf({ diagnosticEvent, errorEvent }: EngineEvent): Diagnostic[] {
  if (errorEvent) return [{ severity: "error", urn: "", message: errorEvent.error.trim() }];
  if (!diagnosticEvent) return [];
  const { urn, message, severity, ephemeral } = diagnosticEvent;
  // The engine's debug messages hold inputs as the program sent them, secrets in clear.
  if (ephemeral || severity === "debug" || message.trim() === "") return [];
  return [{ urn, message: message.trim(), severity: severity === "error" || severity === "warning" ? severity : "info" }];
}

function violationOf({ resourceUrn, message, policyName, enforcementLevel }: NonNullable<EngineEvent["policyEvent"]>): Violation {
  return { policy: policyName, urn: resourceUrn, message: message.trim(), isMandatory: enforcementLevel === "mandatory" };
}
