/**
 * authentik's storage settings as environment variables. The names of the settings are in this
 * file alone, but for what depends on the release: the prefixes and the name of the token
 * (`release.ts`). `read-env.ts` reads variables back.
 */
import {
  PREFIXES,
  TOKEN_NAMES,
  formatRelease,
  releaseRules,
  type Release,
  type ReleaseRules,
} from "./release.ts";
import { stripped, withoutSlashes } from "./url-parts.ts";

export const ADDRESSING_STYLES = ["auto", "path", "virtual"] as const;
export type AddressingStyle = (typeof ADDRESSING_STYLES)[number];
export const SIGNATURE_VERSIONS = ["s3v4", "s3"] as const;
export type SignatureVersion = (typeof SIGNATURE_VERSIONS)[number];
export const CHECKSUMS = ["when_supported", "when_required"] as const;
export type Checksums = (typeof CHECKSUMS)[number];

/** What authentik has to know about its bucket, without the names of a release's variables. */
export interface StorageSettings {
  bucketName: string;
  /** AWS: the bucket's region. R2: `auto`. */
  region?: string | undefined;
  /** With its scheme, e.g. `https://s3.provider`. */
  endpoint?: string | undefined;
  /**
   * False uses http for AWS. It is read only without an endpoint, because an endpoint has a scheme
   * of its own.
   */
  useSsl?: boolean | undefined;
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  /** The token of temporary credentials. */
  sessionToken?: string | undefined;
  /** A profile of the AWS shared config. authentik prefers it to keys. */
  sessionProfile?: string | undefined;
  /**
   * With the bucket and without a scheme: `s3.provider/authentik-media` or
   * `authentik-media.s3.provider`.
   */
  customDomain?: string | undefined;
  /** Whether the URLs of the custom domain use https. */
  secureUrls: boolean;
  addressingStyle?: AddressingStyle | undefined;
  signatureVersion?: SignatureVersion | undefined;
  /** A duration in authentik's format, e.g. `minutes=15`. */
  urlExpiry?: string | undefined;
  /** `when_required` is for servers that refuse the checksums that boto3 sends by default. */
  checksums?: Checksums | undefined;
}

/**
 * authentik's own defaults, which are not exported. Source: authentik's
 * `admin/files/backends/s3.py`.
 */
export const DEFAULTS = {
  addressingStyle: "auto",
  signatureVersion: "s3v4",
  urlExpiry: "minutes=15",
} as const satisfies Partial<StorageSettings>;

/** The name of the setting that chooses S3, behind a release's prefix and `__`. */
export const BACKEND_NAME = "BACKEND";

/** The names of the S3 settings. A release's prefix and `__S3__` come before each. */
export const S3_NAMES = {
  bucketName: "BUCKET_NAME",
  region: "REGION",
  endpoint: "ENDPOINT",
  useSsl: "USE_SSL",
  accessKey: "ACCESS_KEY",
  secretKey: "SECRET_KEY",
  sessionProfile: "SESSION_PROFILE",
  customDomain: "CUSTOM_DOMAIN",
  secureUrls: "SECURE_URLS",
  addressingStyle: "ADDRESSING_STYLE",
  signatureVersion: "SIGNATURE_VERSION",
  urlExpiry: "URL_EXPIRY",
} as const satisfies Partial<Record<keyof StorageSettings, string>>;

/** The variables of boto3 that the setting `checksums` stands for. */
export const CHECKSUM_NAMES = [
  "AWS_REQUEST_CHECKSUM_CALCULATION",
  "AWS_RESPONSE_CHECKSUM_VALIDATION",
] as const;

/** Names and values of variables, and warnings for the person who uses them. */
export interface AuthentikEnv {
  env: Record<string, string>;
  warnings: string[];
}

/**
 * The variables that authentik of `release` needs for `settings`, and no others. A variable is left
 * out if it is empty, if the release does not read it, or if it repeats authentik's default.
 * `SECURE_URLS` is the exception, because authentik's setup page names it.
 *
 * Without a release the names are those of the setup page, `AUTHENTIK_STORAGE__MEDIA__*`, which
 * every release reads.
 *
 * @throws EnvValueError for a value that authentik cannot read back unchanged (see `encodeValue`)
 */
export function buildEnv(settings: StorageSettings, release?: Release): AuthentikEnv {
  const rules = releaseRules(release);
  const { customDomain, warnings } = workableCustomDomain(settings, rules);
  const env: Record<string, string> = { [`${rules.prefix}__${BACKEND_NAME}`]: "s3" };
  const nameOf = (key: string) => `${rules.prefix}__S3__${key}`;
  for (const [key, value] of textSettings({ ...settings, customDomain }, rules)) {
    if (value) env[nameOf(key)] = encodeValue(nameOf(key), value);
  }
  // authentik reads these two as JSON booleans.
  if (settings.useSsl === false && settings.endpoint === undefined) {
    env[nameOf(S3_NAMES.useSsl)] = "false";
  }
  if (customDomain) env[nameOf(S3_NAMES.secureUrls)] = String(settings.secureUrls);
  if (settings.checksums === "when_required") {
    for (const name of CHECKSUM_NAMES) env[name] = "when_required";
  }
  return { env, warnings: [...warnings, ...unreadSettings(settings, release)] };
}

/** Warnings about settings that the release, or some release if it is unknown, does not read. */
function unreadSettings(settings: StorageSettings, release?: Release): string[] {
  const { urlExpiry = DEFAULTS.urlExpiry, addressingStyle, signatureVersion } = settings;
  const { readsUrlExpiry, readsAddressingStyle, readsSignatureVersion } = releaseRules(release);
  const name = release === undefined ? "authentik" : `authentik ${formatRelease(release)}`;
  const warnings: string[] = [];
  if (urlExpiry !== DEFAULTS.urlExpiry && !(release !== undefined && readsUrlExpiry)) {
    const who = release === undefined ? "authentik to 2025.10" : name;
    warnings.push(`${who} does not read urlExpiry "${urlExpiry}": its URLs are valid for an hour.`);
  }
  if (addressingStyle === "virtual" && !readsAddressingStyle) {
    warnings.push(`${name} does not read addressingStyle "virtual": its URLs are in path style.`);
  }
  if (signatureVersion === "s3" && !readsSignatureVersion) {
    warnings.push(`${name} does not read signatureVersion "s3": it signs with s3v4.`);
  }
  return warnings;
}

/**
 * The settings that are texts. Those that the release does not read, and authentik's defaults, have
 * no value.
 */
function textSettings(
  settings: StorageSettings,
  rules: ReleaseRules,
): (readonly [name: string, value: string | undefined])[] {
  const unlessDefault = (isRead: boolean, key: keyof typeof DEFAULTS) =>
    isRead && settings[key] !== DEFAULTS[key] ? settings[key] : undefined;
  return [
    [S3_NAMES.bucketName, settings.bucketName],
    [S3_NAMES.region, settings.region],
    [S3_NAMES.endpoint, settings.endpoint],
    [S3_NAMES.accessKey, settings.accessKey],
    [S3_NAMES.secretKey, settings.secretKey],
    ...rules.tokenNames.map((name) => [name, settings.sessionToken] as const),
    [S3_NAMES.sessionProfile, settings.sessionProfile],
    [S3_NAMES.customDomain, settings.customDomain],
    [S3_NAMES.addressingStyle, unlessDefault(rules.readsAddressingStyle, "addressingStyle")],
    [S3_NAMES.signatureVersion, unlessDefault(rules.readsSignatureVersion, "signatureVersion")],
    [S3_NAMES.urlExpiry, unlessDefault(rules.readsUrlExpiry, "urlExpiry")],
  ];
}

/** Whether a variable holds a credential, which belongs in a secret store. */
export function isCredential(name: string): boolean {
  return /__S3__(?:ACCESS_KEY|SECRET_KEY|SECURITY_TOKEN|SESSION_TOKEN)$/i.test(name);
}

/** Whether a variable is about storage, in any release. */
export function isStorageVariable(name: string): boolean {
  return /^AUTHENTIK_STORAGE__/i.test(name) || isChecksumVariable(name);
}

function isChecksumVariable(name: string): boolean {
  return CHECKSUM_NAMES.some((checksumName) => checksumName === name);
}

/**
 * Whether an older variable would override or contradict `env`: a variable that is in `env` too, or
 * one that this program exports for the same settings under the names of another release.
 * `REPORTS__` variables stay if `env` is for media alone.
 */
export function isSuperseded(name: string, env: Readonly<Record<string, string>>): boolean {
  if (name in env || isChecksumVariable(name)) return true;
  const match = /^AUTHENTIK_STORAGE__(MEDIA__|REPORTS__)?(?:BACKEND|S3__.*)$/i.exec(name);
  if (!match) return false;
  return match[1]?.toUpperCase() !== "REPORTS__" || "AUTHENTIK_STORAGE__BACKEND" in env;
}

/**
 * The names of every variable that would override or contradict `env` and is not in it, so that an
 * empty value can remove it.
 */
export function supersededNames(env: Readonly<Record<string, string>>): string[] {
  const { media, general } = PREFIXES;
  const s3 = [...Object.values(S3_NAMES), ...TOKEN_NAMES].map((name) => `S3__${name}`);
  return [general, media, `${general}__REPORTS`]
    .flatMap((prefix) => [BACKEND_NAME, ...s3].map((name) => `${prefix}__${name}`))
    .filter((name) => !(name in env) && isSuperseded(name, env));
}

/**
 * The custom domain as the release needs it. 2025.12.0 and 2025.12.1 append the whole path, with
 * the bucket, to the custom domain, and 2024.8.0 raises an error for every URL of one. If the
 * custom domain is the endpoint itself, it is left out, and the URLs are the same on every release.
 * If it is another host, 2025.12.0 and 2025.12.1 need it without the bucket, and 2024.8.0 works
 * only without it.
 */
function workableCustomDomain(
  settings: StorageSettings,
  { doublesBucket, failsOnCustomDomain }: ReleaseRules,
): { customDomain: string | undefined; warnings: string[] } {
  const { customDomain, addressingStyle } = settings;
  const host = hostWithoutBucket(settings);
  const isDoubled = doublesBucket && addressingStyle !== "virtual" && host !== undefined;
  if (!customDomain || !(isDoubled || failsOnCustomDomain)) return { customDomain, warnings: [] };
  const reason = failsOnCustomDomain
    ? "authentik 2024.8.0 raises an error for every URL of a custom domain " +
      "(goauthentik/authentik issue 11180)"
    : "authentik 2025.12.0 and 2025.12.1 put the bucket twice into the URLs of a path-style " +
      "custom domain (goauthentik/authentik issue 19521)";
  const fixed = failsOnCustomDomain ? "2024.8.1" : "2025.12.2";
  if (isEndpoint(host, settings)) {
    const effect = "CUSTOM_DOMAIN is left out, and the URLs of the endpoint are the same. ";
    const warnings = [`${reason}: ${effect}Upgrade to ${fixed} or later.`];
    return { customDomain: undefined, warnings };
  }
  const exported = failsOnCustomDomain ? undefined : host;
  const effect =
    exported === undefined
      ? "CUSTOM_DOMAIN is left out, and browsers get the URLs of the endpoint. Later releases " +
        "can use it"
      : `CUSTOM_DOMAIN is exported as "${exported}", without the bucket. Later releases need the ` +
        "bucket in it";
  const advice =
    `when you upgrade to ${fixed} or later, first set authentikVersion and ` +
    "give authentik the new values.";
  return { customDomain: exported, warnings: [`${reason}: ${effect}: ${advice}`] };
}

/** The custom domain without the bucket at its end; undefined if it does not end with the bucket. */
function hostWithoutBucket({ customDomain, bucketName }: StorageSettings): string | undefined {
  const domain = customDomain === undefined ? undefined : withoutSlashes(customDomain);
  return domain?.endsWith(`/${bucketName}`) ? domain.slice(0, -bucketName.length - 1) : undefined;
}

function isEndpoint(host: string | undefined, { endpoint, secureUrls }: StorageSettings): boolean {
  if (host === undefined) return false;
  return `${secureUrls ? "https" : "http"}://${host}` === withoutSlashes(endpoint ?? "");
}

/**
 * A value that no environment variable can pass to authentik. The message names the variable, never
 * the value.
 */
export class EnvValueError extends Error {
  override name = "EnvValueError";
  readonly variable: string;
  readonly reason: string;
  constructor(variable: string, reason: string) {
    super(`${variable} cannot be passed to authentik: ${reason}`);
    this.variable = variable;
    this.reason = reason;
    // Users can do nothing with a stack, and Pulumi may take long to print it (see `ConfigError`).
    this.stack = "";
  }
}

/**
 * The text that authentik's `ConfigLoader` (`lib/config.py`) turns back into exactly `value`. It
 * decodes every variable as JSON if it can, so a value that JSON would read as something else is
 * written as a JSON string.
 *
 * @throws EnvValueError for a value that authentik would follow as a reference (`file:`, `env:`),
 *   would not start with, or would never receive
 */
export function encodeValue(variable: string, value: string): string {
  // authentik looks for references with Python's `urlparse`.
  const parsed = stripped(value);
  if (/^(file|env):/i.test(parsed)) {
    throw new EnvValueError(
      variable,
      'its value begins with "file:" or "env:", which authentik follows as a reference. ' +
        "Use another value.",
    );
  }
  if (/^(?:[a-z][a-z0-9+.-]*:)?\/\/[^/?#]*[[\]]/i.test(parsed)) {
    throw new EnvValueError(
      variable,
      'authentik does not start if a value begins like a URL with "[" or "]" in its host. ' +
        "Use another value.",
    );
  }
  if (value.includes("\0")) {
    throw new EnvValueError(variable, "its value has a NUL character. Use another value.");
  }
  return decodeValue(value) === value ? value : JSON.stringify(value);
}

/**
 * The value that authentik reads from a variable's text: decoded if the text is JSON in Python's
 * dialect, which has `NaN` and `Infinity`, and the text itself if it is not.
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
