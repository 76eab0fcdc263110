/**
 * Redacts the secrets of the environment in everything that is shown. What is judged stays as the
 * engine wrote it.
 */
import type { EngineEvent } from "./plan.ts";

export type Redact = (text: string) => string;

/** A shorter value is more likely a word than a secret. */
const MIN_SECRET_LENGTH = 8;
const MARK = "[secret]";

/**
 * Redacts the keys and tokens of the environment, which a server or a provider may quote in an
 * error. The engine redacts the secrets of the stack's config.
 */
export function redactor(env: NodeJS.ProcessEnv): Redact {
  const secrets = Object.entries(env).flatMap(([name, value = ""]) =>
    /TOKEN|SECRET|PASS|KEY|CREDENTIAL/i.test(name) && value.length >= MIN_SECRET_LENGTH
      ? [value, JSON.stringify(value).slice(1, -1)]
      : [],
  );
  const longestFirst = [...new Set(secrets)].sort((left, right) => right.length - left.length);
  return (text) =>
    longestFirst.reduce((redacted, secret) => redacted.replaceAll(secret, MARK), text);
}

export interface RedactOptions {
  /** Whether names of properties are data too, and not only a fixed structure. */
  names?: boolean;
  /** Properties that stay as they are. */
  except?: readonly string[];
}

/**
 * A copy in which every string is redacted, at any depth. A property that is added later is
 * therefore redacted too, unless it is in `except`.
 */
export function redactDeep<T extends object>(
  value: T,
  redact: Redact,
  options: RedactOptions = {},
): T {
  const copy = structuredClone(value);
  redactIn(copy, redact, options);
  return copy;
}

function redactIn(target: object, redact: Redact, options: RedactOptions): void {
  const { names = false, except = [] } = options;
  for (const [key, value] of Object.entries(target)) {
    if (except.includes(key)) continue;
    const name = names && !Array.isArray(target) ? redact(key) : key;
    if (name !== key) Reflect.deleteProperty(target, key);
    Reflect.set(target, name, redactValue(value, redact, options));
  }
}

function redactValue(value: unknown, redact: Redact, options: RedactOptions): unknown {
  if (typeof value === "string") return redact(value);
  // A secret of digits alone may have become a number.
  if (typeof value === "number") return redact(String(value)) === String(value) ? value : MARK;
  if (typeof value === "object" && value !== null) redactIn(value, redact, options);
  return value;
}

/**
 * The event without secrets in the properties of its resource, before any of them is shortened.
 * Everything else is redacted in the report, after the plan was judged: a secret may be a part of a
 * type's name.
 */
export function redactEvent(event: EngineEvent, redact: Redact): EngineEvent {
  const { resourcePreEvent, resOutputsEvent } = event;
  return {
    ...event,
    ...(resourcePreEvent && { resourcePreEvent: redactStep(resourcePreEvent, redact) }),
    ...(resOutputsEvent && { resOutputsEvent: redactStep(resOutputsEvent, redact) }),
  };
}

type StepEvent = NonNullable<EngineEvent["resourcePreEvent"]>;
type EventState = StepEvent["metadata"]["old"];

function redactStep({ metadata }: StepEvent, redact: Redact): StepEvent {
  const redactState = (state: EventState) =>
    state && {
      ...state,
      inputs: redactDeep(state.inputs, redact, { names: true }),
      outputs: redactDeep(state.outputs, redact, { names: true }),
    };
  return {
    metadata: { ...metadata, old: redactState(metadata.old), new: redactState(metadata.new) },
  };
}
