import { expect } from "chai";
import {
  GetBucketCorsCommand,
  GetBucketPolicyCommand,
  ListBucketsCommand,
  PutBucketCorsCommand,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { authentikPolicy } from "../authentik/permissions.ts";
import * as operations from "../providers/s3/operations.ts";
import { ServerError } from "../providers/s3/server.ts";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { EngineProject, pulumi } from "./support/engine.ts";
import { startFaultProxy, type Fault, type ProxiedRequest } from "./support/fault-proxy.ts";
import { startProxy } from "./support/proxy.ts";
import { AUTHENTIK, ROOT, rootClient, startTestServer } from "./support/server.ts";

const rules = [
  {
    allowedOrigins: ["https://authentik.company"],
    allowedHeaders: ["Authorization"],
    allowedMethods: ["GET"],
    maxAgeSeconds: 3000,
  },
];

describe("S3 resources on a real server", () => {
  let server: RunningServer;
  let s3: S3Client;
  let count = 0;
  before(async function () {
    this.timeout(300_000);
    server = await startTestServer();
    s3 = rootClient(server);
  });
  after(async () => {
    s3.destroy();
    await server.stop();
  });

  /** Inputs for a bucket that is not there yet. */
  const fresh = (changes: Partial<operations.BucketInputs> = {}): operations.BucketInputs => ({
    endpoint: server.endpoint,
    bucket: `media-${String((count += 1))}`,
    credentials: ROOT,
    ...changes,
  });
  const names = async () =>
    ((await s3.send(new ListBucketsCommand({}))).Buckets ?? []).map(({ Name }) => Name);
  const put = (bucket: string, key: string) =>
    s3.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: "x" }));
  const failure = async (work: Promise<unknown>): Promise<ServerError> => {
    const error: unknown = await work.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (!(error instanceof ServerError))
      throw new Error("it did not fail as it should", { cause: error });
    expect(error.message).not.to.contain(ROOT.secretKey);
    return error;
  };
  type Choose = (request: ProxiedRequest) => Fault | undefined;
  const behind = async <T>(choose: Choose, work: (endpoint: string) => Promise<T>): Promise<T> => {
    const proxy = await startFaultProxy(server.endpoint, choose);
    try {
      return await work(proxy.endpoint);
    } finally {
      await proxy.stop();
    }
  };

  describe("bucket", () => {
    it("is created, read, and deleted", async () => {
      const inputs = fresh();
      const { id, outs } = await operations.bucket.create(inputs);
      expect(id).to.equal(inputs.bucket);
      expect(await names()).to.include(inputs.bucket);
      expect(await operations.bucket.read(id, inputs)).to.deep.equal({
        id,
        props: outs,
        inputs: outs,
      });
      await operations.bucket.delete(id, inputs);
      expect(await names()).not.to.include(inputs.bucket);
    });

    it("deleted by somebody else does not exist for a refresh, and can be deleted", async () => {
      const inputs = fresh();
      expect(await operations.bucket.read(inputs.bucket, inputs)).to.deep.equal({});
      await operations.bucket.delete(inputs.bucket, inputs);
    });

    it("that exists is refused, and managed only with adopt", async () => {
      const inputs = fresh();
      await operations.bucket.create(inputs);
      await put(inputs.bucket, "kept");
      expect((await failure(operations.bucket.create(inputs))).message).to.contain("adopt: true");
      expect((await operations.bucket.create({ ...inputs, adopt: true })).id).to.equal(
        inputs.bucket,
      );
    });

    it("of another owner is not touched, even with adopt", async () => {
      const inputs = fresh();
      await operations.bucket.create(inputs);
      const { message } = await failure(
        operations.bucket.create({ ...inputs, adopt: true, credentials: AUTHENTIK }),
      );
      expect(message).to.match(/HTTP 403.*AccessDenied.*another owner/);
    });

    for (const body of [
      "<!doctype html><html><body>Welcome</body></html>",
      '{"status":"ok"}',
      "",
    ]) {
      it(`is not read from an answer that is not S3's (${body || "nothing"})`, async () => {
        const page = { status: 200, body };
        const proxy = await startProxy(server.endpoint, { answer: () => page });
        try {
          const inputs = fresh({ endpoint: `http://${proxy.host}`, adopt: true });
          const failures = await Promise.all([
            failure(operations.bucket.create(inputs)),
            failure(operations.bucket.create({ ...inputs, adopt: false })),
            failure(operations.bucket.read(inputs.bucket, inputs)),
            failure(operations.cors.read("x", { ...inputs, rules })),
          ]);
          for (const { message } of failures) {
            expect(message)
              .to.match(/did not answer like an S3 server|HTTP 200/)
              .and.not.include("exists already");
          }
        } finally {
          await proxy.stop();
        }
      });
    }

    it("that has objects is deleted only with forceDestroy", async () => {
      const inputs = fresh();
      await operations.bucket.create(inputs);
      await Promise.all(
        Array.from({ length: 40 }, (_, index) => put(inputs.bucket, `media/public/${index}`)),
      );
      expect((await failure(operations.bucket.delete(inputs.bucket, inputs))).message).to.match(
        /not empty.*forceDestroy: true/,
      );
      expect(await names()).to.include(inputs.bucket);
      await operations.bucket.delete(inputs.bucket, { ...inputs, forceDestroy: true });
      expect(await names()).not.to.include(inputs.bucket);
    });

    it("stops to empty a bucket whose entries stay", async () => {
      const inputs = fresh();
      await operations.bucket.create(inputs);
      await put(inputs.bucket, "stays");
      const proxy = await startProxy(server.endpoint, {
        answer: ({ method, url }) =>
          method === "DELETE" && url?.includes("stays") === true
            ? { status: 204, body: "" }
            : undefined,
      });
      try {
        const stuck = { ...inputs, endpoint: `http://${proxy.host}`, forceDestroy: true };
        const { message } = await failure(operations.bucket.delete(inputs.bucket, stuck));
        expect(message).to.match(/still lists 1 entry after 3 deletions: "stays" \(null\)/);
      } finally {
        await proxy.stop();
      }
    });

    it("and its settings are not gone because a web server answers 404", async () => {
      const inputs = fresh();
      const proxy = await startProxy(server.endpoint, {
        answer: () => ({ status: 404, body: "<html><h1>Not found</h1></html>" }),
      });
      try {
        const lost = { ...inputs, endpoint: `http://${proxy.host}`, rules, policy: {} };
        for (const kind of [operations.bucket, operations.cors, operations.policy]) {
          expect((await failure(kind.read("x", lost))).message).to.contain(
            "did not answer like an S3 server",
          );
        }
      } finally {
        await proxy.stop();
      }
    });

    it("is replaced under another name or endpoint, and updated with other options", async () => {
      const inputs = fresh();
      const diff = (changes: Partial<operations.BucketInputs>) =>
        operations.bucket.diff(inputs.bucket, inputs, { ...inputs, ...changes });
      const first = { deleteBeforeReplace: true };
      expect(await diff({})).to.deep.equal({ ...first, changes: false, replaces: [] });
      expect(await diff({ bucket: "other" })).to.deep.equal({
        ...first,
        changes: true,
        replaces: ["bucket"],
      });
      expect(await diff({ endpoint: "http://other" })).to.deep.equal({
        ...first,
        changes: true,
        replaces: ["endpoint"],
      });
      expect(await diff({ forceDestroy: true })).to.deep.equal({
        ...first,
        changes: true,
        replaces: [],
      });
    });

    it("gets a LocationConstraint in a region that has one", async function () {
      this.timeout(10_000);
      const other = await startTestServer({ flags: ["--region", "eu-central-1"] });
      try {
        expect(
          (
            await operations.bucket.create(
              fresh({ endpoint: other.endpoint, region: "eu-central-1" }),
            )
          ).id,
        ).to.be.a("string");
        expect(
          (await failure(operations.bucket.create(fresh({ endpoint: other.endpoint })))).message,
        ).to.contain("set region");
      } finally {
        await other.stop();
      }
    });

    it("is created on servers without ACLs and locations", async function () {
      this.timeout(10_000);
      const refuse = ({ method, headers }: ProxiedRequest) => {
        if (method !== "PUT") return undefined;
        if (Number(headers["content-length"] ?? 0) > 0)
          return { status: 400, code: "InvalidLocationConstraint" };
        return headers["x-amz-acl"] === undefined
          ? undefined
          : { status: 501, code: "NotImplemented" };
      };
      const other = await startTestServer({ flags: ["--region", "eu-central-1"] });
      const proxy = await startFaultProxy(other.endpoint, refuse);
      try {
        const { id, outs } = await operations.bucket.create(
          fresh({ endpoint: proxy.endpoint, region: "eu-central-1" }),
        );
        expect((await operations.bucket.read(id, outs)).id).to.equal(id);
        expect(proxy.done.size).to.equal(2);
      } finally {
        await proxy.stop();
        await other.stop();
      }
    });

    it("is created once although the answer was lost", async () => {
      let lost = 0;
      await behind(
        ({ method }) => (method === "PUT" && lost++ === 0 ? "lost" : undefined),
        async (endpoint) => {
          const { id } = await operations.bucket.create(fresh({ endpoint }));
          expect(await names()).to.include(id);
        },
      );
    });
  });

  it("that all answers to its creation were lost for is recognized, and another one is not", async () => {
    await behind(
      ({ method }) => (method === "PUT" ? "lost" : undefined),
      async (endpoint) => {
        const inputs = fresh({ endpoint });
        await operations.bucket.create(inputs);
        const { message } = await failure(operations.bucket.create(inputs));
        expect(message).to.match(/exists already.*refresh --clear-pending-creates/);
      },
    );
  });

  it("are reached by the proxy of the environment, but for the hosts of NO_PROXY", async () => {
    const seen: string[] = [];
    const proxy = await startProxy(server.endpoint, {
      answer: ({ url = "" }) => {
        seen.push(url);
        return undefined;
      },
    });
    const inputs = fresh();
    try {
      process.env.http_proxy = `http://${proxy.host}`;
      await operations.bucket.create(inputs);
      expect(seen[0]).to.match(/^http:\/\/127\.0\.0\.1:\d+\/media-/);
      const count = seen.length;
      process.env.no_proxy = "other.company,127.0.0.1";
      await operations.bucket.read(inputs.bucket, inputs);
      expect(seen).to.have.length(count);
    } finally {
      delete process.env.http_proxy;
      delete process.env.no_proxy;
      await proxy.stop();
    }
  });

  (pulumi ? it : it.skip)(
    "keep everything when a replacement fails and the config goes back",
    async function () {
      this.timeout(180_000);
      const project = await EngineProject.create();
      const values = {
        provider: "s3",
        endpoint: server.endpoint,
        bucketName: "kept-media",
        secureUrls: false,
        protect: false,
        origins: ["https://authentik.company"],
      };
      const keys = { accessKey: ROOT.accessKey, secretKey: ROOT.secretKey };
      try {
        await project.configure(values, keys);
        await project.expectOk("up", "--yes", "--skip-preview");
        await put("kept-media", "kept");
        await project.configure({ bucketName: "other-media" });
        expect((await project.run("up", "--yes", "--skip-preview")).text).to.match(/not empty/);
        await project.configure({ bucketName: "kept-media" });
        await project.expectOk("up", "--yes", "--skip-preview");
        await project.expectOk("up", "--yes", "--skip-preview", "--refresh", "--expect-no-changes");
        const cors = await s3.send(new GetBucketCorsCommand({ Bucket: "kept-media" }));
        expect(cors.CORSRules).to.have.length(1);
        expect(await names())
          .to.include("kept-media")
          .and.not.include("other-media");
      } finally {
        await project.remove();
      }
    },
  );

  describe("CORS policy", () => {
    it("is put, read, changed, and deleted", async () => {
      const bucket = fresh();
      await operations.bucket.create(bucket);
      const inputs = { ...bucket, rules };
      const { id } = await operations.cors.create(inputs);
      expect(await operations.cors.read(id, inputs)).to.deep.equal({ id, props: inputs, inputs });
      const changed = {
        ...inputs,
        rules: rules.map((rule) => ({
          ...rule,
          allowedOrigins: ["https://a.company", "https://b.company"],
        })),
      };
      expect(await operations.cors.diff(id, inputs, changed)).to.include({ changes: true });
      await operations.cors.update(id, inputs, changed);
      expect(await operations.cors.read(id, inputs)).to.deep.equal({
        id,
        props: changed,
        inputs: changed,
      });
      await operations.cors.delete(id, changed);
      expect(await operations.cors.read(id, changed)).to.deep.equal({});
      await operations.cors.delete(id, changed);
    });

    it("that somebody else changed is drift, and another order of origins is not", async () => {
      const bucket = fresh();
      await operations.bucket.create(bucket);
      const origins = ["https://a.company", "https://b.company"];
      const inputs = {
        ...bucket,
        rules: rules.map((rule) => ({ ...rule, allowedOrigins: origins })),
      };
      const { id } = await operations.cors.create(inputs);
      const change = async (AllowedOrigins: string[]) => {
        const rule = {
          AllowedMethods: ["GET"],
          AllowedHeaders: ["Authorization"],
          MaxAgeSeconds: 3000,
        };
        const CORSConfiguration = { CORSRules: [{ ...rule, AllowedOrigins }] };
        await s3.send(new PutBucketCorsCommand({ Bucket: bucket.bucket, CORSConfiguration }));
      };
      await change(origins.toReversed());
      expect((await operations.cors.read(id, inputs)).inputs).to.equal(inputs);
      await change(["*"]);
      const drifted = await operations.cors.read(id, inputs);
      expect(drifted.inputs?.rules).to.deep.equal([{ ...rules[0], allowedOrigins: ["*"] }]);
    });

    it("of a bucket may be the server's own, if that allows the origins", async () => {
      const bucket = fresh();
      await operations.bucket.create(bucket);
      const refuse = ({ path, method }: ProxiedRequest) =>
        path.includes("?cors") && method !== "OPTIONS"
          ? { status: 501, code: "NotImplemented" }
          : undefined;
      await behind(refuse, async (endpoint) => {
        const inputs = { ...bucket, endpoint, rules };
        const { message } = await failure(operations.cors.create(inputs));
        expect(message).to.match(
          /refuses https:\/\/authentik.company.*MINIO_API_CORS_ALLOW_ORIGIN/,
        );
        // The server answers preflights by the CORS policy that it was given without the proxy.
        await operations.cors.create({ ...bucket, rules });
        const { id } = await operations.cors.create(inputs);
        expect((await operations.cors.read(id, inputs)).id).to.equal(id);
      });
    });

    it("does not exist without its bucket, for a refresh", async () => {
      const inputs = { ...fresh(), rules };
      expect(await operations.cors.read("x", inputs)).to.deep.equal({});
      expect((await failure(operations.cors.create(inputs))).message).to.contain("NoSuchBucket");
    });
  });

  describe("an update of a setting", () => {
    const kinds = { "a CORS policy": operations.cors, "a bucket policy": operations.policy };
    const changes = {
      "the handler": { __provider: "exports.handler = 2" },
      "the region": { region: "eu-central-1" },
      "the addressing style": { addressingStyle: "virtual" },
      "the credentials": { credentials: AUTHENTIK },
      "the retry time": { retrySeconds: 60 },
      "an input of another version": { patienceSeconds: 900 },
    };
    const olds = {
      endpoint: "http://127.0.0.1:1",
      bucket: "media",
      credentials: ROOT,
      __provider: "exports.handler = 1",
      rules,
      policy: { Version: "2012-10-17" },
    };
    for (const [kind, setting] of Object.entries(kinds)) {
      for (const [what, change] of Object.entries(changes)) {
        it(`of ${kind} calls no server for ${what}`, async () => {
          const news = { ...olds, ...change };
          expect(await setting.diff("id", olds, news)).to.deep.include({
            changes: true,
            replaces: [],
          });
          expect(await setting.update("id", olds, news)).to.deep.equal({ outs: news });
        });
      }
      it(`of ${kind} calls the server for what it keeps`, async () => {
        const news = { ...olds, rules: [], policy: {} };
        const error = await failure(setting.update("id", olds, news));
        expect(error.code).to.equal("ECONNREFUSED");
      });
    }
  });

  describe("bucket policy", () => {
    it("is put, read, and deleted", async () => {
      const bucket = fresh();
      await operations.bucket.create(bucket);
      const policy = authentikPolicy(`arn:aws:s3:::${bucket.bucket}`, [AUTHENTIK.accessKey]);
      const inputs = { ...bucket, policy };
      const { id } = await operations.policy.create(inputs);
      expect(await operations.policy.read(id, inputs)).to.deep.equal({ id, props: inputs, inputs });
      const { Policy } = await s3.send(new GetBucketPolicyCommand({ Bucket: bucket.bucket }));
      expect(JSON.parse(Policy ?? "")).to.deep.equal(policy);
      await operations.policy.delete(id, inputs);
      expect(await operations.policy.read(id, inputs)).to.deep.equal({});
    });
  });

  describe("errors", () => {
    // biome-ignore format: a table of cases
    const cases: [title: string, changes: () => Partial<operations.BucketInputs>, expected: RegExp][] = [
      ["a server that is down", () => ({ endpoint: "http://127.0.0.1:1" }), /http:\/\/127.0.0.1:1.*ECONNREFUSED.*its server runs/],
      ["a host that does not exist", () => ({ endpoint: "http://nowhere.invalid" }), /(ENOTFOUND|EAI_AGAIN).*is right/],
      ["an unknown access key", () => ({ credentials: { ...ROOT, accessKey: "nobody" } }), /InvalidAccessKeyId.*check adminAccessKey/],
      ["a wrong secret key", () => ({ credentials: { ...ROOT, secretKey: "wrong" } }), /SignatureDoesNotMatch.*check adminSecretKey/],
    ];
    for (const [title, changes, expected] of cases) {
      it(`say what to do about ${title}`, async () => {
        const inputs = fresh(changes());
        const error = await failure(operations.bucket.create(inputs));
        expect(error.message).to.match(expected).and.to.contain(inputs.bucket);
        expect(error.cause).to.be.instanceOf(Error);
        expect(error.stack).to.equal("");
      });
    }

    it("of refresh and destroy name the credentials of the last up", async () => {
      const inputs = fresh();
      await operations.bucket.create(inputs);
      const stale = { ...inputs, credentials: { ...ROOT, secretKey: "old" } };
      expect((await failure(operations.bucket.read(inputs.bucket, stale))).message).to.match(
        /credentials of the last pulumi up/,
      );
      expect((await failure(operations.bucket.delete(inputs.bucket, stale))).message).to.match(
        /credentials of the last pulumi up/,
      );
    });

    it("say that the clock is wrong", async () => {
      await behind(
        () => ({ status: 403, code: "RequestTimeTooSkewed" }),
        async (endpoint) => {
          expect((await failure(operations.bucket.create(fresh({ endpoint })))).message).to.contain(
            "set the clock",
          );
        },
      );
    });
  });

  it("survive a busy server and a lost connection", async () => {
    const faults: (Fault | undefined)[] = ["slow-down", "reset", undefined, "lost"];
    await behind(
      ({ index }) => faults[index],
      async (endpoint) => {
        const inputs = fresh({ endpoint });
        await operations.bucket.create(inputs);
        await operations.cors.create({ ...inputs, rules });
        expect(
          (await s3.send(new GetBucketCorsCommand({ Bucket: inputs.bucket }))).CORSRules,
        ).to.have.length(1);
      },
    );
  });

  it("retry a call for as long as the retry time allows", async function () {
    this.timeout(20_000);
    const bucket = fresh();
    await operations.bucket.create(bucket);
    let refused = 0;
    await behind(
      () => (refused++ < 1 ? { status: 403, code: "AccessDenied" } : undefined),
      async (endpoint) => {
        await operations.cors.create({ ...bucket, endpoint, rules, retrySeconds: 60 });
      },
    );
    expect(refused).to.be.greaterThan(1);
    const inputs = { ...bucket, endpoint: "http://127.0.0.1:1", rules, retrySeconds: 1 };
    expect((await failure(operations.cors.create(inputs))).message).to.match(/tried for 1 s/);
  });
});
