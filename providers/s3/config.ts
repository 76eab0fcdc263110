/** The config of the provider `s3`. */
import { ADDRESSING_STYLES, DEFAULTS } from "../../authentik/env.ts";
import { parseRelease, releaseRules } from "../../authentik/release.ts";
import {
  checkDomainHasBucket,
  DEFAULT_BUCKET_NAME,
  type CommonConfig,
  type ReportProblem,
  type Valid,
  type Values,
} from "../../config/common.ts";
import * as rules from "../../config/rules.ts";
import { boolean, oneOf, optional, secretText, text } from "../../config/values.ts";

export const keys = {
  endpoint: text(
    "URL of the server's S3 API, e.g. `https://s3.provider`, without the bucket.",
    rules.endpoint,
  ),
  region: optional(
    text(
      "Region that requests are signed for. The default is the region in " +
        "the endpoint of a known service, or else `us-east-1`, as in boto3.",
      rules.region,
    ),
  ),
  addressingStyle: optional(
    oneOf(
      ADDRESSING_STYLES,
      "Where the bucket is in URLs (read from 2025.12): in the `path`, or in the host (`virtual`, which needs `authentikVersion`).",
    ),
    DEFAULTS.addressingStyle,
  ),
  useSsl: optional(
    boolean("Has no effect: the endpoint's scheme decides. A value must agree with it."),
  ),
  accessKey: optional(secretText("Access key that authentik gets.", rules.accessKey)),
  secretKey: optional(secretText("Secret key that authentik gets.", rules.credential)),
  sessionToken: optional(
    secretText("Session token, if authentik's keys are temporary.", rules.credential),
  ),
  sessionProfile: optional(
    text("Profile of the AWS shared config that authentik uses instead of keys.", rules.profile),
  ),
  adminAccessKey: optional(
    secretText(
      "Access key that creates the bucket and its CORS policy. The default is `accessKey`.",
      rules.accessKey,
    ),
  ),
  adminSecretKey: optional(
    secretText(
      "Secret key that creates the bucket and its CORS policy. The default is `secretKey`.",
      rules.credential,
    ),
  ),
  policyPrincipal: optional(
    text(
      "Principal that a bucket policy gives exactly the rights that authentik needs, " +
        "in the server's own form: an ARN, or an access key on versitygw. " +
        "Without it, the bucket gets no policy.",
      rules.principal,
    ),
  ),
};

/** A key that only this provider has. */
export type ConfigKey = keyof typeof keys;

type S3Values = CommonConfig & Values<typeof keys>;

/** The config of an S3-compatible server, complete. */
export interface S3Config extends S3Values {
  provider: "s3";
  bucketName: string;
  customDomain: string;
}

/** Releases to 2025.10 sign path-style URLs, which the server refuses at the bucket's own host. */
const NEEDS_RELEASE =
  'is "virtual", which authentik reads only from 2025.12, and without authentikVersion the values ' +
  "are for every release; set authentikVersion to yours, or write addressingStyle: path";

export function check(config: Valid<S3Values>, report: ReportProblem): void {
  checkCredentials(config, report);
  if (config.addressingStyle === "virtual" && config.authentikVersion === undefined) {
    report("addressingStyle", NEEDS_RELEASE);
  }
  const { endpoint, customDomain, bucketName = DEFAULT_BUCKET_NAME } = config;
  if (customDomain !== undefined) checkDomainHasBucket(customDomain, bucketName, report);
  if (endpoint === undefined) return;
  checkEndpointHasNoBucket(endpoint, bucketName, report);
  checkScheme(config, endpoint, report);
}

function checkEndpointHasNoBucket(
  endpoint: string,
  bucketName: string,
  report: ReportProblem,
): void {
  const url = new URL(endpoint);
  const parts = url.pathname.split("/").filter((part) => part !== bucketName);
  const path = parts.join("/").replace(/\/$/, "");
  const prefix = `${bucketName}.`;
  const host = url.host.startsWith(prefix) ? url.host.slice(prefix.length) : url.host;
  const without = `${url.protocol}//${host}${path}`;
  if (without === endpoint) return;
  report("endpoint", `has the bucket, which would then be in URLs twice; write "${without}"`);
}

/** The schemes that the config states must agree with the endpoint's. */
function checkScheme(config: Valid<S3Values>, endpoint: string, report: ReportProblem): void {
  const { useSsl, secureUrls, bucketName = DEFAULT_BUCKET_NAME } = config;
  const { host, protocol } = new URL(endpoint);
  const isSecure = protocol === "https:";
  if (useSsl !== undefined && useSsl !== isSecure) {
    report(
      "useSsl",
      `contradicts the endpoint "${endpoint}", whose scheme decides; write useSsl: ${isSecure}, or remove it`,
    );
  }
  const [domainHost = ""] = (config.customDomain ?? defaultDomain(config, endpoint)).split("/");
  const isSameHost = domainHost === host || domainHost === `${bucketName}.${host}`;
  if (secureUrls === true && !isSecure && isSameHost) {
    report(
      "secureUrls",
      `sends browsers to https://${domainHost}, but the endpoint "${endpoint}" uses http; ` +
        "write secureUrls: false, or an https endpoint",
    );
  }
}

/** Keys that are set together. */
const PAIRS = [
  ["accessKey", "secretKey"],
  ["secretKey", "accessKey"],
  ["adminAccessKey", "adminSecretKey"],
  ["adminSecretKey", "adminAccessKey"],
] as const;

function checkCredentials(config: Valid<S3Values>, report: ReportProblem): void {
  for (const [key, other] of PAIRS) {
    if (config[key] !== undefined || config[other] === undefined) continue;
    report(key, `is missing, while ${other} is set; set both, or neither`);
  }
  const hasKeys = config.accessKey !== undefined || config.secretKey !== undefined;
  const hasProfile = config.sessionProfile !== undefined;
  if (!hasKeys && !hasProfile) {
    for (const key of ["accessKey", "secretKey"]) {
      report(
        key,
        `is missing; set it: pulumi config set --secret ${key} (or sessionProfile, if authentik has an AWS profile)`,
      );
    }
  }
  if (hasKeys && hasProfile) {
    report(
      "sessionProfile",
      "is set together with keys, which authentik would ignore; remove one of them",
    );
  }
  if (config.sessionToken !== undefined && !hasKeys) {
    report("sessionToken", "is set without accessKey and secretKey; set them too, or remove it");
  }
}

export function resolve(config: S3Values): S3Config {
  return {
    ...config,
    provider: "s3",
    bucketName: config.bucketName ?? DEFAULT_BUCKET_NAME,
    region: config.region ?? regionOf(config.endpoint),
    customDomain: config.customDomain ?? defaultDomain(config, config.endpoint),
  };
}

/** Endpoints of services that have their region in the host. */
const REGIONAL_HOST =
  /^s3[.-]([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|backblazeb2\.com|wasabisys\.com)$/;

/** The region of a known service: the one in its endpoint, or the one region that it has. */
function regionOf(endpoint: string): string | undefined {
  const { hostname } = new URL(endpoint);
  const isGoogle = hostname === "storage.googleapis.com";
  if (isGoogle || hostname.endsWith(".r2.cloudflarestorage.com")) return "auto";
  return REGIONAL_HOST.exec(hostname)?.[1];
}

/** The endpoint's host with the bucket. The bucket is in the host only if the release reads the addressing style. */
function defaultDomain(config: Valid<S3Values>, endpoint: string): string {
  const { addressingStyle, authentikVersion, bucketName = DEFAULT_BUCKET_NAME } = config;
  const { host, pathname } = new URL(endpoint);
  const release = authentikVersion === undefined ? undefined : parseRelease(authentikVersion);
  return addressingStyle === "virtual" && releaseRules(release).readsAddressingStyle
    ? `${bucketName}.${host}`
    : `${host}${pathname.replace(/\/$/, "")}/${bucketName}`;
}
