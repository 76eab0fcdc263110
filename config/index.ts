/**
 * Turns the texts of a stack's config into one typed value, or into all of its problems at once. It
 * knows no provider by name: it gets the table of providers.
 */
import { RunError } from "@pulumi/pulumi/errors.js";
import leven from "leven";
import type * as v from "valibot";
import { commonKeys, parseProvider, type ReportProblem } from "./common.ts";
import { documentationOf, splitList } from "./values.ts";

/** A stack's config as Pulumi passes it to the program, without the project's name before each key. */
export interface RawConfig {
  values: Readonly<Record<string, string>>;
  /** The keys whose values are Pulumi secrets. */
  secrets: ReadonlySet<string>;
  /** Keys under the name of another project, each with the key to write instead. */
  misplaced?: readonly { key: string; instead: string }[];
}

/** One problem of the config. */
export interface ConfigProblem {
  /** E.g. `origins[1]`. */
  key: string;
  /** The given value in quotes; `[secret]` for a secret, undefined for a missing value. */
  value: string | undefined;
  /** What is wrong, and what to write instead. */
  wrong: string;
}

/** Every problem of a stack's config at once. A `RunError`, so that the engine shows its message and no stack. */
export class ConfigError extends RunError {
  override name = "ConfigError";
  readonly problems: readonly ConfigProblem[];
  constructor(problems: readonly ConfigProblem[]) {
    const lines = problems.map(({ key, value, wrong }) => {
      return `  ${key}${value === undefined ? "" : ` = ${value}`} ${wrong}`;
    });
    const count = problems.length === 1 ? "one problem" : `${problems.length} problems`;
    super(`${count} in the stack's config; nothing was changed:\n${lines.join("\n")}`);
    this.problems = problems;
    // A stack trace does not help the user, and on Node 20 the SDK takes 40 s to print one (pulumi/pulumi issue 20567).
    this.stack = "";
  }
}

/** The part of a provider that reads the config. */
export interface ConfigReader<Read> {
  /** The provider's own keys, with their meanings. */
  keys: v.ObjectEntries;
  /** Reads a stack's values. Returns undefined when it has reported problems. */
  parse: (values: RawConfig["values"], report: ReportProblem) => Read | undefined;
}

/** The providers by name. Each is loaded only when it is needed. */
export type Providers<Read> = Readonly<
  Record<string, { load: () => Promise<{ default: ConfigReader<Read> }> }>
>;

/**
 * Reads the config with the provider that it names.
 *
 * @throws ConfigError with every problem
 */
export async function parseConfig<Read>(raw: RawConfig, providers: Providers<Read>): Promise<Read> {
  const all = Object.entries(providers);
  const [provider, entry] = all.find(([name]) => name === raw.values.provider) ?? [];
  const chosen = (await entry?.load())?.default;
  const known = new Set([
    "provider",
    ...Object.keys(commonKeys),
    ...Object.keys(chosen?.keys ?? {}),
  ]);
  const unknown = Object.keys(raw.values).filter((key) => !known.has(key));
  // Another provider may know an unknown key. Without unknown keys, the other providers are never loaded.
  const asked = unknown.length === 0 ? all.filter(([name]) => name === provider) : all;
  const owners = await Promise.all(
    asked.map(
      async ([name, { load }]): Promise<Owner> => ({ name, keys: (await load()).default.keys }),
    ),
  );

  const problems: ConfigProblem[] = [];
  const report: ReportProblem = (key, wrong) => {
    problems.push({ key, value: shownValue(key, raw, owners), wrong: withoutPassword(wrong) });
  };
  reportUnknownKeys(unknown, provider, owners, report);
  reportClearSecrets(raw, owners, report);
  for (const { key, instead } of raw.misplaced ?? []) {
    report(key, `is under the name of another project, where nothing reads it; write ${instead}`);
  }
  if (!chosen) reportProvider(raw.values.provider, Object.keys(providers), report);
  const read = (chosen?.parse ?? parseCommonKeys)(raw.values, report);
  if (problems.length > 0 || read === undefined) throw new ConfigError(problems);
  return read;
}

/** A provider by the keys that are its own. */
interface Owner {
  name: string;
  keys: v.ObjectEntries;
}

/** Without a valid provider, at least the keys that all providers have are checked. */
function parseCommonKeys(values: RawConfig["values"], report: ReportProblem): undefined {
  parseProvider({ keys: {}, check: () => undefined, resolve: () => undefined }, values, report);
}

function reportProvider(
  name: string | undefined,
  choices: readonly string[],
  report: ReportProblem,
): void {
  if (name === undefined)
    report("provider", `is missing; set it: pulumi config set provider <${choices.join("|")}>`);
  else
    report(
      "provider",
      `is not a provider; write one of ${choices.join(", ")}${suggest(name, choices)}`,
    );
}

function reportUnknownKeys(
  unknown: readonly string[],
  provider: string | undefined,
  owners: readonly Owner[],
  report: ReportProblem,
): void {
  const possible = owners
    .filter(({ name }) => provider === undefined || name === provider)
    .flatMap(({ keys }) => Object.keys(keys));
  const known = ["provider", ...Object.keys(commonKeys), ...possible];
  for (const key of unknown) {
    const others = owners.filter(({ keys }) => Object.hasOwn(keys, key)).map(({ name }) => name);
    if (others.length === 0) {
      report(key, `is not a key of this program; remove it${suggest(key, known)}`);
    } else if (provider !== undefined) {
      const which = others.join(" and ");
      report(
        key,
        `is a key of the provider ${which}, but this stack's is ${provider}; remove it, or change provider`,
      );
    }
  }
}

/** The known word that is most similar, as the end of a sentence. */
function suggest(word: string, known: readonly string[]): string {
  const [nearest] = known
    .map((candidate) => ({
      candidate,
      distance: leven(word.toLowerCase(), candidate.toLowerCase()),
    }))
    .sort((a, b) => a.distance - b.distance);
  return nearest && nearest.distance <= Math.max(2, word.length / 3)
    ? ` (did you mean ${nearest.candidate}?)`
    : "";
}

function reportClearSecrets(raw: RawConfig, owners: readonly Owner[], report: ReportProblem): void {
  for (const key of Object.keys(raw.values)) {
    if (isSecretKey(key, owners) && !raw.secrets.has(key)) {
      report(
        key,
        "is not a secret: it is in clear in the stack's file, and would be in clear in the state; " +
          `set it again: pulumi config set --secret ${key}`,
      );
    }
  }
}

/** A key is a secret of every provider that has it, or of none. */
function isSecretKey(key: string, owners: readonly Owner[]): boolean {
  return owners.some(({ keys }) => {
    const schema = Object.hasOwn(keys, key) ? keys[key] : undefined;
    return schema !== undefined && documentationOf(schema).secret === true;
  });
}

/** A misspelled key may have a secret too, so the value of a key that sounds like one is not shown. */
function shownValue(key: string, raw: RawConfig, owners: readonly Owner[]): string | undefined {
  const [, name = key, index] = /^(.*?)(?:\[(\d+)\])?$/.exec(key) ?? [];
  const value = raw.values[name];
  if (value === undefined) return undefined;
  if (raw.secrets.has(name) || isSecretKey(name, owners) || /key|secret|token|pass/i.test(name))
    return "[secret]";
  return withoutPassword(
    JSON.stringify(index === undefined ? value : (splitList(value)?.[Number(index)] ?? value)),
  );
}

/** A URL may have a user and a password by mistake. */
function withoutPassword(text: string): string {
  return text.replaceAll(/[^\s/@"]*:[^\s/@"]*@/g, "[secret]@");
}
