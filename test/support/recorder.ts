/** Runs a program against mocks. Records every resource and every call, and fails for an unknown one. */
import type { RegisterResourceRequest } from "@pulumi/pulumi/proto/resource_pb.js";
import { isSecret, output, type Output } from "@pulumi/pulumi/output.js";
import {
  setMocks,
  type MockCallArgs,
  type MockResourceArgs,
  type MockResourceResult,
} from "@pulumi/pulumi/runtime/mocks.js";
import { disconnect, getMonitor } from "@pulumi/pulumi/runtime/settings.js";
import { ConfigError } from "../../config/index.ts";
import type { AuthentikStorage, Chosen, Credentials } from "../../providers/contract.ts";
import { chooseProvider, type StorageConfig } from "../../providers/index.ts";

/** One registered resource, as the engine gets it. */
export interface Recorded {
  type: string;
  name: string;
  /** Name of the parent. */
  parent: string;
  inputs: Record<string, unknown>;
  /** What the cloud answers, with the inputs. */
  outputs: Record<string, unknown>;
  /** Paths of the inputs that are secret, e.g. `configuration.secrets.0.value`. */
  secretInputs: string[];
  options: RecordedOptions;
}

/** The options that are set. Resources are given by their names. */
export interface RecordedOptions {
  protect?: true;
  retainOnDelete?: true;
  deleteBeforeReplace?: boolean;
  import?: string;
  dependsOn?: string[];
  deletedWith?: string;
  ignoreChanges?: string[];
  replacementTrigger?: unknown;
  /** Type of the explicit provider. */
  provider?: string;
}

/** The awaited outputs of the storage, and everything that it registered. */
export interface Recording {
  resources: Recorded[];
  calls: { token: string; inputs: Record<string, unknown> }[];
  storage: AuthentikStorage;
  bucketName: string;
  region: string | undefined;
  endpoint: string;
  customDomain: string | undefined;
  credentials: Credentials;
  credentialsAreSecret: boolean;
  /** The only resource of this type. */
  one(type: string): Recorded;
  all(type: string): Recorded[];
}

type Fake = (
  inputs: Record<string, unknown>,
  name: string,
) => { id?: string; state?: Record<string, unknown> };

/** Marks a secret in the engine's protocol. */
const SECRET_MARK = "1b47061264138c4ac30d75fd1eb44270";

/** The partition in the ARNs that AWS would answer with. */
function partitionOf(region: unknown): string {
  const text = String(region);
  if (text.startsWith("cn-")) return "aws-cn";
  return text.startsWith("us-gov-") ? "aws-us-gov" : "aws";
}

/** What the clouds answer for each type. A type that is not here is an error. */
function fakes(region: () => string): Record<string, Fake> {
  const arn = (service: string, resource: string) =>
    `arn:${partitionOf(region())}:${service}:${resource}`;
  const plain: Fake = (_, name) => ({ id: `${name}-id` });
  const azureId = (kind: string, name: string) =>
    `/subscriptions/${SUBSCRIPTION}/resourceGroups/authentik/providers/${kind}/${name}`;
  return {
    "pulumi:providers:aws": plain,
    "aws:s3/bucket:Bucket": ({ bucket }, name) => {
      const known = textOr(bucket, `${name}-1a2b3c4`);
      return { id: known, state: { bucket: known, arn: arn("s3", `::${known}`) } };
    },
    "aws:s3/bucketCorsConfiguration:BucketCorsConfiguration": plain,
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": plain,
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": plain,
    "aws:s3/bucketPolicy:BucketPolicy": plain,
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": plain,
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": plain,
    "aws:s3/bucketVersioning:BucketVersioning": plain,
    "aws:iam/user:User": (_, name) => ({
      id: `${name}-1a2b3c4`,
      state: { name: `${name}-1a2b3c4` },
    }),
    "aws:iam/userPolicy:UserPolicy": plain,
    "aws:iam/accessKey:AccessKey": (_, name) => ({
      id: `AKIA-${name}`,
      state: { secret: `secret of ${name}` },
    }),
    "aws:iam/role:Role": (_, name) => ({
      id: `${name}-1a2b3c4`,
      state: { name: `${name}-1a2b3c4`, arn: arn("iam", `:123456789012:role/${name}`) },
    }),
    "aws:iam/rolePolicy:RolePolicy": plain,
    "aws:eks/podIdentityAssociation:PodIdentityAssociation": plain,
    "cloudflare:index/r2Bucket:R2Bucket": ({ name }) => ({ id: String(name) }),
    "cloudflare:index/r2BucketCors:R2BucketCors": plain,
    "cloudflare:index/r2BucketLifecycle:R2BucketLifecycle": plain,
    "cloudflare:index/r2ManagedDomain:R2ManagedDomain": plain,
    "cloudflare:index/accountToken:AccountToken": (_, name) => ({
      id: `id-of-${name}`,
      state: { value: `value of ${name}` },
    }),
    "azure-native:storage:StorageAccount": ({ accountName }, name) => {
      const known = textOr(accountName, `${name}1a2b3c4d`);
      return {
        id: azureId("Microsoft.Storage/storageAccounts", known),
        state: {
          name: known,
          primaryEndpoints: { blob: `https://${known}.blob.core.windows.net/` },
        },
      };
    },
    "azure-native:storage:BlobServiceProperties": plain,
    "azure-native:storage:ManagementPolicy": plain,
    "azure-native:storage:BlobContainer": ({ containerName }) => ({
      id: String(containerName),
      state: { name: String(containerName) },
    }),
    "azure-native:managedidentity:UserAssignedIdentity": (_, name) => ({
      id: azureId("Microsoft.ManagedIdentity/userAssignedIdentities", name),
      state: {
        principalId: "11111111-1111-1111-1111-111111111111",
        clientId: "22222222-2222-2222-2222-222222222222",
      },
    }),
    "azure-native:authorization:RoleAssignment": plain,
    "azure-native:app:ManagedEnvironment": (_, name) => ({
      id: azureId("Microsoft.App/managedEnvironments", name),
    }),
    "azure-native:app:ContainerApp": (_, name) => ({
      id: azureId("Microsoft.App/containerApps", name),
      state: {
        configuration: { ingress: { fqdn: `${name}.happyfield.westeurope.azurecontainerapps.io` } },
      },
    }),
    "random:index/randomPassword:RandomPassword": ({ length, keepers }, name) => ({
      id: "none",
      state: {
        result: `${name}${JSON.stringify(keepers ?? "")}`
          .replace(/[^A-Za-z0-9]/g, "")
          .padEnd(Number(length), "x")
          .slice(0, Number(length)),
      },
    }),
    "pulumi-nodejs:dynamic/authentik-storage:S3Bucket": plain,
    "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors": plain,
    "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy": plain,
  };
}

function textOr(value: unknown, fallback: string): string {
  return typeof value === "string" ? value : fallback;
}

/** The subscription of the recorder's Azure. */
export const SUBSCRIPTION = "00000000-0000-0000-0000-000000000001";

/** The permission groups of the recorder's Cloudflare. The first two are those of authentik's token. */
export const PERMISSION_GROUPS = [
  { id: "6a018a9f2fc74eb6b293b0c548f38b39", name: "Workers R2 Storage Bucket Item Read" },
  { id: "2efd5506f9c8494dacb1fa10a3e7d5b6", name: "Workers R2 Storage Bucket Item Write" },
  { id: "bf7481a1826f439697cb59a20b22293e", name: "Workers R2 Storage Write" },
] as const;

function fakeCall({ token, inputs }: MockCallArgs): Record<string, unknown> {
  if (
    token !==
    "cloudflare:index/getAccountApiTokenPermissionGroupsList:getAccountApiTokenPermissionGroupsList"
  ) {
    throw new Error(`the recorder knows no call "${token}"`);
  }
  return { ...entriesOf(inputs), results: PERMISSION_GROUPS };
}

/** Chooses a provider by these values of a stack. Every key with the name of a secret is a secret. */
function choose(values: Record<string, string>): Promise<Chosen<StorageConfig>> {
  const secrets = new Set(Object.keys(values).filter((key) => /accessKey|secretKey/i.test(key)));
  return chooseProvider({ values, secrets });
}

/** Each problem of these values as "key: what is wrong". */
export async function configProblems(
  values: Record<string, string | undefined>,
): Promise<string[]> {
  const present = Object.fromEntries(
    Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  try {
    await choose(present);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems.map(({ key, wrong }) => `${key}: ${wrong}`);
  }
}

/** Provisions what these values of a stack describe. */
export async function record(values: Record<string, string>): Promise<Recording> {
  const { config, provision } = await choose(values);
  const calls: Recording["calls"] = [];
  const resources: Recorded[] = [];
  const known = fakes(() => (config.provider === "aws" ? config.region : ""));
  let refuse: (error: unknown) => void = () => undefined;
  // Outputs that depend on a refused resource never resolve, so the refusal must end the run.
  const refused = new Promise<never>((_resolve, reject) => (refuse = reject));
  const settled = <Answer>(answer: () => Answer): Answer => {
    try {
      return answer();
    } catch (error) {
      refuse(error);
      throw error;
    }
  };
  await setMocks(
    {
      newResource: (args) =>
        settled(() => {
          const result = answer(args, known);
          const registered = resources.find(
            ({ type, name }) => type === args.type && name === args.name,
          );
          if (registered) registered.outputs = entriesOf(result.state);
          return result;
        }),
      call: (args) =>
        settled(() => {
          calls.push({ token: args.token, inputs: entriesOf(args.inputs) });
          return fakeCall(args);
        }),
    },
    "authentik-storage",
    "test",
  );
  watch(resources);
  const listeners = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection").on("unhandledRejection", refuse);
  try {
    return await Promise.race([refused, resolve(() => provision("authentik"), resources, calls)]);
  } finally {
    process.removeAllListeners("unhandledRejection");
    for (const listener of listeners) process.on("unhandledRejection", listener);
  }
}

async function resolve(
  provision: () => AuthentikStorage,
  resources: Recorded[],
  calls: Recording["calls"],
): Promise<Recording> {
  const storage = provision();
  const outputs = output({
    bucketName: storage.bucketName,
    region: storage.region,
    endpoint: storage.endpoint,
    customDomain: storage.customDomain,
    credentials: storage.credentials,
  });
  await disconnect();
  const awaited = await valueOf(outputs);
  const all = (type: string) => resources.filter((resource) => resource.type === type);
  return {
    resources,
    calls,
    storage,
    ...awaited,
    credentialsAreSecret: await isSecret(storage.credentials),
    all,
    one: (type) => {
      const [found, ...more] = all(type);
      if (!found || more.length > 0)
        throw new Error(`${all(type).length} resources of type "${type}"`);
      return found;
    },
  };
}

/** The value of an output. */
export async function valueOf<Value>(value: Output<Value>): Promise<Value> {
  return new Promise((resolve) => {
    value.apply(resolve);
  });
}

function entriesOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

function answer(
  { type, name, inputs, custom }: MockResourceArgs,
  known: Record<string, Fake>,
): MockResourceResult {
  if (type === "pulumi:pulumi:Stack" || custom === false) return { id: undefined, state: {} };
  const fake = known[type];
  if (!fake) throw new Error(`the recorder knows no resource of type "${type}"`);
  const given = entriesOf(inputs);
  const { id = `${name}-id`, state = {} } = fake(given, name);
  return { id, state: { ...given, ...state } };
}

/** Records each request with its options, before the mocks get it. */
function watch(resources: Recorded[]): void {
  const monitor = getMonitor();
  const register: unknown = monitor && Reflect.get(monitor, "registerResource");
  if (typeof register !== "function") throw new Error("the SDK has no monitor");
  const keep = (request: RegisterResourceRequest, ...rest: unknown[]): unknown => {
    if (request.getType() !== "pulumi:pulumi:Stack") resources.push(recordedOf(request));
    return Reflect.apply(register, monitor, [request, ...rest]);
  };
  const registerResourceHook = (
    _request: unknown,
    done: (error: null, response: object) => void,
  ) => {
    done(null, {});
  };
  Object.assign(monitor ?? {}, { registerResource: keep, registerResourceHook });
}

function recordedOf(request: RegisterResourceRequest): Recorded {
  const secretInputs: string[] = [];
  const inputs = entriesOf(unwrap(request.getObject()?.toJavaScript(), "", secretInputs));
  const nameOf = (urn: string) => urn.split("::").at(-1) ?? "";
  const dependsOn = request.getDependenciesList().map(nameOf).sort();
  const trigger = request.getReplacementTrigger()?.toJavaScript();
  return {
    type: request.getType(),
    name: request.getName(),
    parent: nameOf(request.getParent()),
    inputs,
    outputs: {},
    secretInputs,
    options: {
      ...(request.getProtect() ? { protect: true } : {}),
      ...(request.getRetainondelete() ? { retainOnDelete: true } : {}),
      ...(request.getDeletebeforereplacedefined()
        ? { deleteBeforeReplace: request.getDeletebeforereplace() }
        : {}),
      ...(request.getImportid() === "" ? {} : { import: request.getImportid() }),
      ...(dependsOn.length === 0 ? {} : { dependsOn }),
      ...(request.getDeletedwith() === "" ? {} : { deletedWith: nameOf(request.getDeletedwith()) }),
      ...(request.getIgnorechangesList().length === 0
        ? {}
        : { ignoreChanges: request.getIgnorechangesList() }),
      ...(trigger === undefined || trigger === null ? {} : { replacementTrigger: trigger }),
      ...(request.getProvider() === ""
        ? {}
        : { provider: request.getProvider().split("::")[2]?.split("$").at(-1) ?? "" }),
    },
  };
}

/** The plain value of a protocol value, with the paths of its secrets. */
function unwrap(value: unknown, path: string, secretPaths: string[]): unknown {
  if (typeof value !== "object" || value === null) return value;
  const below = (key: string | number) => (path === "" ? String(key) : `${path}.${key}`);
  if (Array.isArray(value))
    return value.map((item, index) => unwrap(item, below(index), secretPaths));
  const entries = Object.entries(value);
  if (entries.some(([, mark]) => mark === SECRET_MARK) && "value" in value) {
    secretPaths.push(path);
    return unwrap(value.value, path, secretPaths);
  }
  return Object.fromEntries(
    entries.map(([key, item]) => [key, unwrap(item, below(key), secretPaths)]),
  );
}
