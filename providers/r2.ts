/** The provider `r2`: a bucket on Cloudflare R2. First its config, then its resources. */
import { createHash } from "node:crypto";
import { AccountToken } from "@pulumi/cloudflare/accountToken.js";
import { getAccountApiTokenPermissionGroupsList } from "@pulumi/cloudflare/getAccountApiTokenPermissionGroupsList.js";
import { R2Bucket } from "@pulumi/cloudflare/r2bucket.js";
import { R2BucketCors } from "@pulumi/cloudflare/r2bucketCors.js";
import { R2BucketLifecycle } from "@pulumi/cloudflare/r2bucketLifecycle.js";
import { R2ManagedDomain } from "@pulumi/cloudflare/r2managedDomain.js";
import { all, output, secret, type Output } from "@pulumi/pulumi/output.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type CustomResource,
  type CustomResourceOptions,
} from "@pulumi/pulumi/resource.js";
import {
  DEFAULT_BUCKET_NAME,
  refuseForceDestroy,
  rotationKeys,
  type CommonConfig,
  type ReportProblem,
  type Valid,
  type Values,
} from "../config/common.ts";
import * as rules from "../config/rules.ts";
import { oneOf, optional, text } from "../config/values.ts";
import {
  defineProvider,
  lookUp,
  ProviderError,
  type AuthentikStorage,
  type Credentials,
  type ResourceType,
} from "./contract.ts";
import { guardAdoption, guardProtected, recordAdoption } from "./guards.ts";
import { deletesByRule, keepsByRule } from "./retention.ts";
import { guardRotation, idsOf, keySlots, recordKeys, type KeySlot } from "./rotation.ts";

/**
 * Where R2 guarantees to store a bucket's objects (Cloudflare, "Data location"). The list is that
 * of the package's `R2Bucket`.
 */
export const JURISDICTIONS = ["default", "eu", "fedramp", "us"] as const;
type Jurisdiction = (typeof JURISDICTIONS)[number];
/** Where R2 is asked to store a bucket, without a guarantee. The list is that of the package's `R2Bucket`. */
export const LOCATIONS = ["apac", "eeur", "enam", "weur", "wnam", "oc"] as const;
type Location = (typeof LOCATIONS)[number];

/** The locations within a jurisdiction. */
const WITHIN: Readonly<Record<Jurisdiction, readonly Location[]>> = {
  default: LOCATIONS,
  eu: ["weur", "eeur"],
  fedramp: ["enam", "wnam"],
  us: ["enam", "wnam"],
};

const cloudflareAccountId = rules.matching(
  /^[0-9a-f]{32}$/,
  "is not a Cloudflare account id; write its 32 lower-case hex digits",
);

const keys = {
  accountId: text(
    'Id of the Cloudflare account, 32 hex digits (dashboard: R2, "Account details").',
    cloudflareAccountId,
  ),
  jurisdiction: optional(
    oneOf(
      JURISDICTIONS,
      "Where R2 guarantees to store the files. Changing it replaces the bucket.",
    ),
    "default",
  ),
  location: optional(
    oneOf(
      LOCATIONS,
      "Where R2 is asked to store the files. It counts only when a bucket of this name is created for the first time.",
    ),
  ),
  ...rotationKeys,
};

const resources = {
  "authentik-storage:r2:R2Storage": { label: "Storage" },
  "authentik-storage:r2:Adoption": { label: "Record of adoption" },
  "authentik-storage:r2:Keys": { label: "Record of keys" },
  "cloudflare:index/r2Bucket:R2Bucket": { label: "Bucket", holdsFiles: true, bucketName: ["name"] },
  "cloudflare:index/r2BucketCors:R2BucketCors": { label: "CORS policy" },
  "cloudflare:index/r2BucketLifecycle:R2BucketLifecycle": {
    label: "Lifecycle rules",
    keeps: [
      deletesByRule({
        path: "rules",
        scope: ["conditions"],
        parts: { "deleteObjectsTransition.condition": {} },
      }),
    ],
  },
  "cloudflare:index/r2BucketLock:R2BucketLock": {
    label: "Lock rules",
    keeps: [keepsByRule({ path: "rules", scope: ["prefix"], parts: { condition: {} } })],
  },
  "cloudflare:index/r2ManagedDomain:R2ManagedDomain": { label: "Public r2.dev domain" },
  "cloudflare:index/accountToken:AccountToken": { label: "authentik's access key" },
} satisfies Record<string, ResourceType>;

type R2Values = CommonConfig & Values<typeof keys>;

/** The config of an R2 bucket, complete. */
export interface R2Config extends R2Values {
  provider: "r2";
  bucketName: string;
  /** URL of the S3 API, by jurisdiction. */
  endpoint: string;
  customDomain: string;
}

export default defineProvider({
  keys,
  resources,
  check,
  resolve,
  provision: (name, config) => new R2Storage(name, config),
});

function check(config: Valid<R2Values>, report: ReportProblem): void {
  const { accountId, bucketName = DEFAULT_BUCKET_NAME, jurisdiction = "default" } = config;
  const wrongName = rules.bucketNameWithoutDots(bucketName);
  if (wrongName !== undefined) report("bucketName", wrongName);
  checkLocation(config, report);
  refuseForceDestroy(
    config,
    "R2 never deletes a bucket that is not empty; remove the key, and empty the bucket yourself before pulumi destroy",
    report,
  );
  if (config.secureUrls === false) {
    report("secureUrls", "sends browsers to http, which R2 does not support; remove it");
  }
  if (accountId !== undefined) {
    checkCustomDomain(config, `${apiHost(accountId, jurisdiction)}/${bucketName}`, report);
  }
}

function checkLocation(
  { jurisdiction = "default", location }: Valid<R2Values>,
  report: ReportProblem,
): void {
  if (location === undefined || WITHIN[jurisdiction].includes(location)) return;
  const allowed = WITHIN[jurisdiction].map((name) => `"${name}"`).join(" or ");
  report(
    "location",
    `is not in the jurisdiction "${jurisdiction}"; write ${allowed}, or remove it`,
  );
}

function checkCustomDomain(
  { customDomain }: Valid<R2Values>,
  only: string,
  report: ReportProblem,
): void {
  if (customDomain === undefined || customDomain === only) return;
  report(
    "customDomain",
    "is not R2's S3 API. Presigned URLs work only there, and neither on r2.dev nor on your own domain " +
      `(Cloudflare, "Presigned URLs"); write "${only}", or remove it`,
  );
}

function resolve(config: R2Values): R2Config {
  const host = apiHost(config.accountId, config.jurisdiction);
  const bucketName = config.bucketName ?? DEFAULT_BUCKET_NAME;
  const customDomain = `${host}/${bucketName}`;
  return { ...config, provider: "r2", bucketName, endpoint: `https://${host}`, customDomain };
}

/** A bucket with a jurisdiction is available only on the host of that jurisdiction (Cloudflare, "Data location"). */
function apiHost(account: string, jurisdiction: Jurisdiction): string {
  return `${account}${jurisdiction === "default" ? "" : `.${jurisdiction}`}.r2.cloudflarestorage.com`;
}

/** The rights of authentik's token, by Cloudflare's names ("R2 API tokens"). R2 has no finer rights. */
const PERMISSION_GROUPS = [
  "Workers R2 Storage Bucket Item Read",
  "Workers R2 Storage Bucket Item Write",
];
/** The rule that R2 gives a new bucket, with a name of its own. */
const ABORT_RULE = {
  id: "abort-incomplete-uploads",
  enabled: true,
  conditions: { prefix: "" },
  abortMultipartUploadsTransition: { condition: { type: "Age", maxAge: 7 * 86_400 } },
};

/** A private R2 bucket with its CORS policy, and an API token that can read and write its objects and nothing else. */
export class R2Storage extends ComponentResource implements AuthentikStorage {
  readonly bucketName: Output<string>;
  readonly region: Output<string | undefined>;
  readonly endpoint: Output<string>;
  readonly customDomain: Output<string>;
  /** The bucket's r2.dev address, which is off. The plugin does not see that somebody turns it on. */
  readonly publicUrl: Output<string>;
  readonly credentials: Output<Credentials>;

  constructor(name: string, args: R2Config, options?: ComponentResourceOptions) {
    const { keyGeneration, retirePreviousKey, protect } = args;
    const place = placeOf(args);
    const adopted = args.adopt ? place : "";
    super(
      "authentik-storage:r2:R2Storage",
      name,
      { keyGeneration, retirePreviousKey, protect, place, adopted },
      guardProtected(
        name,
        { endpoint: args.endpoint, bucketName: args.bucketName },
        "bucketName, jurisdiction or accountId",
        guardAdoption(name, guardRotation(name, options, true)),
      ),
    );
    const adoption = recordAdoption("authentik-storage:r2:Adoption", name, adopted, {
      parent: this,
      protect,
    });
    // So much of the account's id tells two accounts apart, and is short enough for reports.
    const bucketId = `${args.bucketName}/${args.jurisdiction}/${args.accountId.slice(0, 8)}`;
    const child: ChildOf = (kind) => ({
      name: `${name}-${bucketId}/${kind}`,
      // Earlier versions had names without the place.
      options: { parent: this, aliases: [{ name: `${name}-${kind}` }] },
    });
    const tokens = this.#tokens(name, args, child);
    const bucket = this.#bucket(args, tokens, adoption, child);
    const { r2Dev, all: settings } = this.#settings(args, bucket, child);
    const [current] = tokens;

    // The name resolves only when the settings exist, so that nothing uses the bucket without them.
    this.bucketName = all(settings.map(({ id }) => id)).apply(() => args.bucketName);
    this.region = output("auto");
    this.endpoint = output(args.endpoint);
    this.customDomain = output(args.customDomain);
    this.publicUrl = r2Dev.domain.apply((domain) => `https://${domain}`);
    const keys = Object.fromEntries(tokens.map((token, older) => [keyGeneration - older, token]));
    const record = recordKeys("authentik-storage:r2:Keys", name, keys, { parent: this, protect });
    this.credentials = secret(
      all([current.id, current.value, record.urn]).apply(([id, value]) => s3Keys(id, value)),
    );
    const complete = {
      bucketName: this.bucketName,
      endpoint: this.endpoint,
      keys: idsOf(keys),
    };
    adoption.complete(complete);
    this.registerOutputs(complete);
  }

  /** The tokens of the key slots, the current one first. */
  #tokens(
    name: string,
    args: R2Config,
    child: ChildOf,
  ): [current: AccountToken, ...previous: AccountToken[]] {
    const { accountId, bucketName, jurisdiction } = args;
    const groups = lookUp(
      "the permission groups of the Cloudflare account",
      `set cloudflare:apiToken to a token of the account ${accountId} with the permissions ` +
        '"Workers R2 Storage, Edit" and "Account API Tokens, Edit": ' +
        "pulumi config set --secret cloudflare:apiToken",
      () => getAccountApiTokenPermissionGroupsList({ accountId }, { parent: this }),
    );
    const permissionGroups = output(groups).apply(({ results }) => {
      return PERMISSION_GROUPS.map((group) => ({ id: groupId(results, group) }));
    });
    // A bucket without a jurisdiction is in the jurisdiction "default" here.
    const resource = `com.cloudflare.edge.r2.bucket.${accountId}_${jurisdiction}_${bucketName}`;
    const resources = JSON.stringify({ [resource]: "*" });
    const make = ({ slot, generation }: KeySlot) => {
      const token = child(`token-${slot}`);
      return new AccountToken(
        token.name,
        {
          accountId,
          name: `${name} ${bucketName} key ${generation}`,
          policies: [{ effect: "allow", permissionGroups, resources }],
          status: "active",
        },
        // A token has one value, so a new key needs a new token. It is created before the old one is deleted.
        { ...token.options, replacementTrigger: generation },
      );
    };
    const [current, previous] = keySlots(args);
    return previous ? [make(current), make(previous)] : [make(current)];
  }

  /** R2 refuses to delete a bucket that is not empty, and the package cannot empty it. */
  #bucket(
    args: R2Config,
    tokens: CustomResource[],
    adoption: ComponentResource,
    child: ChildOf,
  ): R2Bucket {
    const { accountId, bucketName, jurisdiction, location, protect, adopt } = args;
    const bucket = child("bucket");
    return new R2Bucket(
      bucket.name,
      { accountId, name: bucketName, jurisdiction, location },
      {
        ...bucket.options,
        protect,
        // Tokens are deleted after their bucket, so a bucket that may not be deleted keeps them.
        // The guard of adoptions comes before an import.
        dependsOn: adoption.urn.apply(() => tokens),
        // The plugin would update the jurisdiction in place, which takes over another bucket.
        replaceOnChanges: ["jurisdiction"],
        ...(adopt ? { import: placeOf(args) } : {}),
      },
    );
  }

  #settings(
    args: R2Config,
    bucket: R2Bucket,
    child: ChildOf,
  ): { r2Dev: R2ManagedDomain; all: CustomResource[] } {
    // They are deleted with the bucket. A bucket that may not be deleted keeps them.
    const ofBucket: CustomResourceOptions = { deletedWith: bucket };
    const place = {
      accountId: args.accountId,
      bucketName: bucket.name,
      jurisdiction: args.jurisdiction,
    };
    const allowed = {
      origins: args.origins,
      headers: args.corsAllowedHeaders,
      methods: ["GET"],
    };
    const [cors, domain, lifecycle] = [child("cors"), child("public-domain"), child("lifecycle")];
    const r2Dev = new R2ManagedDomain(
      domain.name,
      { ...place, enabled: false },
      { ...domain.options, ...ofBucket },
    );
    const rules = [{ allowed, maxAgeSeconds: args.corsMaxAgeSeconds }];
    const settings: CustomResource[] = [
      r2Dev,
      new R2BucketCors(cors.name, { ...place, rules }, { ...cors.options, ...ofBucket }),
    ];
    // A new bucket has this one rule. An adopted bucket may differ.
    if (args.adopt) {
      const inputs = { ...place, rules: [ABORT_RULE] };
      const options = { ...lifecycle.options, ...ofBucket };
      settings.push(new R2BucketLifecycle(lifecycle.name, inputs, options));
    }
    return { r2Dev, all: settings };
  }
}

/**
 * The name and the options of a resource that belongs to one bucket. Another bucket has resources
 * of other names. So all of them exist before the old ones are deleted, and when such an update
 * fails, the old ones are still in the stack: the old value in the config brings everything back.
 */
type ChildOf = (kind: string) => { name: string; options: CustomResourceOptions };

/** Where the bucket is, as the id by which the plugin imports it. */
function placeOf({ accountId, bucketName, jurisdiction }: R2Config): string {
  return `${accountId}/${bucketName}/${jurisdiction}`;
}

/**
 * Access key and secret key of an API token (Cloudflare, "R2 API tokens": "Get S3 API credentials
 * from an API token").
 */
export function s3Keys(
  tokenId: string,
  tokenValue: string,
): { accessKey: string; secretKey: string } {
  return { accessKey: tokenId, secretKey: createHash("sha256").update(tokenValue).digest("hex") };
}

/**
 * The id of the permission group with this name.
 *
 * @throws ProviderError that says what the account or the token of `pulumi up` is missing
 */
export function groupId(groups: readonly { id: string; name: string }[], name: string): string {
  const found = groups.find((group) => group.name === name);
  if (found) return found.id;
  throw new ProviderError(
    `the Cloudflare account has no permission group "${name}"; enable R2 for the account, ` +
      "and allow the token of pulumi up to read account API tokens",
  );
}
