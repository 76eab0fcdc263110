/** Policy `tls-only`: files and keys never cross a network in clear. */
import * as v from "valibot";
import { deniesPlainHttp, Document } from "./documents.ts";
import { ORIGIN_PLACES } from "./origins.ts";
import { judged, lonely, ofType, reportAll, rule, TYPES, type StoragePolicy } from "./rule.ts";

const Endpoint = v.object({ endpoint: v.string() });
const BucketPolicy = v.object({ policy: Document });
const Account = v.object({ enableHttpsTrafficOnly: v.optional(v.boolean()), minimumTlsVersion: v.optional(v.string()) });
const Gateway = v.object({ configuration: v.object({ ingress: v.object({ allowInsecure: v.optional(v.boolean()) }) }) });
const Outputs = v.object({ secureUrls: v.optional(v.boolean()), customDomain: v.optional(v.string()) });

export const tls: StoragePolicy = {
  name: "tls-only",
  description: "The storage is reached over TLS alone, but on this machine.",
  validateResource: [
    rule(TYPES.awsBucketPolicy, BucketPolicy, ({ policy }) => deniesPlainHttp(policy) ? [] : [
      'policy does not deny plain http; add the statement that denies "s3:*" on the bucket and its objects to everyone ' +
      'where "aws:SecureTransport" is "false"',
    ]),
    rule(TYPES.azureAccount, Account, ({ enableHttpsTrafficOnly, minimumTlsVersion = "none" }) => [
      ...(enableHttpsTrafficOnly === true ? [] : ["enableHttpsTrafficOnly is not true, so the account answers plain http; write true"]),
      ...(["TLS1_2", "TLS1_3"].includes(minimumTlsVersion) ? [] : [`minimumTlsVersion = "${minimumTlsVersion}" lets broken versions in; write "TLS1_2"`]),
    ]),
    rule(TYPES.azureGateway, Gateway, ({ configuration }) => configuration.ingress.allowInsecure === false ? [] : [
      "configuration.ingress.allowInsecure is not false, so the gateway answers plain http; write false",
    ]),
    ...[TYPES.s3Bucket, TYPES.s3Cors, TYPES.s3BucketPolicy].map((type) => rule(type, Endpoint, ({ endpoint }) => isSecure(endpoint) ? [] : [
      `endpoint = "${endpoint}" sends files and signatures in clear; ` +
      `write "${endpoint.replace(/^http:/, "https:")}", and give the server a certificate`,
    ])),
    ...ORIGIN_PLACES.map(({ type, schema, key }) => rule(type, schema, (origins) => origins.filter((origin) => !isSecure(origin)).map((origin) =>
      `${key} has "${origin}", whose pages anyone on the way can change into ones that read the files; ` +
      "serve authentik over https, and write its https origin"))),
  ],
  validateStack: ({ resources }, report) => {
    const stacks = ofType(resources, "pulumi:pulumi:Stack");
    reportAll([
      ...lonely(
        resources, TYPES.awsBucket, TYPES.awsBucketPolicy,
        "has no bucket policy, so it answers plain http; add a BucketPolicy that denies it",
      ),
      ...stacks.flatMap(({ props, urn }) => judged(Outputs, props, plainUrls).map((finding) => ({ finding, urn }))),
    ], report);
  },
};

function plainUrls({ secureUrls, customDomain = "" }: v.InferOutput<typeof Outputs>): string[] {
  return secureUrls !== false || isLoopback(`http://${customDomain}`) ? [] : [
    `secureUrls is false, so browsers load files from http://${customDomain} in clear; ` +
    "remove secureUrls from the stack's config (true is the default)",
  ];
}

function isSecure(url: string): boolean {
  return !url.startsWith("http:") || isLoopback(url);
}

/** Whether a URL stays on this machine. */
export function isLoopback(url: string): boolean {
  const hostname = URL.canParse(url) ? new URL(url).hostname : "";
  return hostname === "localhost" || hostname.endsWith(".localhost") || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}
