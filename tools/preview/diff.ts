/** What is different between two values of a property, as a reviewer reads it: entries added to and removed from lists, not positions. */
import { isDeepStrictEqual } from "node:util";
import { SECRET, type Step } from "./plan.ts";

/** A change of one property. */
export interface Change {
  /** In words, e.g. `origins`, `force destroy`, `lifecycle rule › filter › prefix`. */
  property: string;
  removed: string[];
  added: string[];
  /** What the values do not show. */
  note?: string;
}

/** What the engine writes for a value that is not known before the update (`pkg/resource/stack/deployment.go`). */
const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
const KNOWN_LATER = "(known after the update)";
/** A secret that is none to Pulumi, for some program's fault, is not shown either. */
const SECRET_NAME = /secret|password|passphrase|private.?key|access.?key|token|credential/i;
/** Values of a property are cut here. */
const MAX_VALUE_LENGTH = 300;

/** What a step changes of its resource's inputs. A resource that is made or goes has all or none of them. */
export function changesOf({ before, after, changedPaths }: Step): Change[] {
  if (!after) return [];
  const changes = diff(before?.inputs ?? {}, after.inputs);
  if (!before) return changes;
  const known = new Set(changes.map(({ property }) => property));
  // Two secrets look alike: that one has changed is known from its provider alone.
  const hidden = changedPaths.map(labelOfPath).filter((property) => !known.has(property) && ![...known].some((other) => other.startsWith(`${property} › `)));
  return [...changes, ...[...new Set(hidden)].map((property): Change => ({ property, removed: [], added: [], note: "changed; its values are not shown" }))];
}

/** The differences between two objects of properties, in the order of their names. */
export function diff(before: Readonly<Record<string, unknown>>, after: Readonly<Record<string, unknown>>): Change[] {
  const changes = compare([], before, after);
  return changes.sort((left, right) => (left.property < right.property ? -1 : 1));
}

function compare(path: readonly string[], before: unknown, after: unknown): Change[] {
  if (isDeepStrictEqual(before, after) || isInternal(path)) return [];
  const [old, next] = [opened(before), opened(after)];
  const name = path.at(-1) ?? "";
  if (SECRET_NAME.test(name) && !isRecord(old) && !isRecord(next)) return [secretChange(path, before, after)];
  if (Array.isArray(old) || Array.isArray(next)) return compareLists(path, listOf(old), listOf(next));
  const [left, right] = isRecord(old) || isRecord(next) ? [recordOf(old), recordOf(next)] : [];
  if (!left || !right) return changed(path, before, after);
  return [...new Set([...Object.keys(left), ...Object.keys(right)])].flatMap((key) => compare([...path, key], left[key], right[key]));
}

function compareLists(path: readonly string[], before: readonly unknown[], after: readonly unknown[]): Change[] {
  const isOfObjects = [...before, ...after].some((item) => isRecord(item) || Array.isArray(item));
  const areAlike = before.length === after.length || before.length === 0 || after.length === 0;
  if (isOfObjects && areAlike) {
    const indices = Array.from({ length: Math.max(before.length, after.length) }, (_, index) => index);
    // A list of one needs no number.
    return indices.flatMap((index) => compare(indices.length === 1 ? path : [...path, String(index + 1)], before[index], after[index]));
  }
  const removed = without(before, after);
  const added = without(after, before);
  const property = label(path);
  if (removed.length + added.length === 0) return [{ property, removed: [], added: [], note: "in another order" }];
  return [{ property, removed: removed.map(shown), added: added.map(shown) }];
}

function without(items: readonly unknown[], others: readonly unknown[]): unknown[] {
  const left = [...others];
  return items.filter((item) => {
    const index = left.findIndex((other) => isDeepStrictEqual(other, item));
    if (index >= 0) left.splice(index, 1);
    return index < 0;
  });
}

function changed(path: readonly string[], before: unknown, after: unknown): Change[] {
  const [removed, added] = [present(before), present(after)];
  return removed.length + added.length === 0 ? [] : [{ property: label(path), removed, added }];
}

function present(value: unknown): string[] {
  return value === undefined || value === null ? [] : [shown(value)];
}

function secretChange(path: readonly string[], before: unknown, after: unknown): Change {
  const masked = (value: unknown) => (value === undefined || value === null ? [] : [SECRET]);
  return { property: label(path), removed: masked(before), added: masked(after) };
}

/** Policies are JSON in a text: what is in them is compared, and not the text. */
function opened(value: unknown): unknown {
  if (typeof value !== "string" || !/^\s*[[{]/.test(value)) return value;
  try {
    const parsed: unknown = JSON.parse(value);
    return parsed;
  } catch {
    return value;
  }
}

function shown(value: unknown): string {
  const known = masked(value);
  const text = typeof known === "string" ? inOneLine(known) : JSON.stringify(known);
  return text.length <= MAX_VALUE_LENGTH ? text : `${text.slice(0, MAX_VALUE_LENGTH)}… (${text.length - MAX_VALUE_LENGTH} more characters)`;
}

/** The text itself, or in quotes where it has what would not show or would make lines of its own. */
function inOneLine(text: string): string {
  return text !== "" && text.trim() === text && !/[\p{C}\p{Zl}\p{Zp}]/u.test(text) ? text : JSON.stringify(text);
}

/** The value without what a secret's name is in front of. */
function masked(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(masked);
  if (!isRecord(value)) return value === UNKNOWN ? KNOWN_LATER : value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, SECRET_NAME.test(key) && !isRecord(item) ? SECRET : masked(item)]));
}

/** `__provider` and its like: the code of dynamic resources, defaults of bridged ones. */
function isInternal(path: readonly string[]): boolean {
  return path.at(-1)?.startsWith("__") === true;
}

/** Names of properties that say more in other words. */
const LABELS: Readonly<Record<string, string>> = {
  "allowed origins": "origins",
  "allowed headers": "request headers",
  "allowed methods": "methods",
  "allowed › origins": "origins",
  "allowed › headers": "request headers",
  "allowed › methods": "methods",
  "max age seconds": "seconds that browsers remember it",
};

/** The path in words. The list in which a setting's rules are is left out: it says nothing. */
function label(path: readonly string[]): string {
  const [first = "", ...rest] = path;
  const parts = rest.length > 0 && /^(?:rules|corsRules)$/.test(first) ? rest : path;
  const number = /^\d+$/.test(parts[0] ?? "") ? `rule ${parts[0]} › ` : "";
  const words = (number === "" ? parts : parts.slice(1)).map(inWords).join(" › ");
  return `${number}${LABELS[words] ?? words}`;
}

/** `maxAgeSeconds` → `max age seconds`. A name that is no identifier stays as it is. */
function inWords(name: string): string {
  return /^[a-z][A-Za-z0-9]*$/.test(name) ? name.replace(/([a-z0-9])([A-Z])/g, (_, left: string, right: string) => `${left} ${right.toLowerCase()}`) : inOneLine(name);
}

/** A property path of the engine, `corsRules[0].allowedOrigins[1]`: which entries of a list have changed does not matter. */
function labelOfPath(path: string): string {
  const parts = [...path.matchAll(/\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.[\]]+)/g)].flatMap(([, quoted, , name]) => quoted ?? name ?? []);
  return label(parts);
}

function listOf(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  return value === undefined || value === null ? [] : [value];
}

/** What is absent counts as an object without properties, so that each of the other's is named. */
function recordOf(value: unknown): Record<string, unknown> | undefined {
  if (value === undefined || value === null) return {};
  return isRecord(value) ? value : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
