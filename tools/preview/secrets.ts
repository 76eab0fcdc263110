/** Blots out the secrets of the environment in what is shown. What is judged stays as the engine wrote it: a secret may be a part of a type's name. */
import type { Change } from "./diff.ts";
import type { EngineEvent } from "./plan.ts";
import type { Report } from "./report.ts";

export type Redact = (text: string) => string;

/** Below this a value is more likely a word than a secret. */
const MIN_SECRET_LENGTH = 8;
const MARK = "[secret]";

/**
 * Blots out keys and tokens of the environment, which a server or a provider may quote in an error. The engine does so with those
 * of the stack's config.
 */
export function redactor(env: NodeJS.ProcessEnv): Redact {
  const secrets = Object.entries(env).flatMap(([name, value = ""]) =>
    /TOKEN|SECRET|PASS|KEY|CREDENTIAL/i.test(name) && value.length >= MIN_SECRET_LENGTH ? [value, JSON.stringify(value).slice(1, -1)] : []);
  const longestFirst = [...new Set(secrets)].sort((left, right) => right.length - left.length);
  return (text) => longestFirst.reduce((redacted, secret) => redacted.replaceAll(secret, MARK), text);
}

/** The event without secrets in its messages and in what its resources' properties hold, before any of that is cut or put into other forms. */
export function redactEvent(event: EngineEvent, redact: Redact): EngineEvent {
  const { diagnosticEvent, policyEvent, errorEvent, resourcePreEvent, resOutputsEvent } = event;
  return {
    ...event,
    ...(diagnosticEvent && { diagnosticEvent: { ...diagnosticEvent, message: redact(diagnosticEvent.message) } }),
    ...(policyEvent && { policyEvent: { ...policyEvent, message: redact(policyEvent.message) } }),
    ...(errorEvent && { errorEvent: { error: redact(errorEvent.error) } }),
    ...(resourcePreEvent && { resourcePreEvent: redactStep(resourcePreEvent, redact) }),
    ...(resOutputsEvent && { resOutputsEvent: redactStep(resOutputsEvent, redact) }),
  };
}

type StepEvent = NonNullable<EngineEvent["resourcePreEvent"]>;
type EventState = NonNullable<StepEvent["metadata"]["old"]>;

function redactStep({ metadata }: StepEvent, redact: Redact): StepEvent {
  const stateOf = (state: EventState | null | undefined) =>
    state && { ...state, inputs: redactProperties(state.inputs, redact), outputs: redactProperties(state.outputs, redact) };
  return { metadata: { ...metadata, old: stateOf(metadata.old), new: stateOf(metadata.new) } };
}

function redactProperties(properties: Readonly<Record<string, unknown>>, redact: Redact): Record<string, unknown> {
  return Object.fromEntries(Object.entries(properties).map(([key, value]) => [redact(key), redactValue(value, redact)]));
}

function redactValue(value: unknown, redact: Redact): unknown {
  if (typeof value === "string") return redact(value);
  if (typeof value === "number") return redact(String(value)) === String(value) ? value : MARK;
  if (Array.isArray(value)) return value.map((item) => redactValue(item, redact));
  return typeof value === "object" && value !== null ? redactProperties({ ...value }, redact) : value;
}

/** The report without secrets in the names that it shows. What it says of the plan was judged before. */
export function redactReport(report: Report, redact: Redact): Report {
  const change = ({ property, removed, added, note }: Change): Change => ({
    property: redact(property), removed: removed.map(redact), added: added.map(redact), ...(note === undefined ? {} : { note }),
  });
  return {
    ...report,
    endangered: report.endangered.map(({ urn, name, type, bucket, ...rest }) => ({
      ...rest, urn: redact(urn), name: redact(name), type: redact(type), bucket: bucket === undefined ? undefined : redact(bucket),
    })),
    unprotected: report.unprotected.map(redact),
    violations: report.violations.map(({ policy, urn, message, isMandatory }) => ({ policy: redact(policy), urn: redact(urn), message: redact(message), isMandatory })),
    diagnostics: report.diagnostics.map(({ severity, urn, message }) => ({ severity, urn: redact(urn), message: redact(message) })),
    groups: report.groups.map(({ component, resources }) => ({
      component: redact(component),
      resources: resources.map(({ purpose, name, fate, changes }) => ({ purpose: redact(purpose), name: redact(name), fate, changes: changes.map(change) })),
    })),
  };
}
