/**
 * How long settings of a resource keep files, their old versions, and deleted files. The guard of
 * previews compares them before and after a plan.
 */

/**
 * The engine's mark for a value that is not known before the update
 * (pulumi/pulumi, `pkg/resource/stack/deployment.go`).
 */
export const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

/** One kind of setting of a resource. */
export interface Retention {
  /**
   * For how long each setting keeps files, by its name, from a resource's inputs: Infinity for ever,
   * 0 not at all. The unit is the setting's own.
   */
  read: (inputs: unknown) => Record<string, number>;
  /** What a missing setting means: Infinity for a rule that deletes, 0 for one that keeps. */
  whenMissing: number;
}

/**
 * A property that keeps files while it has this value, e.g. `isVersioningEnabled`.
 *
 * @param whenMissing what it means that the property is missing
 */
export function keepsWhile(path: string, value: unknown, whenMissing = 0): Retention {
  const read = (inputs: unknown) => {
    const found = valueAt(inputs, path);
    if (found === undefined || found === null) return {};
    return { [path]: found === value ? Infinity : 0 };
  };
  return { read, whenMissing };
}

/** A switch that lets files be deleted, e.g. `forceDestroy`. An unknown value may be `true`. */
export function deletesWhen(path: string): Retention {
  const isOff = (value: unknown) => value === undefined || value === null || value === false;
  const read = (inputs: unknown) => ({ [path]: isOff(valueAt(inputs, path)) ? Infinity : 0 });
  return { read, whenMissing: Infinity };
}

/** Properties that say for how long deleted files are kept, unless `enabled` beside them is false. */
export function keepsFor(path: string, keys: readonly string[] = ["days"]): Retention {
  const read = (inputs: unknown) => {
    const policy = valueAt(inputs, path);
    const isOff = !isRecord(policy) || policy.enabled === false;
    return Object.fromEntries(
      keys.map((key) => [`${path}.${key}`, isOff ? 0 : lengthOf(policy[key], 0)]),
    );
  };
  return { read, whenMissing: 0 };
}

/** Where rules are, and what in each rule is for what. */
interface Rules {
  /** The list of rules. */
  path: string;
  /** What limits a rule to some files. A rule with another scope is another rule. */
  scope: readonly string[];
  /**
   * The parts of a rule that say when files are deleted or kept, with what a property that is
   * missing there means.
   */
  parts: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** Whether rules for these files, as JSON, delete nothing that is authentik's. */
  isHarmless?: (scope: string) => boolean;
}

/** Lifecycle rules. They delete files after a time, or at a date. */
export function deletesByRule(rules: Rules): Retention {
  return { read: (inputs) => readRules(rules, inputs), whenMissing: Infinity };
}

/** Rules that keep files for a time. */
export function keepsByRule(rules: Rules): Retention {
  return { read: (inputs) => readRules(rules, inputs), whenMissing: 0 };
}

/** Of several rules for the same files, the shortest time counts. */
function readRules(rules: Rules, inputs: unknown): Record<string, number> {
  const { path, scope, parts, isHarmless } = rules;
  const found: Record<string, number> = {};
  const list = valueAt(inputs, path);
  for (const rule of Array.isArray(list) ? list : []) {
    if (valueAt(rule, "enabled") === false || valueAt(rule, "status") === "Disabled") continue;
    const limits = JSON.stringify(
      scope.flatMap((key) => valueAt(rule, key) ?? []),
      withoutDefaults,
    );
    if (isHarmless?.(limits) === true) continue;
    for (const [part, defaults] of Object.entries(parts)) {
      const settings = valueAt(rule, part);
      if (settings === undefined || settings === null) continue;
      for (const [leaf, value] of Object.entries({ ...defaults, ...leavesOf(settings) })) {
        const key = `${part}.${leaf} for ${limits}`;
        found[key] = Math.min(found[key] ?? Infinity, value);
      }
    }
  }
  return found;
}

/** A bridged provider lists its defaults in the inputs of the program, and in no inputs of a refresh. */
function withoutDefaults(key: string, value: unknown): unknown {
  return key === "__defaults" ? undefined : value;
}

/** The numbers and dates below a value, by path. Switches and names are no times. */
function leavesOf(value: unknown, path = ""): Record<string, number> {
  if (isRecord(value)) {
    const nested = Object.entries(value).flatMap(([key, item]) => {
      return Object.entries(leavesOf(item, path === "" ? key : `${path}.${key}`));
    });
    return Object.fromEntries(nested);
  }
  const length = lengthOf(value, -1);
  return length < 0 ? {} : { [path]: length };
}

/** A number, the milliseconds of a date, or 0 for a value that is not known before the update. */
function lengthOf(value: unknown, whenMissing: number): number {
  if (typeof value === "number") return value;
  if (typeof value !== "string") return whenMissing;
  if (value === UNKNOWN) return 0;
  // The type of a lock of R2.
  if (value === "Indefinite") return Infinity;
  const date = Date.parse(value);
  return Number.isNaN(date) ? whenMissing : date;
}

function valueAt(value: unknown, path: string): unknown {
  return path
    .split(".")
    .reduce<unknown>((item, key) => (isRecord(item) ? item[key] : undefined), value);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
