/** From what a failed request showed to what it means and what to do. `docs/verify.md` has the same table. */
import type { StorageSettings } from "../../authentik/env.ts";

/** Every diagnosis: what it means, and what to do. */
export const SYMPTOMS = {
  dns: "The host has no address. Correct the endpoint or the custom domain, or add its DNS record.",
  refused: "Nothing listens there. Start the server, or correct host and port.",
  reset: "The connection was cut. Look at the server's log and at proxies or firewalls in between.",
  timeout: "No answer in time. Look for a firewall that drops packets, or a server under load.",
  certificate: "The TLS certificate is not trusted for this host. Give the server one for its name from an authority that browsers and authentik trust.",
  scheme: "The server does not speak this scheme there. Change http to https in the endpoint or SECURE_URLS, or the other way round, or correct the port.",
  clock: "The clocks differ too much for signatures. Set this machine's clock and authentik's, or the server's, with NTP.",
  "no-credentials": "No credentials were found. Set ACCESS_KEY and SECRET_KEY, or run this where the role or profile is.",
  "wrong-access-key": "The server does not know the access key. Correct ACCESS_KEY, or make the key anew.",
  "wrong-secret-key": "The secret key does not belong to the access key. Correct SECRET_KEY.",
  "wrong-token": "The session token is wrong or has expired. Make new temporary credentials.",
  "wrong-region": "Requests are signed for another region than the server's. Correct REGION.",
  "no-bucket": "There is no such bucket at this endpoint. Correct BUCKET_NAME or ENDPOINT, or create the bucket (pulumi up).",
  "missing-permission": "The key may not do this. Grant it; authentik/permissions.ts has the whole list.",
  "acl-unsupported": "The bucket refuses ACLs, and authentik sends one with each upload. On AWS set the bucket's ownership to BucketOwnerPreferred with all public access blocked.",
  "checksum-unsupported": "The server refuses the checksums that boto3 sends. Set the stack's checksums to when_required, or AWS_REQUEST_CHECKSUM_CALCULATION=when_required in authentik's environment.",
  "bucket-twice": "The bucket is twice in the URL. Upgrade authentik to 2025.12.2 or later; or take the bucket out of ENDPOINT, if it is there.",
  "host-refused": "The URL is signed for the endpoint's host, and the server sees the custom domain. Make CUSTOM_DOMAIN the endpoint's host with the bucket, let the proxy in front pass the endpoint's host on, or upgrade authentik to 2026.5, which signs for the custom domain.",
  "wrong-custom-domain": "The custom domain does not lead to the root of the bucket. Correct CUSTOM_DOMAIN: host/bucket or bucket.host.",
  "global-host": "Without an endpoint authentik to 2026.4 hands out URLs of AWS's global host, which sends browsers on to a host they are not signed for. Set ENDPOINT to https://s3.<region>.amazonaws.com.",
  "cors-missing": "The bucket does not let this origin in, so browsers refuse icons and scripts of the page. Add it to the CORS policy (the stack's origins).",
  "cors-open": "The bucket lets other sites in. Name authentik's own origins in the CORS policy, without a wildcard.",
  "public-bucket": "Anyone can read the files without a signed URL. Block public access, and remove public ACLs and policies.",
  "signature-unchecked": "The server hands out files on URLs that are not validly signed. Do not use it: nothing in it is private.",
  "content-changed": "What comes back is not what was uploaded. Look for a proxy or CDN that changes files or serves pages of its own.",
  "excess-rights": "The key can do more than authentik needs. Give authentik a key of its own that has only the permissions in authentik/permissions.ts.",
  "left-behind": "The test file could not be deleted. Delete it by hand, and give the key s3:DeleteObject.",
  interrupted: "The run was ended before this was tried.",
  unknown: "Not a known failure: the server's own words are all there is.",
} as const;

export type Symptom = keyof typeof SYMPTOMS;

/** With these nothing else can be told. */
const FATAL: ReadonlySet<Symptom> = new Set<Symptom>([
  "dns", "refused", "reset", "timeout", "certificate", "scheme", "clock", "no-credentials", "wrong-access-key", "wrong-secret-key",
  "wrong-token", "wrong-region", "no-bucket", "interrupted",
]);

/** Whether nothing else can work while this lasts. */
export function isFatal(symptom: Symptom): boolean {
  return FATAL.has(symptom);
}

/** A request that failed, as far as it can be told. */
export interface Failure {
  /** HTTP status, where an answer came. */
  status?: number | undefined;
  /** S3's error code, or the system's (`ECONNREFUSED`). */
  code: string;
  message: string;
}

const NETWORK: readonly (readonly [RegExp, Symptom])[] = [
  [/^(?:ENOTFOUND|EAI_\w+)$/, "dns"],
  [/^(?:ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|EADDRNOTAVAIL)$/, "refused"],
  [/^(?:ECONNRESET|EPIPE|UND_ERR_SOCKET|ERR_HTTP_CONTENT_LENGTH_MISMATCH)$/, "reset"],
  [/^(?:ETIMEDOUT|TimeoutError|UND_ERR_\w*TIMEOUT)$/, "timeout"],
  [/CERT|UNABLE_TO|ALTNAME/, "certificate"],
  [/^(?:EPROTO|ERR_SSL_\w+|HPE_\w+)$/, "scheme"],
  [/^AbortError$/, "interrupted"],
];

const S3_CODES: Readonly<Record<string, Symptom>> = {
  InvalidAccessKeyId: "wrong-access-key",
  SignatureDoesNotMatch: "wrong-secret-key",
  InvalidToken: "wrong-token",
  ExpiredToken: "wrong-token",
  AuthorizationHeaderMalformed: "wrong-region",
  AuthorizationQueryParametersError: "wrong-region",
  PermanentRedirect: "wrong-region",
  IllegalLocationConstraintException: "wrong-region",
  RequestTimeTooSkewed: "clock",
  NoSuchBucket: "no-bucket",
  AccessControlListNotSupported: "acl-unsupported",
  AccessDenied: "missing-permission",
  Forbidden: "missing-permission",
  CredentialsProviderError: "no-credentials",
  TokenProviderError: "no-credentials",
};

/** The diagnosis that the failure alone allows, for a request signed with authentik's key. */
export function diagnose({ status, code, message }: Failure): Symptom {
  const known = S3_CODES[code] ?? (status === undefined ? NETWORK.find(([pattern]) => pattern.test(code))?.[1] : undefined);
  if (known !== undefined) return known;
  if (/HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS/i.test(message)) return "scheme";
  if (status === 301 || status === 307) return "wrong-region";
  if (status === 401) return "wrong-access-key";
  return status === 403 ? "missing-permission" : "unknown";
}

/**
 * The diagnosis of a browser's GET of a signed URL.
 *
 * @param keyReads whether authentik's key can read the same file, so that neither key nor permission are to blame
 */
export function diagnoseUrl(failure: Failure, url: URL, settings: StorageSettings, keyReads: boolean): Symptom {
  const { bucketName, customDomain, endpoint } = settings;
  const symptom = diagnose(failure);
  if (failure.status === undefined || !keyReads) return symptom;
  const inHost = url.hostname.startsWith(`${bucketName}.`) ? 1 : 0;
  if (url.pathname.split("/").filter((part) => part === bucketName).length + inHost > 1) return "bucket-twice";
  if (endpoint === undefined && url.hostname.endsWith("s3.amazonaws.com")) return "global-host";
  if (customDomain === undefined) return symptom;
  if (symptom === "wrong-secret-key" || symptom === "wrong-access-key") return "host-refused";
  return symptom === "missing-permission" || symptom === "no-bucket" || [404, 405].includes(failure.status) ? "wrong-custom-domain" : symptom;
}
