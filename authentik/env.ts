/** authentik's storage settings as its environment variables, and back. The only place that knows their names. */
import { atLeast, releaseRules, type Release } from "./release.ts";

/** What authentik has to know of its bucket: no provider, no release, no variable names. */
export interface StorageSettings {
  bucketName: string;
  /** AWS: the bucket's region; R2: `auto`. */
  region?: string | undefined;
  /** With scheme, e.g. `https://s3.provider`. */
  endpoint?: string | undefined;
  /** False speaks http to AWS; read only without an endpoint, whose scheme decides. */
  useSsl?: boolean | undefined;
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  /** Token of temporary credentials. */
  sessionToken?: string | undefined;
  /** A profile of the AWS shared config; authentik prefers it to keys. */
  sessionProfile?: string | undefined;
  /** Without scheme, with the bucket: `s3.provider/authentik-media` or `authentik-media.s3.provider`. */
  customDomain?: string | undefined;
  /** Scheme of custom-domain URLs. */
  secureUrls: boolean;
  addressingStyle?: AddressingStyle | undefined;
  signatureVersion?: SignatureVersion | undefined;
  /** authentik's duration format, e.g. `minutes=15`. */
  urlExpiry?: string | undefined;
  /** `when_required` for servers that refuse the checksums boto3 sends by default. */
  checksums?: Checksums | undefined;
}

export const ADDRESSING_STYLES = ["auto", "path", "virtual"] as const;
export type AddressingStyle = (typeof ADDRESSING_STYLES)[number];
export const SIGNATURE_VERSIONS = ["s3v4", "s3"] as const;
export type SignatureVersion = (typeof SIGNATURE_VERSIONS)[number];
export const CHECKSUMS = ["when_supported", "when_required"] as const;
export type Checksums = (typeof CHECKSUMS)[number];

/** authentik's own defaults: a setting equal to one is not exported. Source: authentik's `admin/files/backends/s3.py`. */
export const DEFAULTS = { addressingStyle: "auto", signatureVersion: "s3v4", urlExpiry: "minutes=15" } as const;

/** Variable names to values, and what the person who uses them should know. */
export interface AuthentikEnv {
  env: Record<string, string>;
  warnings: string[];
}

/**
 * The variables that authentik of `release` needs for `settings`, no more: none that is empty, that the release does not
 * read, or that only repeats authentik's default (`SECURE_URLS` is the exception: the setup page names it).
 *
 * Without a release the names are those of the setup page, `AUTHENTIK_STORAGE__MEDIA__*`, which every release reads.
 *
 * @throws EnvValueError when authentik cannot read a value back unchanged whatever the form (see `encodeValue`).
 */
export function buildEnv(settings: StorageSettings, release?: Release): AuthentikEnv {
  const rules = releaseRules(release);
  const { customDomain, warnings } = workableCustomDomain(settings, rules.doublesBucket);
  const s3: Record<string, string | undefined> = {
    BUCKET_NAME: settings.bucketName,
    REGION: settings.region,
    ENDPOINT: settings.endpoint,
    USE_SSL: settings.useSsl === false && settings.endpoint === undefined ? "false" : undefined,
    ACCESS_KEY: settings.accessKey,
    SECRET_KEY: settings.secretKey,
    ...Object.fromEntries(rules.tokenNames.map((name) => [name, settings.sessionToken])),
    SESSION_PROFILE: settings.sessionProfile,
    CUSTOM_DOMAIN: customDomain,
    ADDRESSING_STYLE: rules.readsAddressingStyle ? unlessDefault(settings, "addressingStyle") : undefined,
    SIGNATURE_VERSION: rules.readsSignatureVersion ? unlessDefault(settings, "signatureVersion") : undefined,
    URL_EXPIRY: rules.readsUrlExpiry ? unlessDefault(settings, "urlExpiry") : undefined,
  };
  const env: Record<string, string> = { [`${rules.prefix}__BACKEND`]: "s3" };
  for (const [key, value] of Object.entries(s3)) {
    const name = `${rules.prefix}__S3__${key}`;
    if (value !== undefined && value !== "") env[name] = key === "USE_SSL" ? value : encodeValue(name, value);
  }
  // A JSON boolean: authentik's setting is one.
  if (customDomain) env[`${rules.prefix}__S3__SECURE_URLS`] = String(settings.secureUrls);
  if (settings.checksums === "when_required") {
    env.AWS_REQUEST_CHECKSUM_CALCULATION = "when_required";
    env.AWS_RESPONSE_CHECKSUM_VALIDATION = "when_required";
  }
  return { env, warnings };
}

/** Whether a variable holds a credential, which belongs into a secret store. */
export function isCredential(name: string): boolean {
  return /__S3__(?:ACCESS_KEY|SECRET_KEY|SECURITY_TOKEN|SESSION_TOKEN)$/i.test(name);
}

const CHECKSUM_NAMES = /^AWS_(?:REQUEST_CHECKSUM_CALCULATION|RESPONSE_CHECKSUM_VALIDATION)$/;

/** Whether a variable is about storage, whatever release reads it. */
export function isStorageVariable(name: string): boolean {
  return /^AUTHENTIK_STORAGE__/i.test(name) || CHECKSUM_NAMES.test(name);
}

/**
 * Whether a variable of before would override `env`, or contradict it: one that `env` has too or the same program exports,
 * in either generation's spelling. `REPORTS__` variables stay where `env` is for media alone.
 */
export function isSuperseded(name: string, env: Readonly<Record<string, string>>): boolean {
  if (name in env || CHECKSUM_NAMES.test(name)) return true;
  const match = /^AUTHENTIK_STORAGE__(MEDIA__|REPORTS__)?(?:BACKEND|S3__.*)$/i.exec(name);
  if (!match) return false;
  return match[1]?.toUpperCase() !== "REPORTS__" || "AUTHENTIK_STORAGE__BACKEND" in env;
}

function unlessDefault(settings: StorageSettings, key: keyof typeof DEFAULTS): string | undefined {
  return settings[key] === DEFAULTS[key] ? undefined : settings[key];
}

/**
 * 2025.12.0 and 2025.12.1 append the whole path, bucket included, to the custom domain. Where that domain is the endpoint
 * itself, leaving it out gives the same URL on every release; elsewhere those two need it without its bucket.
 */
function workableCustomDomain(
  settings: StorageSettings,
  doublesBucket: boolean,
): { customDomain: string | undefined; warnings: string[] } {
  const { customDomain, bucketName, endpoint } = settings;
  const suffix = `/${bucketName}`;
  if (!customDomain || !doublesBucket || settings.addressingStyle === "virtual" || !customDomain.endsWith(suffix)) {
    return { customDomain, warnings: [] };
  }
  const reason =
    "authentik 2025.12.0 and 2025.12.1 put the bucket twice into the URLs of a path-style custom domain " +
    "(goauthentik/authentik issue 19521)";
  const host = customDomain.slice(0, -suffix.length);
  if (`${settings.secureUrls ? "https" : "http"}://${host}` === endpoint) {
    return {
      customDomain: undefined,
      warnings: [`${reason}: CUSTOM_DOMAIN is left out, the URLs of the endpoint are the same. Upgrade to 2025.12.2 or later.`],
    };
  }
  return {
    customDomain: host,
    warnings: [
      `${reason}: CUSTOM_DOMAIN is exported as "${host}", without the bucket. When you upgrade to 2025.12.2 or later, ` +
        "set authentikVersion first and hand over the new values: later releases need the bucket in it.",
    ],
  };
}

/** A value that no environment variable can carry to authentik. The message names the variable, never the value. */
export class EnvValueError extends Error {
  override name = "EnvValueError";
  readonly variable: string;
  readonly reason: string;
  constructor(variable: string, reason: string) {
    super(`${variable} cannot be handed to authentik: ${reason}`);
    this.variable = variable;
    this.reason = reason;
    // For the reason that `ConfigError` has none.
    this.stack = "";
  }
}

/**
 * The text that authentik's `ConfigLoader` (`lib/config.py`) turns back into exactly `value`: it decodes every variable as
 * JSON where it can, so a value that JSON would read as something else is written as a JSON string.
 *
 * @throws EnvValueError for what it would follow as a reference (`file:`, `env:`), fail to start on, or never receive.
 */
export function encodeValue(variable: string, value: string): string {
  const parsed = asUrlparse(value);
  if (/^(file|env):/i.test(parsed)) {
    throw new EnvValueError(variable, 'its value begins with "file:" or "env:", which authentik follows as a reference. Use another value.');
  }
  if (/^(?:[a-z][a-z0-9+.-]*:)?\/\/[^/?#]*[[\]]/i.test(parsed)) {
    throw new EnvValueError(variable, 'authentik does not start on a value that begins like a URL and has "[" or "]" in its host. Use another value.');
  }
  if (value.includes("\0")) throw new EnvValueError(variable, "its value has a NUL character. Use another value.");
  return decodeValue(value) === value ? value : JSON.stringify(value);
}

/** Python's urlparse drops leading controls and spaces, and tabs and newlines anywhere, before it looks at the scheme. */
function asUrlparse(value: string): string {
  return value.replace(/^[\0-\x20]+/, "").replace(/[\t\r\n]/g, "");
}

/**
 * What authentik makes of a variable's text: JSON where it parses (Python's dialect, which knows NaN and Infinity), else
 * the text itself.
 */
export function decodeValue(text: string): unknown {
  if (/^[ \t\n\r]*(?:NaN|-?Infinity)[ \t\n\r]*$/.test(text)) return Number(text);
  try {
    const value: unknown = JSON.parse(text);
    return value;
  } catch {
    return text;
  }
}

/** What authentik of a release understands of its variables. */
export interface ReadEnv {
  settings: StorageSettings;
  /** Whether the bucket has its general name, which no release before 2025.12 reads. */
  hasGeneralNames: boolean;
  /** What is set but does not do what it seems to. */
  warnings: string[];
}

/** Variables with which authentik has no working S3 storage. The message has every problem, and no secret. */
export class EnvReadError extends Error {
  override name = "EnvReadError";
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(`authentik could not use these variables:\n${problems.map((problem) => `  ${problem}`).join("\n")}`);
    this.problems = problems;
  }
}

/**
 * The inverse of `buildEnv`, by authentik's own rules (`lib/config.py`, `root/storages.py`, `admin/files/backends/s3.py`):
 * names in any case behind the prefix, values decoded as JSON, references followed, and from 2025.12 a `MEDIA__` setting
 * before the general one. The settings are those for media, which every release keeps in the bucket.
 *
 * @param release without one, names of either generation are taken
 * @param readFile gives the content of a file that a value refers to; where it throws, that is a problem
 * @throws EnvReadError with every problem
 */
export function readEnv(
  env: Readonly<Record<string, string>>,
  release?: Release,
  readFile: (path: string) => string = (path) => { throw new Error(`nothing is read from ${path}`); },
): ReadEnv {
  const problems: string[] = [];
  const warnings: string[] = [];
  const variables = decodeVariables(env, readFile, problems);
  const readsGeneral = !release || atLeast(release, "2025.12");
  const find = (setting: string): Variable | undefined =>
    variables.get(`storage.media.${setting}`) ?? (readsGeneral ? variables.get(`storage.${setting}`) : undefined);
  const text = (key: string): string | undefined => textOf(find(`s3.${key}`), problems);
  const choice = <Choice extends string>(key: string, choices: readonly Choice[]): Choice | undefined =>
    choiceOf(find(`s3.${key}`), choices, problems);
  const flag = (key: string): boolean | undefined => flagOf(find(`s3.${key}`), readsGeneral, warnings);

  const tokenNames = releaseRules(release).tokenNames;
  const bucketName = text("bucket_name");
  const settings = {
    region: text("region"),
    endpoint: text("endpoint"),
    useSsl: flag("use_ssl"),
    accessKey: text("access_key"),
    secretKey: text("secret_key"),
    sessionToken: tokenNames.map((name) => text(name.toLowerCase())).find((token) => token !== undefined),
    sessionProfile: text("session_profile"),
    customDomain: text("custom_domain"),
    secureUrls: flag("secure_urls") ?? true,
    addressingStyle: choice("addressing_style", ADDRESSING_STYLES),
    signatureVersion: choice("signature_version", SIGNATURE_VERSIONS),
    urlExpiry: text("url_expiry"),
    checksums: env.AWS_REQUEST_CHECKSUM_CALCULATION?.toLowerCase() === "when_required" ? "when_required" : undefined,
  } as const;
  reportBackend(find("backend"), readsGeneral, problems);
  if (bucketName === undefined) problems.push(missingBucket(variables, readsGeneral));
  if ((settings.accessKey === undefined) !== (settings.secretKey === undefined)) {
    problems.push("of ACCESS_KEY and SECRET_KEY one is set and the other is not; set both, or neither where authentik has a role");
  }
  if (settings.sessionProfile !== undefined && settings.accessKey !== undefined) {
    warnings.push("SESSION_PROFILE is set beside keys: authentik uses the profile and ignores the keys");
  }
  if (problems.length > 0 || bucketName === undefined) throw new EnvReadError(problems);
  const hasGeneralNames = !variables.has("storage.media.s3.bucket_name");
  return { settings: { bucketName, ...settings }, hasGeneralNames, warnings };
}

/** A variable with the value that authentik has of it. */
interface Variable {
  name: string;
  value: unknown;
}

/** authentik's configuration paths (`storage.media.s3.region`) to the variables that set them. */
function decodeVariables(
  env: Readonly<Record<string, string>>,
  readFile: (path: string) => string,
  problems: string[],
): Map<string, Variable> {
  const variables = new Map<string, Variable>();
  for (const [name, text] of Object.entries(env)) {
    if (!/^AUTHENTIK_STORAGE__/i.test(name) || !name.startsWith("AUTHENTIK_")) continue;
    const decoded = decodeValue(text);
    const value = typeof decoded === "string" ? followReference(name, decoded, env, readFile, problems) : decoded;
    variables.set(name.slice("AUTHENTIK_".length).replaceAll("__", ".").toLowerCase(), { name, value });
  }
  return variables;
}

/** The value behind `env://NAME?default` or `file:///path?default` (`parse_uri` of authentik's `lib/config.py`). */
function followReference(
  name: string,
  value: string,
  env: Readonly<Record<string, string>>,
  readFile: (path: string) => string,
  problems: string[],
): string | undefined {
  const [, scheme, host = "", path = "", fallback = ""] =
    /^(file|env):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?/i.exec(asUrlparse(value)) ?? [];
  if (scheme === undefined) return value;
  if (scheme.toLowerCase() === "env") {
    const referred = env[host] ?? (fallback === "" ? undefined : fallback);
    if (referred === undefined) {
      problems.push(`${name} refers to the variable "${host}", which is not among these; add it, or write the value itself`);
    }
    return referred;
  }
  try {
    return readFile(path).trim();
  } catch {
    problems.push(`${name} refers to the file "${path}" of authentik's own machine, which cannot be read here; write the value itself`);
    return undefined;
  }
}

function textOf(variable: Variable | undefined, problems: string[]): string | undefined {
  if (variable === undefined || variable.value === undefined || variable.value === null) return undefined;
  const { name, value } = variable;
  if (typeof value !== "string") {
    problems.push(`${name} is read as JSON (${typeof value}), not as text; write it with double quotes that are part of the value: '"..."'`);
  } else if (value === "" && !MAY_BE_EMPTY.test(name)) {
    problems.push(`${name} is empty, with which authentik does not work; write a value or remove it`);
  }
  return typeof value === "string" && value !== "" ? value : undefined;
}

/** Where authentik or boto3 take an empty text for none. */
const MAY_BE_EMPTY = /__(?:ACCESS_KEY|SECRET_KEY|SECURITY_TOKEN|SESSION_TOKEN|CUSTOM_DOMAIN)$/i;

function choiceOf<Choice extends string>(
  variable: Variable | undefined,
  choices: readonly Choice[],
  problems: string[],
): Choice | undefined {
  const value = textOf(variable, problems);
  const choice = choices.find((candidate) => candidate === value);
  if (variable && value !== undefined && choice === undefined) {
    problems.push(`${variable.name} = "${value}" is not one of the choices; write ${choices.join(", ")}`);
  }
  return choice;
}

/** From 2025.12 whatever is not "true" is false (`get_bool`); before, any text was true (Python's truth). */
function flagOf(variable: Variable | undefined, strict: boolean, warnings: string[]): boolean | undefined {
  if (variable?.value === undefined || variable.value === null) return undefined;
  const { name, value } = variable;
  if (typeof value === "boolean") return value;
  const isTrue = strict ? typeof value === "string" && value.toLowerCase() === "true" : Boolean(value);
  warnings.push(`${name} is neither true nor false; authentik takes it for ${isTrue}`);
  return isTrue;
}

function reportBackend(backend: Variable | undefined, readsGeneral: boolean, problems: string[]): void {
  if (backend?.value === "s3") return;
  const name = backend?.name ?? (readsGeneral ? "AUTHENTIK_STORAGE__BACKEND" : "AUTHENTIK_STORAGE__MEDIA__BACKEND");
  problems.push(`${name} ${backend ? "is not" : "is missing, and not"} "s3": authentik keeps its files on disk; write ${name}=s3`);
}

function missingBucket(variables: ReadonlyMap<string, Variable>, readsGeneral: boolean): string {
  const name = `AUTHENTIK_STORAGE__${readsGeneral ? "" : "MEDIA__"}S3__BUCKET_NAME`;
  const general = variables.get("storage.s3.bucket_name");
  return general && !readsGeneral
    ? `${general.name} is not read before authentik 2025.12; write ${name}, and the other names likewise`
    : `${name} is missing; write the bucket's name`;
}
