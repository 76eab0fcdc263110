/** Policy `protected-bucket`: what holds the files cannot be deleted or replaced by a mistake. */
import * as v from "valibot";
import { rule, TYPES, type StoragePolicy } from "./rule.ts";
import { isLoopback } from "./tls.ts";

/** Everything that holds files; `endpoint` is there on S3 servers alone. */
const HOLDERS = [TYPES.awsBucket, TYPES.r2Bucket, TYPES.azureAccount, TYPES.azureContainer, TYPES.s3Bucket];
const Holder = v.object({ endpoint: v.optional(v.string()) });

export const protection: StoragePolicy = {
  name: "protected-bucket",
  description: "Pulumi refuses to delete or replace what holds the files.",
  validateResource: HOLDERS.map((type) => rule(type, Holder, ({ endpoint }, { protect }) =>
    // What is on this machine is for trying things out.
    protect || (endpoint !== undefined && isLoopback(endpoint)) ? [] : [
      "protect is false, so the next pulumi up may delete or replace it with all files; " +
      "remove protect from the stack's config (true is the default). " +
      "To delete it on purpose, relax this policy: --policy-pack-config policy/allow-bucket-deletion.json",
    ])),
};
