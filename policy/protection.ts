/** Policy `protected-bucket`: nobody deletes or replaces the files by mistake. */
import * as v from "valibot";
import { resourceType } from "../providers/index.ts";
import { findIf, checked, type StoragePolicy } from "./rule.ts";
import { isLoopback } from "./tls.ts";

/** Only resources on an S3 server have an endpoint. */
const Holder = v.object({ endpoint: v.optional(v.string(), "") });

const UNPROTECTED =
  "protect is false, so the next pulumi up may delete or replace it with all files; " +
  "remove protect from the stack's config (true is the default). " +
  "To delete it on purpose, relax this policy: " +
  "--policy-pack-config policy/allow-bucket-deletion.json";

export const protection: StoragePolicy = {
  name: "protected-bucket",
  description: "Pulumi refuses to delete or replace what holds the files.",
  validateResource: [
    async ({ type, props, opts, urn }, report) => {
      if (opts.protect || (await resourceType(type))?.holdsFiles !== true) return;
      for (const finding of checked(Holder, props, unlessLocal)) report(`${finding} (${urn})`);
    },
  ],
};

/** A server on this machine is for trials. */
function unlessLocal({ endpoint }: v.InferOutput<typeof Holder>): string[] {
  return findIf(!isLoopback(endpoint), UNPROTECTED);
}
