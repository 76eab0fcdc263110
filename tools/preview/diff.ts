/**
 * The differences between two values of a property, as a reviewer reads them: entries added to and
 * removed from lists, not positions.
 */
import { isDeepStrictEqual } from "node:util";
import { UNKNOWN } from "../../providers/retention.ts";
import { SECRET, type Step } from "./plan.ts";

/** A change of one property. */
export interface Change {
  /** In words, e.g. `origins`, `force destroy`, `lifecycle rule › filter › prefix`. */
  property: string;
  removed: string[];
  added: string[];
  /** What the values do not show, e.g. that only the order changed. */
  note?: string;
}

const KNOWN_LATER = "(known after the update)";
/** A program may forget to mark a secret. Values under such names are never shown. */
const SECRET_NAME = /secret|password|passphrase|private.?key|access.?key|token|credential/i;
/** Values of a property are cut here. */
const MAX_VALUE_LENGTH = 300;

/**
 * The changes of a resource's inputs. For a new resource these are all inputs, for a deleted one
 * none.
 */
export function changesOf({ before, after, changedPaths }: Step): Change[] {
  if (!after) return [];
  if (!before) return diff({}, recordOf(withoutDefaults(after.inputs)) ?? {});
  const changes = diff(before.inputs, after.inputs);
  const known = new Set(changes.map(({ property }) => property));
  const isShown = (property: string) =>
    known.has(property) || [...known].some((other) => other.startsWith(`${property} › `));
  // All secrets look the same. Only the provider reports that one has changed.
  const hidden = new Set(changedPaths.map(labelOfPath).filter((property) => !isShown(property)));
  return [...changes, ...[...hidden].map(hiddenChange)];
}

/**
 * The inputs that say something about a new resource: without those that the provider lists as its
 * defaults (`__defaults`), and without what is empty or off.
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
  const items = isRecord(value) ? Object.keys(value) : value;
  return Array.isArray(items) && items.length === 0;
}

function hiddenChange(property: string): Change {
  return { property, removed: [], added: [], note: "changed; its values are not shown" };
}

type Properties = Readonly<Record<string, unknown>>;

/** The differences between two objects of properties, sorted by name. */
export function diff(before: Properties, after: Properties): Change[] {
  const changes = compare([], before, after);
  return changes.sort((left, right) => (left.property < right.property ? -1 : 1));
}

function compare(path: readonly string[], before: unknown, after: unknown): Change[] {
  if (isDeepStrictEqual(before, after) || isInternal(path)) return [];
  const [old, next] = [opened(before), opened(after)];
  const name = path.at(-1) ?? "";
  if (SECRET_NAME.test(name) && !isRecord(old) && !isRecord(next)) {
    return [secretChange(path, before, after)];
  }
  if (Array.isArray(old) || Array.isArray(next)) {
    return compareLists(path, listOf(old), listOf(next));
  }
  const [left, right] = isRecord(old) || isRecord(next) ? [recordOf(old), recordOf(next)] : [];
  if (!left || !right) return changed(path, before, after);
  const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
  return [...keys].flatMap((key) => compare([...path, key], left[key], right[key]));
}

function compareLists(
  path: readonly string[],
  before: readonly unknown[],
  after: readonly unknown[],
): Change[] {
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
  const removed = without(before, after);
  const added = without(after, before);
  const property = label(path);
  if (removed.length + added.length === 0) {
    return [{ property, removed: [], added: [], note: "in another order" }];
  }
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

/** Policies are JSON texts. Their content is compared, not the text. */
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
  const cut = text.length - MAX_VALUE_LENGTH;
  return cut <= 0 ? text : `${text.slice(0, MAX_VALUE_LENGTH)}… (${cut} more characters)`;
}

/** The text itself, or in quotes if it has characters that do not show or that break the line. */
function inOneLine(text: string): string {
  const isPlain = text !== "" && text.trim() === text && !/[\p{C}\p{Zl}\p{Zp}]/u.test(text);
  return isPlain ? text : JSON.stringify(text);
}

/** The value without the values under secret names. */
function masked(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(masked);
  if (!isRecord(value)) return value === UNKNOWN ? KNOWN_LATER : value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => {
      return [key, SECRET_NAME.test(key) && !isRecord(item) ? SECRET : masked(item)];
    }),
  );
}

/**
 * `__provider` and similar properties: the handler of dynamic resources, the defaults of bridged
 * providers.
 */
function isInternal(path: readonly string[]): boolean {
  return path.at(-1)?.startsWith("__") === true;
}

/** Properties with a clearer name for a reviewer. */
const LABELS: Readonly<Record<string, string>> = {
  "allowed origins": "origins",
  "allowed headers": "request headers",
  "allowed methods": "methods",
  "allowed › origins": "origins",
  "allowed › headers": "request headers",
  "allowed › methods": "methods",
  "max age seconds": "seconds that browsers cache it",
};

/** The path in words. The name of the list that holds a setting's rules is left out. */
function label(path: readonly string[]): string {
  const [first = "", ...rest] = path;
  const parts = rest.length > 0 && /^(?:rules|corsRules)$/.test(first) ? rest : path;
  const number = /^\d+$/.test(parts[0] ?? "") ? `rule ${parts[0]} › ` : "";
  const words = (number === "" ? parts : parts.slice(1)).map(inWords).join(" › ");
  return `${number}${LABELS[words] ?? words}`;
}

/** `maxAgeSeconds` becomes `max age seconds`. A name that is not an identifier stays unchanged. */
function inWords(name: string): string {
  if (!/^[a-z][A-Za-z0-9]*$/.test(name)) return inOneLine(name);
  return name.replace(
    /([a-z0-9])([A-Z])/g,
    (_, left: string, right: string) => `${left} ${right.toLowerCase()}`,
  );
}

/** A part of a property path: `["name"]`, `[0]` or `name`. */
const PATH_PART = /\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.[\]]+)/g;

/**
 * The label of one of the engine's property paths, e.g. `corsRules[0].allowedOrigins[1]`, without
 * the indices.
 */
function labelOfPath(path: string): string {
  return label([...path.matchAll(PATH_PART)].flatMap(([, quoted, , name]) => quoted ?? name ?? []));
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
  if (value === undefined || value === null) return {};
  return isRecord(value) ? value : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
