/**
 * What Pulumi plans to do, read from the events of its engine. `pulumi preview --json` prints a
 * summary without policy violations. With PULUMI_ENABLE_STREAMING_JSON_PREVIEW it prints every
 * event, one per line, as `up --json` does (pulumi/pulumi, `sdk/go/common/apitype/events.go`). The
 * engine has replaced each secret in them.
 */
import * as v from "valibot";

/** A resource before or after a step. */
export interface ResourceState {
  /** The id on the server; empty when it is not known yet. */
  id: string;
  /** The inputs of the program or of the last update. A secret is the text `[secret]`. */
  inputs: Record<string, unknown>;
  /**
   * The state on the server as of the last update or refresh. After the step: the planned state, as
   * far as the provider knows it; empty when the engine did not come that far.
   */
  outputs: Record<string, unknown>;
  parent: string;
  protect: boolean;
  /** Whether Pulumi only removes it from the state instead of deleting it. */
  retainOnDelete: boolean;
}

/** One operation on one resource. A replacement has several steps, one of which is `logical`. */
export interface Step {
  /** One of the engine's `display.StepOp`, or an operation of a later engine. */
  op: string;
  urn: string;
  type: string;
  /** Name in the program. */
  name: string;
  /** Whether the program asks for this step. The other steps carry it out. */
  logical: boolean;
  before: ResourceState | undefined;
  after: ResourceState | undefined;
  /** The inputs that cause a replacement. */
  replaceKeys: string[];
  /** Paths of the properties that the provider reports as changed; empty when it reports none. */
  changedPaths: string[];
}

export interface Diagnostic {
  severity: "info" | "warning" | "error";
  /** URN of the resource; empty when the message is about no resource. */
  urn: string;
  message: string;
}

/** A violation of a policy. */
export interface Violation {
  policy: string;
  urn: string;
  message: string;
  /** Whether it fails the preview. */
  isMandatory: boolean;
}

export interface Plan {
  /** Whether the engine finished without an error. */
  succeeded: boolean;
  /** Without the stack itself and without resources that stay the same. */
  steps: Step[];
  /** How many resources stay the same. */
  unchanged: number;
  /** URNs of resources that are no longer on the server, found by `--refresh`. */
  gone: string[];
  /** Resources that stay but lose their protection. */
  unprotected: Step[];
  /** Resources that stay, but that Pulumi would from now on delete on the server too. */
  unretained: Step[];
  /** The stack's outputs; undefined when the plan ended before them. */
  outputs: { before: Record<string, unknown>; after: Record<string, unknown> } | undefined;
  diagnostics: Diagnostic[];
  violations: Violation[];
}

/** The output of the engine cannot be read. */
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
  diagnosticEvent: v.optional(
    v.object({
      urn: v.optional(v.string(), ""),
      message: v.string(),
      severity: v.string(),
      ephemeral: v.optional(v.boolean(), false),
    }),
  ),
  policyEvent: v.optional(
    v.object({
      resourceUrn: v.optional(v.string(), ""),
      message: v.string(),
      policyName: v.string(),
      enforcementLevel: v.string(),
    }),
  ),
  resourcePreEvent: v.optional(ResourceEvent),
  resOutputsEvent: v.optional(ResourceEvent),
  errorEvent: v.optional(v.object({ error: v.string() })),
  summaryEvent: v.optional(v.object({ result: v.optional(v.string()) })),
});

/** One event of the engine. Events that are not part of a plan are empty. */
export type EngineEvent = v.InferOutput<typeof Event>;
type StepMetadata = v.InferOutput<typeof Metadata>;

/**
 * Reads one line of the engine's output.
 *
 * @param redact removes what no message may show
 * @throws PlanError for a line that is not an event of a known form: a step must not be overlooked
 * because it cannot be read
 */
export function parseEvent(line: string, redact = (text: string): string => text): EngineEvent {
  try {
    return v.parse(Event, JSON.parse(line));
  } catch (error) {
    const shown = JSON.stringify(redact(line).slice(0, 200));
    const message =
      `pulumi printed a line that is not an event of its engine: ${shown} ` +
      "(this version of pulumi may be too old or too new; the workflows name one that works)";
    throw new PlanError(message, { cause: error });
  }
}

const STACK_TYPE = "pulumi:pulumi:Stack";

/** The plan in these events. A plan without the engine's summary at the end has not succeeded. */
export function planOf(events: readonly EngineEvent[]): Plan {
  const before = events.flatMap(({ resourcePreEvent }) => resourcePreEvent?.metadata ?? []);
  const after = events.flatMap(({ resOutputsEvent }) => resOutputsEvent?.metadata ?? []);
  const planned = before.filter(({ op, type }) => op !== "refresh" && type !== STACK_TYPE);
  // Only the event after a step has the outputs that the provider plans.
  const ended = new Map(after.map((metadata) => [keyOf(metadata), metadata]));
  const steps = planned.map((metadata) => stepOf(ended.get(keyOf(metadata)) ?? metadata));
  const stack = after.findLast(({ type, op }) => type === STACK_TYPE && op !== "refresh");
  const refreshed = new Set(before.filter(({ op }) => op === "refresh").map(({ urn }) => urn));
  return {
    succeeded:
      events.some(({ summaryEvent }) => summaryEvent?.result === "succeeded") &&
      !events.some(({ errorEvent }) => errorEvent),
    steps: steps.filter(({ op }) => op !== "same"),
    unchanged: byResource(steps).filter((all) => all.every(({ op }) => op === "same")).length,
    gone: after.filter((step) => refreshed.has(step.urn) && isGone(step)).map(({ urn }) => urn),
    unprotected: steps.filter(losesProtection),
    unretained: steps.filter(
      ({ before, after }) => before?.retainOnDelete === true && after?.retainOnDelete === false,
    ),
    outputs: stack && {
      before: plain(stack.old?.outputs ?? {}),
      after: plain(stack.new?.outputs ?? {}),
    },
    diagnostics: events.flatMap(diagnosticOf),
    violations: events.flatMap(({ policyEvent }) => policyEvent ?? []).map(violationOf),
  };
}

function keyOf({ op, urn, old }: StepMetadata): string {
  return JSON.stringify([op, urn, old?.id]);
}

function isGone({ op, new: found }: StepMetadata): boolean {
  return (op === "refresh" || op === "delete") && !found;
}

function losesProtection({ op, before, after }: Step): boolean {
  return (op === "same" || op === "update") && before?.protect === true && after?.protect === false;
}

/**
 * The steps of each resource on the server. The URN is not enough: when a replacement cannot delete
 * the old resource, the state has the old and the new one under the same URN.
 */
export function byResource(steps: readonly Step[]): [Step, ...Step[]][] {
  const resources = new Map<string, [Step, ...Step[]]>();
  for (const step of steps) {
    const key = JSON.stringify([step.urn, step.before?.id]);
    const known = resources.get(key);
    if (known) known.push(step);
    else resources.set(key, [step]);
  }
  return [...resources.values()];
}

function stepOf(metadata: StepMetadata): Step {
  const { op, urn, type, logical, old, new: next, keys, diffs, detailedDiff } = metadata;
  return {
    op,
    urn,
    type,
    logical,
    name: nameOf(urn),
    before: old ? stateOf(old) : undefined,
    after: next ? stateOf(next) : undefined,
    replaceKeys: keys,
    changedPaths: [...new Set([...Object.keys(detailedDiff), ...diffs])],
  };
}

function stateOf({ inputs, outputs, ...state }: v.InferOutput<typeof StateSchema>): ResourceState {
  return { ...state, inputs: plain(inputs), outputs: plain(outputs) };
}

/** The name in the program: what follows a URN's last `::`. */
export function nameOf(urn: string): string {
  return urn.split("::").slice(3).join("::") || urn;
}

/**
 * How the engine marks values that are not plain (`sdk/go/common/resource/properties.go`: `SigKey`
 * and its values).
 */
const SIGNATURE = "4dabf18193072939515e22adb298388d";
const SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270";
/** Replaces a secret. */
export const SECRET = "[secret]";

function plain(properties: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(properties).map(([key, value]) => [key, plainValue(value)]),
  );
}

function plainValue(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plainValue);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value);
  const signature: unknown = entries.find(([key]) => key === SIGNATURE)?.[1];
  if (signature === SECRET_SIGNATURE) return SECRET;
  // Assets, resources and outputs are not compared.
  if (signature !== undefined) return "[a value that is not shown]";
  return Object.fromEntries(entries.map(([key, item]) => [key, plainValue(item)]));
}

function diagnosticOf({ diagnosticEvent, errorEvent }: EngineEvent): Diagnostic[] {
  if (errorEvent) return [{ severity: "error", urn: "", message: errorEvent.error.trim() }];
  if (!diagnosticEvent) return [];
  const { urn, message, severity, ephemeral } = diagnosticEvent;
  // The engine's debug messages have the inputs as the program sent them, with secrets in plain text.
  if (ephemeral || severity === "debug" || message.trim() === "") return [];
  const known = severity === "error" || severity === "warning" ? severity : "info";
  return [{ urn, message: message.trim(), severity: known }];
}

function violationOf(event: NonNullable<EngineEvent["policyEvent"]>): Violation {
  return {
    policy: event.policyName,
    urn: event.resourceUrn,
    message: event.message.trim(),
    isMandatory: event.enforcementLevel === "mandatory",
  };
}
