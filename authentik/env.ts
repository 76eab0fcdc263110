/** authentik's storage settings as its environment variables, and back. The only place that knows their names. */
import { releaseRules, type Release } from "./release.ts";

/** What authentik has to know of its bucket: no provider, no release, no variable names. */
export interface StorageSettings {
  bucketName: string;
  /** AWS: the bucket's region; R2: `auto`. */
  region?: string | undefined;
  /** With scheme, e.g. `https://s3.provider`. */
  endpoint?: string | undefined;
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
    if (value !== undefined && value !== "") env[name] = encodeValue(name, value);
  }
  // A JSON boolean: authentik's setting is one.
  if (customDomain) env[`${rules.prefix}__S3__SECURE_URLS`] = String(settings.secureUrls);
  if (settings.checksums === "when_required") {
    env.AWS_REQUEST_CHECKSUM_CALCULATION = "when_required";
    env.AWS_RESPONSE_CHECKSUM_VALIDATION = "when_required";
  }
  return { env, warnings };
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
  }
}

/**
 * The text that authentik's `ConfigLoader` (`lib/config.py`) turns back into exactly `value`: it decodes every variable as
 * JSON where it can, so a value that JSON would read as something else is written as a JSON string.
 *
 * @throws EnvValueError for what it would follow as a reference (`file:`, `env:`), fail to start on, or never receive.
 */
export function encodeValue(variable: string, value: string): string {
  // urlparse drops leading controls and spaces, and tabs and newlines anywhere, before it looks at the scheme.
  const parsed = value.replace(/^[\0-\x20]+/, "").replace(/[\t\r\n]/g, "");
  if (/^(file|env):/i.test(parsed)) {
    throw new EnvValueError(variable, 'its value begins with "file:" or "env:", which authentik follows as a reference. Use another value.');
  }
  if (/^(?:[a-z][a-z0-9+.-]*:)?\/\/[^/?#]*[[\]]/i.test(parsed)) {
    throw new EnvValueError(variable, 'authentik does not start on a value that begins like a URL and has "[" or "]" in its host. Use another value.');
  }
  if (value.includes("\0")) throw new EnvValueError(variable, "its value has a NUL character. Use another value.");
  return decodeValue(value) === value ? value : JSON.stringify(value);
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
