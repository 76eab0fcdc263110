/** What stacks store, on the real engine: a stack of an earlier version, and files that move. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  CreateBucketCommand,
  HeadBucketCommand,
  PutBucketCorsCommand,
  PutBucketPolicyCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { expect } from "chai";
import * as v from "valibot";
import { authentikPolicy } from "../authentik/permissions.ts";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { Checkout } from "./support/checkout.ts";
import { EngineProject, pulumi } from "./support/engine.ts";
import { startFaultProxy, type FaultProxy } from "./support/fault-proxy.ts";
import { AUTHENTIK, ROOT, rootClient, startTestServer } from "./support/server.ts";

/**
 * What commit 3f119a4 stored: `pulumi stack export --show-secrets` of a stack with the config
 * below and the passphrase of EngineProject. Times and source positions are left out. The handlers
 * name operations.ts and tsx.
 */
const EARLIER_STACK = new URL("fixtures/earlier-stack.json", import.meta.url);
/** The server of that stack. */
const EARLIER_HOST = "127.0.0.1:7070";

const Bucket = "authentik-media";
const ORIGIN = "https://authentik.company";
const CONFIG = { provider: "s3", secureUrls: false, origins: [ORIGIN], protect: false };
const SECRETS = {
  accessKey: AUTHENTIK.accessKey,
  secretKey: AUTHENTIK.secretKey,
  adminAccessKey: ROOT.accessKey,
  adminSecretKey: ROOT.secretKey,
  policyPrincipal: AUTHENTIK.accessKey,
};
const EVERY_RESOURCE = ["authentik-bucket", "authentik-cors", "authentik-policy"];

const State = v.object({
  deployment: v.object({
    resources: v.array(
      v.object({ inputs: v.optional(v.looseObject({ __provider: v.optional(v.string()) })) }),
    ),
  }),
});

/** The handlers that a stack stores. */
async function handlersOf(project: EngineProject): Promise<string[]> {
  const { deployment } = v.parse(State, JSON.parse(await project.expectOk("stack", "export")));
  return deployment.resources.flatMap(({ inputs }) => inputs?.__provider ?? []);
}

async function expectNewHandlers(project: EngineProject): Promise<void> {
  const handlers = await handlersOf(project);
  expect(handlers).to.have.length(EVERY_RESOURCE.length);
  for (const handler of handlers)
    expect(handler).not.to.match(/\.\.?\/|\.[cm]?[jt]s\b|tsx|operations|s3/);
}

(pulumi ? describe : describe.skip)("what a stack stores, on the real Pulumi engine", function () {
  this.timeout(180_000);
  this.slow(20_000);
  let server: RunningServer;
  let s3: S3Client;
  let proxy: FaultProxy;
  /** Each request through the proxy that may change something. */
  let writes: string[];

  beforeEach(async () => {
    writes = [];
    server = await startTestServer();
    s3 = rootClient(server);
    proxy = await startFaultProxy(server.endpoint, ({ method, path }) => {
      if (method !== "GET" && method !== "HEAD") writes.push(`${method} ${path}`);
      return undefined;
    });
  });
  afterEach(async () => {
    await proxy.stop();
    s3.destroy();
    await server.stop();
  });

  const expectNoBucket = async () => {
    const error: unknown = await s3
      .send(new HeadBucketCommand({ Bucket }))
      .catch((reason: unknown) => reason);
    expect(error).to.be.instanceOf(Error).and.have.property("name", "NotFound");
  };

  describe("a stack of an earlier version", () => {
    let project: EngineProject;
    beforeEach(async () => {
      await putOnServer();
      project = await EngineProject.create();
      await project.configure({ ...CONFIG, endpoint: proxy.endpoint }, SECRETS);
      const state = await readFile(EARLIER_STACK, "utf8");
      const file = join(project.dir, "earlier-stack.json");
      await writeFile(file, state.replaceAll(EARLIER_HOST, new URL(proxy.endpoint).host));
      await project.expectOk("stack", "import", "--file", file);
      await rm(file);
      expect(
        (await handlersOf(project)).filter((handler) => handler.includes("tsx")),
      ).to.have.length(3);
    });
    afterEach(async () => {
      await project.remove();
    });

    /** The bucket and its settings, as the stack has them. */
    async function putOnServer(): Promise<void> {
      await s3.send(new CreateBucketCommand({ Bucket }));
      const rule = {
        AllowedOrigins: [ORIGIN],
        AllowedHeaders: ["Authorization"],
        AllowedMethods: ["GET"],
        MaxAgeSeconds: 3000,
      };
      await s3.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [rule] } }));
      const policy = authentikPolicy(`arn:aws:s3:::${Bucket}`, [AUTHENTIK.accessKey]);
      await s3.send(new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(policy) }));
    }

    const commands = {
      preview: async () => {
        const updates = EVERY_RESOURCE.map((name) => [name, "update"]);
        expect(await project.plan()).to.deep.equal(Object.fromEntries(updates));
      },
      up: async () => {
        await project.expectOk("up", "--yes", "--skip-preview");
        expect(writes).to.deep.equal([]);
        await expectNewHandlers(project);
        await project.expectOk("preview", "--expect-no-changes");
      },
      refresh: async () => {
        await project.expectOk("refresh", "--yes", "--skip-preview", "--expect-no-changes");
        expect(writes).to.deep.equal([]);
      },
      destroy: async () => {
        await project.expectOk("destroy", "--yes", "--skip-preview");
        await expectNoBucket();
      },
    };
    const orders = [
      ["preview", "up", "refresh", "destroy"],
      ["refresh", "preview", "up", "destroy"],
      ["destroy"],
    ] as const;
    for (const order of orders) {
      it(`can be handled by: ${order.join(", ")}`, async () => {
        for (const command of order) await commands[command]();
      });
    }
  });

  it("a new stack does not notice that files and folders have moved", async () => {
    const checkout = await Checkout.create();
    const project = await EngineProject.create({ repository: checkout.dir });
    try {
      await project.configure({ ...CONFIG, endpoint: proxy.endpoint }, SECRETS);
      await project.expectOk("up", "--yes", "--skip-preview");
      await expectNewHandlers(project);

      await moveFiles(checkout.dir);
      await project.setMain(join(checkout.dir, "start", "here"));
      writes = [];
      await project.expectOk("preview", "--expect-no-changes");
      await project.expectOk("refresh", "--yes", "--skip-preview", "--expect-no-changes");
      expect(writes).to.deep.equal([]);
      await project.expectOk("destroy", "--yes", "--skip-preview");
      await expectNoBucket();
    } finally {
      await project.remove();
      await checkout.remove();
    }
  });
});

/** Moves all that an earlier version's handler names, and adapts the line of package.json. */
async function moveFiles(dir: string): Promise<void> {
  type Change = [text: string, instead: string];
  const move = async (from: string, to: string, ...changes: Change[]) => {
    const content = await readFile(join(dir, from), "utf8");
    await rm(join(dir, from));
    await mkdir(dirname(join(dir, to)), { recursive: true });
    const changed = changes.reduce((all, change) => all.replaceAll(...change), content);
    await writeFile(join(dir, to), changed);
  };
  await move(
    "providers/s3/operations.ts",
    "moved/actions.ts",
    ['"./', '"../providers/s3/'],
    ['"../retention.ts"', '"../providers/retention.ts"'],
    ['"../../', '"../'],
  );
  await move("providers/s3/dynamic-provider.cjs", "moved/entry.cjs", [
    "./operations.ts",
    "./actions.ts",
  ]);
  await move(
    "package.json",
    "package.json",
    ["providers/s3/dynamic-provider.cjs", "moved/entry.cjs"],
    ["program/index.js", "start/here/index.js"],
  );
  await move(
    "program/index.js",
    "start/here/index.js",
    ["../index.ts", "../../index.ts"],
    ["./typescript.js", "../../program/typescript.js"],
  );
}
