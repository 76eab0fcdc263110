/**
 * Turns the texts of a stack's config into one typed value, or into all of its problems at once. It
 * knows no provider by name: it gets the table of providers.
 */
import { RunError } from "@pulumi/pulumi/errors.js";
import leven from "leven";
import type * as v from "valibot";
import { commonKeys, parseProvider, type ReportProblem } from "./common.ts";
import { documentationOf, splitList } from "./values.ts";
import { visible } from "./visible.ts";

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
    problems.push({
      key: shownMessage(key),
      value: shownValue(key, raw, owners),
      wrong: shownMessage(wrong),
    });
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

/** What other tools call our keys, in lower case and without `_` and `-`. */
const OTHER_NAMES: Readonly<Record<string, string>> = {
  bucket: "bucketName",
  name: "bucketName",
  regionname: "region",
  endpointurl: "endpoint",
  accesskeyid: "accessKey",
  awsaccesskeyid: "accessKey",
  secretaccesskey: "secretKey",
  awssecretaccesskey: "secretKey",
  profile: "sessionProfile",
  cors: "origins",
  corsorigins: "origins",
  allowedorigins: "origins",
  corsallowedorigins: "origins",
  version: "authentikVersion",
};

/** Longer words are no misspelt keys. */
const LONGEST_WORD = 64;

/** The known word that is meant, as the end of a sentence. */
function suggest(word: string, known: readonly string[]): string {
  if (word.length > LONGEST_WORD) return "";
  const plain = word.toLowerCase().replace(/[_-]/g, "");
  const other = Object.hasOwn(OTHER_NAMES, plain) ? OTHER_NAMES[plain] : undefined;
  if (other !== undefined && known.includes(other)) return ` (did you mean ${other}?)`;
  const [nearest] = known
    .map((candidate) => ({ candidate, distance: leven(plain, candidate.toLowerCase()) }))
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
        "is not a secret: the stack's file has it in plain text, and so would the state; " +
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

/**
 * The value as a message shows it. A key's schema says whether it is a secret. An unknown key may
 * be a misspelt one, so its value is not shown if it sounds like a secret.
 */
function shownValue(key: string, raw: RawConfig, owners: readonly Owner[]): string | undefined {
  const [, name = key, index] = /^(.*?)(?:\[(\d+)\])?$/s.exec(key) ?? [];
  const value = raw.values[name];
  if (value === undefined) return undefined;
  const isKnown =
    name === "provider" ||
    Object.hasOwn(commonKeys, name) ||
    owners.some(({ keys }) => Object.hasOwn(keys, name));
  const soundsSecret = !isKnown && /key|secret|token|pass/i.test(name);
  if (raw.secrets.has(name) || isSecretKey(name, owners) || soundsSecret) return "[secret]";
  return shown(index === undefined ? value : (splitList(value)?.[Number(index)] ?? value));
}

const LONGEST_SHOWN = 200;

/** A value in quotes: cut, without a password, and with invisible characters escaped. */
function shown(value: string): string {
  // A cut in the middle of a password would show its beginning.
  if (value.length > LONGEST_SHOWN && value.includes("@")) return `[${value.length} characters]`;
  const end = value.length > LONGEST_SHOWN ? "..." : "";
  return withoutPassword(visible(JSON.stringify(`${value.slice(0, LONGEST_SHOWN)}${end}`)));
}

/** A URL may have a user and a password by mistake. One look at each part keeps this linear. */
function withoutPassword(text: string): string {
  return text.replaceAll(/[^\s/"]+/g, (part) => {
    const at = part.lastIndexOf("@");
    return part.lastIndexOf(":", at) < 0 || at < 0 ? part : `[secret]${part.slice(at)}`;
  });
}

/** A message quotes what a rule suggests, which comes from the value. */
const LONGEST_MESSAGE = 1_000;

function shownMessage(text: string): string {
  if (text.length <= LONGEST_MESSAGE) return visible(withoutPassword(text));
  return `${visible(withoutPassword(text)).slice(0, LONGEST_MESSAGE)}...`;
}
