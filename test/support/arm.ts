/**
 * A fake of Azure Resource Manager, as far as the provider `azure` needs it: sign-in by client
 * secret, the eight types of resources, and CORS and policy at the gateway of its Container App. On
 * reads it adds what Azure adds. It was written after Azure's REST specifications and the source of
 * the azure-native plugin, and tested with that source, cut to these types and with metadata that
 * was written by hand. The published plugin has not been run against it.
 */
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { selfSigned } from "./certificate.ts";
import { listen } from "./listen.ts";

export const SUBSCRIPTION = "00000000-0000-0000-0000-000000000000";
export const GROUP = `/subscriptions/${SUBSCRIPTION}/resourceGroups/authentik`;
const TENANT = "11111111-1111-1111-1111-111111111111";
const CLIENT = { id: "22222222-2222-2222-2222-222222222222", secret: "client-secret" };
const IDENTITY = {
  principalId: "33333333-3333-3333-3333-333333333333",
  clientId: "44444444-4444-4444-4444-444444444444",
  tenantId: TENANT,
};
const TOKEN = "arm-token";
const OPERATION = `/subscriptions/${SUBSCRIPTION}/providers/Microsoft.App/operation`;
const ACCOUNT = "Microsoft.Storage/storageAccounts/[a-z0-9]{3,24}";

interface ArmType {
  /** Of a resource's id, below the group's `providers`. */
  path: string;
  /** The properties that Azure adds to reads. */
  added?: object;
  /** What Azure answers as location. */
  location?: string;
  /** Whether Azure answers a change with an operation that a client waits for. */
  isSlow?: true;
}

// biome-ignore format: a table of types
const TYPES: Record<string, ArmType> = {
  StorageAccount: {
    path: ACCOUNT, isSlow: true,
    added: { networkAcls: { ipRules: [], virtualNetworkRules: [], defaultAction: "Allow" }, privateEndpointConnections: [], statusOfPrimary: "available" },
  },
  BlobServiceProperties: { path: `${ACCOUNT}/blobServices/default`, added: { cors: { corsRules: [] } } },
  BlobContainer: {
    path: `${ACCOUNT}/blobServices/default/containers/[a-z0-9-]{3,63}`,
    added: { defaultEncryptionScope: "$account-encryption-key", denyEncryptionScopeOverride: false, hasLegalHold: false },
  },
  ManagementPolicy: { path: `${ACCOUNT}/managementPolicies/default` },
  UserAssignedIdentity: { path: "Microsoft.ManagedIdentity/userAssignedIdentities/[\\w-]+" },
  RoleAssignment: {
    path: `${ACCOUNT}/providers/Microsoft.Authorization/roleAssignments/[0-9a-f-]{36}`,
    added: { condition: null, createdOn: "2026-11-26T12:00:00Z" },
  },
  ManagedEnvironment: {
    path: "Microsoft.App/managedEnvironments/[\\w-]+", isSlow: true, location: "West Europe",
    added: { zoneRedundant: false, customDomainConfiguration: {} },
  },
  ContainerApp: {
    path: "Microsoft.App/containerApps/[\\w-]+", isSlow: true, location: "West Europe",
    added: { outboundIpAddresses: ["127.0.0.1"] },
  },
};

const Body = v.looseObject({
  location: v.optional(v.string()),
  properties: v.optional(v.record(v.string(), v.unknown()), {}),
});
const Configuration = v.looseObject({
  ingress: v.looseObject({}),
  secrets: v.array(v.object({ name: v.string(), value: v.string() })),
});
const Metadata = v.optional(v.record(v.string(), v.string()), {});

type Call = Record<"method" | "text" | "authorization", string> & { url: URL };
type Answer = { status: number; headers?: Record<string, string>; body?: unknown };

function refusal(status: number, code: string): Answer {
  return { status, body: { error: { code, message: `refused: ${code}` } } };
}

/** The fake, on a free port of 127.0.0.1. */
export class FakeArm {
  /** By id, as Azure was asked to have them. */
  readonly resources = new Map<string, v.InferOutput<typeof Body>>();
  /** Each change, as `PUT BlobContainer`, or `PUT ?cors` at the gateway. */
  readonly writes: string[] = [];
  readonly types = Object.keys(TYPES);
  /** The type whose resources have a read-only lock, or `?cors`, which the gateway then refuses. */
  lockedType: string | undefined;
  /** What the plugin needs in its environment. */
  env: Record<string, string> = {};
  stop = async (): Promise<void> => {};
  #url = "";

  static async start(): Promise<FakeArm> {
    const [fake, tls] = [new FakeArm(), await selfSigned()];
    const dir = await mkdtemp(join(tmpdir(), "authentik-storage-arm-"));
    const certificate = join(dir, "certificate.pem");
    await writeFile(certificate, tls.cert);
    const server = createServer(tls, (request, response) => {
      void fake.#answerTo(request).then(({ status, headers, body }) => {
        const text = typeof body === "string" || body === undefined ? body : JSON.stringify(body);
        response.writeHead(status, { "content-type": "application/json", ...headers }).end(text);
      });
    });
    const { host, stop } = await listen(server);
    fake.#url = `https://${host}`;
    fake.env = {
      ARM_METADATA_HOSTNAME: host,
      ARM_DISABLE_INSTANCE_DISCOVERY: "true",
      ARM_TENANT_ID: TENANT,
      ARM_SUBSCRIPTION_ID: SUBSCRIPTION,
      ARM_CLIENT_ID: CLIENT.id,
      ARM_CLIENT_SECRET: CLIENT.secret,
      // The plugin prefers these two to a client secret.
      ARM_CLIENT_CERTIFICATE_PATH: "",
      ARM_USE_DEFAULT_AZURE_CREDENTIAL: "",
      // The first is for the plugin, the second for the S3 resources.
      SSL_CERT_FILE: certificate,
      NODE_EXTRA_CA_CERTS: certificate,
      PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
    };
    fake.stop = async () => {
      await stop();
      await rm(dir, { recursive: true, force: true });
    };
    return fake;
  }

  async #answerTo(request: IncomingMessage): Promise<Answer> {
    let text = "";
    request.setEncoding("utf8").on("data", (part: string) => (text += part));
    await once(request, "end");
    const url = new URL(request.url ?? "", this.#url);
    const { method = "", headers } = request;
    try {
      return this.#route({ method, url, text, authorization: headers.authorization ?? "" });
    } catch (error) {
      return refusal(400, String(error));
    }
  }

  #route(call: Call): Answer {
    const { method, url, authorization } = call;
    const { pathname } = url;
    if (pathname === "/metadata/endpoints") return { status: 200, body: metadata(this.#url) };
    if (pathname.startsWith(`/${TENANT}/`)) return signIn(call, this.#url);
    if (!pathname.startsWith("/subscriptions/")) return this.#gateway(call);
    if (authorization !== `Bearer ${TOKEN}`) return refusal(401, "AuthenticationFailed");
    if (!url.searchParams.has("api-version")) return refusal(400, "MissingApiVersionParameter");
    if (pathname === OPERATION) return { status: 200, body: { status: "Succeeded" } };
    const [name, type] =
      Object.entries(TYPES).find(([, { path }]) => {
        return RegExp(`^${GROUP}/providers/${path}$`).test(pathname);
      }) ?? [];
    if (!type) return refusal(404, "InvalidResourceType");
    if (method !== "GET" && name === this.lockedType) return refusal(409, "ScopeLocked");
    if (method !== "GET") this.writes.push(`${method} ${name}`);
    return this.#resource(call, type);
  }

  #resource({ method, url: { pathname: id }, text }: Call, type: ArmType): Answer {
    const account = /^.*\/storageAccounts\/[^/]+(?=\/)/.exec(id)?.[0];
    if (account !== undefined && !this.resources.has(account) && method !== "DELETE")
      return refusal(404, "ParentResourceNotFound");
    if (method === "PUT") {
      const status = this.resources.has(id) ? 200 : 201;
      this.resources.set(id, v.parse(Body, JSON.parse(text)));
      return this.#slowly(type, { status, body: this.#shown(id, type, {}) });
    }
    if (method === "DELETE") {
      const ids = [...this.resources.keys()].filter((key) => `${key}/`.startsWith(`${id}/`));
      for (const key of ids) this.resources.delete(key);
      return ids.length === 0 ? { status: 204 } : this.#slowly(type, { status: 202 });
    }
    // Each account has these settings, with no need to create them.
    if (!this.resources.has(id) && type !== TYPES.BlobServiceProperties)
      return refusal(404, "ResourceNotFound");
    return { status: 200, body: this.#shown(id, type, type.added) };
  }

  /** The answer, with the address of an operation that ends at once. */
  #slowly({ isSlow }: ArmType, answer: Answer): Answer {
    if (!isSlow) return { ...answer, status: answer.body === undefined ? 200 : answer.status };
    const url = `${this.#url}${OPERATION}?api-version=2024-01-01`;
    return { ...answer, headers: { "azure-asyncoperation": url, "retry-after": "0" } };
  }

  #shown(id: string, type: ArmType, added: object = {}): object {
    const { properties = {}, location, ...body } = this.resources.get(id) ?? {};
    const name = id.split("/").at(-1);
    const place = location !== undefined && { location: type.location ?? location };
    const shown: Record<string, unknown> = { ...added, ...properties };
    if (type === TYPES.UserAssignedIdentity) Object.assign(shown, IDENTITY);
    if (type === TYPES.RoleAssignment) shown.scope = id.split("/providers/Microsoft.Auth")[0];
    if (type === TYPES.StorageAccount)
      shown.primaryEndpoints = { blob: `https://${name}.blob.core.windows.net/` };
    if (type === TYPES.ContainerApp) {
      const { ingress, secrets, ...others } = v.parse(Configuration, properties.configuration);
      const fqdn = this.#url.replace("https://", "");
      const names = secrets.map(({ name }) => ({ name }));
      shown.configuration = { ...others, ingress: { ...ingress, fqdn }, secrets: names };
    }
    return { ...body, id, name, ...place, properties: shown };
  }

  /** CORS and policy of a container, which the gateway keeps in the container's metadata. */
  #gateway({ method, url, text }: Call): Answer {
    const setting = ["cors", "policy"].find((name) => url.searchParams.has(name));
    const end = `/containers${url.pathname.replace(/\/$/, "")}`;
    const container = [...this.resources].find(([id]) => id.endsWith(end))?.[1];
    if (!container || setting === undefined) return refusal(404, "NoSuchBucket");
    const { [setting]: stored, ...others } = v.parse(Metadata, container.properties.metadata);
    const code = setting === "cors" ? "NoSuchCORSConfiguration" : "NoSuchBucketPolicy";
    const missing = { status: 404, body: `<Error><Code>${code}</Code></Error>` };
    if (method === "GET") return stored === undefined ? missing : { status: 200, body: stored };
    if (`?${setting}` === this.lockedType)
      return { status: 400, body: "<Error><Code>InvalidRequest</Code></Error>" };
    this.writes.push(`${method} ?${setting}`);
    container.properties.metadata = method === "PUT" ? { ...others, [setting]: text } : others;
    return { status: method === "PUT" ? 200 : 204 };
  }
}

/** Where a client signs in. */
function metadata(url: string): object {
  return {
    name: "AzureCloud",
    resourceManager: `${url}/`,
    microsoftGraphResourceId: `${url}/graph/`,
    authentication: { loginEndpoint: `${url}/`, audiences: [`${url}/`], tenant: "common" },
    suffixes: { storage: "core.windows.net", keyVaultDns: "vault.azure.net" },
  };
}

function signIn({ url: { pathname }, text }: Call, host: string): Answer {
  const authority = `${host}/${TENANT}`;
  const [token_endpoint, authorization_endpoint] = [`${authority}/token`, `${authority}/authorize`];
  if (pathname.endsWith("/.well-known/openid-configuration")) {
    const issuer = `${authority}/v2.0`;
    return { status: 200, body: { token_endpoint, authorization_endpoint, issuer } };
  }
  const { client_id, client_secret } = Object.fromEntries(new URLSearchParams(text));
  if (client_id !== CLIENT.id || client_secret !== CLIENT.secret)
    return refusal(401, "invalid_client");
  return { status: 200, body: { token_type: "Bearer", expires_in: 3600, access_token: TOKEN } };
}
