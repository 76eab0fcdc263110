/**
 * Reads storage settings from authentik's environment variables, by authentik's own rules: the
 * inverse of `env.ts`.
 */
import {
  ADDRESSING_STYLES,
  BACKEND_NAME,
  CHECKSUM_NAMES,
  S3_NAMES,
  SIGNATURE_VERSIONS,
  decodeValue,
  isCredential,
  type StorageSettings,
} from "./env.ts";
import { SCHEMA_VARIABLE } from "./objects.ts";
import { unreadVariables } from "./unread.ts";
import { parseUrl, stripped } from "./url-parts.ts";
import { PREFIXES, atLeast, releaseRules, type Release, type ReleaseRules } from "./release.ts";

/** What authentik of a release reads from its variables. */
export interface ParsedEnv {
  settings: StorageSettings;
  /** Whether the bucket is set by its general name, which no release before 2025.12 reads. */
  hasGeneralNames: boolean;
  /** Settings that do not do what they seem to do. */
  warnings: string[];
}

/**
 * Variables that give authentik no working S3 storage. The message lists every problem and shows no
 * secret.
 */
export class EnvReadError extends Error {
  override name = "EnvReadError";
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    const lines = problems.map((problem) => `  ${problem}`);
    super(`authentik cannot use these variables:\n${lines.join("\n")}`);
    this.problems = problems;
  }
}

type Env = Readonly<Record<string, string>>;
type ReadFile = (path: string) => string;

/**
 * Reads authentik's variables back into settings. The rules are those of authentik's
 * `lib/config.py`, `root/storages.py` and `admin/files/backends/s3.py`: names behind the prefix in
 * upper or lower case, values decoded as JSON, references followed, and from 2025.12 a `MEDIA__`
 * setting before the general one. The settings are those for media, which every release keeps in
 * the bucket.
 *
 * @param release without a release, the names of all releases are read
 * @param readFile gives the content of a file that a value refers to. If it throws, that is a
 *   problem.
 * @throws EnvReadError with every problem
 */
export function readEnv(env: Env, release?: Release, readFile: ReadFile = readNoFile): ParsedEnv {
  const readsGeneral = !release || atLeast(release, "2025.12");
  const reader = new EnvReader(env, readsGeneral, readFile);
  const bucketName = reader.text(S3_NAMES.bucketName);
  const settings = {
    region: reader.text(S3_NAMES.region),
    endpoint: reader.text(S3_NAMES.endpoint),
    useSsl: reader.flag(S3_NAMES.useSsl),
    accessKey: reader.text(S3_NAMES.accessKey),
    secretKey: reader.text(S3_NAMES.secretKey),
    sessionToken: reader.firstText(reader.tokenNames(release)),
    sessionProfile: reader.text(S3_NAMES.sessionProfile),
    customDomain: reader.text(S3_NAMES.customDomain),
    secureUrls: reader.flag(S3_NAMES.secureUrls) ?? true,
    addressingStyle: reader.choice(S3_NAMES.addressingStyle, ADDRESSING_STYLES),
    signatureVersion: reader.choice(S3_NAMES.signatureVersion, SIGNATURE_VERSIONS),
    urlExpiry: reader.text(S3_NAMES.urlExpiry),
    checksums: needsNoChecksums(env) ? "when_required" : undefined,
  } as const;
  reader.checkBackend();
  if (bucketName === undefined) reader.reportMissingBucket();
  reader.checkCredentials(settings);
  reader.checkSsl(settings, releaseRules(release));
  reader.checkHosts(settings);
  const { problems, warnings, hasGeneralNames } = reader;
  const unread = unreadVariables(Object.keys(env), { release, hasGeneralNames });
  if (problems.length > 0 || bucketName === undefined) {
    throw new EnvReadError([...problems, ...unread]);
  }
  const settingsOfMedia = { bucketName, ...settings };
  return { settings: settingsOfMedia, hasGeneralNames, warnings: [...warnings, ...unread] };
}

/**
 * The origin under which browsers reach authentik, if `AUTHENTIK_WEB__BASE_URL` sets it (from
 * 2026.8).
 *
 * @returns undefined for a text that is not a URL
 */
export function originOf(env: Env): string | undefined {
  const name = Object.keys(env).find((key) => /^AUTHENTIK_web__base_url$/i.test(key)) ?? "";
  const url = decodeValue(env[name] ?? "");
  if (typeof url !== "string" || !/^https?:/i.test(url)) return undefined;
  return parseUrl(url)?.origin;
}

/** The default tenant's schema, if `SCHEMA_VARIABLE` sets it to a name and not to a reference. */
export function defaultSchemaOf(env: Env): string | undefined {
  const isName = (key: string) => key.toUpperCase() === SCHEMA_VARIABLE;
  const text = env[Object.keys(env).find(isName) ?? ""] ?? "";
  const decoded = decodeValue(text);
  const name = typeof decoded === "string" ? decoded : text;
  return name === "" || /^(?:file|env):/i.test(name) ? undefined : name;
}

function readNoFile(path: string): never {
  throw new Error(`nothing is read from ${path}`);
}

function needsNoChecksums(env: Env): boolean {
  return env[CHECKSUM_NAMES[0]]?.toLowerCase() === "when_required";
}

/** A variable with the value that authentik reads from it. */
interface Variable {
  name: string;
  value: unknown;
}

/** Whether authentik works with an empty text. */
function mayBeEmpty(name: string): boolean {
  return isCredential(name) || name.toUpperCase().endsWith(`__${S3_NAMES.customDomain}`);
}

/** Whether a variable is a token, which boto3 signs even if it is empty. */
function isToken(name: string): boolean {
  return /_TOKEN$/i.test(name);
}

/** Reads one setting after the other, and collects problems and warnings. */
class EnvReader {
  readonly problems: string[] = [];
  readonly warnings: string[] = [];
  private readonly env: Env;
  private readonly readsGeneral: boolean;
  private readonly readFile: ReadFile;
  /**
   * authentik's configuration paths (`storage.media.s3.region`) and the variables that set them.
   */
  private readonly variables = new Map<string, Variable>();

  /**
   * @param readsGeneral whether the release reads general names, e.g.
   *   `AUTHENTIK_STORAGE__S3__REGION`
   */
  constructor(env: Env, readsGeneral: boolean, readFile: ReadFile) {
    this.env = env;
    this.readsGeneral = readsGeneral;
    this.readFile = readFile;
    for (const [name, text] of Object.entries(env)) {
      if (!/^AUTHENTIK_STORAGE__/i.test(name) || !name.startsWith("AUTHENTIK_")) continue;
      const decoded = decodeValue(text);
      const value = typeof decoded === "string" ? this.followReference(name, decoded) : decoded;
      this.variables.set(configPath(name), { name, value });
    }
  }

  /** Whether the bucket is set by its general name. */
  get hasGeneralNames(): boolean {
    return this.get(`${PREFIXES.media}__S3__${S3_NAMES.bucketName}`) === undefined;
  }

  text(name: string): string | undefined {
    return this.textOf(this.find(`S3__${name}`));
  }

  /** The first of these settings that has a value. An empty one counts if all others are unset. */
  firstText(names: readonly string[]): string | undefined {
    const texts = names.map((name) => this.text(name));
    return texts.find(Boolean) ?? texts.find((text) => text !== undefined);
  }

  choice<Choice extends string>(name: string, choices: readonly Choice[]): Choice | undefined {
    const variable = this.find(`S3__${name}`);
    const value = this.textOf(variable);
    const choice = choices.find((candidate) => candidate === value);
    if (variable && value !== undefined && choice === undefined) {
      this.problems.push(
        `${variable.name} = "${value}" is not valid; write one of ${choices.join(", ")}`,
      );
    }
    return choice;
  }

  /**
   * From 2025.12 every text but "true" is false (`get_bool`). Before, every text was true (Python's
   * truth).
   */
  flag(name: string): boolean | undefined {
    const variable = this.find(`S3__${name}`);
    if (variable?.value === undefined || variable.value === null) return undefined;
    const { value } = variable;
    if (typeof value === "boolean") return value;
    const isTrue = this.readsGeneral
      ? typeof value === "string" && value.toLowerCase() === "true"
      : Boolean(value);
    this.warnings.push(
      `${variable.name} is neither true nor false; authentik reads it as ${isTrue}`,
    );
    return isTrue;
  }

  checkBackend(): void {
    const backend = this.find(BACKEND_NAME);
    if (backend?.value === "s3") return;
    const name = backend?.name ?? `${this.prefix}__${BACKEND_NAME}`;
    const what = backend ? 'is not "s3"' : "is missing";
    this.problems.push(`${name} ${what}, so authentik keeps its files on disk; write ${name}=s3`);
  }

  reportMissingBucket(): void {
    const setting = `S3__${S3_NAMES.bucketName}`;
    const name = `${this.prefix}__${setting}`;
    const general = this.get(`${PREFIXES.general}__${setting}`);
    this.problems.push(
      general
        ? `${general.name} is not read before authentik 2025.12; ` +
            `write ${name}, and rename the other variables in the same way`
        : `${name} is missing; write the bucket's name`,
    );
  }

  checkCredentials({ accessKey, secretKey, sessionProfile }: Partial<StorageSettings>): void {
    if ((accessKey === undefined) !== (secretKey === undefined)) {
      this.problems.push(
        "one of ACCESS_KEY and SECRET_KEY is missing; set both, or neither if authentik has a role",
      );
    }
    if (sessionProfile !== undefined && accessKey !== undefined) {
      this.warnings.push(
        "SESSION_PROFILE and keys are both set: authentik uses the profile and ignores the keys",
      );
    }
  }

  /**
   * The settings that may have the token. Names that no release before 2025.12 reads show a release
   * that reads only `SESSION_TOKEN`.
   */
  tokenNames(release: Release | undefined): readonly string[] {
    const { tokenNames } = releaseRules(release);
    return release === undefined && this.hasGeneralNames ? ["SESSION_TOKEN"] : tokenNames;
  }

  /** What no request is needed for: boto3 wants a scheme, and authentik adds one. */
  checkHosts({ endpoint, customDomain }: Partial<StorageSettings>): void {
    if (endpoint !== undefined && !/^https?:\/\//i.test(endpoint)) {
      this.problems.push(`ENDPOINT "${endpoint}" has no scheme; write "https://${endpoint}"`);
    }
    const [, scheme, domain] = /^(\w*:?\/\/)(.*)$/.exec(customDomain ?? "") ?? [];
    if (scheme !== undefined && domain !== undefined) {
      this.problems.push(
        `CUSTOM_DOMAIN "${customDomain}" has a scheme, to which authentik adds another; ` +
          `write "${domain}", and SECURE_URLS=false for http`,
      );
    }
  }

  checkSsl({ endpoint, useSsl }: Partial<StorageSettings>, rules: ReleaseRules): void {
    const isOverridden = useSsl === false && rules.useSslOverridesEndpoint;
    if (isOverridden && endpoint !== undefined && /^https:/i.test(endpoint)) {
      this.warnings.push(
        "USE_SSL is false, so authentik to 2025.8 uses http for an ENDPOINT with https; " +
          "remove USE_SSL",
      );
    }
  }

  /** The prefix that this release's own names have. */
  private get prefix(): string {
    return this.readsGeneral ? PREFIXES.general : PREFIXES.media;
  }

  private get(name: string): Variable | undefined {
    return this.variables.get(configPath(name));
  }

  /** The variable of a setting: the one for media, else the general one. */
  private find(setting: string): Variable | undefined {
    // No release with general names reads the older name of the token.
    const readsGeneral = this.readsGeneral && setting !== "S3__SECURITY_TOKEN";
    const general = readsGeneral ? this.get(`${PREFIXES.general}__${setting}`) : undefined;
    return this.get(`${PREFIXES.media}__${setting}`) ?? general;
  }

  private textOf(variable: Variable | undefined): string | undefined {
    if (variable?.value === undefined || variable.value === null) return undefined;
    const { name, value } = variable;
    if (typeof value !== "string") {
      this.problems.push(
        `${name} is read as JSON (${typeof value}), not as text; ` +
          `write it with double quotes that are part of the value: '"..."'`,
      );
      return undefined;
    }
    if (value === "" && !mayBeEmpty(name)) {
      this.problems.push(
        `${name} is empty, and authentik does not work with that; write a value or remove it`,
      );
    }
    return value === "" && !isToken(name) ? undefined : value;
  }

  /**
   * The value behind `env://NAME?default` or `file:///path?default` (`parse_uri` of authentik's
   * `lib/config.py`).
   */
  private followReference(name: string, value: string): string | undefined {
    const [, scheme, host = "", path = "", fallback = ""] =
      /^(file|env):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?/i.exec(stripped(value)) ?? [];
    if (scheme === undefined) return value;
    if (scheme.toLowerCase() === "file") return this.followFile(name, path);
    const referred = this.env[host] ?? (fallback === "" ? undefined : fallback);
    if (referred === undefined) {
      this.problems.push(
        `${name} refers to the variable "${host}", which is not set; ` +
          "set it, or write the value itself",
      );
    }
    return referred;
  }

  private followFile(name: string, path: string): string | undefined {
    try {
      return this.readFile(path).trim();
    } catch {
      this.problems.push(
        `${name} refers to the file "${path}" of authentik's own machine, ` +
          "which cannot be read here; write the value itself",
      );
      return undefined;
    }
  }
}

/** authentik's configuration path that a variable sets: `storage.media.s3.region`. */
function configPath(name: string): string {
  return name.slice("AUTHENTIK_".length).replaceAll("__", ".").toLowerCase();
}
