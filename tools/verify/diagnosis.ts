/** The meaning of failed requests, and advice. `docs/verify.md` has the same table. */
import type { StorageSettings } from "../../authentik/env.ts";

/** The section of the docs that lists the permissions of `authentik/permissions.ts`. */
export const PERMISSIONS_PAGE = "docs/verify.md#permissions";

/** Every diagnosis, with its meaning and advice. */
export const SYMPTOMS = {
  dns:
    "No DNS record exists for the host. " +
    "Correct the endpoint or the custom domain, or add its DNS record.",
  refused:
    "Nothing listens at this host and port. Start the server, or correct the host and the port.",
  reset:
    "The connection was closed without a complete answer. " +
    "Check the server's log, and the proxies and firewalls in between.",
  timeout:
    "No answer came in time. Look for a firewall that drops packets, or a server under high load.",
  certificate:
    "The TLS certificate is not trusted for this host. " +
    "Give the server a certificate for its name, " +
    "from an authority that browsers and authentik trust.",
  scheme:
    "The server does not use this scheme at this port. " +
    "Change http to https or https to http in the endpoint or SECURE_URLS, or correct the port.",
  "not-s3":
    "Something answers that is not an S3 server, such as a web page or a login in front of it. " +
    "Correct the endpoint's scheme, host, port and path.",
  clock:
    "The clocks differ too much for signatures. " +
    "Set the clocks of this machine and of authentik, or the clock of the server, with NTP.",
  "no-credentials":
    "No credentials were found. " +
    "Set ACCESS_KEY and SECRET_KEY, or run this where the role or the profile is available.",
  "wrong-access-key":
    "The server does not know the access key. Correct ACCESS_KEY, or create the key again.",
  "wrong-secret-key": "The secret key does not belong to the access key. Correct SECRET_KEY.",
  "wrong-token": "The session token is wrong or has expired. Create new temporary credentials.",
  "wrong-region": "Requests are signed for a region that is not the server's. Correct REGION.",
  "no-bucket":
    "The bucket does not exist at this endpoint. " +
    "Correct BUCKET_NAME or ENDPOINT, or create the bucket (pulumi up).",
  "missing-permission":
    "The key is not allowed to do this. " +
    `Grant the permission: ${PERMISSIONS_PAGE} lists all of them.`,
  "abort-deletes-file":
    "Aborting a multipart upload deletes the existing object. boto3 aborts every failed one. " +
    "Remove s3:AbortMultipartUpload from the policy. With provider azure, pulumi up does that.",
  "non-ascii-name":
    "The server does not accept files over 8 MiB whose names have letters outside ASCII. " +
    "Give such files names in ASCII. versitygw before Azure Blob is such a server.",
  "acl-unsupported":
    "The bucket refuses ACLs, and authentik sends an ACL with each upload. On AWS, set the " +
    "bucket's ownership to BucketOwnerPreferred and block all public access.",
  "checksum-unsupported":
    "The server refuses the checksums that boto3 sends. Set the stack's checksums to " +
    "when_required, or AWS_REQUEST_CHECKSUM_CALCULATION=when_required in authentik's environment.",
  "too-large":
    "A proxy in front of the server limits the size of requests, and authentik sends up to 8 MiB. " +
    "Raise the limit, for nginx client_max_body_size.",
  "no-url":
    "authentik raises an error for every URL, and its pages answer 500. " +
    "Correct the setting, or upgrade authentik.",
  "bucket-twice":
    "The bucket is in the URL twice. Upgrade authentik to 2025.12.2 or later. " +
    "If ENDPOINT contains the bucket, remove it there.",
  "host-refused":
    "The URL is signed for one host, and the server sees another. To 2026.4 the server must see " +
    "the endpoint's host, and from 2026.5 the custom domain's. " +
    "Change the Host header that the proxy in front of the server sends.",
  "wrong-custom-domain":
    "The custom domain does not lead to the root of the bucket. " +
    "Correct CUSTOM_DOMAIN: host/bucket or bucket.host.",
  "global-host":
    "Without an endpoint, authentik to 2026.4 gives browsers URLs of AWS's global host, which " +
    "redirects them to a host that the URLs are not signed for. " +
    "Set ENDPOINT to https://s3.<region>.amazonaws.com.",
  "cors-missing":
    "The bucket does not allow this origin, so browsers block the page's icons and scripts. " +
    "Add the origin to the CORS policy (the stack's origins).",
  "cors-open":
    "The bucket allows other sites. " +
    "Name authentik's own origins in the CORS policy, without a wildcard.",
  "public-bucket":
    "Anyone can read the files without a signed URL. " +
    "Block public access, and remove public ACLs and policies.",
  "signature-unchecked":
    "The server serves files from URLs without a valid signature. " +
    "Do not use this server: nothing in it is private.",
  "content-changed":
    "The file that comes back is not the file that was uploaded. " +
    "Look for a proxy or CDN that changes files or serves its own pages.",
  "wrong-type":
    "Stored files do not have the content type that authentik gives them, so browsers do not " +
    "show them. Repair them: npm run migrate -- stack:NAME --repair-types, or env:FILE.",
  "excess-rights":
    "The key can do more than authentik needs. " +
    `Give authentik its own key with only the permissions in ${PERMISSIONS_PAGE}.`,
  "left-behind":
    "The test file could not be deleted. Delete it by hand, and grant the key s3:DeleteObject.",
  interrupted: "The run ended before this was tried.",
  unknown: "This failure is not known. Read the server's own message.",
} as const;

export type Symptom = keyof typeof SYMPTOMS;

/** Symptoms with which no other check can pass. */
const FATAL: ReadonlySet<Symptom> = new Set<Symptom>([
  "dns",
  "refused",
  "reset",
  "timeout",
  "certificate",
  "scheme",
  "not-s3",
  "clock",
  "no-credentials",
  "wrong-access-key",
  "wrong-secret-key",
  "wrong-token",
  "wrong-region",
  "no-bucket",
  "interrupted",
]);

/** Whether nothing else can work while this lasts. */
export function isFatal(symptom: Symptom): boolean {
  return FATAL.has(symptom);
}

/** The server's or the system's description of a failed request. */
export interface Failure {
  /** The HTTP status, if there was an answer. */
  status?: number | undefined;
  /** S3's error code, or the system's (`ECONNREFUSED`). */
  code: string;
  message: string;
}

const NETWORK_CODES: readonly (readonly [RegExp, Symptom])[] = [
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
  TemporaryRedirect: "wrong-region",
  IllegalLocationConstraintException: "wrong-region",
  RequestTimeTooSkewed: "clock",
  NoSuchBucket: "no-bucket",
  AccessControlListNotSupported: "acl-unsupported",
  AccessDenied: "missing-permission",
  Forbidden: "missing-permission",
  CredentialsProviderError: "no-credentials",
  TokenProviderError: "no-credentials",
  NotS3Error: "not-s3",
};

const STATUSES: Readonly<Record<number, Symptom>> = {
  // A redirect that is not S3's leads to a login, or from http to https.
  301: "not-s3",
  302: "not-s3",
  303: "not-s3",
  307: "not-s3",
  308: "not-s3",
  401: "wrong-access-key",
  403: "missing-permission",
  413: "too-large",
};

const PLAIN_HTTP_TO_TLS = /HTTP request to an HTTPS server|plain HTTP request was sent to HTTPS/i;

/** The diagnosis of a request that was signed with authentik's key. */
export function diagnose({ status, code, message }: Failure): Symptom {
  const s3Symptom = S3_CODES[code];
  if (s3Symptom !== undefined) return s3Symptom;
  if (PLAIN_HTTP_TO_TLS.test(message)) return "scheme";
  if (status !== undefined) return STATUSES[status] ?? "unknown";
  return NETWORK_CODES.find(([pattern]) => pattern.test(code))?.[1] ?? "unknown";
}

/**
 * The diagnosis of a browser's GET of a signed URL.
 *
 * @param keyCanRead whether authentik's key can read the same file, so that neither the key nor its
 *   permissions are the cause
 */
export function diagnoseUrl(
  failure: Failure,
  url: URL,
  settings: StorageSettings,
  keyCanRead: boolean,
): Symptom {
  const symptom = diagnose(failure);
  if (failure.status === undefined || !keyCanRead) return symptom;
  if (hasBucketTwice(url, settings.bucketName)) return "bucket-twice";
  if (settings.endpoint === undefined && url.hostname.endsWith("s3.amazonaws.com")) {
    return "global-host";
  }
  return settings.customDomain === undefined ? symptom : ofCustomDomain(symptom, failure.status);
}

function hasBucketTwice({ hostname, pathname }: URL, bucketName: string): boolean {
  const inPath = pathname.split("/").filter((part) => part === bucketName).length;
  return inPath + (hostname.startsWith(`${bucketName}.`) ? 1 : 0) > 1;
}

/** The symptom at a custom domain, if the key can read the file at the endpoint. */
function ofCustomDomain(symptom: Symptom, status: number): Symptom {
  if (symptom === "wrong-secret-key" || symptom === "wrong-access-key") return "host-refused";
  const leadsElsewhere = symptom === "missing-permission" || symptom === "no-bucket";
  return leadsElsewhere || status === 404 || status === 405 ? "wrong-custom-domain" : symptom;
}
