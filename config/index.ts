/** The stack's config: from the texts that Pulumi hands over to one typed value, or to all of its problems at once. */
import { RunError } from "@pulumi/pulumi/errors.js";
import leven from "leven";
import type * as v from "valibot";
import { aws, type AwsConfig } from "./aws.ts";
import { azure, type AzureConfig } from "./azure.ts";
import { commonKeys, parseProvider, type Report } from "./common.ts";
import { r2, type R2Config } from "./r2.ts";
import { s3, type S3Config } from "./s3.ts";
import { documentationOf, splitList } from "./values.ts";

/** The config of one stack: a union discriminated by `provider`. */
export type StorageConfig = AwsConfig | R2Config | AzureConfig | S3Config;

/** The closed list of providers. */
export const PROVIDERS = ["aws", "r2", "azure", "s3"] as const;
export type ProviderName = (typeof PROVIDERS)[number];

/** The keys of each provider, for messages and for the README's table. */
export const providerKeys: Readonly<Record<ProviderName, v.ObjectEntries>> = {
  aws: aws.keys,
  r2: r2.keys,
  azure: azure.keys,
  s3: s3.keys,
};

/** Reads the rest of a config whose provider is known. */
const parsers: Readonly<Record<ProviderName, (values: RawConfig["values"], report: Report) => StorageConfig | undefined>> = {
  aws: (values, report) => parseProvider(aws, values, report),
  r2: (values, report) => parseProvider(r2, values, report),
  azure: (values, report) => parseProvider(azure, values, report),
  s3: (values, report) => parseProvider(s3, values, report),
};

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

/**
 * The typed config.
 *
 * @throws ConfigError with every problem.
 */
export function parseConfig(raw: RawConfig): StorageConfig {
  const problems: Problem[] = [];
  const report: Report = (key, wrong) => {
    problems.push({ key, value: shownValue(key, raw), wrong });
  };
  const provider = PROVIDERS.find((name) => name === raw.values.provider);
  reportUnknownKeys(raw, provider, report);
  reportClearSecrets(raw, report);
  for (const { key, instead } of raw.misplaced ?? []) report(key, `is under the name of another project, where nothing reads it; write ${instead}`);
  const parse = provider && parsers[provider];
  if (!parse) reportProvider(raw.values.provider, report);
  const config = (parse ?? parseCommonKeys)(raw.values, report);
  if (problems.length > 0 || !config) throw new ConfigError(problems);
  return config;
}

/** Without a provider to parse for, at least the keys that all of them have are looked at. */
function parseCommonKeys(values: RawConfig["values"], report: Report): undefined {
  parseProvider({ keys: {}, check: () => undefined, resolve: () => undefined }, values, report);
}

function reportProvider(name: string | undefined, report: Report): void {
  const choices = PROVIDERS.join(", ");
  if (name === undefined) report("provider", `is missing; set it: pulumi config set provider <${PROVIDERS.join("|")}>`);
  else report("provider", `is not a provider; write one of ${choices}${suggest(name, PROVIDERS)}`);
}

function reportUnknownKeys(raw: RawConfig, provider: ProviderName | undefined, report: Report): void {
  const own = provider && providerKeys[provider];
  const known = ["provider", ...Object.keys(commonKeys), ...Object.keys(own ?? {})];
  for (const key of Object.keys(raw.values)) {
    if (known.includes(key)) continue;
    const others = PROVIDERS.filter((name) => key in providerKeys[name]);
    if (others.length === 0) report(key, `is not a key of this program; remove it${suggest(key, provider ? known : allKeys())}`);
    else if (provider) report(key, `is a key of the provider ${others.join(" and ")}, but this stack's is ${provider}; remove it, or change provider`);
  }
}

function allKeys(): string[] {
  return ["provider", ...Object.keys(commonKeys), ...PROVIDERS.flatMap((name) => Object.keys(providerKeys[name]))];
}

/** The known word that was probably meant, as the end of a sentence. */
function suggest(word: string, known: readonly string[]): string {
  const [nearest] = known
    .map((candidate) => ({ candidate, distance: leven(word.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  return nearest && nearest.distance <= Math.max(2, word.length / 3) ? ` (did you mean ${nearest.candidate}?)` : "";
}

function reportClearSecrets(raw: RawConfig, report: Report): void {
  for (const key of Object.keys(raw.values)) {
    if (isSecretKey(key) && !raw.secrets.has(key)) {
      report(key, `is not a secret: it is in clear in the stack's file, and would be in its state; set it again: pulumi config set --secret ${key}`);
    }
  }
}

function isSecretKey(key: string): boolean {
  const schema = PROVIDERS.map((name) => providerKeys[name][key]).find((found) => found !== undefined);
  return schema !== undefined && documentationOf(schema).secret === true;
}

/** A misspelt key may hold a secret too, so whatever sounds like one is masked. */
function shownValue(key: string, raw: RawConfig): string | undefined {
  const [, name = key, index] = /^(.*?)(?:\[(\d+)\])?$/.exec(key) ?? [];
  const value = raw.values[name];
  if (value === undefined) return undefined;
  if (raw.secrets.has(name) || isSecretKey(name) || /key|secret|token|pass/i.test(name)) return "[secret]";
  return index === undefined ? JSON.stringify(value) : JSON.stringify(splitList(value)?.[Number(index)] ?? value);
}
