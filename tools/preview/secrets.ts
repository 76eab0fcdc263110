/** Redacts the secrets of the environment in everything that is shown. */
import type { EngineEvent } from "./plan.ts";

export type Redact = (text: string) => string;

/** A shorter value is more likely a word than a secret. */
const MIN_SECRET_LENGTH = 8;
const MARK = "[secret]";

/**
 * Redacts the keys and tokens of the environment, which a server or a provider may quote in an error. The engine redacts the
 * secrets of the stack's config.
 */
export function redactor(env: NodeJS.ProcessEnv): Redact {
  const secrets = Object.entries(env).flatMap(([name, value = ""]) =>
    /TOKEN|SECRET|PASS|KEY|CREDENTIAL/i.test(name) && value.length >= MIN_SECRET_LENGTH
      ? [value, JSON.stringify(value).slice(1, -1)]
      : [],
  );
  const longestFirst = [...new Set(secrets)].sort((left, right) => right.length - left.length);
  return (text) => longestFirst.reduce((redacted, secret) => redacted.replaceAll(secret, MARK), text);
}

/**
 * A copy in which every string is redacted, at any depth, names of properties included. A property that is added later is
 * therefore redacted too.
 */
export function redactDeep<T extends object>(value: T, redact: Redact): T {
  const copy = structuredClone(value);
  redactIn(copy, redact);
  return copy;
}

function redactIn(target: object, redact: Redact): void {
  for (const [key, value] of Object.entries(target)) {
    const name = Array.isArray(target) ? key : redact(key);
    if (name !== key) Reflect.deleteProperty(target, key);
    Reflect.set(target, name, redactValue(value, redact));
  }
}

function redactValue(value: unknown, redact: Redact): unknown {
  if (typeof value === "string") return redact(value);
  // A secret of digits alone may have become a number.
  if (typeof value === "number") return redact(String(value)) === String(value) ? value : MARK;
  if (typeof value === "object" && value !== null) redactIn(value, redact);
  return value;
}

/**
 * The event without secrets. Only the names by which a plan is judged stay as the engine wrote them, since a secret may be a
 * part of a type's name. They are redacted in the report, after the plan was judged.
 */
export function redactEvent(event: EngineEvent, redact: Redact): EngineEvent {
  const redacted = redactDeep(event, redact);
  const { resourcePreEvent, resOutputsEvent } = event;
  return {
    ...redacted,
    ...(resourcePreEvent && { resourcePreEvent: withNames(redacted.resourcePreEvent, resourcePreEvent) }),
    ...(resOutputsEvent && { resOutputsEvent: withNames(redacted.resOutputsEvent, resOutputsEvent) }),
  };
}

type StepEvent = NonNullable<EngineEvent["resourcePreEvent"]>;

function withNames(redacted: StepEvent | undefined, { metadata }: StepEvent): StepEvent {
  const { op, urn, type, old, new: next } = metadata;
  const clean = redacted?.metadata ?? metadata;
  return {
    metadata: {
      ...clean,
      op,
      urn,
      type,
      old: clean.old && { ...clean.old, id: old?.id ?? "", parent: old?.parent ?? "" },
      new: clean.new && { ...clean.new, id: next?.id ?? "", parent: next?.parent ?? "" },
    },
  };
}
