/** All policies of the pack. */
import { gatewayImage } from "./image.ts";
import { knownTypes } from "./known-types.ts";
import { leastPrivilege } from "./least-privilege.ts";
import { origins } from "./origins.ts";
import { protection } from "./protection.ts";
import { publicBucket } from "./public-bucket.ts";
import type { StoragePolicy } from "./rule.ts";
import { tls } from "./tls.ts";

export const policies: StoragePolicy[] = [
  knownTypes,
  publicBucket,
  origins,
  tls,
  leastPrivilege,
  protection,
  gatewayImage,
];
