/** Config of the provider `r2`: Cloudflare R2. */
import { DEFAULT_BUCKET_NAME, refuseForceDestroy, rotationKeys, type CommonConfig, type ProviderConfig, type Report, type Sound, type Values } from "./common.ts";
import * as rules from "./rules.ts";
import { oneOf, optional, text } from "./values.ts";

/** Where R2 guarantees to keep a bucket's objects (Cloudflare, "Data location"); the list of the package's `R2Bucket`. */
export const JURISDICTIONS = ["default", "eu", "fedramp", "us"] as const;
export type Jurisdiction = (typeof JURISDICTIONS)[number];
/** Where R2 is asked to put a bucket, without a guarantee; the list of the package's `R2Bucket`. */
export const LOCATIONS = ["apac", "eeur", "enam", "weur", "wnam", "oc"] as const;
export type Location = (typeof LOCATIONS)[number];

/** The locations within a jurisdiction. */
const WITHIN: Readonly<Record<Jurisdiction, readonly Location[]>> = {
  default: LOCATIONS,
  eu: ["weur", "eeur"],
  fedramp: ["enam", "wnam"],
  us: ["enam", "wnam"],
};

const keys = {
  accountId: text("Id of the Cloudflare account, 32 hex digits (dashboard: R2, \"Account details\").", accountId),
  jurisdiction: optional(oneOf(JURISDICTIONS, "Where R2 guarantees to keep the files. Changing it replaces the bucket."), "default"),
  location: optional(oneOf(LOCATIONS, "Where R2 is asked to put the files. It counts only when a bucket of this name is made for the first time.")),
  ...rotationKeys,
};

type R2Values = CommonConfig & Values<typeof keys>;

/** The config of an R2 bucket, complete. */
export interface R2Config extends R2Values {
  provider: "r2";
  bucketName: string;
  /** URL of the S3 API, by jurisdiction. */
  endpoint: string;
  customDomain: string;
}

export const r2: ProviderConfig<typeof keys, R2Config> = { keys, check, resolve };

function check(config: Sound<R2Values>, report: Report): void {
  const { bucketName = DEFAULT_BUCKET_NAME, jurisdiction = "default", location } = config;
  const wrongName = rules.bucketNameWithoutDots(bucketName);
  if (wrongName !== undefined) report("bucketName", wrongName);
  if (location !== undefined && !WITHIN[jurisdiction].includes(location)) {
    report("location", `is not in the jurisdiction "${jurisdiction}"; write ${WITHIN[jurisdiction].map((name) => `"${name}"`).join(" or ")}, or remove it`);
  }
  refuseForceDestroy(config, "R2 never deletes a bucket that is not empty; remove the key, and empty the bucket yourself before pulumi destroy", report);
  if (config.secureUrls === false) report("secureUrls", "sends browsers to http, which R2 does not speak; remove it");
  if (config.accountId !== undefined) checkCustomDomain(config, `${apiHost(config.accountId, jurisdiction)}/${bucketName}`, report);
}

function checkCustomDomain({ customDomain }: Sound<R2Values>, only: string, report: Report): void {
  if (customDomain === undefined || customDomain === only) return;
  report(
    "customDomain",
    `is not R2's S3 API, and presigned URLs work there alone, neither on r2.dev nor on a domain of your own (Cloudflare, "Presigned URLs"); write "${only}", or remove it`,
  );
}

function resolve(config: R2Values): R2Config {
  const host = apiHost(config.accountId, config.jurisdiction);
  const bucketName = config.bucketName ?? DEFAULT_BUCKET_NAME;
  return { ...config, provider: "r2", bucketName, endpoint: `https://${host}`, customDomain: `${host}/${bucketName}` };
}

/** A bucket with a jurisdiction is reached on that jurisdiction's host alone (Cloudflare, "Data location"). */
function apiHost(account: string, jurisdiction: Jurisdiction): string {
  return `${account}${jurisdiction === "default" ? "" : `.${jurisdiction}`}.r2.cloudflarestorage.com`;
}

function accountId(value: string): string | undefined {
  return /^[0-9a-f]{32}$/.test(value) ? undefined : "is not a Cloudflare account id; write its 32 lower-case hex digits";
}
