/** Config of the provider `azure`: Azure Blob Storage behind an S3 gateway. */
import { VERSITYGW_VERSION } from "../local/versitygw.ts";
import {
  checkDomainHasBucket, DEFAULT_BUCKET_NAME, parseTags, rotationKeys, tagKeys,
  type CommonConfig, type ProviderConfig, type Report, type Sound, type Values,
} from "./common.ts";
import * as rules from "./rules.ts";
import { integer, oneOf, optional, secret, text } from "./values.ts";

export const GATEWAYS = ["containerApp", "external"] as const;
/** Redundancy of a general purpose account; those with read access elsewhere would need no more than these. */
export const REDUNDANCIES = ["Standard_LRS", "Standard_ZRS", "Standard_GRS", "Standard_GZRS"] as const;

const keys = {
  location: text("Azure region of every resource, e.g. `westeurope`.", location),
  resourceGroupName: text("A resource group that exists. The program makes everything in it, and never the group itself, whose deletion would take the files along.", resourceGroupName),
  subscriptionId: optional(text("Id of the subscription; only `adopt` needs it.", guid)),
  storageAccountName: optional(text("Name of the storage account, unique in all of Azure; made up by Pulumi without it.", storageAccountName)),
  redundancy: optional(oneOf(REDUNDANCIES, "How often the files are kept."), "Standard_ZRS"),
  softDeleteDays: optional(integer("How many days deleted files and containers can still be had back.", 1, 365), "30"),
  gateway: optional(oneOf(GATEWAYS, "Azure Blob has no S3 API: a `containerApp` with versitygw gives it one, or an `external` gateway of yours does."), "containerApp"),
  gatewayImage: optional(text("Image of versitygw, with a tag or a digest.", rules.pinnedImage), `docker.io/versity/versitygw:${VERSITYGW_VERSION}`),
  gatewayMaxReplicas: optional(integer("How many replicas the gateway may scale out to; one always runs.", 1, 30), "3"),
  endpoint: optional(text("For `external`: URL of the gateway, without the container.", rules.endpoint)),
  accessKey: optional(secret("For `external`: access key of authentik's user on the gateway.", rules.credential)),
  secretKey: optional(secret("For `external`: secret key of authentik's user on the gateway.", rules.credential)),
  adminAccessKey: optional(secret("For `external`: the gateway's root access key.", rules.credential)),
  adminSecretKey: optional(secret("For `external`: the gateway's root secret key.", rules.credential)),
  ...rotationKeys,
  ...tagKeys,
};

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

export const azure: ProviderConfig<typeof keys, AzureConfig> = { keys, check, resolve };

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
