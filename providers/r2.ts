/** The provider `r2`: a bucket on Cloudflare R2. */
import { createHash } from "node:crypto";
import { AccountToken } from "@pulumi/cloudflare/accountToken.js";
import { getAccountApiTokenPermissionGroupsListOutput } from "@pulumi/cloudflare/getAccountApiTokenPermissionGroupsList.js";
import { R2Bucket } from "@pulumi/cloudflare/r2bucket.js";
import { R2BucketCors } from "@pulumi/cloudflare/r2bucketCors.js";
import { R2BucketLifecycle } from "@pulumi/cloudflare/r2bucketLifecycle.js";
import { R2ManagedDomain } from "@pulumi/cloudflare/r2managedDomain.js";
import { all, output, secret, type Output } from "@pulumi/pulumi/output.js";
import { ComponentResource, type ComponentResourceOptions, type CustomResource } from "@pulumi/pulumi/resource.js";
import type { R2Config } from "../config/r2.ts";
import type { AuthentikStorage, Credentials, Provision } from "./contract.ts";
import { guardRotation, keySlots } from "./rotation.ts";

/** Arguments of `R2Storage`; the config of a stack is one. */
export type R2StorageArgs = Pick<
  R2Config,
  | "accountId" | "jurisdiction" | "location" | "bucketName" | "origins" | "endpoint" | "customDomain" | "corsAllowedHeaders"
  | "corsMaxAgeSeconds" | "protect" | "adopt" | "keyGeneration" | "retirePreviousKey"
>;

/** The rights of authentik's token, by the names that Cloudflare shows (its "R2 API tokens"); R2 knows no finer ones. */
const PERMISSION_GROUPS = ["Workers R2 Storage Bucket Item Read", "Workers R2 Storage Bucket Item Write"];
const SEVEN_DAYS = 7 * 86_400;

/** A private R2 bucket with its CORS policy, and an API token that can read and write its objects and nothing else. */
export class R2Storage extends ComponentResource implements AuthentikStorage {
  readonly bucketName: Output<string>;
  readonly region: Output<string | undefined>;
  readonly endpoint: Output<string>;
  readonly customDomain: Output<string>;
  readonly credentials: Output<Credentials>;

  constructor(name: string, args: R2StorageArgs, options?: ComponentResourceOptions) {
    const { keyGeneration, retirePreviousKey } = args;
    super("authentik-storage:r2:R2Storage", name, { keyGeneration, retirePreviousKey }, guardRotation(name, options));
    const bucket = this.#bucket(name, args);
    const settings = this.#settings(name, args, bucket);
    const token = this.#tokens(name, args, bucket);

    // Known before the resources are made, but of no use until they are.
    this.bucketName = all(settings.map(({ id }) => id)).apply(() => args.bucketName);
    this.region = output("auto");
    this.endpoint = output(args.endpoint);
    this.customDomain = output(args.customDomain);
    this.credentials = secret(all([token.id, token.value])).apply(([id, value]) => s3Keys(id, value));
    this.registerOutputs({ bucketName: this.bucketName, endpoint: this.endpoint });
  }

  /** R2 refuses to delete a bucket that is not empty, and the package has no way around it. */
  #bucket(name: string, { accountId, bucketName, jurisdiction, location, protect, adopt }: R2StorageArgs): R2Bucket {
    const imported = adopt ? { import: `${accountId}/${bucketName}/${jurisdiction}` } : {};
    return new R2Bucket(`${name}-bucket`, { accountId, name: bucketName, jurisdiction, location }, { parent: this, protect, ...imported });
  }

  #settings(name: string, args: R2StorageArgs, bucket: R2Bucket): CustomResource[] {
    // Deleting the bucket deletes these too; a bucket that may not be deleted must not lose them on the way.
    const ofBucket = { parent: this, dependsOn: bucket, deletedWith: bucket };
    const place = { accountId: args.accountId, bucketName: bucket.name, jurisdiction: args.jurisdiction };
    return [
      new R2BucketCors(
        `${name}-cors`,
        {
          ...place,
          rules: [
            {
              allowed: { origins: args.origins, headers: args.corsAllowedHeaders, methods: ["GET"] },
              maxAgeSeconds: args.corsMaxAgeSeconds,
            },
          ],
        },
        ofBucket,
      ),
      new R2BucketLifecycle(
        `${name}-lifecycle`,
        {
          ...place,
          rules: [
            {
              id: "abort-incomplete-uploads",
              enabled: true,
              conditions: { prefix: "" },
              abortMultipartUploadsTransition: { condition: { type: "Age", maxAge: SEVEN_DAYS } },
            },
          ],
        },
        ofBucket,
      ),
      // Off is the default of a new bucket; an adopted one may be public.
      new R2ManagedDomain(`${name}-public-domain`, { ...place, enabled: false }, ofBucket),
    ];
  }

  /** The tokens of both key slots; gives the current one. */
  #tokens(name: string, args: R2StorageArgs, bucket: R2Bucket): AccountToken {
    const { accountId, jurisdiction } = args;
    const groups = getAccountApiTokenPermissionGroupsListOutput({ accountId }, { parent: this });
    const permissionGroups = groups.results.apply((results) => PERMISSION_GROUPS.map((group) => ({ id: groupId(results, group) })));
    // A bucket outside any jurisdiction is of the one named "default" here.
    const resources = bucket.name.apply((bucket) => JSON.stringify({ [`com.cloudflare.edge.r2.bucket.${accountId}_${jurisdiction}_${bucket}`]: "*" }));
    const [current, previous] = keySlots(args);
    const make = ({ slot, generation }: typeof current) =>
      new AccountToken(
        `${name}-token-${slot}`,
        { accountId, name: `${name} ${args.bucketName} key ${generation}`, policies: [{ effect: "allow", permissionGroups, resources }] },
        // A token's value is made with it, so another key is another token. The new one is made before the old one goes.
        { parent: this, replacementTrigger: generation },
      );
    if (previous) make(previous);
    return make(current);
  }
}

/** Access key and secret key of an API token (Cloudflare, "R2 API tokens": "Get S3 API credentials from an API token"). */
export function s3Keys(tokenId: string, tokenValue: string): { accessKey: string; secretKey: string } {
  return { accessKey: tokenId, secretKey: createHash("sha256").update(tokenValue).digest("hex") };
}

/**
 * The id of the permission group of this name.
 *
 * @throws Error that says what the account or the token of `pulumi up` lacks
 */
export function groupId(groups: readonly { id: string; name: string }[], name: string): string {
  const found = groups.find((group) => group.name === name);
  if (!found) throw new Error(`the Cloudflare account has no permission group "${name}"; enable R2 for it, and let pulumi up's token read account API tokens`);
  return found.id;
}

export const provision = ((name: string, config: R2Config, options?: ComponentResourceOptions) =>
  new R2Storage(name, config, options)) satisfies Provision<R2Config>;
