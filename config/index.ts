/**
 * The stack's config: from the texts that Pulumi hands over to one typed value, or to all of its problems at once. It knows
 * no provider by name: it is handed the table of them.
 */
import { RunError } from "@pulumi/pulumi/errors.js";
import leven from "leven";
import type * as v from "valibot";
import { commonKeys, parseProvider, type Report } from "./common.ts";
import { documentationOf, splitList } from "./values.ts";

/** A stack's config as Pulumi hands it to the program, without the project's name before each key. */
export interface RawConfig {
  values: Readonly<Record<string, string>>;
  /** The keys whose values are Pulumi secrets. */
  secrets: ReadonlySet<string>;
  /** Keys that stand under the name of another project, each with the key to write instead. */
  misplaced?: readonly { key: string; instead: string }[];
}

/** One problem of the config. */
export interface Problem {
  /** E.g. `origins[1]`. */
  key: string;
  /** As given, in quotes; masked where it is secret, absent where there is none. */
  value: string | undefined;
  /** What is wrong, and what to write instead. */
  wrong: string;
}

/** Every problem of a stack's config at once. A `RunError`, so that the engine shows its message and no stack. */
export class ConfigError extends RunError {
  override name = "ConfigError";
  readonly problems: readonly Problem[];
  constructor(problems: readonly Problem[]) {
    const lines = problems.map(({ key, value, wrong }) => `  ${key}${value === undefined ? "" : ` = ${value}`} ${wrong}`);
    const count = problems.length === 1 ? "one problem" : `${problems.length} problems`;
    super(`${count} in the stack's config; nothing was changed:\n${lines.join("\n")}`);
    this.problems = problems;
    // A user can do nothing with it, and on Node 20 the SDK's printing of a stack through its files takes 40 s
    // (pulumi/pulumi issue 20567).
    this.stack = "";
  }
}

/** A provider, as far as its config goes. */
export interface ConfigReader<Read> {
  /** The provider's own keys, with their meanings. */
  keys: v.ObjectEntries;
  /** Reads a stack's values; undefined when it has reported problems. */
  parse: (values: RawConfig["values"], report: Report) => Read | undefined;
}

/** The providers by name, each loaded only when it is asked for. */
export type Providers<Read> = Readonly<Record<string, { load: () => Promise<{ default: ConfigReader<Read> }> }>>;

/**
 * What the provider that the config names reads in it.
 *
 * @throws ConfigError with every problem
 */
export async function parseConfig<Read>(raw: RawConfig, providers: Providers<Read>): Promise<Read> {
  const all = Object.entries(providers);
  const [provider, entry] = all.find(([name]) => name === raw.values.provider) ?? [];
  const chosen = (await entry?.load())?.default;
  const known = new Set(["provider", ...Object.keys(commonKeys), ...Object.keys(chosen?.keys ?? {})]);
  const unknown = Object.keys(raw.values).filter((key) => !known.has(key));
  // Another provider may know an unknown key. For a config without one the others are never loaded.
  const asked = unknown.length === 0 ? all.filter(([name]) => name === provider) : all;
  const owners = await Promise.all(asked.map(async ([name, { load }]): Promise<Owner> => ({ name, keys: (await load()).default.keys })));

  const problems: Problem[] = [];
  const report: Report = (key, wrong) => {
    problems.push({ key, value: shownValue(key, raw, owners), wrong: withoutPassword(wrong) });
  };
  reportUnknownKeys(unknown, provider, owners, report);
  reportClearSecrets(raw, owners, report);
  for (const { key, instead } of raw.misplaced ?? []) report(key, `is under the name of another project, where nothing reads it; write ${instead}`);
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

/** Without a provider to parse for, at least the keys that all of them have are looked at. */
function parseCommonKeys(values: RawConfig["values"], report: Report): undefined {
  parseProvider({ keys: {}, check: () => undefined, resolve: () => undefined }, values, report);
}

function reportProvider(name: string | undefined, choices: readonly string[], report: Report): void {
  if (name === undefined) report("provider", `is missing; set it: pulumi config set provider <${choices.join("|")}>`);
  else report("provider", `is not a provider; write one of ${choices.join(", ")}${suggest(name, choices)}`);
}

function reportUnknownKeys(unknown: readonly string[], provider: string | undefined, owners: readonly Owner[], report: Report): void {
  const possible = owners.filter(({ name }) => provider === undefined || name === provider).flatMap(({ keys }) => Object.keys(keys));
  for (const key of unknown) {
    const others = owners.filter(({ keys }) => Object.hasOwn(keys, key)).map(({ name }) => name);
    if (others.length === 0) report(key, `is not a key of this program; remove it${suggest(key, ["provider", ...Object.keys(commonKeys), ...possible])}`);
    else if (provider !== undefined) report(key, `is a key of the provider ${others.join(" and ")}, but this stack's is ${provider}; remove it, or change provider`);
  }
}

/** The known word that was probably meant, as the end of a sentence. */
function suggest(word: string, known: readonly string[]): string {
  const [nearest] = known
    .map((candidate) => ({ candidate, distance: leven(word.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  return nearest && nearest.distance <= Math.max(2, word.length / 3) ? ` (did you mean ${nearest.candidate}?)` : "";
}

function reportClearSecrets(raw: RawConfig, owners: readonly Owner[], report: Report): void {
  for (const key of Object.keys(raw.values)) {
    if (isSecretKey(key, owners) && !raw.secrets.has(key)) {
      report(key, `is not a secret: it is in clear in the stack's file, and would be in its state; set it again: pulumi config set --secret ${key}`);
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

/** A misspelt key may hold a secret too, so whatever sounds like one is masked. */
function shownValue(key: string, raw: RawConfig, owners: readonly Owner[]): string | undefined {
  const [, name = key, index] = /^(.*?)(?:\[(\d+)\])?$/.exec(key) ?? [];
  const value = raw.values[name];
  if (value === undefined) return undefined;
  if (raw.secrets.has(name) || isSecretKey(name, owners) || /key|secret|token|pass/i.test(name)) return "[secret]";
  return withoutPassword(JSON.stringify(index === undefined ? value : (splitList(value)?.[Number(index)] ?? value)));
}

/** A URL may have a user and a password in it, by mistake. */
function withoutPassword(text: string): string {
  return text.replaceAll(/[^\s/@"]*:[^\s/@"]*@/g, "[secret]@");
}
