/** The keys that every provider has, and what a provider adds to them. */
import * as v from "valibot";
import { CHECKSUMS, DEFAULTS, SIGNATURE_VERSIONS } from "../authentik/env.ts";
import * as rules from "./rules.ts";
import {
  boolean,
  defaultOf,
  documentationOf,
  integer,
  list,
  oneOf,
  optional,
  text,
} from "./values.ts";

export const commonKeys = {
  bucketName: optional(
    text(
      "Name of the bucket. The default is `authentik-media`. " +
        "On AWS, where names are global, Pulumi appends a random suffix.",
      rules.bucketName,
    ),
  ),
  origins: list(
    "Every scheme://host[:port] under which browsers reach authentik, e.g. " +
      "`https://authentik.company`. Only these origins may load its files (CORS).",
    rules.origin,
  ),
  authentikVersion: optional(
    text(
      'The authentik release that reads the values, e.g. `"2025.12"` (in quotes). ' +
        "Without it, every release can read them, for media only.",
      rules.authentikVersion,
    ),
  ),
  customDomain: optional(
    text(
      "Host, without scheme and with the bucket, from which browsers load files. " +
        "The default is the endpoint's host with the bucket, except on AWS.",
      rules.customDomain,
    ),
  ),
  secureUrls: optional(boolean("Whether the URLs of the custom domain use https."), "true"),
  protect: optional(boolean("Whether Pulumi refuses to delete or replace the bucket."), "true"),
  forceDestroy: optional(
    boolean("Whether a bucket that is not empty may be deleted, with everything in it."),
    "false",
  ),
  adopt: optional(
    boolean("Whether to manage a bucket that already exists instead of failing."),
    "false",
  ),
  corsAllowedHeaders: optional(
    list("Request headers that the CORS policy allows.", rules.headerName),
    '["Authorization"]',
  ),
  corsMaxAgeSeconds: optional(
    integer("How many seconds browsers may cache the answer to a preflight.", 0, 86_400),
    "3000",
  ),
  urlExpiry: optional(
    text(
      "How long authentik's URLs are valid, in authentik's duration format " +
        `(read from 2025.12). authentik's default is \`${DEFAULTS.urlExpiry}\`.`,
      rules.urlExpiry,
    ),
  ),
  signatureVersion: optional(
    oneOf(
      SIGNATURE_VERSIONS,
      `How authentik signs (read from 2026.5). \`s3\` is the legacy signer, which needs \`authentikVersion\`. ` +
        `authentik's default is \`${DEFAULTS.signatureVersion}\`.`,
    ),
  ),
  checksums: optional(
    oneOf(
      CHECKSUMS,
      "`when_required` is for servers that refuse the checksums of boto3. It also " +
        "exports `AWS_REQUEST_CHECKSUM_CALCULATION` and `AWS_RESPONSE_CHECKSUM_VALIDATION`.",
    ),
    "when_supported",
  ),
};

/** The schema of `keyGeneration`. */
export function generationNumber(description: string): ReturnType<typeof integer> {
  return integer(description, 1, 1_000_000);
}

/** The keys of the providers that create authentik's access keys (`providers/rotation.ts`). */
export const rotationKeys = {
  keyGeneration: optional(
    generationNumber("Raise it by one to give authentik a new key. The previous key stays valid."),
    "1",
  ),
  retirePreviousKey: optional(
    boolean(
      "Deletes the previous key. Set it only when `urlExpiry` (15 minutes by default) has passed since authentik got the new key: until then its cache hands out URLs of the old one. Set it to false again in the update that makes the next key.",
    ),
    "false",
  ),
};

/** The key of the providers that have tags. */
export const tagKeys = {
  tags: optional(list("Tags of every resource, each `name=value`.", rules.tag)),
};

/** The bucket's name when the config has none and names are not global. */
export const DEFAULT_BUCKET_NAME = "authentik-media";

/** The values of these keys. */
export type Values<Keys extends v.ObjectEntries> = v.InferOutput<v.ObjectSchema<Keys, undefined>>;

/** The values of the common keys. */
export type CommonConfig = Values<typeof commonKeys>;

/** A config with its valid values only. */
export type Valid<Config> = { [Key in keyof Config]?: Config[Key] | undefined };

/** Reports one problem: the key, what is wrong with its value, and what to write instead. */
export type ReportProblem = (key: string, wrong: string) => void;

/** The values of these keys, each of which may be missing. */
type PartialValues<Keys extends v.ObjectEntries> = v.InferOutput<
  v.SchemaWithPartial<v.ObjectSchema<Keys, undefined>, undefined>
>;

/** A provider's part of the config: its keys, the rules between keys, and the defaults that follow from other keys. */
export interface ProviderConfig<Keys extends v.ObjectEntries, Config> {
  /** The provider's own keys. */
  keys: Keys;
  /** Checks the rules between keys. It gets the keys with valid values, so that every problem is found at once. */
  check: (valid: Valid<CommonConfig> & PartialValues<Keys>, report: ReportProblem) => void;
  /** Completes a config without problems. */
  resolve: (parsed: CommonConfig & Values<Keys>) => Config;
}

const common = v.object(commonKeys);
const partialCommon = v.partial(common);
const commonSchemas: v.ObjectEntries = commonKeys;

/** Parses a stack's values as this provider's config. Returns undefined when it has reported problems. */
export function parseProvider<Keys extends v.ObjectEntries, Config>(
  { keys, check, resolve }: ProviderConfig<Keys, Config>,
  values: Readonly<Record<string, string>>,
  report: ReportProblem,
): Config | undefined {
  const own = v.object(keys);
  const parsedCommon = v.safeParse(common, values);
  const parsedOwn = v.safeParse(own, values);
  const invalid = new Set<string>();
  for (const issue of [...(parsedCommon.issues ?? []), ...(parsedOwn.issues ?? [])]) {
    const [key = "", ...indices] = (issue.path ?? []).map((item) => String(item.key));
    invalid.add(key);
    const schema = keys[key] ?? commonSchemas[key];
    const wrong = key in values || schema === undefined ? issue.message : missing(key, schema);
    report(`${key}${indices.map((index) => `[${index}]`).join("")}`, wrong);
  }
  const texts = { ...defaults(commonKeys), ...defaults(keys), ...values };
  const valid = Object.fromEntries(Object.entries(texts).filter(([key]) => !invalid.has(key)));
  const reportValid: ReportProblem = (key, wrong) => {
    // An invalid value looks like a missing one here.
    if (!invalid.has(key)) report(key, wrong);
  };
  const validCommon = v.parse(partialCommon, valid);
  checkSigner(validCommon, reportValid);
  check({ ...validCommon, ...v.parse(v.partial(own), valid) }, reportValid);
  if (!parsedCommon.success || !parsedOwn.success) return undefined;
  return resolve({ ...parsedCommon.output, ...parsedOwn.output });
}

/** Releases to 2026.4 always sign with `s3v4`, which a server that needs `s3` refuses. */
function checkSigner(config: Valid<CommonConfig>, report: ReportProblem): void {
  if (config.signatureVersion !== "s3" || config.authentikVersion !== undefined) return;
  report(
    "signatureVersion",
    'is "s3", which authentik reads only from 2026.5, and without authentikVersion the values ' +
      "are for every release; set authentikVersion to yours, or remove signatureVersion",
  );
}

function defaults(keys: v.ObjectEntries): Record<string, string> {
  return Object.fromEntries(
    Object.entries(keys).flatMap(([key, schema]) => {
      const fallback = defaultOf(schema);
      return fallback === undefined ? [] : [[key, fallback] as const];
    }),
  );
}

function missing(key: string, schema: v.GenericSchema): string {
  const { type, secret } = documentationOf(schema);
  const target = type === "list of strings" ? `--path '${key}[0]'` : key;
  const command = secret ? `--secret ${key}` : `${target} <value>`;
  return `is missing; set it: pulumi config set ${command} (${v.getDescription(schema) ?? ""})`;
}

/** Reports a custom domain that does not lead to the bucket: `host/bucket` or `bucket.host`. */
export function checkDomainHasBucket(
  customDomain: string,
  bucketName: string,
  report: ReportProblem,
): void {
  const [host = "", ...path] = customDomain.split("/");
  if (path.at(-1) === bucketName || (path.length === 0 && host.startsWith(`${bucketName}.`)))
    return;
  report(
    "customDomain",
    `does not have the bucket; write "${customDomain}/${bucketName}" ` +
      `or "${bucketName}.${host}", whichever your server supports`,
  );
}

/** Reports `forceDestroy` for a provider that never deletes a bucket that is not empty. */
export function refuseForceDestroy(
  { forceDestroy }: Valid<CommonConfig>,
  reason: string,
  report: ReportProblem,
): void {
  if (forceDestroy === true) report("forceDestroy", `is not possible: ${reason}`);
}

/**
 * Reports a rotation when the program creates no key.
 *
 * @param cause what the rotation has no effect with, as the end of a sentence
 */
export function refuseRotation(
  { keyGeneration = 1, retirePreviousKey }: Valid<Values<typeof rotationKeys>>,
  cause: string,
  report: ReportProblem,
): void {
  if (keyGeneration === 1 && retirePreviousKey !== true) return;
  report("keyGeneration", `has no effect with ${cause}; remove it and retirePreviousKey`);
}

/** Names to values of a list of `name=value`. */
export function parseTags(tags: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(
    tags.map((tag) => [tag.slice(0, tag.indexOf("=")), tag.slice(tag.indexOf("=") + 1)]),
  );
}
