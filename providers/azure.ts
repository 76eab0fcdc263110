/**
 * The provider `azure`: a container of Azure Blob Storage, behind a gateway that speaks the S3 API.
 * First its config, then its resources.
 */
import { ContainerApp } from "@pulumi/azure-native/app/containerApp.js";
import { ManagedEnvironment } from "@pulumi/azure-native/app/managedEnvironment.js";
import { RoleAssignment } from "@pulumi/azure-native/authorization/roleAssignment.js";
import { UserAssignedIdentity } from "@pulumi/azure-native/managedidentity/userAssignedIdentity.js";
import { BlobContainer } from "@pulumi/azure-native/storage/blobContainer.js";
import { BlobServiceProperties } from "@pulumi/azure-native/storage/blobServiceProperties.js";
import { ManagementPolicy } from "@pulumi/azure-native/storage/managementPolicy.js";
import { StorageAccount } from "@pulumi/azure-native/storage/storageAccount.js";
import { all, interpolate, output, secret, unsecret, type Output } from "@pulumi/pulumi/output.js";
import {
  ComponentResource,
  type ComponentResourceOptions,
  type CustomResource,
  type CustomResourceOptions,
  type Resource,
} from "@pulumi/pulumi/resource.js";
import { RandomPassword } from "@pulumi/random/randomPassword.js";
import {
  authentikPolicy,
  OBJECT_ACTIONS_WITHOUT_ABORT,
  type PolicyDocument,
} from "../authentik/permissions.ts";
import {
  checkDomainHasBucket,
  DEFAULT_BUCKET_NAME,
  parseTags,
  refuseRotation,
  rotationKeys,
  tagKeys,
  type CommonConfig,
  type ReportProblem,
  type Valid,
  type Values,
} from "../config/common.ts";
import * as rules from "../config/rules.ts";
import { integer, oneOf, optional, secretText, text } from "../config/values.ts";
import {
  defineProvider,
  type AuthentikStorage,
  type Credentials,
  type ResourceType,
} from "./contract.ts";
import { guardAdoption, guardProtected, recordAdoption, recordPlace } from "./guards.ts";
import { deletesByRule, deletesWhen, keepsFor, keepsWhile } from "./retention.ts";
import {
  BLOB_DATA_CONTRIBUTOR,
  containerMetadataBytes,
  GATEWAY_USERS,
  GRACEFUL_STOP,
  MAX_METADATA_BYTES,
  pinnedImage,
  usersFile,
  VERSITYGW_VERSION,
  type Keys,
} from "./versitygw.ts";
import { guardRotation, keySlots } from "./rotation.ts";
import { authentikCorsRules, S3BucketCors, S3BucketPolicy } from "./s3/resources.ts";

const GATEWAYS = ["containerApp", "external"] as const;
/** Redundancy of a general purpose account. The ones with read access in a second region have no use here. */
const REDUNDANCIES = ["Standard_LRS", "Standard_ZRS", "Standard_GRS", "Standard_GZRS"] as const;

const resourceGroupName = rules.matching(
  /^[\p{L}\p{N}_().-]{0,89}[\p{L}\p{N}_()-]$/u,
  "is not the name of a resource group; write at most 90 letters, digits and _().-, without a dot at the end",
);
const subscriptionId = rules.matching(
  /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
  "is not the id of a subscription; write it in lower case, as az account show prints it",
);
const storageAccountName = rules.matching(
  /^[a-z0-9]{3,24}$/,
  "is not the name of a storage account; write 3 to 24 lower-case letters and digits",
);

const keys = {
  location: text("Azure region of every resource, e.g. `westeurope`.", location),
  resourceGroupName: text(
    "An existing resource group. The program creates everything in it, " +
      "but not the group itself: deleting the group would delete the files.",
    resourceGroupName,
  ),
  subscriptionId: optional(text("Id of the subscription. Only `adopt` needs it.", subscriptionId)),
  storageAccountName: optional(
    text(
      "Name of the storage account, unique in all of Azure. The default is a name that Pulumi generates.",
      storageAccountName,
    ),
  ),
  redundancy: optional(oneOf(REDUNDANCIES, "How Azure replicates the files."), "Standard_ZRS"),
  softDeleteDays: optional(
    integer("How many days you can restore deleted files and containers.", 1, 365),
    "30",
  ),
  gateway: optional(
    oneOf(
      GATEWAYS,
      "What provides the S3 API, which Azure Blob does not have: " +
        "a `containerApp` with versitygw, or your own `external` gateway.",
    ),
    "containerApp",
  ),
  gatewayImage: optional(
    text("Image of versitygw, with a version or a digest.", pinnedImage),
    `docker.io/versity/versitygw:${VERSITYGW_VERSION}`,
  ),
  gatewayMaxReplicas: optional(
    integer("Maximum number of the gateway's replicas. One always runs.", 1, 30),
    "3",
  ),
  endpoint: optional(
    text("For `external`: URL of the gateway, without the container.", rules.endpoint),
  ),
  accessKey: optional(
    secretText("For `external`: access key of authentik's user on the gateway.", rules.accessKey),
  ),
  secretKey: optional(
    secretText("For `external`: secret key of authentik's user on the gateway.", rules.credential),
  ),
  adminAccessKey: optional(
    secretText("For `external`: the gateway's root access key.", rules.accessKey),
  ),
  adminSecretKey: optional(
    secretText("For `external`: the gateway's root secret key.", rules.credential),
  ),
  ...rotationKeys,
  ...tagKeys,
};

const UNFINISHED_UPLOADS = /"prefixMatch":\["[a-z0-9-]+\/\.sgwtmp\/multipart"\]/;

/** Without the types of `s3/resources.ts`, which the provider `s3` lists. */
const resources = {
  "authentik-storage:azure:AzureStorage": { label: "Storage" },
  "authentik-storage:azure:Adoption": { label: "Record of adoption" },
  "authentik-storage:azure:Place": { label: "Record of the place" },
  "azure-native:storage:StorageAccount": { label: "Storage account", holdsFiles: true },
  "azure-native:storage:BlobContainer": {
    label: "Container",
    holdsFiles: true,
    // The container's name is the input `containerName` and the output `name`.
    bucketName: ["name", "containerName"],
  },
  "azure-native:storage:BlobServiceProperties": {
    label: "Soft deletion and versioning",
    keeps: [
      keepsFor("deleteRetentionPolicy"),
      keepsFor("containerDeleteRetentionPolicy"),
      keepsFor("restorePolicy"),
      keepsWhile("isVersioningEnabled", true),
      deletesWhen("deleteRetentionPolicy.allowPermanentDelete"),
    ],
  },
  "azure-native:storage:ManagementPolicy": {
    label: "Lifecycle rules",
    keeps: [
      deletesByRule({
        path: "policy.rules",
        scope: ["definition.filters"],
        parts: {
          "definition.actions.baseBlob.delete": {},
          "definition.actions.snapshot.delete": {},
          "definition.actions.version.delete": {},
        },
        // The parts of the gateway's unfinished uploads are not authentik's files.
        isHarmless: (filters) => UNFINISHED_UPLOADS.test(filters),
      }),
    ],
  },
  "azure-native:app:ContainerApp": { label: "Gateway" },
  "azure-native:app:ManagedEnvironment": { label: "Gateway's environment" },
  "azure-native:managedidentity:UserAssignedIdentity": { label: "Gateway's identity" },
  "azure-native:authorization:RoleAssignment": { label: "Gateway's permissions" },
  "random:index/randomPassword:RandomPassword": { label: "Random password" },
} satisfies Record<string, ResourceType>;

/** The keys of an external gateway. */
const EXTERNAL_KEYS = [
  "endpoint",
  "accessKey",
  "secretKey",
  "adminAccessKey",
  "adminSecretKey",
] as const;

type AzureValues = CommonConfig & Values<typeof keys>;

/** The config of an Azure container and its gateway, complete. */
export interface AzureConfig
  extends Omit<AzureValues, "tags" | "gateway" | (typeof EXTERNAL_KEYS)[number]> {
  provider: "azure";
  /** The container, which is the bucket. */
  bucketName: string;
  tags: Record<string, string>;
  gateway: Gateway;
}

/** The gateway that the program creates, or an existing one. */
export type Gateway =
  | { kind: "containerApp" }
  | ({ kind: "external" } & Record<(typeof EXTERNAL_KEYS)[number], string>);

export default defineProvider({
  keys,
  resources,
  check,
  resolve,
  provision: (name, config) => new AzureStorage(name, config),
});

function check(config: Valid<AzureValues>, report: ReportProblem): void {
  const { bucketName = DEFAULT_BUCKET_NAME, customDomain } = config;
  const wrongName = rules.bucketNameWithoutDots(bucketName) ?? containerName(bucketName);
  if (wrongName !== undefined) report("bucketName", wrongName);
  if (customDomain !== undefined) checkDomainHasBucket(customDomain, bucketName, report);
  checkMetadata(config, report);
  checkAdoption(config, report);
  checkGateway(config, report);
  checkSecureUrls(config, report);
}

function containerName(value: string): string | undefined {
  if (!value.includes("--")) return undefined;
  return "has two hyphens in a row, which Azure does not allow; choose another name";
}

/** The gateway keeps CORS and policy in the container's metadata, which Azure limits. */
function checkMetadata(config: Valid<AzureValues>, report: ReportProblem): void {
  const { bucketName = DEFAULT_BUCKET_NAME, origins, gateway, accessKey } = config;
  if (origins === undefined) return;
  const users = gateway === "external" ? [accessKey ?? ""] : GATEWAY_USERS;
  const cors = authentikCorsRules({ ...corsSettings(config), origins });
  const bytes = containerMetadataBytes(cors, gatewayPolicy(bucketName, users));
  if (bytes <= MAX_METADATA_BYTES) return;
  report(
    "origins",
    `has ${origins.length} entries, too many for Azure: CORS and the bucket policy need ${bytes} bytes ` +
      `of the container's metadata, which may have ${MAX_METADATA_BYTES}; remove origins or corsAllowedHeaders`,
  );
}

function corsSettings(config: Valid<AzureValues>): { corsAllowedHeaders?: string[] } {
  const { corsAllowedHeaders } = config;
  return corsAllowedHeaders === undefined ? {} : { corsAllowedHeaders };
}

function checkAdoption(config: Valid<AzureValues>, report: ReportProblem): void {
  if (config.adopt !== true) return;
  for (const key of ["subscriptionId", "storageAccountName"] as const) {
    if (config[key] !== undefined) continue;
    report(key, `is missing, and adopt needs it; set it: pulumi config set ${key} <value>`);
  }
}

function checkGateway(config: Valid<AzureValues>, report: ReportProblem): void {
  const isExternal = config.gateway === "external";
  for (const key of EXTERNAL_KEYS) {
    const isSet = config[key] !== undefined;
    if (isExternal && !isSet) {
      const how = key === "endpoint" ? `${key} <value>` : `--secret ${key}`;
      report(key, `is missing, and gateway "external" needs it; set it: pulumi config set ${how}`);
    } else if (!isExternal && isSet) {
      report(
        key,
        'has no effect with gateway "containerApp", which creates its own; remove it, or set gateway: external',
      );
    }
  }
  if (isExternal) refuseRotation(config, 'gateway "external", whose users are yours', report);
}

function checkSecureUrls(config: Valid<AzureValues>, report: ReportProblem): void {
  const { gateway, endpoint, secureUrls, customDomain } = config;
  const isPlain = gateway === "external" && endpoint?.startsWith("http:") === true;
  if (!isPlain && secureUrls === false) {
    report("secureUrls", "sends browsers to http, which the gateway does not support; remove it");
  }
  if (isPlain && secureUrls !== false && customDomain === undefined) {
    report(
      "secureUrls",
      `sends browsers to https, but the endpoint "${endpoint}" uses http; ` +
        "write secureUrls: false, or an https endpoint",
    );
  }
}

function resolve(config: AzureValues): AzureConfig {
  const { tags, gateway, endpoint = "", accessKey = "", secretKey = "", ...rest } = config;
  const { adminAccessKey = "", adminSecretKey = "", ...common } = rest;
  const external = { endpoint, accessKey, secretKey, adminAccessKey, adminSecretKey };
  return {
    ...common,
    provider: "azure",
    bucketName: config.bucketName ?? DEFAULT_BUCKET_NAME,
    tags: parseTags(tags),
    gateway: gateway === "external" ? { kind: gateway, ...external } : { kind: gateway },
  };
}

function location(value: string): string | undefined {
  const usual = value.toLowerCase().replace(/[^a-z0-9]/g, "");
  if (usual !== value) return `is not in its usual form; write "${usual}"`;
  if (/^[a-z]{4,}\d?$/.test(value)) return undefined;
  return 'is not an Azure region; write e.g. "westeurope" (az account list-locations shows them)';
}

const PORT = 7070;
/**
 * Another replica starts above this number. The gateway holds each part of an upload in memory, and
 * the replica has 1 GiB. Measured with GOMEMLIMIT: 20 parts of 16 MiB at a time took 0.5 GB, 50 took
 * 0.98 GB (1.2 GB without it).
 */
const CONCURRENT_REQUESTS = "20";
/**
 * A new role assignment takes up to ten minutes to take effect (Azure, "Troubleshoot Azure RBAC"),
 * and a first start some more.
 */
const RETRY_SECONDS = 900;

/**
 * Inputs of the container that never cause an update. The gateway stores CORS and policy in the
 * metadata. azure-native updates by PUT, with the metadata of the last refresh or without any, and
 * would replace the gateway's. So another API version (a newer plugin) must not update it, and
 * neither must what Azure adds (pulumi-azure-native 627, 2245). What is left is `publicAccess`: it
 * differs only after a refresh, which reads the metadata too.
 */
const IGNORED_CONTAINER_INPUTS = [
  "metadata",
  "azureApiVersion",
  "defaultEncryptionScope",
  "denyEncryptionScopeOverride",
  "enableNfsV3AllSquash",
  "enableNfsV3RootSquash",
  "immutableStorageWithVersioning",
];

/**
 * A private container in its own storage account, and a gateway whose user for authentik can do
 * what it needs and nothing else.
 */
export class AzureStorage extends ComponentResource implements AuthentikStorage {
  readonly bucketName: Output<string>;
  readonly region: Output<string | undefined>;
  readonly endpoint: Output<string>;
  readonly customDomain: Output<string>;
  readonly credentials: Output<Credentials>;

  constructor(name: string, args: AzureConfig, options?: ComponentResourceOptions) {
    const { keyGeneration, retirePreviousKey, protect, bucketName } = args;
    const adopted = adoptedContainerId(args) ?? "";
    super(
      "authentik-storage:azure:AzureStorage",
      name,
      { keyGeneration, retirePreviousKey, adopted, protect, bucketName },
      guardProtected(
        name,
        { bucketName },
        "bucketName",
        guardAdoption(name, guardRotation(name, options)),
      ),
    );
    const record = { parent: this, protect };
    const adoption = recordAdoption("authentik-storage:azure:Adoption", name, adopted, record);
    const place = recordPlace("authentik-storage:azure:Place", name, placeOf(args), record);
    // The guards come before an import or another account.
    const guarded = all([adoption.urn, place.urn]).apply(() => []);
    const { account, settings: accountSettings } = this.#account(name, args, guarded);
    const gateway =
      args.gateway.kind === "external"
        ? externalGateway(args.gateway)
        : this.#gateway(name, args, account, guarded);
    const container = this.#container(name, args, account, [
      ...gateway.resources,
      ...accountSettings,
    ]);
    const settings = this.#settings(name, args, container, gateway);

    // The name resolves only when the settings exist, so that nothing uses the container without them.
    this.bucketName = all(settings.map(({ id }) => id)).apply(() => args.bucketName);
    // versitygw's default region is also boto3's default.
    this.region = output(undefined);
    this.endpoint = gateway.endpoint;
    this.customDomain = gateway.endpoint.apply((endpoint) => {
      return args.customDomain ?? `${endpoint.replace(/^https?:\/\//, "")}/${args.bucketName}`;
    });
    this.credentials = gateway.credentials;
    const complete = { bucketName: this.bucketName, endpoint: this.endpoint };
    adoption.complete(complete);
    place.complete({ ...complete, ...placeOf(args), storageAccountName: account.name });
    this.registerOutputs(complete);
  }

  /** It holds authentik's files only, because the gateway's identity may read and write everything in it. */
  #account(
    name: string,
    args: AzureConfig,
    dependsOn: Output<Resource[]>,
  ): { account: StorageAccount; settings: Resource[] } {
    const { location, resourceGroupName, softDeleteDays, protect, forceDestroy, tags } = args;
    const adopted = adoptedAccountId(args);
    const account = new StorageAccount(
      // Pulumi generates the account's name from this one. It may have no hyphens and at most 24 characters.
      `${name
        .toLowerCase()
        .replace(/[^a-z0-9]/g, "")
        .slice(0, 11)}media`,
      {
        accountName: args.storageAccountName,
        resourceGroupName,
        location,
        kind: "StorageV2",
        sku: { name: args.redundancy },
        accessTier: "Hot",
        enableHttpsTrafficOnly: true,
        minimumTlsVersion: "TLS1_2",
        allowBlobPublicAccess: false,
        // The gateway uses its identity. Keys of the account would give access to everything.
        allowSharedKeyAccess: false,
        defaultToOAuthAuthentication: true,
        allowCrossTenantReplication: false,
        isLocalUserEnabled: false,
        tags: { application: "authentik", ...tags },
      },
      // Azure deletes an account with everything in it. Without forceDestroy the account stays on Azure.
      {
        parent: this,
        protect,
        retainOnDelete: !forceDestroy,
        dependsOn,
        ...(adopted && { import: adopted }),
      },
    );
    const ofAccount = { parent: this, deletedWith: account, retainOnDelete: !forceDestroy };
    const retention = { enabled: true, days: softDeleteDays };
    const blobs = new BlobServiceProperties(
      `${name}-blobs`,
      {
        accountName: account.name,
        resourceGroupName,
        blobServicesName: "default",
        deleteRetentionPolicy: { ...retention, allowPermanentDelete: false },
        containerDeleteRetentionPolicy: retention,
      },
      // Azure adds an empty list, which then differs after each refresh (pulumi-azure-native 1700).
      { ...ofAccount, ignoreChanges: ["cors"] },
    );
    return { account, settings: [blobs, this.#abortUploads(name, args, account, ofAccount)] };
  }

  /**
   * Azure deletes the parts of an unfinished upload after a week. The gateway's record of the
   * upload is a blob, which this rule deletes.
   */
  #abortUploads(
    name: string,
    { bucketName, resourceGroupName }: AzureConfig,
    account: StorageAccount,
    options: CustomResourceOptions,
  ): ManagementPolicy {
    return new ManagementPolicy(
      `${name}-lifecycle`,
      {
        accountName: account.name,
        resourceGroupName,
        managementPolicyName: "default",
        policy: {
          rules: [
            {
              name: "abort-incomplete-uploads",
              enabled: true,
              type: "Lifecycle",
              definition: {
                filters: {
                  blobTypes: ["blockBlob"],
                  prefixMatch: [`${bucketName}/.sgwtmp/multipart`],
                },
                actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 7 } } },
              },
            },
          ],
        },
      },
      options,
    );
  }

  /**
   * Another container and its settings have other names here, too. So all of them exist before the
   * old ones leave the stack, and after a failed update the old name brings everything back.
   */
  #container(
    name: string,
    args: AzureConfig,
    account: StorageAccount,
    deletedLater: Resource[],
  ): BlobContainer {
    const { bucketName, resourceGroupName, protect, forceDestroy } = args;
    const adopted = adoptedContainerId(args);
    return new BlobContainer(
      `${name}-${bucketName}/bucket`,
      {
        accountName: account.name,
        resourceGroupName,
        containerName: bucketName,
        publicAccess: "None",
      },
      {
        parent: this,
        protect,
        retainOnDelete: !forceDestroy,
        // `destroy` begins with the container. If that is refused, the gateway still runs, and the
        // stack still has the account's settings, which azure-native would not create again.
        dependsOn: deletedLater,
        // The plugin would drop the old container from the stack before it creates the new one. If
        // that fails, the container could only be adopted.
        deleteBeforeReplace: false,
        ignoreChanges: IGNORED_CONTAINER_INPUTS,
        aliases: [{ name: `${name}-bucket` }],
        ...(adopted && { import: adopted }),
      },
    );
  }

  #gateway(
    name: string,
    args: AzureConfig,
    account: StorageAccount,
    guarded: Output<Resource[]>,
  ): GatewayAccess {
    const { location, resourceGroupName } = args;
    const tags = { application: "authentik", ...args.tags };
    const place = { location, resourceGroupName, tags };
    const afterGuards = { parent: this, dependsOn: guarded };
    const identity = new UserAssignedIdentity(`${name}-gateway-identity`, place, afterGuards);
    const role = new RoleAssignment(
      `${name}-gateway-role`,
      {
        scope: account.id,
        principalId: identity.principalId,
        // Without the type Azure looks up the identity in the directory, which does not have it yet.
        principalType: "ServicePrincipal",
        roleDefinitionId: account.id.apply(roleDefinitionId),
      },
      { parent: this },
    );
    const root = {
      accessKey: this.#password(`${name}-root-access`, 20),
      secretKey: this.#password(`${name}-root-secret`, 40),
    };
    const { users, current, generations } = this.#users(name, args);
    const environment = new ManagedEnvironment(
      `${name}-gateway-environment`,
      {
        ...place,
        workloadProfiles: [{ name: "Consumption", workloadProfileType: "Consumption" }],
      },
      afterGuards,
    );
    const app = new ContainerApp(
      `${name}-gateway`,
      {
        ...place,
        managedEnvironmentId: environment.id,
        workloadProfileName: "Consumption",
        identity: { type: "UserAssigned", userAssignedIdentities: [identity.id] },
        configuration: {
          // One revision at a time. The old one serves until the new one is ready.
          activeRevisionsMode: "Single",
          ingress: { external: true, targetPort: PORT, transport: "Http", allowInsecure: false },
          secrets: [
            { name: "root-access-key", value: root.accessKey },
            { name: "root-secret-key", value: root.secretKey },
            { name: "users", value: users },
          ],
        },
        template: {
          containers: [
            {
              name: "versitygw",
              image: args.gatewayImage,
              command: [...GRACEFUL_STOP.command],
              args: gatewayArguments(account),
              env: [
                { name: "ROOT_ACCESS_KEY", secretRef: "root-access-key" },
                { name: "ROOT_SECRET_KEY", secretRef: "root-secret-key" },
                { name: "AZURE_CLIENT_ID", value: identity.clientId },
                // A changed secret does not restart the gateway, a changed variable does.
                { name: "KEY_GENERATIONS", value: generations },
                // Go then frees memory before the container's limit ends the process.
                { name: "GOMEMLIMIT", value: "900MiB" },
              ],
              probes: gatewayProbes(),
              resources: { cpu: 0.5, memory: "1Gi" },
              volumeMounts: [{ volumeName: "users", mountPath: "/iam" }],
            },
          ],
          terminationGracePeriodSeconds: GRACEFUL_STOP.graceSeconds,
          volumes: [
            {
              name: "users",
              storageType: "Secret",
              secrets: [{ secretRef: "users", path: "users.json" }],
            },
          ],
          scale: {
            minReplicas: 1,
            maxReplicas: args.gatewayMaxReplicas,
            rules: [
              {
                name: "requests",
                http: { metadata: { concurrentRequests: CONCURRENT_REQUESTS } },
              },
            ],
          },
        },
      },
      { parent: this, dependsOn: role },
    );
    // The plugin returns the whole configuration as a secret, because it has secrets.
    const host = unsecret(app.configuration).apply(
      (configuration) => configuration?.ingress?.fqdn ?? "",
    );
    return {
      endpoint: interpolate`https://${host}`,
      admin: secret(root),
      credentials: secret(current),
      users: GATEWAY_USERS,
      resources: [app],
    };
  }

  /**
   * Both slots are always users of the gateway, so that a rotation does not change the bucket
   * policy. A slot without a key has a secret that nobody gets.
   */
  #users(name: string, args: AzureConfig): GatewayUsers {
    const slots = keySlots(args);
    const generationOf = (slot: number) => {
      return slots.find((key) => key?.slot === slot)?.generation ?? `none-${args.keyGeneration}`;
    };
    const generations = GATEWAY_USERS.map((_, slot) => String(generationOf(slot)));
    const keys = GATEWAY_USERS.map((accessKey, slot) => ({
      accessKey,
      secretKey: this.#password(`${name}-key-${slot}`, 40, {
        generation: String(generationOf(slot)),
      }),
    }));
    const users = secret(output(keys)).apply((known: Keys[]) => usersFile(known));
    const current = keys[slots[0].slot];
    if (!current) throw new RangeError("this key slot does not exist");
    return { users, current, generations: generations.join(",") };
  }

  /** Letters and digits only, so that authentik and shells read it unchanged. */
  #password(name: string, length: number, keepers?: Record<string, string>): Output<string> {
    const args = { length, special: false, ...(keepers ? { keepers } : {}) };
    const password = new RandomPassword(name, args, { parent: this });
    // authentik decodes its variables as JSON. With a letter first, the value is never a number.
    return interpolate`k${password.result}`;
  }

  #settings(
    name: string,
    args: AzureConfig,
    container: BlobContainer,
    gateway: GatewayAccess,
  ): CustomResource[] {
    const ofBucket = {
      parent: this,
      dependsOn: container,
      deletedWith: container,
      // With another endpoint of the same container, the old settings would otherwise be deleted
      // after the same settings were written.
      deleteBeforeReplace: true,
    };
    const connection = {
      endpoint: gateway.endpoint,
      credentials: gateway.admin,
      retrySeconds: RETRY_SECONDS,
    };
    const cors = new S3BucketCors(
      `${name}-${args.bucketName}/cors`,
      { ...connection, bucket: args.bucketName, rules: authentikCorsRules(args) },
      { ...ofBucket, aliases: [{ name: `${name}-cors` }] },
    );
    const rights = gatewayPolicy(args.bucketName, gateway.users);
    const policy = new S3BucketPolicy(
      `${name}-${args.bucketName}/policy`,
      {
        ...connection,
        bucket: args.bucketName,
        // The policy names the user of an external gateway by its access key, which is a secret in the config.
        policy: args.gateway.kind === "external" ? secret(rights) : rights,
      },
      // CORS and policy both replace the container's metadata, so they are not written at the same time.
      { ...ofBucket, dependsOn: [container, cors], aliases: [{ name: `${name}-policy` }] },
    );
    return [cors, policy];
  }
}

/** The gateway's users: their file, the current key, and the generation of each slot. */
interface GatewayUsers {
  users: Output<string>;
  current: { accessKey: string; secretKey: Output<string> };
  generations: string;
}

/** How to reach the S3 API, with the keys of its administrator and of authentik. */
interface GatewayAccess {
  endpoint: Output<string>;
  admin: Output<{ accessKey: string; secretKey: string }>;
  credentials: Output<Credentials>;
  /** The access keys that the bucket policy names. */
  users: string[];
  /** What the program creates for the gateway. */
  resources: Resource[];
}

/** authentik's rights, which must not include an abort: it deletes the file at the key. */
function gatewayPolicy(bucketName: string, users: string[]): PolicyDocument {
  return authentikPolicy(`arn:aws:s3:::${bucketName}`, users, OBJECT_ACTIONS_WITHOUT_ABORT);
}

function externalGateway(gateway: Extract<Gateway, { kind: "external" }>): GatewayAccess {
  return {
    endpoint: output(gateway.endpoint),
    admin: secret({ accessKey: gateway.adminAccessKey, secretKey: gateway.adminSecretKey }),
    credentials: secret({ accessKey: gateway.accessKey, secretKey: gateway.secretKey }),
    users: [gateway.accessKey],
    resources: [],
  };
}

function gatewayArguments(account: StorageAccount): (string | Output<string>)[] {
  // Azure reports the URL: its other clouds (China, US Government) have other domains.
  const url = account.primaryEndpoints.apply(({ blob }) => blob);
  const server = ["--port", `:${PORT}`, "--iam-dir", "/iam", "--health", "/health"];
  return [...server, "--quiet", "--keep-alive", "azure", "--account", account.name, "--url", url];
}

interface Probe {
  type: "Startup" | "Liveness" | "Readiness";
  httpGet: { path: string; port: number };
  periodSeconds: number;
  failureThreshold: number;
}

function gatewayProbes(): Probe[] {
  const httpGet = { path: "/health", port: PORT };
  return [
    { type: "Startup", httpGet, periodSeconds: 2, failureThreshold: 30 },
    { type: "Liveness", httpGet, periodSeconds: 10, failureThreshold: 3 },
    { type: "Readiness", httpGet, periodSeconds: 5, failureThreshold: 3 },
  ];
}

/**
 * Where the account is, and what authentik reaches it through. In another place the stack would get
 * an empty account. With the other kind of gateway it would delete the gateway that authentik uses,
 * or the rights of authentik's user.
 */
function placeOf(args: AzureConfig): Record<string, string> {
  const { location, resourceGroupName, storageAccountName = "", gateway } = args;
  return { location, resourceGroupName, storageAccountName, gateway: gateway.kind };
}

/** The resource id of the account that is adopted; undefined when none is. */
function adoptedAccountId(args: AzureConfig): string | undefined {
  const { adopt, subscriptionId, resourceGroupName, storageAccountName } = args;
  if (!adopt || subscriptionId === undefined || storageAccountName === undefined) return undefined;
  const group = `/subscriptions/${subscriptionId}/resourceGroups/${resourceGroupName}`;
  return `${group}/providers/Microsoft.Storage/storageAccounts/${storageAccountName}`;
}

/** The resource id of the container that is adopted; undefined when none is. */
function adoptedContainerId(args: AzureConfig): string | undefined {
  const account = adoptedAccountId(args);
  return account && `${account}/blobServices/default/containers/${args.bucketName}`;
}

/** The resource id of the role, in the subscription of another resource's id. */
function roleDefinitionId(id: string): string {
  const subscription = id.split("/").slice(0, 3).join("/");
  return `${subscription}/providers/Microsoft.Authorization/roleDefinitions/${BLOB_DATA_CONTRIBUTOR}`;
}
