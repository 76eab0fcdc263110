/** The keys that every provider has, and what a provider adds to them. */
import * as v from "valibot";
import { CHECKSUMS, DEFAULTS, SIGNATURE_VERSIONS } from "../authentik/env.ts";
import * as rules from "./rules.ts";
import { boolean, defaultOf, documentationOf, integer, list, oneOf, optional, text } from "./values.ts";

export const commonKeys = {
  bucketName: optional(text("Name of the bucket. The default is `authentik-media`; where names are global (AWS), Pulumi's auto-naming makes it unique.", rules.bucketName)),
  origins: list("Every scheme://host[:port] under which browsers reach authentik, e.g. `https://authentik.company`. They alone may load its files (CORS).", rules.origin),
  authentikVersion: optional(text('The authentik release that reads the values, e.g. `"2025.12"` (in quotes). Without it they are the ones that every release reads, for media alone.', rules.authentikVersion)),
  customDomain: optional(text("Host, without scheme and with the bucket, from which browsers load files. Off AWS the default is the endpoint's host with the bucket.", rules.customDomain)),
  secureUrls: optional(boolean("Whether the URLs of the custom domain use https."), "true"),
  protect: optional(boolean("Whether Pulumi refuses to delete or replace the bucket."), "true"),
  forceDestroy: optional(boolean("Whether a bucket that is not empty may be deleted, with everything in it."), "false"),
  adopt: optional(boolean("Whether to take a bucket that exists already under management instead of failing."), "false"),
  corsAllowedHeaders: optional(list("Request headers that the CORS policy allows.", rules.headerName), '["Authorization"]'),
  corsMaxAgeSeconds: optional(integer("How many seconds browsers may remember the answer to a preflight.", 0, 86_400), "3000"),
  urlExpiry: optional(text(`How long the URLs hold that authentik hands out (read from 2025.12), as it writes durations. Its own default is \`${DEFAULTS.urlExpiry}\`.`, rules.urlExpiry)),
  signatureVersion: optional(oneOf(SIGNATURE_VERSIONS, `How authentik signs (read from 2026.5); \`s3\` is the legacy signer. Its own default is \`${DEFAULTS.signatureVersion}\`.`)),
  checksums: optional(oneOf(CHECKSUMS, "`when_required` is for servers that refuse the checksums boto3 sends; it also exports `AWS_REQUEST_CHECKSUM_CALCULATION` and its response twin."), "when_supported"),
};

/** The keys of the providers that make authentik's keys themselves (`providers/rotation.ts`). */
export const rotationKeys = {
  keyGeneration: optional(integer("Raise it by one to give authentik a new key. The key before stays valid.", 1, 1_000_000), "1"),
  retirePreviousKey: optional(boolean("Deletes the key before, once authentik has the new one. Set it to false again before the next rotation."), "false"),
};

/** The key of the providers that know tags. */
export const tagKeys = {
  tags: optional(list("Tags of every resource, each `name=value`.", rules.tag)),
};

/** The bucket's name where the config has none and names are not global. */
export const DEFAULT_BUCKET_NAME = "authentik-media";

/** The values of these keys. */
export type Values<Keys extends v.ObjectEntries> = v.InferOutput<v.ObjectSchema<Keys, undefined>>;

/** The values of the common keys. */
export type CommonConfig = Values<typeof commonKeys>;

/** A config of which only the sound values are there. */
export type Sound<Config> = { [Key in keyof Config]?: Config[Key] | undefined };

/** Reports one problem: the key, what is wrong with its value, and what to write instead. */
export type Report = (key: string, wrong: string) => void;

/** The values of these keys, each of which may be absent. */
type PartialValues<Keys extends v.ObjectEntries> = v.InferOutput<v.SchemaWithPartial<v.ObjectSchema<Keys, undefined>, undefined>>;

/** What a provider adds to the config: its own keys, what must hold between keys, and the defaults that follow from others. */
export interface ProviderConfig<Keys extends v.ObjectEntries, Config> {
  /** The provider's own keys. */
  keys: Keys;
  /** Looks across keys. It is given those whose own values are sound, so that every problem is found at once. */
  check: (sound: Sound<CommonConfig> & PartialValues<Keys>, report: Report) => void;
  /** Completes a config without problems. */
  resolve: (parsed: CommonConfig & Values<Keys>) => Config;
}

const common = v.object(commonKeys);
const partialCommon = v.partial(common);

/** Parses a stack's values as this provider's config; undefined when it has reported problems. */
export function parseProvider<Keys extends v.ObjectEntries, Config>(
  { keys, check, resolve }: ProviderConfig<Keys, Config>,
  values: Readonly<Record<string, string>>,
  report: Report,
): Config | undefined {
  const own = v.object(keys);
  const parsedCommon = v.safeParse(common, values);
  const parsedOwn = v.safeParse(own, values);
  const broken = new Set<string>();
  for (const issue of [...(parsedCommon.issues ?? []), ...(parsedOwn.issues ?? [])]) {
    const [key = "", ...indices] = (issue.path ?? []).map((item) => String(item.key));
    broken.add(key);
    const isMissing = !(key in values);
    report(`${key}${indices.map((index) => `[${index}]`).join("")}`, isMissing ? missing(key, keys[key]) : issue.message);
  }
  const sound = Object.fromEntries(
    Object.entries({ ...defaults(commonKeys), ...defaults(keys), ...values }).filter(([key]) => !broken.has(key)),
  );
  check({ ...v.parse(partialCommon, sound), ...v.parse(v.partial(own), sound) }, (key, wrong) => {
    // A value that is no good in itself looks as if it were missing.
    if (!broken.has(key)) report(key, wrong);
  });
  return parsedCommon.success && parsedOwn.success ? resolve({ ...parsedCommon.output, ...parsedOwn.output }) : undefined;
}

function defaults(keys: v.ObjectEntries): Record<string, string> {
  return Object.fromEntries(Object.entries(keys).flatMap(([key, schema]) => {
    const fallback = defaultOf(schema);
    return fallback === undefined ? [] : [[key, fallback] as const];
  }));
}

function missing(key: string, schema: v.GenericSchema = commonKeys.origins): string {
  const { type, secret } = documentationOf(schema);
  const command = secret ? `--secret ${key}` : `${type === "list of strings" ? `--path '${key}[0]'` : key} <value>`;
  return `is missing; set it: pulumi config set ${command} (${v.getDescription(schema) ?? ""})`;
}

/** Reports a custom domain that does not lead to the bucket: `host/bucket`, or `bucket.host`. */
export function checkDomainHasBucket(customDomain: string, bucketName: string, report: Report): void {
  const [host = "", ...path] = customDomain.split("/");
  if (path.at(-1) === bucketName || (path.length === 0 && host.startsWith(`${bucketName}.`))) return;
  report("customDomain", `does not have the bucket; write "${customDomain}/${bucketName}" or "${bucketName}.${host}", whichever your server answers`);
}

/** Reports `forceDestroy` where the provider never deletes a bucket that is not empty. */
export function refuseForceDestroy({ forceDestroy }: Sound<CommonConfig>, reason: string, report: Report): void {
  if (forceDestroy === true) report("forceDestroy", `cannot be had: ${reason}`);
}

/** Names to values of a list of `name=value`. */
export function parseTags(tags: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(tags.map((tag) => [tag.slice(0, tag.indexOf("=")), tag.slice(tag.indexOf("=") + 1)]));
}
