/** The provider `azure`: a container of Azure Blob Storage, behind a gateway that speaks the S3 API. First its config, then its resources. */
import { ContainerApp } from "@pulumi/azure-native/app/containerApp.js";
import { ManagedEnvironment } from "@pulumi/azure-native/app/managedEnvironment.js";
import { RoleAssignment } from "@pulumi/azure-native/authorization/roleAssignment.js";
import { UserAssignedIdentity } from "@pulumi/azure-native/managedidentity/userAssignedIdentity.js";
import { BlobContainer } from "@pulumi/azure-native/storage/blobContainer.js";
import { BlobServiceProperties } from "@pulumi/azure-native/storage/blobServiceProperties.js";
import { ManagementPolicy } from "@pulumi/azure-native/storage/managementPolicy.js";
import { StorageAccount } from "@pulumi/azure-native/storage/storageAccount.js";
import { all, interpolate, output, secret, type Output } from "@pulumi/pulumi/output.js";
import { ComponentResource, type ComponentResourceOptions, type CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import { RandomPassword } from "@pulumi/random/randomPassword.js";
import { authentikPolicy } from "../authentik/permissions.ts";
import {
  checkDomainHasBucket, DEFAULT_BUCKET_NAME, parseTags, rotationKeys, tagKeys,
  type CommonConfig, type Report, type Sound, type Values,
} from "../config/common.ts";
import * as rules from "../config/rules.ts";
import { integer, oneOf, optional, secretText, text } from "../config/values.ts";
import { defineProvider, type AuthentikStorage, type Credentials, type ResourceType } from "./contract.ts";
import { pinnedImage, usersFile, VERSITYGW_VERSION, type Keys } from "./versitygw.ts";
import { guardRotation, keySlots } from "./rotation.ts";
import { authentikCorsRules, S3BucketCors, S3BucketPolicy } from "./s3/resources.ts";

const GATEWAYS = ["containerApp", "external"] as const;
/** Redundancy of a general purpose account; those with read access elsewhere would need no more than these. */
const REDUNDANCIES = ["Standard_LRS", "Standard_ZRS", "Standard_GRS", "Standard_GZRS"] as const;

const keys = {
  location: text("Azure region of every resource, e.g. `westeurope`.", location),
  resourceGroupName: text("A resource group that exists. The program makes everything in it, and never the group itself, whose deletion would take the files along.", resourceGroupName),
  subscriptionId: optional(text("Id of the subscription; only `adopt` needs it.", guid)),
  storageAccountName: optional(text("Name of the storage account, unique in all of Azure; made up by Pulumi without it.", storageAccountName)),
  redundancy: optional(oneOf(REDUNDANCIES, "How often the files are kept."), "Standard_ZRS"),
  softDeleteDays: optional(integer("How many days deleted files and containers can still be had back.", 1, 365), "30"),
  gateway: optional(oneOf(GATEWAYS, "Azure Blob has no S3 API: a `containerApp` with versitygw gives it one, or an `external` gateway of yours does."), "containerApp"),
  gatewayImage: optional(text("Image of versitygw, with a version or a digest.", pinnedImage), `docker.io/versity/versitygw:${VERSITYGW_VERSION}`),
  gatewayMaxReplicas: optional(integer("How many replicas the gateway may scale out to; one always runs.", 1, 30), "3"),
  endpoint: optional(text("For `external`: URL of the gateway, without the container.", rules.endpoint)),
  accessKey: optional(secretText("For `external`: access key of authentik's user on the gateway.", rules.credential)),
  secretKey: optional(secretText("For `external`: secret key of authentik's user on the gateway.", rules.credential)),
  adminAccessKey: optional(secretText("For `external`: the gateway's root access key.", rules.credential)),
  adminSecretKey: optional(secretText("For `external`: the gateway's root secret key.", rules.credential)),
  ...rotationKeys,
  ...tagKeys,
};

/** Without the types of `s3/resources.ts`, which the provider `s3` lists. */
const resources = {
  "authentik-storage:azure:AzureStorage": { label: "Storage" },
  "azure-native:storage:StorageAccount": { label: "Storage account", holdsFiles: true },
  "azure-native:storage:BlobContainer": {
    label: "Container",
    holdsFiles: true,
    // The container's name is the input `containerName` and the output `name`.
    bucketName: ["name", "containerName"],
  },
  "azure-native:storage:BlobServiceProperties": { label: "Soft deletion and versioning" },
  "azure-native:storage:ManagementPolicy": { label: "Lifecycle rules" },
  "azure-native:app:ContainerApp": { label: "Gateway" },
  "azure-native:app:ManagedEnvironment": { label: "Gateway's environment" },
  "azure-native:managedidentity:UserAssignedIdentity": { label: "Gateway's identity" },
  "azure-native:authorization:RoleAssignment": { label: "Gateway's permissions" },
  "random:index/randomPassword:RandomPassword": { label: "Random password" },
} satisfies Record<string, ResourceType>;

/** The keys of a gateway of one's own. */
const EXTERNAL_KEYS = ["endpoint", "accessKey", "secretKey", "adminAccessKey", "adminSecretKey"] as const;

type AzureValues = CommonConfig & Values<typeof keys>;

/** The config of an Azure container and its gateway, complete. */
export interface AzureConfig extends Omit<AzureValues, "tags" | "gateway" | (typeof EXTERNAL_KEYS)[number]> {
  provider: "azure";
  /** The container, which is the bucket. */
  bucketName: string;
  tags: Record<string, string>;
  gateway: Gateway;
}

/** The gateway that is made, or the one that is there. */
export type Gateway =
  | { kind: "containerApp" }
  | { kind: "external"; endpoint: string; accessKey: string; secretKey: string; adminAccessKey: string; adminSecretKey: string };

export default defineProvider({ keys, resources, check, resolve, provision: (name, config) => new AzureStorage(name, config) });

function check(config: Sound<AzureValues>, report: Report): void {
  const { bucketName = DEFAULT_BUCKET_NAME, adopt, customDomain } = config;
  const wrongName = rules.bucketNameWithoutDots(bucketName) ?? (bucketName.includes("--") ? "has two hyphens in a row, which Azure does not allow; choose another name" : undefined);
  if (wrongName !== undefined) report("bucketName", wrongName);
  if (customDomain !== undefined) checkDomainHasBucket(customDomain, bucketName, report);
  for (const key of ["subscriptionId", "storageAccountName"] as const) {
    if (adopt === true && config[key] === undefined) report(key, `is missing, and adopt has to know which account; set it: pulumi config set ${key} <value>`);
  }
  checkGateway(config, report);
}

function checkGateway(config: Sound<AzureValues>, report: Report): void {
  const external = config.gateway === "external";
  for (const key of EXTERNAL_KEYS) {
    const how = key === "endpoint" ? "<value>" : "--secret";
    if (external && config[key] === undefined) report(key, `is missing, and gateway "external" needs it; set it: pulumi config set ${key} ${how}`);
    if (!external && config[key] !== undefined) report(key, 'has no effect with gateway "containerApp", which makes its own; remove it, or set gateway: external');
  }
  const rotates = (config.keyGeneration ?? 1) > 1 || config.retirePreviousKey === true;
  if (external && rotates) report("keyGeneration", 'has no effect with gateway "external", whose users are yours; remove it and retirePreviousKey');
  const secure = !external || config.endpoint === undefined || config.endpoint.startsWith("https:");
  if (secure && config.secureUrls === false) report("secureUrls", "sends browsers to http, which the gateway does not speak; remove it");
  if (!secure && config.secureUrls !== false && config.customDomain === undefined) {
    report("secureUrls", `sends browsers to https, where the endpoint "${config.endpoint ?? ""}" speaks http; write secureUrls: false, or an https endpoint`);
  }
}

function resolve({ tags, gateway, endpoint = "", accessKey = "", secretKey = "", adminAccessKey = "", adminSecretKey = "", ...config }: AzureValues): AzureConfig {
  return {
    ...config,
    provider: "azure",
    bucketName: config.bucketName ?? DEFAULT_BUCKET_NAME,
    tags: parseTags(tags),
    gateway: gateway === "external" ? { kind: gateway, endpoint, accessKey, secretKey, adminAccessKey, adminSecretKey } : { kind: gateway },
  };
}

function location(value: string): string | undefined {
  const usual = value.toLowerCase().replace(/[^a-z0-9]/g, "");
  if (usual !== value) return `is not in its usual form; write "${usual}"`;
  return /^[a-z]{4,}\d?$/.test(value) ? undefined : 'is not an Azure region; write e.g. "westeurope" (az account list-locations shows them)';
}

function resourceGroupName(value: string): string | undefined {
  return /^[\p{L}\p{N}_().-]{0,89}[\p{L}\p{N}_()-]$/u.test(value) ? undefined : "is not the name of a resource group; write letters, digits and _().-, at most 90 and no dot at the end";
}

function guid(value: string): string | undefined {
  return /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value) ? undefined : "is not an id of a subscription; write it in lower case, as az account show prints it";
}

function storageAccountName(value: string): string | undefined {
  return /^[a-z0-9]{3,24}$/.test(value) ? undefined : "is not the name of a storage account; write 3 to 24 lower-case letters and digits";
}

/** Arguments of `AzureStorage`; the config of a stack is one. */
export type AzureStorageArgs = Pick<
  AzureConfig,
  | "location" | "resourceGroupName" | "subscriptionId" | "storageAccountName" | "redundancy" | "softDeleteDays" | "bucketName"
  | "origins" | "customDomain" | "corsAllowedHeaders" | "corsMaxAgeSeconds" | "protect" | "forceDestroy" | "adopt" | "gateway"
  | "gatewayImage" | "gatewayMaxReplicas" | "tags" | "keyGeneration" | "retirePreviousKey"
>;

/** The built-in role "Storage Blob Data Contributor", whose id is the same everywhere. */
const BLOB_DATA_CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe";
const PORT = 7070;
/** A new role assignment takes up to ten minutes to hold (Azure, "Troubleshoot Azure RBAC"), a first start some more. */
const RETRY_SECONDS = 900;

/** A private container in a storage account of its own, and a gateway whose user for authentik can do what it needs and nothing else. */
export class AzureStorage extends ComponentResource implements AuthentikStorage {
  readonly bucketName: Output<string>;
  readonly region: Output<string | undefined>;
  readonly endpoint: Output<string>;
  readonly customDomain: Output<string>;
  readonly credentials: Output<Credentials>;

  constructor(name: string, args: AzureStorageArgs, options?: ComponentResourceOptions) {
    const { keyGeneration, retirePreviousKey } = args;
    super("authentik-storage:azure:AzureStorage", name, { keyGeneration, retirePreviousKey }, guardRotation(name, options));
    const account = this.#account(name, args);
    const container = this.#container(name, args, account);
    const gateway = args.gateway.kind === "external" ? externalGateway(args.gateway) : this.#gateway(name, args, account);
    const settings = this.#settings(name, args, container, gateway);

    // Known before the resources are made, but of no use until they are.
    this.bucketName = all(settings.map(({ id }) => id)).apply(() => args.bucketName);
    // The gateway signs for versitygw's default, which is boto3's without a region.
    this.region = output(undefined);
    this.endpoint = gateway.endpoint;
    this.customDomain = gateway.endpoint.apply((endpoint) => args.customDomain ?? `${endpoint.replace(/^https?:\/\//, "")}/${args.bucketName}`);
    this.credentials = gateway.credentials;
    this.registerOutputs({ bucketName: this.bucketName, endpoint: this.endpoint });
  }

  /** For authentik's files alone, since the gateway's identity may read and write all of it. */
  #account(name: string, args: AzureStorageArgs): StorageAccount {
    const { location, resourceGroupName, subscriptionId, storageAccountName, softDeleteDays, protect, forceDestroy, adopt, tags } = args;
    const imported =
      adopt && subscriptionId !== undefined && storageAccountName !== undefined
        ? { import: accountId(subscriptionId, resourceGroupName, storageAccountName) }
        : {};
    const account = new StorageAccount(
      // Pulumi makes the account's name from this one, and accounts take neither hyphens nor more than 24 characters.
      `${name.toLowerCase().replace(/[^a-z0-9]/g, "").slice(0, 11)}media`,
      {
        accountName: storageAccountName,
        resourceGroupName,
        location,
        kind: "StorageV2",
        sku: { name: args.redundancy },
        accessTier: "Hot",
        enableHttpsTrafficOnly: true,
        minimumTlsVersion: "TLS1_2",
        allowBlobPublicAccess: false,
        // The gateway comes with its identity; keys of the account would open everything to whoever finds them.
        allowSharedKeyAccess: false,
        defaultToOAuthAuthentication: true,
        allowCrossTenantReplication: false,
        isLocalUserEnabled: false,
        tags: { application: "authentik", ...tags },
      },
      // Azure deletes an account with everything in it, so without forceDestroy it is left behind.
      { parent: this, protect, retainOnDelete: !forceDestroy, ...imported },
    );
    const ofAccount = { parent: this, deletedWith: account, retainOnDelete: !forceDestroy };
    const retention = { enabled: true, days: softDeleteDays };
    new BlobServiceProperties(
      `${name}-blobs`,
      {
        accountName: account.name,
        resourceGroupName,
        blobServicesName: "default",
        deleteRetentionPolicy: retention,
        containerDeleteRetentionPolicy: retention,
      },
      ofAccount,
    );
    this.#abortUploads(name, args, account, ofAccount);
    return account;
  }

  /** Azure drops parts by itself after a week; the gateway's note of an upload is a blob, which has to be told to. */
  #abortUploads(name: string, { bucketName, resourceGroupName }: AzureStorageArgs, account: StorageAccount, options: CustomResourceOptions): void {
    new ManagementPolicy(
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
                filters: { blobTypes: ["blockBlob"], prefixMatch: [`${bucketName}/.sgwtmp/multipart`] },
                actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 7 } } },
              },
            },
          ],
        },
      },
      options,
    );
  }

  #container(name: string, args: AzureStorageArgs, account: StorageAccount): BlobContainer {
    const { bucketName, resourceGroupName, subscriptionId, storageAccountName, protect, forceDestroy, adopt } = args;
    const imported =
      adopt && subscriptionId !== undefined && storageAccountName !== undefined
        ? { import: `${accountId(subscriptionId, resourceGroupName, storageAccountName)}/blobServices/default/containers/${bucketName}` }
        : {};
    return new BlobContainer(
      `${name}-bucket`,
      { accountName: account.name, resourceGroupName, containerName: bucketName, publicAccess: "None" },
      {
        parent: this,
        protect,
        retainOnDelete: !forceDestroy,
        // The gateway keeps CORS and policy there: its business, and no drift.
        ignoreChanges: ["metadata"],
        ...imported,
      },
    );
  }

  #gateway(name: string, args: AzureStorageArgs, account: StorageAccount): GatewayAccess {
    const { location, resourceGroupName } = args;
    const tags = { application: "authentik", ...args.tags };
    const place = { location, resourceGroupName, tags };
    const identity = new UserAssignedIdentity(`${name}-gateway-identity`, place, { parent: this });
    const role = new RoleAssignment(
      `${name}-gateway-role`,
      {
        scope: account.id,
        principalId: identity.principalId,
        // Without the type Azure looks the identity up in the directory, which does not know it yet.
        principalType: "ServicePrincipal",
        roleDefinitionId: account.id.apply((id) => `${subscriptionOf(id)}/providers/Microsoft.Authorization/roleDefinitions/${BLOB_DATA_CONTRIBUTOR}`),
      },
      { parent: this },
    );
    const root = { accessKey: this.#password(`${name}-root-access`, 20), secretKey: this.#password(`${name}-root-secret`, 40) };
    const { users, current, generations } = this.#users(name, args);
    const environment = new ManagedEnvironment(
      `${name}-gateway-environment`,
      { ...place, workloadProfiles: [{ name: "Consumption", workloadProfileType: "Consumption" }] },
      { parent: this },
    );
    const app = new ContainerApp(
      `${name}-gateway`,
      {
        ...place,
        managedEnvironmentId: environment.id,
        workloadProfileName: "Consumption",
        identity: { type: "UserAssigned", userAssignedIdentities: [identity.id] },
        configuration: {
          // One revision at a time, and the old one serves until the new one is ready.
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
              args: gatewayArguments(account),
              env: [
                { name: "ROOT_ACCESS_KEY", secretRef: "root-access-key" },
                { name: "ROOT_SECRET_KEY", secretRef: "root-secret-key" },
                { name: "AZURE_CLIENT_ID", value: identity.clientId },
                // A secret that changes starts nothing anew; a variable does.
                { name: "KEY_GENERATIONS", value: generations },
              ],
              probes: gatewayProbes(),
              resources: { cpu: 0.5, memory: "1Gi" },
              volumeMounts: [{ volumeName: "users", mountPath: "/iam" }],
            },
          ],
          volumes: [{ name: "users", storageType: "Secret", secrets: [{ secretRef: "users", path: "users.json" }] }],
          scale: {
            minReplicas: 1,
            maxReplicas: args.gatewayMaxReplicas,
            rules: [{ name: "requests", http: { metadata: { concurrentRequests: "50" } } }],
          },
        },
      },
      { parent: this, dependsOn: role },
    );
    const host = app.configuration.apply((configuration) => configuration?.ingress?.fqdn ?? "");
    return { endpoint: interpolate`https://${host}`, admin: secret(root), credentials: secret(current), users: slotUsers() };
  }

  /**
   * Both slots are always users of the gateway, so the bucket policy stays the same whatever rotates. A slot without a key
   * has a secret that nobody gets.
   */
  #users(name: string, args: AzureStorageArgs): { users: Output<string>; current: { accessKey: string; secretKey: Output<string> }; generations: string } {
    const slots = keySlots(args);
    const generationOf = (slot: number) => slots.find((key) => key?.slot === slot)?.generation ?? `none-${args.keyGeneration}`;
    const generations = slotUsers().map((_, slot) => String(generationOf(slot)));
    const keys = slotUsers().map((accessKey, slot) => ({
      accessKey,
      secretKey: this.#password(`${name}-key-${slot}`, 40, { generation: String(generationOf(slot)) }),
    }));
    const users = secret(output(keys)).apply((known: Keys[]) => usersFile(known));
    const current = keys[slots[0].slot];
    if (!current) throw new RangeError("there is no such key slot");
    return { users, current, generations: generations.join(",") };
  }

  /** Letters and digits: neither authentik nor a shell reads them as anything else. */
  #password(name: string, length: number, keepers?: Record<string, string>): Output<string> {
    // Beginning with a letter it is no number to authentik, which decodes its variables as JSON.
    return interpolate`k${new RandomPassword(name, { length, special: false, ...(keepers ? { keepers } : {}) }, { parent: this }).result}`;
  }

  #settings(name: string, args: AzureStorageArgs, container: BlobContainer, gateway: GatewayAccess): CustomResource[] {
    // Deleting the container deletes these too.
    const ofBucket = { parent: this, dependsOn: container, deletedWith: container };
    const connection = { endpoint: gateway.endpoint, credentials: gateway.admin, retrySeconds: RETRY_SECONDS };
    const cors = new S3BucketCors(
      `${name}-cors`,
      { ...connection, bucket: args.bucketName, rules: authentikCorsRules(args) },
      ofBucket,
    );
    const rights = authentikPolicy(`arn:aws:s3:::${args.bucketName}`, gateway.users);
    const policy = new S3BucketPolicy(
      `${name}-policy`,
      // The user of a gateway of one's own is named by its access key, which the config has as a secret.
      { ...connection, bucket: args.bucketName, policy: args.gateway.kind === "external" ? secret(rights) : rights },
      // Both write the container's metadata as a whole.
      { ...ofBucket, dependsOn: [container, cors] },
    );
    return [cors, policy];
  }
}

/** How the S3 API is reached: by whom it is administered, and who authentik is there. */
interface GatewayAccess {
  endpoint: Output<string>;
  admin: Output<{ accessKey: string; secretKey: string }>;
  credentials: Output<Credentials>;
  /** The access keys that the bucket policy names. */
  users: string[];
}

function externalGateway(gateway: Extract<Gateway, { kind: "external" }>): GatewayAccess {
  return {
    endpoint: output(gateway.endpoint),
    admin: secret({ accessKey: gateway.adminAccessKey, secretKey: gateway.adminSecretKey }),
    credentials: secret({ accessKey: gateway.accessKey, secretKey: gateway.secretKey }),
    users: [gateway.accessKey],
  };
}

/** The access keys of the two slots. */
function slotUsers(): [string, string] {
  return ["authentik-0", "authentik-1"];
}

function gatewayArguments(account: StorageAccount): (string | Output<string>)[] {
  // The URL from Azure itself: other clouds of it (China, US Government) have other domains.
  const backend = ["azure", "--account", account.name, "--url", account.primaryEndpoints.apply(({ blob }) => blob)];
  return ["--port", `:${PORT}`, "--iam-dir", "/iam", "--health", "/health", "--quiet", "--keep-alive", ...backend];
}

function gatewayProbes(): { type: string; httpGet: { path: string; port: number }; periodSeconds: number; failureThreshold: number }[] {
  const httpGet = { path: "/health", port: PORT };
  return [
    { type: "Startup", httpGet, periodSeconds: 2, failureThreshold: 30 },
    { type: "Liveness", httpGet, periodSeconds: 10, failureThreshold: 3 },
    { type: "Readiness", httpGet, periodSeconds: 5, failureThreshold: 3 },
  ];
}

function accountId(subscription: string, resourceGroup: string, account: string): string {
  return `/subscriptions/${subscription}/resourceGroups/${resourceGroup}/providers/Microsoft.Storage/storageAccounts/${account}`;
}

/** `/subscriptions/<id>` of a resource's id. */
function subscriptionOf(id: string): string {
  return id.split("/").slice(0, 3).join("/");
}
