/**
 * The differences between two values of a property, as a reviewer reads them: entries added to and
 * removed from lists, not positions.
 */
import { isDeepStrictEqual } from "node:util";
import { UNKNOWN } from "../../providers/retention.ts";
import { visible } from "../../config/visible.ts";
import { SECRET, type ResourceState, type Step } from "./plan.ts";

/** A change of one property. */
export interface Change {
  /** In words, e.g. `origins`, `force destroy`, `lifecycle rule › filter › prefix`. */
  property: string;
  removed: string[];
  added: string[];
  /** A fact that the values do not show, e.g. that only the order changed. */
  note?: string;
}

const KNOWN_LATER = "(known after the update)";
/** A program may forget to mark a secret. Values under such names are never shown. */
const SECRET_NAME =
  /secret|password|passphrase|(?:private|access|account|api).?key|connection.?string|token|credential/i;
const URL_PASSWORD = /(:\/\/[^\s/:@]*:)[^\s/@]+@/g;
/** Values of a property are cut here. */
const MAX_VALUE_LENGTH = 300;
/** No policy is nested deeper. */
const MAX_DEPTH = 100;

type State = Pick<ResourceState, "inputs" | "outputs">;

function propertiesOf({ inputs, outputs }: State): State {
  return { inputs: recordOf(inputs) ?? {}, outputs: recordOf(outputs) ?? {} };
}

/** A change with the place of the property, without the positions in lists. */
interface Found extends Change {
  path: readonly string[];
}

/**
 * The changes of a resource, from its present state on the server to its planned state. For a new
 * resource these are all inputs, for a deleted one none.
 */
export function changesOf({ before: old, after: next, changedPaths }: Step): Change[] {
  if (!next) return [];
  if (!old) return diff({}, recordOf(withoutDefaults(next.inputs)) ?? {});
  const [before, after] = [propertiesOf(old), propertiesOf(next)];
  const paths = changedPaths.map(partsOfPath);
  const isInput = (key: string) =>
    Object.hasOwn(before.inputs, key) || Object.hasOwn(after.inputs, key);
  const keys = new Set([
    ...Object.keys({ ...before.inputs, ...after.inputs }),
    ...paths.map(([key = ""]) => key),
  ]);
  const found = [...keys].flatMap((key) => changesOfProperty(key, before, after));
  // All secrets look the same. Only the provider reports that a secret has changed.
  const isShown = coverage(found.map(({ path }) => path));
  // A value that only the server sets is not a change: the time of the last change, an id.
  const isComputed = ([key = ""]: readonly string[]) =>
    !isInput(key) && after.outputs[key] === UNKNOWN;
  const hidden = paths.filter((path) => !isShown(path) && !isComputed(path));
  return [...sorted(found), ...[...new Set(hidden.map(label))].map(hiddenChange)];
}

/**
 * The changes of one property. Only outputs show changes that were made on the server. But an output
 * is not always marked as a secret where the input is.
 */
function changesOfProperty(key: string, before: State, after: State): Found[] {
  const input = after.inputs[key];
  const isKnown =
    Object.hasOwn(after.outputs, key) ||
    (Object.hasOwn(before.outputs, key) && hasProperties(after.outputs));
  if (isKnown && !JSON.stringify(input ?? "").includes(SECRET)) {
    const old = before.outputs[key];
    const changes = compare([key], old, settled(after.outputs[key], old, input));
    if (changes.length > 0) return changes;
  }
  return compare([key], before.inputs[key], input);
}

/**
 * The planned value. If the provider does not know it, this is the input, or else the old value. Some
 * providers leave out or add empty values.
 */
function settled(planned: unknown, old: unknown, input: unknown): unknown {
  if (planned === UNKNOWN) return input ?? old;
  if (isEmpty(planned ?? null) && isEmpty(old ?? null)) return old;
  if (Array.isArray(planned)) {
    const [olds, inputs] = [listOf(old), listOf(input)];
    return planned.map((item, index) => settled(item, olds[index], inputs[index]));
  }
  const known = isRecord(planned) ? recordOf(planned) : undefined;
  if (!known) return planned;
  const [olds, inputs] = [recordOf(old) ?? {}, recordOf(input) ?? {}];
  const keys = Object.keys({ ...olds, ...known });
  return Object.fromEntries(keys.map((key) => [key, settled(known[key], olds[key], inputs[key])]));
}

/** Whether a change is shown at a path, below it, or of something that it is a part of. */
function coverage(shown: readonly (readonly string[])[]): (path: readonly string[]) => boolean {
  const startsOf = (path: readonly string[]) =>
    path.map((_, index) => JSON.stringify(path.slice(0, index + 1)));
  const places = new Set(shown.map((path) => JSON.stringify(path)));
  const starts = new Set(shown.flatMap(startsOf));
  return (path) =>
    starts.has(JSON.stringify(path)) || startsOf(path).some((start) => places.has(start));
}

/**
 * The inputs of a new resource, without those that the provider lists as its defaults (`__defaults`),
 * and without empty values and `false`.
 */
function withoutDefaults(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutDefaults);
  if (!isRecord(value)) return value;
  const defaults = listOf(value.__defaults);
  const kept = Object.entries(value).filter(([key, item]) => {
    return !defaults.includes(key) && !isEmpty(item);
  });
  return Object.fromEntries(kept.map(([key, item]) => [key, withoutDefaults(item)]));
}

function isEmpty(value: unknown): boolean {
  if (value === false || value === "" || value === null) return true;
  return Array.isArray(value) ? value.length === 0 : isRecord(value) && !hasProperties(value);
}

function hasProperties(value: object): boolean {
  return Object.keys(value).length > 0;
}

function hiddenChange(property: string): Change {
  return { property, removed: [], added: [], note: "changed; its values are not shown" };
}

type Properties = Readonly<Record<string, unknown>>;

/** The differences between two objects of properties, sorted by name. */
export function diff(before: Properties, after: Properties): Change[] {
  return sorted(compare([], before, after));
}

function sorted(found: readonly Found[]): Change[] {
  return found
    .map(({ property, removed, added, note }) => {
      return { property, removed, added, ...(note !== undefined && { note }) };
    })
    .sort((left, right) => (left.property < right.property ? -1 : 1));
}

function compare(path: readonly string[], before: unknown, after: unknown): Found[] {
  if (isDeepStrictEqual(before, after) || isInternal(path)) return [];
  if (SECRET_NAME.test(path.at(-1) ?? "")) {
    const hidden = [before, after].map((value) => present(value).map(() => SECRET));
    return [found(path, hidden[0], hidden[1])];
  }
  const [old, next] = [opened(before), opened(after)];
  if (Array.isArray(old) || Array.isArray(next)) {
    return compareLists(path, listOf(old), listOf(next));
  }
  const [left, right] = isRecord(old) || isRecord(next) ? [recordOf(old), recordOf(next)] : [];
  if (!left || !right || isNamedSecret(left) || isNamedSecret(right)) {
    const [removed, added] = [present(before), present(after)];
    return removed.length + added.length === 0 ? [] : [found(path, removed, added)];
  }
  const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
  return [...keys].flatMap((key) => compare([...path, key], left[key], right[key]));
}

function found(
  path: readonly string[],
  removed: string[] = [],
  added: string[] = [],
  note?: string,
): Found {
  const place = path.filter((part) => !/^\d+$/.test(part));
  return { path: place, property: label(path), removed, added, ...(note && { note }) };
}

function compareLists(
  path: readonly string[],
  before: readonly unknown[],
  after: readonly unknown[],
): Found[] {
  const hasObjects = [...before, ...after].some((item) => isRecord(item) || Array.isArray(item));
  const isComparable = before.length === after.length || before.length === 0 || after.length === 0;
  if (hasObjects && isComparable) {
    const length = Math.max(before.length, after.length);
    return Array.from({ length }, (_, index) => index).flatMap((index) => {
      // The entry of a list of one needs no number.
      const entry = length === 1 ? path : [...path, String(index + 1)];
      return compare(entry, before[index], after[index]);
    });
  }
  const removed = without(before, after).map(shown);
  const added = without(after, before).map(shown);
  const isSame = removed.length + added.length === 0;
  return [found(path, removed, added, isSame ? "in another order" : undefined)];
}

/** Compares by text, so that a long list of a server takes no time. */
function without(items: readonly unknown[], others: readonly unknown[]): unknown[] {
  const left = new Map<string, number>();
  for (const other of others) left.set(textOf(other), (left.get(textOf(other)) ?? 0) + 1);
  return items.filter((item) => {
    const count = left.get(textOf(item)) ?? 0;
    left.set(textOf(item), count - 1);
    return count <= 0;
  });
}

/** The same for objects with the same properties in another order. */
function textOf(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) => {
    return isRecord(item) ? Object.fromEntries(Object.entries(item).sort()) : item;
  });
}

function present(value: unknown): string[] {
  return value === undefined || value === null ? [] : [shown(value)];
}

/** Policies are JSON texts. Their content is compared, not the text. */
function opened(value: unknown): unknown {
  if (typeof value !== "string" || !/^\s*[[{]/.test(value) || isDeep(value)) return value;
  try {
    const parsed: unknown = JSON.parse(value);
    return parsed;
  } catch {
    return value;
  }
}

/** Whether a text could be JSON that is too deep for functions that call themselves. */
function isDeep(text: string): boolean {
  let depth = 0;
  for (const [mark] of text.matchAll(/[[\]{}]/g)) {
    depth += mark === "[" || mark === "{" ? 1 : -1;
    if (depth > MAX_DEPTH) return true;
  }
  return false;
}

function shown(value: unknown): string {
  const known = masked(value);
  const whole = typeof known === "string" ? inOneLine(known) : JSON.stringify(known);
  const text = whole.replaceAll(URL_PASSWORD, `$1${SECRET}@`);
  const cut = text.length - MAX_VALUE_LENGTH;
  return cut <= 0 ? text : `${text.slice(0, MAX_VALUE_LENGTH)}… (${cut} more characters)`;
}

/** The text itself, or in quotes if it has characters that do not show or that break the line. */
function inOneLine(text: string): string {
  const isPlain = text !== "" && text.trim() === text && visible(text) === text;
  return isPlain ? text : JSON.stringify(text);
}

/**
 * The value without the values under secret names, also within JSON texts, and without empty values
 * in objects: a provider lists all properties of a rule on the server.
 */
function masked(value: unknown): unknown {
  const known = opened(value);
  if (Array.isArray(known)) return known.map(masked);
  if (!isRecord(known)) return known === UNKNOWN ? KNOWN_LATER : known;
  const isSecret = isNamedSecret(known);
  const entries = Object.entries(known).filter(([, item]) => item === false || !isEmpty(item));
  return Object.fromEntries(
    entries.map(([key, item]) => {
      const isHidden = SECRET_NAME.test(key) || (isSecret && /^value$/i.test(key));
      return [key, isHidden ? SECRET : masked(item)];
    }),
  );
}

/** Whether it is a name with a value, e.g. a tag or a variable, and the name is a secret's. */
function isNamedSecret(value: Properties): boolean {
  return Object.entries(value).some(([key, item]) => {
    return /^(?:name|key)$/i.test(key) && typeof item === "string" && SECRET_NAME.test(item);
  });
}

/**
 * `__provider` and similar properties: the handler of dynamic resources, the defaults of bridged
 * providers.
 */
function isInternal(path: readonly string[]): boolean {
  return path.at(-1)?.startsWith("__") === true;
}

/** Properties with a clearer name for a reviewer. */
const LABELS: ReadonlyMap<string, string> = new Map([
  ["allowed origins", "origins"],
  ["allowed headers", "request headers"],
  ["allowed methods", "methods"],
  ["allowed › origins", "origins"],
  ["allowed › headers", "request headers"],
  ["allowed › methods", "methods"],
  ["max age seconds", "seconds that browsers cache it"],
]);

/** The path in words. The name of the list that holds a setting's rules is left out. */
function label(path: readonly string[]): string {
  const [first = "", ...rest] = path;
  const parts = rest.length > 0 && /^(?:rules|corsRules)$/.test(first) ? rest : path;
  const number = /^\d+$/.test(parts[0] ?? "") ? `rule ${parts[0]} › ` : "";
  const words = (number === "" ? parts : parts.slice(1)).map(partText).join(" › ");
  return `${number}${LABELS.get(words) ?? words}`;
}

/** A name that is not an identifier, e.g. of a tag, stays unchanged. */
function partText(name: string): string {
  return /^[a-z][A-Za-z0-9]*$/.test(name) ? wordsOf(name) : inOneLine(name);
}

/** `maxAgeSeconds` becomes `max age seconds`. */
export function wordsOf(name: string): string {
  return name.replace(
    /([a-z0-9])([A-Z])/g,
    (_, left: string, right: string) => `${left} ${right.toLowerCase()}`,
  );
}

/** A part of a property path: `["name"]`, `[0]` or `name`. */
const PATH_PART = /\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.[\]]+)/g;

/** The parts of one of the engine's property paths, e.g. `corsRules[0].id`, without indices. */
function partsOfPath(path: string): string[] {
  return [...path.matchAll(PATH_PART)].flatMap(([, quoted, , name]) => quoted ?? name ?? []);
}

function listOf(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  return value === undefined || value === null ? [] : [value];
}

/**
 * A missing value counts as an object without properties, so that each property of the other one is
 * listed.
 */
function recordOf(value: unknown): Record<string, unknown> | undefined {
  // Without a prototype: a tag may have the name "constructor".
  const record: Record<string, unknown> = { __proto__: null };
  return isRecord(value ?? {}) ? Object.assign(record, value) : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
