/**
 * versitygw is the S3 gateway in front of Azure Blob, and the local S3 server of `npm start`. This file
 * has what both need.
 */

import type { CorsRule } from "./s3/operations.ts";

/** The pinned release. */
export const VERSITYGW_VERSION = "v1.8.0";

/**
 * How a replica stops. versitygw refuses new connections at once on SIGTERM, and cuts requests that
 * take some seconds more. Azure Container Apps has no hook before the signal, so a shell
 * takes it. It keeps the gateway running for as long as the ingress allows a request (240 s).
 */
export const GRACEFUL_STOP = {
  command: [
    "/bin/sh",
    "-c",
    'versitygw "$@" & gateway=$!; trap "sleep 240; kill $gateway" TERM; wait $gateway; wait $gateway',
    "versitygw",
  ],
  /** After this time Azure kills the container. */
  graceSeconds: 270,
} as const;

/** Users of the gateway on Azure: their access keys, by key slot. */
export const GATEWAY_USERS = ["authentik-0", "authentik-1"];

/** Id of Azure's built-in role "Storage Blob Data Contributor". It is the same everywhere. */
export const BLOB_DATA_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe";

/** How long all metadata of a container may be, names and values (Azure, "Set Container Metadata"). */
export const MAX_METADATA_BYTES = 8192;

/** How many bytes of a container's metadata versitygw needs for its ACL, and for these CORS rules and policy. */
export function containerMetadataBytes(cors: readonly CorsRule[], policy: object): number {
  const tag = (name: string, text: string | number) => `<${name}>${text}</${name}>`;
  const rule = (rule: CorsRule) =>
    tag(
      "CORSRule",
      [
        ...rule.allowedHeaders.map((header) => tag("AllowedHeader", header)),
        ...rule.allowedMethods.map((method) => tag("AllowedMethod", method)),
        ...rule.allowedOrigins.map((origin) => tag("AllowedOrigin", origin)),
        tag("MaxAgeSeconds", rule.maxAgeSeconds ?? ""),
      ].join(""),
    );
  // The SDK's head and root element, and what is written by a gateway that creates the container itself.
  const rest = 400;
  const base64 = (text: string) => Math.ceil(Buffer.byteLength(text) / 3) * 4;
  return rest + base64(cors.map(rule).join("")) + base64(JSON.stringify(policy));
}

/** Access key and secret key of a user. */
export interface Keys {
  accessKey: string;
  secretKey: string;
}

/** versitygw's `users.json` (its `auth/iam_internal.go`) for users whose only rights are those of bucket policies. */
export function usersFile(users: readonly Keys[]): string {
  const account = ({ accessKey, secretKey }: Keys) => ({
    access: accessKey,
    secret: secretKey,
    role: "user",
    userID: 0,
    groupID: 0,
    projectID: 0,
  });
  const accessAccounts = Object.fromEntries(
    users.map((keys) => [keys.accessKey, account(keys)] as const),
  );
  return JSON.stringify({ accessAccounts });
}

/**
 * What is wrong with a gateway's image, or undefined. A whole version or a digest pins an image. With
 * `latest`, `edge` or `v1`, two starts of a replica can run different images.
 */
export function pinnedImage(value: string): string | undefined {
  if (/^[a-z0-9][\w.:/-]*(?::v?\d+\.\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})$/.test(value))
    return undefined;
  return (
    "is not a pinned image; write one with a whole version (three numbers) or a digest, " +
    `e.g. "docker.io/versity/versitygw:${VERSITYGW_VERSION}"`
  );
}
