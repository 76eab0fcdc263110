/**
 * versitygw is the S3 gateway in front of Azure Blob, and the local S3 server of `npm start`. This file
 * has what both need.
 */

/** The pinned release. */
export const VERSITYGW_VERSION = "v1.8.0";

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
