/** Policy `tls-only`: files and keys never cross a network unencrypted. */
import * as v from "valibot";
import { parseUrl } from "../authentik/url-parts.ts";
import { allowsPlainHttp, documentRule } from "./documents.ts";
import { ORIGINS } from "./origins.ts";
import {
  eachText,
  findIf,
  checked,
  mustBe,
  needs,
  ofType,
  stackRules,
  type StoragePolicy,
} from "./rule.ts";

const BUCKET = "aws:s3/bucket:Bucket";
const BUCKET_POLICY = "aws:s3/bucketPolicy:BucketPolicy";
const ACCOUNT = "azure-native:storage:StorageAccount";
const GATEWAY = "azure-native:app:ContainerApp";
const ON_S3_SERVERS = [
  "pulumi-nodejs:dynamic/authentik-storage:S3Bucket",
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors",
  "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy",
] as const;

const PLAIN_ENDPOINT =
  "sends files and signatures unencrypted; give the server a certificate, and write its https URL";
const PLAIN_ORIGIN =
  "is unencrypted, so anyone on the network can change its pages into ones that read the files; " +
  "serve authentik over https, and write its https origin";

const Outputs = v.object({
  secureUrls: v.optional(v.boolean(), true),
  customDomain: v.optional(v.string(), ""),
});

export const tls: StoragePolicy = {
  name: "tls-only",
  description: "The storage is reached over TLS only, except on this machine.",
  validateResource: [
    documentRule(BUCKET_POLICY, allowsPlainHttp),
    mustBe(ACCOUNT, "enableHttpsTrafficOnly", true, "it answers plain http"),
    eachText(ACCOUNT, "minimumTlsVersion", isBroken, 'allows broken versions; write "TLS1_2"'),
    mustBe(GATEWAY, "configuration.ingress.allowInsecure", false, "it answers plain http"),
    ...ON_S3_SERVERS.map((type) => eachText(type, "endpoint", isPlain, PLAIN_ENDPOINT)),
    ...ORIGINS.map(([type, path]) => eachText(type, path, isPlain, PLAIN_ORIGIN)),
  ],
  validateStack: stackRules(
    needs(
      BUCKET,
      BUCKET_POLICY,
      "has no bucket policy, so it answers plain http; add a BucketPolicy that denies it",
    ),
    (resources) =>
      ofType(resources, "pulumi:pulumi:Stack").flatMap(({ props, urn }) =>
        checked(Outputs, props, plainUrls).map((finding) => ({ finding, urn })),
      ),
  ),
};

function plainUrls({ secureUrls, customDomain }: v.InferOutput<typeof Outputs>): string[] {
  return findIf(
    !secureUrls && isPlain(`http://${customDomain}`),
    `secureUrls is false, so browsers load files from http://${customDomain} unencrypted; ` +
      "remove secureUrls from the stack's config (true is the default)",
  );
}

function isBroken(version: string): boolean {
  return !["TLS1_2", "TLS1_3"].includes(version);
}

function isPlain(url: string): boolean {
  return url.startsWith("http:") && !isLoopback(url);
}

/** Whether a URL stays on this machine. */
export function isLoopback(url: string): boolean {
  const hostname = parseUrl(url)?.hostname ?? "";
  return /^(?:(?:.+\.)?localhost|\[::1\]|127\.\d+\.\d+\.\d+)$/.test(hostname);
}
