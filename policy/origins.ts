/** Policy `no-wildcard-origin`: a list of sites says who may load the files. */
import { eachText, type StoragePolicy } from "./rule.ts";

/** Every property that has origins, used or not: its type, and its path as `eachText` takes it. */
export const ORIGINS = [
  ["aws:s3/bucket:Bucket", "corsRules?.allowedOrigins"],
  ["aws:s3/bucketCorsConfiguration:BucketCorsConfiguration", "corsRules.allowedOrigins"],
  ["cloudflare:index/r2BucketCors:R2BucketCors", "rules.allowed.origins"],
  ["azure-native:storage:BlobServiceProperties", "cors?.corsRules?.allowedOrigins"],
  ["azure-native:app:ContainerApp", "configuration.ingress.corsPolicy?.allowedOrigins"],
  ["pulumi-nodejs:dynamic/authentik-storage:S3BucketCors", "rules.allowedOrigins"],
] as const;

const WRONG =
  "lets pages that are not authentik's read the files; " +
  'write each origin of authentik in full, e.g. "https://authentik.company"';

export const origins: StoragePolicy = {
  name: "no-wildcard-origin",
  description: "Only authentik's own origins may load its files.",
  validateResource: ORIGINS.map(([type, path]) => eachText(type, path, isOpen, WRONG)),
};

/** `null` is the origin of every sandboxed frame, and of pages that are opened from a disk. */
function isOpen(origin: string): boolean {
  return origin.includes("*") || origin === "null";
}
