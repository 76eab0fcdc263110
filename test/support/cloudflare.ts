/**
 * A fake of Cloudflare's API, as far as the provider `r2` needs it: R2 buckets by jurisdiction with
 * their settings, and account API tokens. It refuses what it does not know. The error codes are
 * Cloudflare's (R2, "Error codes").
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import * as v from "valibot";
import { listen } from "./listen.ts";

export const ACCOUNT = "0123456789abcdef0123456789abcdef";
/** Another account, which is for previews: its buckets are those of the first. */
export const OTHER_ACCOUNT = "fedcba9876543210fedcba9876543210";
/** The only API token that the fake accepts. */
const API_TOKEN = "0123456789012345678901234567890123456789";

const GROUPS = ["Read", "Write"].map((right) => ({
  id: right.toLowerCase().padEnd(32, "0"),
  name: `Workers R2 Storage Bucket Item ${right}`,
  scopes: ["com.cloudflare.edge.r2.bucket"],
}));

/** The rule of each new bucket. */
export const DEFAULT_RULE = {
  id: "Default Multipart Abort Rule",
  enabled: true,
  conditions: { prefix: "" },
  abortMultipartUploadsTransition: { condition: { type: "Age", maxAge: 604_800 } },
};

interface FakeBucket {
  isEmpty: boolean;
  storageClass: string;
  /** Undefined without a CORS policy. */
  cors?: unknown;
  lifecycle: unknown;
  isPublic: boolean;
}

interface FakeToken {
  name: string;
  status: string;
  policies: v.InferOutput<typeof Token>["policies"];
  value: string;
}

export interface FakeCloudflare {
  /** What the plugin needs in its environment. */
  env: Record<string, string>;
  /** By `jurisdiction/name`. */
  buckets: Map<string, FakeBucket>;
  /** By id. */
  tokens: Map<string, FakeToken>;
  /** Each request that is not a GET, as `METHOD path jurisdiction`, the path below the account. */
  writes: string[];
  /** Whether the API token of `pulumi up` may read and edit account API tokens. */
  mayManageTokens: boolean;
  /** Makes a bucket that no stack has. */
  put(place: string): FakeBucket;
  stop(): Promise<void>;
}

class Refusal extends Error {
  readonly status: number;
  readonly code: number;
  constructor(status: number, code: number, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const NewBucket = v.strictObject({
  name: v.string(),
  locationHint: v.optional(v.string()),
  storageClass: v.optional(v.string(), "Standard"),
});
const Cors = v.strictObject({ rules: v.array(v.looseObject({})) });
const Lifecycle = v.strictObject({ rules: v.array(v.looseObject({ id: v.string() })) });
const ManagedDomain = v.strictObject({ enabled: v.boolean() });
const Token = v.strictObject({
  name: v.string(),
  status: v.optional(v.picklist(["active", "disabled"]), "active"),
  policies: v.array(
    v.strictObject({
      id: v.optional(v.string()),
      effect: v.literal("allow"),
      permission_groups: v.array(v.looseObject({ id: v.string() })),
      resources: v.record(v.string(), v.literal("*")),
    }),
  ),
});

interface Call {
  method: string;
  /** Below the account. */
  path: string[];
  jurisdiction: string;
  body: unknown;
  /** The header by which a bucket's storage class is changed. */
  storageClass: unknown;
}

/** Starts it on a free port of 127.0.0.1. */
export async function startCloudflare(): Promise<FakeCloudflare> {
  const server = createServer((request, response) => {
    void answerOf(request, fake).then(({ status, answer }) => {
      // The plugin retries a 409 for three minutes. No test waits for that.
      const headers = { "content-type": "application/json", "x-should-retry": "false" };
      response.writeHead(status, headers).end(JSON.stringify(answer));
    });
  });
  const { host, stop } = await listen(server);
  const buckets: FakeCloudflare["buckets"] = new Map();
  const fake: FakeCloudflare = {
    env: {
      CLOUDFLARE_API_TOKEN: API_TOKEN,
      CLOUDFLARE_BASE_URL: `http://${host}/client/v4/`,
      PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
    },
    buckets,
    tokens: new Map(),
    writes: [],
    mayManageTokens: true,
    put: (place) => {
      const bucket = {
        isEmpty: true,
        storageClass: "Standard",
        lifecycle: { rules: [DEFAULT_RULE] },
        isPublic: false,
      };
      buckets.set(place, bucket);
      return bucket;
    },
    stop,
  };
  return fake;
}

async function answerOf(
  request: IncomingMessage,
  fake: FakeCloudflare,
): Promise<{ status: number; answer: object }> {
  try {
    const text = await textOf(request);
    const { pathname } = new URL(request.url ?? "", "http://fake");
    const [, root, version, accounts, account = "", ...path] = pathname.split("/");
    const jurisdiction = String(request.headers["cf-r2-jurisdiction"] ?? "default");
    const { method = "", headers } = request;
    if (headers.authorization !== `Bearer ${API_TOKEN}`)
      throw new Refusal(403, 9109, "Invalid access token");
    if (`${root}/${version}/${accounts}` !== "client/v4/accounts")
      throw new Refusal(404, 7003, "Could not route");
    if (account !== ACCOUNT && account !== OTHER_ACCOUNT)
      throw new Refusal(403, 10000, "Authentication error");
    if (method !== "GET") fake.writes.push(`${method} ${path.join("/")} ${jurisdiction}`);
    const body: unknown = text === "" ? undefined : JSON.parse(text);
    const storageClass = headers["cf-r2-storage-class"];
    const result = resultOf({ method, path, jurisdiction, body, storageClass }, fake);
    return { status: 200, answer: { success: true, errors: [], messages: [], result } };
  } catch (error) {
    const { status, code, message } =
      error instanceof Refusal ? error : new Refusal(400, 10005, String(error));
    return {
      status,
      answer: { success: false, errors: [{ code, message }], messages: [], result: null },
    };
  }
}

function resultOf(call: Call, fake: FakeCloudflare): unknown {
  const [kind, second, name, ...setting] = call.path;
  if (kind === "tokens") {
    if (!fake.mayManageTokens) throw new Refusal(403, 10000, "Authentication error");
    return second === "permission_groups" ? GROUPS : tokenResult(second, call, fake);
  }
  if (kind !== "r2" || second !== "buckets") throw new Refusal(404, 7003, "Could not route");
  if (name === undefined) return createBucket(call, fake);
  const place = `${call.jurisdiction}/${name}`;
  const bucket = fake.buckets.get(place);
  if (!bucket) throw new Refusal(404, 10006, "The specified bucket does not exist.");
  if (setting.length > 0) return settingResult(setting.join("/"), call, bucket);
  if (call.method === "DELETE") {
    if (!bucket.isEmpty)
      throw new Refusal(409, 10008, "The bucket you tried to delete is not empty.");
    fake.buckets.delete(place);
    return {};
  }
  if (call.method === "PATCH") bucket.storageClass = String(call.storageClass);
  else if (call.method !== "GET") throw new Refusal(405, 10000, "Method not allowed");
  return shownBucket(name, call.jurisdiction, bucket);
}

function createBucket({ method, body, jurisdiction }: Call, fake: FakeCloudflare): unknown {
  if (method !== "POST") throw new Refusal(405, 10000, "Method not allowed");
  const { name, storageClass } = v.parse(NewBucket, body);
  if (fake.buckets.has(`${jurisdiction}/${name}`)) {
    throw new Refusal(409, 10004, "The bucket you tried to create already exists, and you own it.");
  }
  const bucket = Object.assign(fake.put(`${jurisdiction}/${name}`), { storageClass });
  return shownBucket(name, jurisdiction, bucket);
}

function shownBucket(name: string, jurisdiction: string, { storageClass }: FakeBucket): object {
  return {
    name,
    jurisdiction,
    location: "WEUR",
    storage_class: storageClass,
    creation_date: "2026-11-26T12:00:00.000Z",
  };
}

function settingResult(setting: string, { method, body }: Call, bucket: FakeBucket): unknown {
  switch (`${method} ${setting}`) {
    case "PUT cors":
      bucket.cors = v.parse(Cors, body);
      return {};
    case "GET cors":
      if (bucket.cors === undefined)
        throw new Refusal(404, 10059, "The CORS configuration does not exist.");
      return bucket.cors;
    case "DELETE cors":
      delete bucket.cors;
      return {};
    case "PUT lifecycle":
      bucket.lifecycle = v.parse(Lifecycle, body);
      return {};
    case "GET lifecycle":
      return bucket.lifecycle;
    case "PUT domains/managed":
      bucket.isPublic = v.parse(ManagedDomain, body).enabled;
      return { bucketId: "b", domain: "pub-b.r2.dev", enabled: bucket.isPublic };
    default:
      throw new Refusal(405, 10000, `Method not allowed: ${method} ${setting}`);
  }
}

function tokenResult(
  id: string | undefined,
  { method, body }: Call,
  { tokens }: FakeCloudflare,
): unknown {
  if (id === undefined) {
    if (method !== "POST") throw new Refusal(405, 10000, "Method not allowed");
    const made = randomBytes(16).toString("hex");
    const token = { ...v.parse(Token, body), value: randomBytes(20).toString("hex") };
    tokens.set(made, token);
    return { ...shownToken(made, token), value: token.value };
  }
  const token = tokens.get(id);
  if (!token) throw new Refusal(404, 1001, "Token not found");
  if (method === "DELETE") {
    tokens.delete(id);
    return { id };
  }
  if (method === "PUT") Object.assign(token, v.parse(Token, body));
  else if (method !== "GET") throw new Refusal(405, 10000, "Method not allowed");
  return shownToken(id, token);
}

function shownToken(id: string, { name, status, policies }: FakeToken): object {
  return {
    id,
    name,
    status,
    issued_on: "2026-11-26T12:00:00Z",
    modified_on: "2026-11-26T12:00:00Z",
    policies: policies.map((policy, index) => ({
      ...policy,
      id: `${id.slice(1)}${index}`,
      permission_groups: policy.permission_groups.map(
        (group) => GROUPS.find(({ id }) => id === group.id) ?? group,
      ),
    })),
  };
}

async function textOf(request: IncomingMessage): Promise<string> {
  let text = "";
  request.setEncoding("utf8").on("data", (part: string) => (text += part));
  await once(request, "end");
  return text;
}
