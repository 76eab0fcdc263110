import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import {
  AbortMultipartUploadCommand,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  DeleteBucketCommand,
  DeleteBucketCorsCommand,
  DeleteBucketPolicyCommand,
  DeleteObjectCommand,
  GetBucketCorsCommand,
  GetBucketPolicyCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListBucketsCommand,
  ListObjectsV2Command,
  PutBucketAclCommand,
  PutBucketCorsCommand,
  PutBucketPolicyCommand,
  PutObjectCommand,
  PutObjectTaggingCommand,
  S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { expect } from "chai";
import * as v from "valibot";
import { VERSITYGW_VERSION, type Keys } from "../providers/versitygw.ts";
import { findVersitygw, freePort, type RunningServer } from "../tools/start/versitygw.ts";
import { verify } from "../tools/verify/verify.ts";
import { cors, policy, type CorsInputs, type PolicyInputs } from "../providers/s3/operations.ts";
import {
  ACCOUNT,
  createContainer,
  metadataBytes,
  startAzurite,
  untilAnswered,
  type Azurite,
} from "./support/azurite.ts";
import { run, temporaryFolder, writeTree } from "./support/migration.ts";
import { configProblems, record, SUBSCRIPTION, type Recording } from "./support/recorder.ts";
import { BIN_DIR } from "./support/setup.ts";

const valid = {
  provider: "azure",
  location: "westeurope",
  resourceGroupName: "authentik",
  origins: "https://authentik.company",
};
const EXTERNAL = {
  gateway: "external",
  endpoint: "https://s3.company",
  accessKey: "authentik",
  secretKey: "secret",
  adminAccessKey: "root",
  adminSecretKey: "rootsecret",
};
const problems = async (changes: Record<string, string>) =>
  (await configProblems({ ...valid, ...changes })).join("\n");
const APP = "azure-native:app:ContainerApp";

/** The parts of the recorded Container App that start the gateway. */
const App = v.object({
  configuration: v.object({
    activeRevisionsMode: v.string(),
    ingress: v.object({
      external: v.boolean(),
      targetPort: v.number(),
      transport: v.string(),
      allowInsecure: v.boolean(),
    }),
    secrets: v.array(v.object({ name: v.string(), value: v.string() })),
  }),
  identity: v.object({ type: v.string(), userAssignedIdentities: v.array(v.string()) }),
  template: v.object({
    terminationGracePeriodSeconds: v.number(),
    containers: v.tuple([
      v.object({
        name: v.string(),
        image: v.string(),
        command: v.array(v.string()),
        args: v.array(v.string()),
        env: v.array(
          v.object({
            name: v.string(),
            value: v.optional(v.string()),
            secretRef: v.optional(v.string()),
          }),
        ),
        probes: v.array(
          v.object({ type: v.string(), httpGet: v.object({ path: v.string(), port: v.number() }) }),
        ),
        volumeMounts: v.array(v.object({ volumeName: v.string(), mountPath: v.string() })),
      }),
    ]),
    volumes: v.array(
      v.object({
        name: v.string(),
        storageType: v.string(),
        secrets: v.array(v.object({ secretRef: v.string(), path: v.string() })),
      }),
    ),
    scale: v.object({
      minReplicas: v.number(),
      maxReplicas: v.number(),
      rules: v.array(v.unknown()),
    }),
  }),
});

function appOf(recording: Recording): v.InferOutput<typeof App> {
  return v.parse(App, recording.one(APP).inputs);
}

/** The environment that the container gets, secrets filled in. */
function environmentOf({
  configuration,
  template: {
    containers: [container],
  },
}: v.InferOutput<typeof App>): Record<string, string> {
  const secretOf = (name: string | undefined) =>
    configuration.secrets.find((secret) => secret.name === name)?.value;
  return Object.fromEntries(
    container.env.map(({ name, value, secretRef }) => [name, value ?? secretOf(secretRef) ?? ""]),
  );
}

/** The users in the file that the container finds in its `--iam-dir`. */
function usersOf(recording: Recording): Keys[] {
  const { configuration, template } = appOf(recording);
  const [volume] = template.volumes;
  expect(volume?.secrets[0]?.path).to.equal("users.json");
  const text =
    configuration.secrets.find(({ name }) => name === volume?.secrets[0]?.secretRef)?.value ?? "";
  const File = v.object({
    accessAccounts: v.record(
      v.string(),
      v.object({ access: v.string(), secret: v.string(), role: v.literal("user") }),
    ),
  });
  return Object.values(v.parse(File, JSON.parse(text)).accessAccounts).map(
    ({ access, secret }) => ({ accessKey: access, secretKey: secret }),
  );
}

describe("Azure: storage", () => {
  it("an account that accepts only HTTPS, without public blobs and without keys", async () => {
    expect((await record(valid)).one("azure-native:storage:StorageAccount").inputs).to.deep.include(
      {
        kind: "StorageV2",
        sku: { name: "Standard_ZRS" },
        enableHttpsTrafficOnly: true,
        minimumTlsVersion: "TLS1_2",
        allowBlobPublicAccess: false,
        allowSharedKeyAccess: false,
        isLocalUserEnabled: false,
        allowCrossTenantReplication: false,
      },
    );
  });

  it("a private container whose metadata belongs to the gateway", async () => {
    const { inputs } = (await record(valid)).one("azure-native:storage:BlobContainer");
    expect(inputs).to.deep.include({ containerName: "authentik-media", publicAccess: "None" });
    expect(inputs).not.to.have.property("metadata");
  });

  it("updates the container for publicAccess only: an update writes the metadata of the last refresh", async () => {
    const { inputs, options } = (await record(valid)).one("azure-native:storage:BlobContainer");
    const sdk = "../node_modules/@pulumi/azure-native/storage/blobContainer.js";
    const all = (await readFile(new URL(sdk, import.meta.url), "utf8")).matchAll(
      / = args\?\.(\w+);/g,
    );
    const names = [...all].map(([, name = ""]) => name).filter((name) => !(name in inputs));
    expect(options.ignoreChanges).to.have.members([...names, "azureApiVersion"]);
  });

  it("destroy begins with the container, before all that authentik needs", async () => {
    const recording = await record(valid);
    const needed = new Set(["authentik-authentik-media/bucket"]);
    // The set grows while it is read.
    for (const name of needed) {
      const resource = recording.resources.find((other) => other.name === name);
      for (const other of resource?.options.dependsOn ?? []) needed.add(other);
    }
    const first = recording.resources.filter(({ name }) => !needed.has(name));
    // These are not deleted on a server: the component, its records, and settings that go with the container.
    expect(first.map(({ name }) => name)).to.have.members([
      "authentik",
      "authentik-adoption",
      "authentik-place",
      "authentik-authentik-media/cors",
      "authentik-authentik-media/policy",
    ]);
    const settings = first.filter(({ type }) => !type.startsWith("authentik-storage:"));
    expect(settings).to.have.length(2);
    for (const { name, options } of settings) {
      expect(options.deletedWith, name).to.equal("authentik-authentik-media/bucket");
    }
  });

  it("a new container is created before the old one is deleted, new settings after the old ones", async () => {
    const recording = await record(valid);
    const order = [
      "authentik-authentik-media/bucket",
      "authentik-authentik-media/cors",
      "authentik-authentik-media/policy",
    ].map((name) => {
      return recording.resources.find((other) => other.name === name)?.options.deleteBeforeReplace;
    });
    expect(order).to.deep.equal([false, true, true]);
  });

  it("is adopted by the ids of account and container", async () => {
    const recording = await record({
      ...valid,
      adopt: "true",
      subscriptionId: SUBSCRIPTION,
      storageAccountName: "companymedia",
    });
    const account = `/subscriptions/${SUBSCRIPTION}/resourceGroups/authentik/providers/Microsoft.Storage/storageAccounts/companymedia`;
    expect(recording.one("azure-native:storage:StorageAccount").options.import).to.equal(account);
    expect(recording.one("azure-native:storage:BlobContainer").options.import).to.equal(
      `${account}/blobServices/default/containers/authentik-media`,
    );
  });

  it("keeps deleted blobs and containers, and deletes abandoned uploads", async () => {
    const recording = await record({ ...valid, softDeleteDays: "14" });
    const retention = { enabled: true, days: 14 };
    expect(recording.one("azure-native:storage:BlobServiceProperties").inputs).to.deep.include({
      deleteRetentionPolicy: { ...retention, allowPermanentDelete: false },
      containerDeleteRetentionPolicy: retention,
    });
    expect(recording.one("azure-native:storage:ManagementPolicy").inputs).to.have.nested.property(
      "policy.rules[0].definition.actions.baseBlob.delete.daysAfterModificationGreaterThan",
      7,
    );
  });
});

describe("Azure: gateway", () => {
  it("runs the pinned versitygw with an identity that may use only this account", async () => {
    const recording = await record(valid);
    const app = appOf(recording);
    const [container] = app.template.containers;
    expect(container.image).to.equal(`docker.io/versity/versitygw:${VERSITYGW_VERSION}`);
    expect(app.identity.userAssignedIdentities).to.have.length(1);
    expect(environmentOf(app).AZURE_CLIENT_ID).to.equal("22222222-2222-2222-2222-222222222222");
    expect(recording.one("azure-native:authorization:RoleAssignment").inputs).to.deep.equal({
      scope: `/subscriptions/${SUBSCRIPTION}/resourceGroups/authentik/providers/Microsoft.Storage/storageAccounts/authentikmedia1a2b3c4d`,
      principalId: "11111111-1111-1111-1111-111111111111",
      principalType: "ServicePrincipal",
      roleDefinitionId: `/subscriptions/${SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/ba92f5b4-2d11-453d-a403-e96b0029c9fe`,
    });
    expect(recording.one(APP).options.dependsOn).to.include("authentik-gateway-role");
  });

  it("answers only over HTTPS, has probes, always runs and scales by requests", async () => {
    const recording = await record({ ...valid, gatewayMaxReplicas: "5" });
    const {
      configuration: { ingress, activeRevisionsMode },
      template: {
        containers: [container],
        scale,
      },
    } = appOf(recording);
    expect(ingress).to.deep.equal({
      external: true,
      targetPort: 7070,
      transport: "Http",
      allowInsecure: false,
    });
    expect(activeRevisionsMode).to.equal("Single");
    expect(
      container.probes.map(({ type, httpGet }) => `${type} ${httpGet.port}${httpGet.path}`),
    ).to.deep.equal(["Startup 7070/health", "Liveness 7070/health", "Readiness 7070/health"]);
    expect(scale).to.deep.equal({
      minReplicas: 1,
      maxReplicas: 5,
      rules: [{ name: "requests", http: { metadata: { concurrentRequests: "20" } } }],
    });
    expect(recording.endpoint).to.match(/^https:\/\/authentik-gateway\./);
  });

  it("stores its secrets as secrets, and authentik is not root", async () => {
    const recording = await record(valid);
    const env = environmentOf(appOf(recording));
    expect(recording.one(APP).secretInputs.join()).to.match(/^configuration/);
    expect(recording.credentials.accessKey).not.to.equal(env.ROOT_ACCESS_KEY);
    expect(JSON.stringify(recording.one(APP).inputs.template)).not.to.contain(env.ROOT_SECRET_KEY);
    for (const type of ["S3BucketCors", "S3BucketPolicy"]) {
      const { inputs, secretInputs } = recording.one(
        `pulumi-nodejs:dynamic/authentik-storage:${type}`,
      );
      expect(inputs).to.deep.include({
        credentials: { accessKey: env.ROOT_ACCESS_KEY, secretKey: env.ROOT_SECRET_KEY },
        retrySeconds: 900,
      });
      expect(secretInputs).to.include("credentials");
    }
  });

  it("rotates its users: both slots exist, and only the older one changes", async () => {
    const at = async (changes: Record<string, string>) => record({ ...valid, ...changes });
    const [first, second, third, retired] = [
      await at({}),
      await at({ keyGeneration: "2" }),
      await at({ keyGeneration: "3" }),
      await at({ keyGeneration: "3", retirePreviousKey: "true" }),
    ];
    for (const recording of [first, second, third, retired]) {
      const users = usersOf(recording);
      expect(users.map(({ accessKey }) => accessKey)).to.deep.equal(["authentik-0", "authentik-1"]);
      expect(users).to.deep.include(recording.credentials);
      expect(
        recording.one("pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy").inputs,
      ).to.deep.equal(first.one("pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy").inputs);
    }
    // The key of the previous generation still works.
    expect(usersOf(second)).to.deep.include(first.credentials);
    expect(usersOf(third)).to.deep.include(second.credentials);
    expect(usersOf(third)).not.to.deep.include(first.credentials);
    expect(usersOf(retired)).to.deep.include(third.credentials);
    expect(usersOf(retired)).not.to.deep.include(second.credentials);
    // A changed variable gives a new revision, which reads the users again.
    const generations = [first, second, third, retired].map(
      (recording) => environmentOf(appOf(recording)).KEY_GENERATIONS,
    );
    expect(new Set(generations).size).to.equal(4);
  });

  it("external: nothing is created for it, and its user gets the policy", async () => {
    const recording = await record({ ...valid, ...EXTERNAL });
    for (const type of [
      APP,
      "azure-native:app:ManagedEnvironment",
      "azure-native:authorization:RoleAssignment",
      "random:index/randomPassword:RandomPassword",
    ]) {
      expect(recording.all(type), type).to.deep.equal([]);
    }
    const place = recording.one("authentik-storage:azure:Place").inputs;
    expect(place).to.include({ gateway: "external", location: "westeurope" });
    expect(recording.endpoint).to.equal("https://s3.company");
    expect(recording.customDomain).to.equal("s3.company/authentik-media");
    expect(recording.credentials).to.deep.equal({ accessKey: "authentik", secretKey: "secret" });
    const { inputs, secretInputs } = recording.one(
      "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy",
    );
    expect(inputs).to.have.nested.property("policy.Statement[0].Principal.AWS[0]", "authentik");
    expect(secretInputs).to.include("policy");
  });
});

describe("Azure: config", () => {
  // biome-ignore format: a table of cases
  const wrong: [what: string, changes: Record<string, string>, message: RegExp][] = [
    ["a location as the portal shows it", { location: "West Europe" }, /^location: is not in its usual form; write "westeurope"/],
    ["a location that is none", { location: "eu" }, /^location: is not an Azure region/],
    ["a resource group that is none", { resourceGroupName: "a/b" }, /^resourceGroupName: is not the name/],
    ["the latest image", { gatewayImage: "versity/versitygw:latest" }, /^gatewayImage: is not a pinned image/],
    ["an image of a branch", { gatewayImage: "versity/versitygw:edge" }, /^gatewayImage: is not a pinned image/],
    ["an image of whatever version is newest", { gatewayImage: "versity/versitygw:v1" }, /^gatewayImage: is not a pinned image/],
    ["an image with half a digest", { gatewayImage: "versity/versitygw@sha256:0123" }, /^gatewayImage: is not a pinned image/],
    ["an image without a tag", { gatewayImage: "registry.company:5000/versitygw" }, /^gatewayImage: is not a pinned image/],
    ["two hyphens in a row", { bucketName: "a--b" }, /^bucketName: has two hyphens/],
    ["a dot", { bucketName: "a.bucket" }, /^bucketName: has a dot/],
    ["an account with a hyphen", { storageAccountName: "company-media" }, /^storageAccountName: is not the name of a storage account/],
    ["adopt without an account", { adopt: "true" }, /^subscriptionId: is missing.*\nstorageAccountName: is missing/],
    ["an external gateway without its keys", { gateway: "external" }, /endpoint: is missing[^]*adminSecretKey: is missing/],
    ["keys for a gateway that makes its own", { endpoint: "https://s3.company" }, /^endpoint: has no effect with gateway "containerApp"/],
    ["a rotation on a gateway of one's own", { ...EXTERNAL, keyGeneration: "2" }, /^keyGeneration: has no effect with gateway "external"/],
    ["http on the gateway", { secureUrls: "false" }, /^secureUrls: sends browsers to http/],
    ["https on a gateway that speaks http", { ...EXTERNAL, endpoint: "http://s3.company" }, /^secureUrls: sends browsers to https/],
    ["a custom domain without the container", { customDomain: "media.company" }, /^customDomain: does not have the bucket/],
  ];
  for (const [what, changes, message] of wrong)
    it(`refuses ${what}`, async () => {
      expect(await problems(changes)).to.match(message);
    });

  it("accepts images by version, digest or both", async () => {
    const digest = `sha256:${"a".repeat(64)}`;
    for (const gatewayImage of [
      "versity/versitygw:v1.8.0",
      "versitygw:1.8.0",
      "registry.company:5000/vgw:1.8.0-alpine",
      `ghcr.io/versity/versitygw@${digest}`,
      `registry.company:5000/vgw:v1@${digest}`,
    ]) {
      expect(await problems({ gatewayImage }), gatewayImage).to.equal("");
    }
  });
});

const CONNECTION = {
  endpoint: v.string(),
  bucket: v.string(),
  retrySeconds: v.number(),
  credentials: v.object({ accessKey: v.string(), secretKey: v.string() }),
};
const Cors = v.object({
  ...CONNECTION,
  rules: v.array(
    v.object({
      allowedOrigins: v.array(v.string()),
      allowedHeaders: v.array(v.string()),
      allowedMethods: v.array(v.string()),
      maxAgeSeconds: v.number(),
    }),
  ),
});
const Policy = v.object({ ...CONNECTION, policy: v.looseObject({}) });

describe("Azure: the recorded gateway, started in front of Azurite", function () {
  this.timeout(60_000);
  const Bucket = "authentik-media";
  let dir: string;
  let blobs: string;
  let azurite: Azurite;
  let gateway: RunningServer;
  let recording: Recording;
  let root: S3Client;
  let authentik: S3Client;
  let authentikKeys: Keys;
  let rootKeys: Keys;

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-azure-"));
    azurite = await startAzurite();
    blobs = azurite.blobs;
    await createContainer(blobs, Bucket);
    recording = await record(valid);
    gateway = await startRecorded(recording, dir, blobs);
    const env = environmentOf(appOf(recording));
    rootKeys = { accessKey: env.ROOT_ACCESS_KEY ?? "", secretKey: env.ROOT_SECRET_KEY ?? "" };
    root = client(gateway.endpoint, rootKeys);
    authentikKeys = {
      accessKey: String(recording.credentials.accessKey),
      secretKey: String(recording.credentials.secretKey),
    };
    authentik = client(gateway.endpoint, authentikKeys);
    await put();
  });
  after(async () => {
    root.destroy();
    authentik.destroy();
    await gateway.stop();
    await azurite.stop();
    await rm(dir, { recursive: true, force: true });
  });

  /** CORS and policy as recorded, put through the gateway by the operations of the engine. */
  async function put(): Promise<void> {
    await cors.create(corsInputs());
    await policy.create(policyInputs());
  }
  const onGateway = (type: string) => ({
    ...recording.one(`pulumi-nodejs:dynamic/authentik-storage:${type}`).inputs,
    endpoint: gateway.endpoint,
    retrySeconds: 10,
  });
  const corsInputs = (): CorsInputs => v.parse(Cors, onGateway("S3BucketCors"));
  const policyInputs = (): PolicyInputs => v.parse(Policy, onGateway("S3BucketPolicy"));

  it("a refresh reads CORS and policy as they were written", async () => {
    const actualCors = (await cors.read(Bucket, corsInputs())).props;
    const actualPolicy = (await policy.read(Bucket, policyInputs())).props;
    expect(actualCors && (await cors.diff(Bucket, actualCors, corsInputs())).changes).to.equal(
      false,
    );
    expect(
      actualPolicy && (await policy.diff(Bucket, actualPolicy, policyInputs())).changes,
    ).to.equal(false);
  });

  it("allows authentik's calls", async () => {
    const Key = "media/public/icon.svg";
    await authentik.send(
      new PutObjectCommand({
        Bucket,
        Key,
        Body: "<svg/>",
        ACL: "private",
        ContentType: "image/svg+xml",
      }),
    );
    expect((await authentik.send(new HeadObjectCommand({ Bucket, Key }))).ContentType).to.equal(
      "image/svg+xml",
    );
    expect(
      await (await authentik.send(new GetObjectCommand({ Bucket, Key }))).Body?.transformToString(),
    ).to.equal("<svg/>");
    expect(
      (
        await authentik.send(new ListObjectsV2Command({ Bucket, Prefix: "media/public/" }))
      ).Contents?.map((object) => object.Key),
    ).to.deep.equal([Key]);
    await authentik.send(new DeleteObjectCommand({ Bucket, Key }));
    expect(
      (await authentik.send(new ListObjectsV2Command({ Bucket, Prefix: "media/public/" })))
        .Contents ?? [],
    ).to.deep.equal([]);
  });

  it("allows authentik's multipart uploads, and keeps the file when one is given up", async () => {
    const Key = "media/public/large.bin";
    const { UploadId } = await authentik.send(
      new CreateMultipartUploadCommand({ Bucket, Key, ACL: "private" }),
    );
    const { ETag } = await authentik.send(
      new UploadPartCommand({
        Bucket,
        Key,
        UploadId,
        PartNumber: 1,
        Body: Buffer.alloc(5_300_000, 7),
      }),
    );
    await authentik.send(
      new CompleteMultipartUploadCommand({
        Bucket,
        Key,
        UploadId,
        MultipartUpload: { Parts: [{ PartNumber: 1, ETag }] },
      }),
    );
    expect((await authentik.send(new HeadObjectCommand({ Bucket, Key }))).ContentLength).to.equal(
      5_300_000,
    );
    const { UploadId: other } = await authentik.send(
      new CreateMultipartUploadCommand({ Bucket, Key }),
    );
    const abort = { Bucket, Key, UploadId: other };
    expect(await statusOf(authentik.send(new AbortMultipartUploadCommand(abort)))).to.equal(403);
    expect((await authentik.send(new HeadObjectCommand({ Bucket, Key }))).ContentLength).to.equal(
      5_300_000,
    );
  });

  const verifyWith = (keys: typeof authentikKeys, keyIsAdmin: boolean) => {
    const place = { bucketName: Bucket, endpoint: gateway.endpoint, region: "us-east-1" };
    const settings = { ...place, secureUrls: false, ...keys };
    return verify({ settings, origins: ["https://authentik.company"], keyIsAdmin });
  };

  it("verify accepts that, warns of names that cannot be uploaded in parts, and leaves nothing", async () => {
    const results = await verifyWith(authentikKeys, false);
    const ofInterest = results.filter(({ status }) => status !== "ok" && status !== "skipped");
    expect(ofInterest.map(({ check, symptom }) => `${check}: ${symptom}`)).to.deep.equal([
      "start upload, non-ASCII name: non-ascii-name",
    ]);
    expect(results.find(({ check }) => check === "abort upload")?.got).to.contain(
      "right before Azure",
    );
    const { Contents = [] } = await authentik.send(
      new ListObjectsV2Command({ Bucket, Prefix: "media/public/verify-" }),
    );
    expect(Contents).to.deep.equal([]);
  });

  it("verify finds a key whose abort deletes the file", async () => {
    const found = (await verifyWith(rootKeys, true)).find(({ check }) => check === "abort upload");
    expect(found?.symptom).to.equal("abort-deletes-file");
  });

  it("a replica that gets SIGTERM ends the requests that it has", async () => {
    const other = await startRecorded(recording, dir, blobs, "8");
    const s3 = client(other.endpoint, authentikKeys);
    const Key = "media/public/slow.bin";
    const body = Readable.from(slowly(20, 400));
    const put = s3.send(
      new PutObjectCommand({ Bucket, Key, Body: body, ContentLength: 20 * 8_192 }),
    );
    await sleep(500);
    other.terminate();
    await put;
    s3.destroy();
    await other.stop();
    expect((await authentik.send(new HeadObjectCommand({ Bucket, Key }))).ContentLength).to.equal(
      20 * 8_192,
    );
  });

  it("the most origins that the config allows fit in the container's metadata", async () => {
    const origins = (count: number) =>
      Array.from(
        { length: count },
        (_, index) => `https://authentik-${1000 + index}.example.company`,
      );
    const tooMany = (count: number) =>
      problems({ origins: JSON.stringify(origins(count)) }).then((text) => text !== "");
    let count = 30;
    while (!(await tooMany(count + 1))) count += 1;
    const most = await record({ ...valid, origins: JSON.stringify(origins(count)) });
    const { rules } = v.parse(Cors, {
      ...most.one("pulumi-nodejs:dynamic/authentik-storage:S3BucketCors").inputs,
      endpoint: gateway.endpoint,
    });
    await cors.create({ ...corsInputs(), rules });
    const bytes = await metadataBytes(blobs, Bucket);
    await cors.create(corsInputs());
    expect(bytes).to.be.within(7_700, 8_192);
  });

  it("migrate copies files, except a name with a backslash that the server takes for a slash", async () => {
    const folder = temporaryFolder();
    writeTree(folder, {
      "data/media/public/é +%.png": "e",
      "data/media/public/x\\y.png": "backslash",
      "data/media/public/a\\b.png": "b",
    });
    await authentik.send(
      new PutObjectCommand({ Bucket, Key: "media/public/x/y.png", Body: "slash" }),
    );
    const settings = {
      bucketName: Bucket,
      endpoint: gateway.endpoint,
      region: "us-east-1",
      secureUrls: false,
      ...authentikKeys,
    };
    const { problems, copied } = await run(join(folder, "data"), settings, {
      state: join(folder, "state"),
    });
    expect(problems.map(({ key, kind }) => `${kind} ${key}`)).to.have.members([
      "skipped media/public/a\\b.png",
      "skipped media/public/x\\y.png",
    ]);
    expect(copied.files).to.equal(1);
    const { Body } = await authentik.send(
      new GetObjectCommand({ Bucket, Key: "media/public/x/y.png" }),
    );
    expect(await Body?.transformToString()).to.equal("slash");
    const keys = (
      await authentik.send(new ListObjectsV2Command({ Bucket, Prefix: "media/public/a" }))
    ).Contents;
    expect(keys).to.equal(undefined);
  });

  it("allows browsers from the origin, and from no other", async () => {
    const preflight = async (origin: string) =>
      (
        await fetch(`${gateway.endpoint}/${Bucket}/media/public/x`, {
          method: "OPTIONS",
          headers: { origin, "access-control-request-method": "GET" },
        })
      ).status;
    expect(await preflight("https://authentik.company")).to.equal(200);
    expect(await preflight("https://elsewhere.company")).to.equal(403);
  });

  const refusals: [what: string, work: (s3: S3Client) => Promise<unknown>][] = [
    ["read the policy", (s3) => s3.send(new GetBucketPolicyCommand({ Bucket }))],
    ["put a policy", (s3) => s3.send(new PutBucketPolicyCommand({ Bucket, Policy: "{}" }))],
    ["delete the policy", (s3) => s3.send(new DeleteBucketPolicyCommand({ Bucket }))],
    ["read CORS", (s3) => s3.send(new GetBucketCorsCommand({ Bucket }))],
    [
      "put CORS",
      (s3) =>
        s3.send(
          new PutBucketCorsCommand({
            Bucket,
            CORSConfiguration: { CORSRules: [{ AllowedOrigins: ["*"], AllowedMethods: ["GET"] }] },
          }),
        ),
    ],
    ["delete CORS", (s3) => s3.send(new DeleteBucketCorsCommand({ Bucket }))],
    [
      "put an ACL on the bucket",
      (s3) => s3.send(new PutBucketAclCommand({ Bucket, ACL: "private" })),
    ],
    [
      "tag an object",
      (s3) =>
        s3.send(
          new PutObjectTaggingCommand({
            Bucket,
            Key: "media/public/large.bin",
            Tagging: { TagSet: [] },
          }),
        ),
    ],
    ["delete the bucket", (s3) => s3.send(new DeleteBucketCommand({ Bucket }))],
    ["create another", (s3) => s3.send(new CreateBucketCommand({ Bucket: "another" }))],
    ["list another", (s3) => s3.send(new ListObjectsV2Command({ Bucket: "roots-own" }))],
    [
      "read from another",
      (s3) => s3.send(new GetObjectCommand({ Bucket: "roots-own", Key: "file" })),
    ],
    [
      "write to another",
      (s3) => s3.send(new PutObjectCommand({ Bucket: "roots-own", Key: "file", Body: "x" })),
    ],
  ];
  describe("authentik's user may not", () => {
    before(async () => {
      await root.send(new CreateBucketCommand({ Bucket: "roots-own" }));
      await root.send(new PutObjectCommand({ Bucket: "roots-own", Key: "file", Body: "root's" }));
    });
    for (const [what, work] of refusals) {
      it(what, async () => {
        expect(await statusOf(work(authentik))).to.equal(403);
      });
    }
    it("see that other buckets exist", async () => {
      expect((await authentik.send(new ListBucketsCommand({}))).Buckets ?? []).to.deep.equal([]);
    });
  });

  it("refuses requests without a key, with a wrong key, or with the user of an empty slot", async () => {
    const user = { accessKey: String(recording.credentials.accessKey), secretKey: "wrong" };
    for (const s3 of [
      client(gateway.endpoint, user),
      client(gateway.endpoint, {
        accessKey: "authentik-0",
        secretKey: String(recording.credentials.secretKey),
      }),
    ]) {
      expect(await statusOf(s3.send(new ListObjectsV2Command({ Bucket })))).to.equal(403);
      s3.destroy();
    }
    expect((await fetch(`${gateway.endpoint}/${Bucket}/media/public/large.bin`)).status).to.equal(
      403,
    );
  });

  describe("after a rotation", () => {
    it("allows the previous key too, under the same policy", async () => {
      const rotated = await record({ ...valid, keyGeneration: "2" });
      await gateway.stop();
      gateway = await startRecorded(rotated, dir, blobs);
      for (const { credentials } of [recording, rotated]) {
        const s3 = client(gateway.endpoint, {
          accessKey: String(credentials.accessKey),
          secretKey: String(credentials.secretKey),
        });
        await s3.send(
          new PutObjectCommand({ Bucket, Key: "media/public/both", Body: "x", ACL: "private" }),
        );
        s3.destroy();
      }
    });
  });
});

function client(endpoint: string, { accessKey, secretKey }: Keys): S3Client {
  return new S3Client({
    endpoint,
    region: "us-east-1",
    forcePathStyle: true,
    maxAttempts: 1,
    credentials: { accessKeyId: accessKey, secretAccessKey: secretKey },
  });
}

/** A body that takes `count` times `milliseconds`. */
async function* slowly(count: number, milliseconds: number): AsyncGenerator<Buffer> {
  for (let index = 0; index < count; index += 1) {
    await sleep(milliseconds);
    yield Buffer.alloc(8_192, index);
  }
}

async function statusOf(work: Promise<unknown>): Promise<number | undefined> {
  const Failure = v.object({ $metadata: v.object({ httpStatusCode: v.optional(v.number()) }) });
  try {
    await work;
    return 200;
  } catch (error) {
    return v.parse(Failure, error).$metadata.httpStatusCode;
  }
}

/**
 * The container's command with its environment and its files. Only what this machine lacks is put in another place: port,
 * folder of the users, and Azurite's account and key instead of Azure's and the identity.
 */
async function startRecorded(
  recording: Recording,
  dir: string,
  blobs: string,
  secondsToStop = "240",
): Promise<RunningServer & { terminate(): boolean }> {
  const app = appOf(recording);
  const [container] = app.template.containers;
  const versitygw = await findVersitygw(BIN_DIR);
  const [port, iamDir] = [await freePort(), await mkdtemp(join(dir, "iam-"))];
  const [mount] = container.volumeMounts;
  for (const { secretRef, path } of app.template.volumes.find(
    ({ name }) => name === mount?.volumeName,
  )?.secrets ?? []) {
    await writeFile(
      join(iamDir, path),
      app.configuration.secrets.find(({ name }) => name === secretRef)?.value ?? "",
      { mode: 0o400 },
    );
  }
  await chmod(iamDir, 0o500);
  const here = new Map([
    [`:${app.configuration.ingress.targetPort}`, `127.0.0.1:${port}`],
    [mount?.mountPath, iamDir],
    ["authentikmedia1a2b3c4d", ACCOUNT.name],
    ["https://authentikmedia1a2b3c4d.blob.core.windows.net/", `${blobs}/`],
  ]);
  const args = container.args.map((argument) => here.get(argument) ?? argument);
  expect(
    args.filter((argument, index) => argument !== container.args[index]),
    "arguments put in another place",
  ).to.have.length(4);
  const env = { PATH: process.env.PATH, ...environmentOf(app), AZ_ACCESS_KEY: ACCOUNT.key };
  const path = [dirname(versitygw), env.PATH].join(delimiter);
  const [shell = "", ...command] = container.command.map((argument) =>
    argument.replace("sleep 240", `sleep ${secondsToStop}`),
  );
  const child = spawn(shell, [...command, ...args], {
    env: { ...env, PATH: path },
    stdio: "ignore",
    // The shell and the gateway are a group, so that `stop` ends both.
    detached: true,
  });
  const endpoint = `http://127.0.0.1:${port}`;
  const health = container.probes[0]?.httpGet.path ?? "";
  const answer = await untilAnswered(() => fetch(`${endpoint}${health}`));
  expect(answer.status).to.equal(200);
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    const ended = once(child, "exit");
    process.kill(-child.pid, "SIGKILL");
    await ended;
  };
  return { endpoint, stop, terminate: () => child.kill("SIGTERM") };
}
