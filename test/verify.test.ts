/** `verify` against real servers: right ones, and one for each thing that can be wrong. */
import { spawn, spawnSync } from "node:child_process";
import dns from "node:dns";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  CreateBucketCommand, DeleteObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command, PutBucketCorsCommand, PutBucketPolicyCommand, type S3Client,
} from "@aws-sdk/client-s3";
import { expect } from "chai";
import * as v from "valibot";
import { buildEnv, type StorageSettings } from "../authentik/env.ts";
import { BUCKET_ACTIONS, OBJECT_ACTIONS, authentikPolicy, type PolicyDocument } from "../authentik/permissions.ts";
import { parseRelease } from "../authentik/release.ts";
import { formatEnv } from "../tools/env/formats.ts";
import { findVersitygw, freePort, startVersitygw, type RunningServer } from "../tools/start/versitygw.ts";
import { SYMPTOMS, diagnoseUrl, type Symptom } from "../tools/verify/diagnosis.ts";
import { isWell, renderResults, verify, type CheckResult, type Target } from "../tools/verify/verify.ts";
import { selfSigned } from "./support/certificate.ts";
import { startFaultProxy, type Fault, type ProxiedRequest } from "./support/fault-proxy.ts";
import { startProxy, type ProxyOptions } from "./support/proxy.ts";
import { rootClient } from "./support/server.ts";

const ROOT = { accessKey: "root-key", secretKey: "root-secret" };
const USER = { accessKey: "authentik", secretKey: "authentik-secret" };
const ORIGIN = "https://authentik.company";
const CORS = { AllowedOrigins: [ORIGIN], AllowedMethods: ["GET"], AllowedHeaders: ["Authorization"], MaxAgeSeconds: 3000 };

describe("verify", function () {
  this.timeout(30_000);
  let dir: string;
  let server: RunningServer;
  let admin: S3Client;
  let buckets = 0;

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "verify-"));
    server = await start("main", []);
    admin = rootClient(server, ROOT);
  });
  after(async () => {
    admin.destroy();
    await server.stop();
    await rm(dir, { recursive: true });
  });

  async function start(name: string, flags: string[], port?: number): Promise<RunningServer> {
    const versitygw = await findVersitygw(".local/bin");
    const folders = { dataDir: join(dir, name), iamDir: join(dir, `${name}-iam`) };
    return startVersitygw({ versitygw, ...folders, root: ROOT, users: [USER], flags, ...(port === undefined ? {} : { port }) });
  }

  interface BucketOptions {
    cors?: typeof CORS | undefined;
    policy?: (arn: string) => PolicyDocument | undefined;
  }

  /** A bucket of its own, as the program makes it but for the options. */
  async function bucket({ cors = CORS, policy }: BucketOptions = {}): Promise<string> {
    const Bucket = `bucket-${(buckets += 1)}`;
    await admin.send(new CreateBucketCommand({ Bucket, ObjectOwnership: "BucketOwnerPreferred" }));
    if (cors.AllowedOrigins.length > 0) await admin.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [cors] } }));
    const arn = `arn:aws:s3:::${Bucket}`;
    const document = (policy ?? ((of) => authentikPolicy(of, [USER.accessKey])))(arn);
    if (document) await admin.send(new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(document) }));
    return Bucket;
  }

  function target(bucketName: string, settings: Partial<StorageSettings> = {}, more: Partial<Target> = {}): Target {
    const endpoint = settings.endpoint ?? server.endpoint;
    const { host } = new URL(endpoint);
    return {
      settings: { bucketName, region: "us-east-1", endpoint, ...USER, secureUrls: false, customDomain: `${host}/${bucketName}`, ...settings },
      origins: [ORIGIN],
      release: parseRelease("2026.5"),
      keyIsAdmin: false,
      ...more,
    };
  }

  /** Everything in a bucket, unfinished uploads too. */
  async function contents(Bucket: string): Promise<string[]> {
    const { Contents = [] } = await admin.send(new ListObjectsV2Command({ Bucket }));
    const { Uploads = [] } = await admin.send(new ListMultipartUploadsCommand({ Bucket }));
    return [...Contents, ...Uploads].map(({ Key = "" }) => Key);
  }

  function expectWell(results: CheckResult[]): void {
    expect(isWell(results), renderResults(results, { color: false })).to.equal(true);
  }

  /** That these checks, and no others, are failed or warned of, with these symptoms. */
  function expectSymptoms(results: CheckResult[], expected: Readonly<Record<string, Symptom>>): void {
    const found = results.flatMap(({ check, symptom }) => (symptom === undefined ? [] : [[check, symptom]]));
    expect(Object.fromEntries(found), renderResults(results, { color: false })).to.deep.equal(expected);
    expect(isWell(results)).to.equal(results.every(({ status }) => status !== "failed"));
  }

  function adviceOf(results: CheckResult[], check: string): string {
    return results.find((result) => result.check === check)?.advice ?? "";
  }

  async function behind<T>(options: ProxyOptions, work: (host: string) => Promise<T>): Promise<T> {
    const proxy = await startProxy(server.endpoint, options);
    try {
      return await work(proxy.host);
    } finally {
      await proxy.stop();
    }
  }

  async function spoiled<T>(choose: (request: ProxiedRequest) => Fault | undefined, work: (endpoint: string) => Promise<T>): Promise<T> {
    const proxy = await startFaultProxy(server.endpoint, choose);
    try {
      return await work(proxy.endpoint);
    } finally {
      await proxy.stop();
    }
  }

  describe("finds nothing wrong with a bucket made by the program", () => {
    for (const release of [undefined, "2025.10", "2025.12.1", "2025.12.2", "2026.4", "2026.5"]) {
      it(`for ${release === undefined ? "any release" : `authentik ${release}`}, and leaves nothing in it`, async () => {
        const name = await bucket();
        const parsed = release === undefined ? undefined : parseRelease(release);
        const { settings } = target(name);
        // What 2025.12.0 and 2025.12.1 need is buildEnv's to know.
        const customDomain = buildEnv(settings, parsed).env.AUTHENTIK_STORAGE__S3__CUSTOM_DOMAIN;
        const results = await verify(target(name, release === "2025.12.1" ? { customDomain } : {}, { release: parsed }));
        expectWell(results);
        expect(results.filter(({ status }) => status !== "ok")).to.deep.equal([]);
        expect(results.filter(({ check }) => check.startsWith("url of")).length).to.equal(release === undefined ? 3 : 1);
        expect(await contents(name)).to.deep.equal([]);
      });
    }

    it("for the releases that can read the names, where none is given", async () => {
      const results = await verify(target(await bucket(), {}, { release: undefined, hasGeneralNames: true }));
      expectWell(results);
      expect(results.map(({ check }) => check).filter((check) => check.startsWith("url of"))).to.deep.equal(["url of 2026.4", "url of 2026.5"]);
    });

    it("without a custom domain", async () => {
      expectWell(await verify(target(await bucket(), { customDomain: undefined })));
    });

    it("with the legacy signature, where the server knows it", async () => {
      const results = await verify(target(await bucket(), { signatureVersion: "s3" }));
      expect(results.find(({ check }) => check === "url of 2026.5")?.tried).to.include("<signature>");
      // versitygw does not know it: the point is that the URL is another than the default's.
      expect(results.filter(({ check, status }) => check.startsWith("url of") && status === "failed").length).to.equal(1);
    });

    it("in virtual-hosted style", async () => {
      const port = await freePort();
      const virtual = await start("virtual", ["--virtual-domain", `s3.test:${port}`], port);
      const lookup = dns.lookup;
      // As DNS would: every name of the domain leads to this machine.
      const lead = (name: string, ...rest: unknown[]): unknown => Reflect.apply(lookup, dns, [name.endsWith("s3.test") ? "127.0.0.1" : name, ...rest]);
      dns.lookup = Object.assign(lead, lookup);
      const client = rootClient(virtual, ROOT);
      try {
        await mkBucket(client, "virtual-media");
        const endpoint = `http://s3.test:${port}`;
        const settings = { endpoint, addressingStyle: "virtual", customDomain: `virtual-media.s3.test:${port}` } as const;
        for (const release of ["2025.12", "2026.5"]) {
          const results = await verify(target("virtual-media", settings, { release: parseRelease(release) }));
          expectWell(results);
        }
      } finally {
        dns.lookup = lookup;
        client.destroy();
        await virtual.stop();
      }
    });

    async function mkBucket(client: S3Client, Bucket: string): Promise<void> {
      await client.send(new CreateBucketCommand({ Bucket, ObjectOwnership: "BucketOwnerPreferred" }));
      await client.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [CORS] } }));
      await client.send(new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(authentikPolicy(`arn:aws:s3:::${Bucket}`, [USER.accessKey])) }));
    }
  });

  describe("names what is wrong with the key", () => {
    it("an unknown access key, a wrong secret key", async () => {
      const name = await bucket();
      expectSymptoms(await verify(target(name, { accessKey: "nobody" })), { "sign in": "wrong-access-key" });
      expectSymptoms(await verify(target(name, { secretKey: "other" })), { "sign in": "wrong-secret-key" });
    });

    it("a key that is still unknown when its time is over", async () => {
      const start = performance.now();
      expectSymptoms(await verify(target(await bucket(), { accessKey: "nobody" }), { newKeyMs: 3000 }), { "sign in": "wrong-access-key" });
      expect(performance.now() - start).to.be.within(1900, 6000);
    });

    it("nothing where a new key, or its right, is known a little later", async () => {
      const unknown = { status: 403, body: "<Error><Code>InvalidAccessKeyId</Code></Error>" };
      let left = 1;
      const answer: ProxyOptions["answer"] = ({ url = "" }) => (url.includes("list-type=2") && left-- > 0 ? unknown : undefined);
      await behind({ answer }, async (host) => {
        expectWell(await verify(target(await bucket(), { endpoint: `http://${host}` }), { newKeyMs: 10_000 }));
      });
      const name = await bucket({ policy: () => undefined });
      const [results] = await Promise.all([
        verify(target(name), { newKeyMs: 10_000 }),
        sleep(500).then(() => admin.send(new PutBucketPolicyCommand({ Bucket: name, Policy: JSON.stringify(authentikPolicy(`arn:aws:s3:::${name}`, [USER.accessKey])) }))),
      ]);
      expectWell(results);
    });

    it("no credentials at all", async () => {
      const set = { AWS_EC2_METADATA_DISABLED: "true", AWS_SHARED_CREDENTIALS_FILE: join(dir, "none"), AWS_CONFIG_FILE: join(dir, "none") };
      const unset = { AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined };
      await withEnvironment({ ...set, ...unset }, async () => {
        expectSymptoms(await verify(target(await bucket(), { accessKey: undefined, secretKey: undefined })), { "sign in": "no-credentials" });
      });
    });

    it("whose credentials it is, where authentik has none of its own", async () => {
      await withEnvironment({ AWS_ACCESS_KEY_ID: USER.accessKey, AWS_SECRET_ACCESS_KEY: USER.secretKey }, async () => {
        const results = await verify(target(await bucket(), { accessKey: undefined, secretKey: undefined }));
        expectWell(results);
        expect(results.find(({ check }) => check === "identity")?.got).to.equal("the access key authentik");
      });
    });

    async function withEnvironment(values: Readonly<Record<string, string | undefined>>, work: () => Promise<void>): Promise<void> {
      const before = { ...process.env };
      for (const [name, value] of Object.entries(values)) {
        if (value === undefined) Reflect.deleteProperty(process.env, name);
        else process.env[name] = value;
      }
      try {
        await work();
      } finally {
        for (const name of Object.keys(values)) Reflect.deleteProperty(process.env, name);
        Object.assign(process.env, before);
      }
    }

    const WHERE: Readonly<Record<string, readonly string[]>> = {
      "s3:ListBucket": ["sign in", "list"],
      "s3:GetObject": ["head", "its head", "url of 2026.5"],
      "s3:PutObject": ["upload"],
      "s3:DeleteObject": ["delete"],
      "s3:AbortMultipartUpload": ["abort it"],
      "s3:ListMultipartUploadParts": ["list its parts"],
    };
    for (const action of [...BUCKET_ACTIONS, ...OBJECT_ACTIONS].filter((name) => name in WHERE)) {
      it(`${action} missing`, async () => {
        const name = await bucket({ policy: (arn) => without(action, arn) });
        const results = await verify(target(name));
        const failed = results.filter(({ status }) => status === "failed");
        expect(failed.map(({ check }) => check), renderResults(results, { color: false })).to.have.members([...(WHERE[action] ?? [])]);
        for (const { advice } of failed) expect(advice).to.include(action);
        const left = await contents(name);
        if (action === "s3:DeleteObject") for (const key of left) expect(adviceOf(results, "delete")).to.include(key);
        else expect(left).to.deep.equal([]);
        for (const Key of left) await admin.send(new DeleteObjectCommand({ Bucket: name, Key }));
      });
    }

    function without(action: string, arn: string): PolicyDocument {
      const policy = authentikPolicy(arn, [USER.accessKey]);
      const statements = policy.Statement.map((statement) => ({ ...statement, Action: [statement.Action].flat().filter((name) => name !== action) }));
      return { ...policy, Statement: statements.filter(({ Action }) => Action.length > 0) };
    }

    it("s3:PutObjectAcl missing, so that an upload is refused only with its ACL", async () => {
      const refuse = (arn: string): PolicyDocument => {
        const policy = authentikPolicy(arn, [USER.accessKey]);
        const condition = { StringEquals: { "s3:x-amz-acl": "private" } };
        return { ...policy, Statement: [...policy.Statement, { Sid: "NoAcl", Effect: "Deny", Principal: { AWS: [USER.accessKey] }, Action: "s3:PutObject", Resource: `${arn}/*`, Condition: condition }] };
      };
      const results = await verify(target(await bucket({ policy: refuse })));
      expectSymptoms(results, { upload: "missing-permission" });
      expect(adviceOf(results, "upload")).to.include("s3:PutObjectAcl");
    });

    it("rights that it should not have", async () => {
      const name = await bucket();
      const seen = { "other buckets": "excess-rights", "change cors": "excess-rights", "change policy": "excess-rights" } as const;
      const failed = await verify(target(name, ROOT));
      expectSymptoms(failed, seen);
      expect(isWell(failed)).to.equal(false);
      const warned = await verify(target(name, ROOT, { keyIsAdmin: true }));
      expectSymptoms(warned, seen);
      expect(isWell(warned)).to.equal(true);
      // The attempts have changed nothing.
      expectWell(await verify(target(name)));
    });
  });

  describe("names what is wrong with the bucket", () => {
    it("not there", async () => {
      expectSymptoms(await verify(target("no-such-bucket", ROOT)), { "sign in": "no-bucket" });
    });

    it("no CORS policy, or one for another origin", async () => {
      const results = await verify(target(await bucket({ cors: { ...CORS, AllowedOrigins: [] } })));
      expectSymptoms(results, { [`cors ${ORIGIN}`]: "cors-missing" });
      const other = "https://sso.company";
      expectSymptoms(await verify(target(await bucket(), {}, { origins: [ORIGIN, other] })), { [`cors ${other}`]: "cors-missing" });
    });

    it("a CORS policy that does not allow the header of the setup page", async () => {
      const results = await verify(target(await bucket({ cors: { ...CORS, AllowedHeaders: ["X-Other"] } })));
      expectSymptoms(results, { [`cors ${ORIGIN}`]: "cors-missing" });
      expect(isWell(results)).to.equal(true);
    });

    it("a CORS policy for everyone", async () => {
      expectSymptoms(await verify(target(await bucket({ cors: { ...CORS, AllowedOrigins: ["*"] } }))), { "cors of others": "cors-open" });
    });

    it("public", async () => {
      const open = (arn: string): PolicyDocument => {
        const policy = authentikPolicy(arn, [USER.accessKey]);
        return { ...policy, Statement: [...policy.Statement, { Sid: "Public", Effect: "Allow", Principal: "*", Action: "s3:GetObject", Resource: `${arn}/*` }] };
      };
      const results = await verify(target(await bucket({ policy: open })));
      expect(results.find(({ check }) => check === "anonymous")?.symptom).to.equal("public-bucket");
      expect(isWell(results)).to.equal(false);
    });

    it("ACLs refused, and goes on without them", async () => {
      // versitygw takes the ACL "private" whatever the bucket's ownership; this is what AWS answers.
      const answer: ProxyOptions["answer"] = ({ headers }) => headers["x-amz-acl"] === undefined
        ? undefined
        : { status: 400, body: "<Error><Code>AccessControlListNotSupported</Code><Message>The bucket does not allow ACLs</Message></Error>" };
      await behind({ answer }, async (host) => {
        const name = await bucket();
        expectSymptoms(await verify(target(name, { endpoint: `http://${host}` })), { upload: "acl-unsupported" });
        expect(await contents(name)).to.deep.equal([]);
      });
    });

    it("checksums refused, unless authentik is told not to send them", async () => {
      const answer: ProxyOptions["answer"] = ({ headers }) => {
        const has = Object.keys(headers).some((name) => /^x-amz-(?:checksum|sdk-checksum|trailer)/.test(name));
        return has ? { status: 501, body: "<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality that is not implemented</Message></Error>" } : undefined;
      };
      await behind({ answer }, async (host) => {
        const name = await bucket();
        expectSymptoms(await verify(target(name, { endpoint: `http://${host}` })), { upload: "checksum-unsupported" });
        expectWell(await verify(target(name, { endpoint: `http://${host}`, checksums: "when_required" })));
      });
    });

    it("another region", async () => {
      const elsewhere = await start("elsewhere", ["--region", "eu-central-1"]);
      try {
        const results = await verify(target("any", { endpoint: elsewhere.endpoint }));
        expectSymptoms(results, { "sign in": "wrong-region" });
        expect(results.find(({ check }) => check === "sign in")?.got).to.include("eu-central-1");
      } finally {
        await elsewhere.stop();
      }
    });
  });

  describe("names what is wrong with the URLs", () => {
    it("the bucket twice", async () => {
      const results = await verify(target(await bucket(), {}, { release: parseRelease("2025.12.1") }));
      expect(results.find(({ check }) => check === "url of 2025.12")?.symptom).to.equal("bucket-twice");
    });

    it("a custom domain that is not what is signed, to 2026.4", async () => {
      await behind({}, async (host) => {
        const name = await bucket();
        const settings = { customDomain: `${host}/${name}` };
        const results = await verify(target(name, settings, { release: parseRelease("2026.4") }));
        expect(results.find(({ check }) => check === "url of 2026.4")?.symptom).to.equal("host-refused");
        expectWell(await verify(target(name, settings, { release: parseRelease("2026.5") })));
      });
    });

    it("AWS's global host, which sends browsers on", () => {
      const settings = { bucketName: "authentik-media", region: "eu-central-1", secureUrls: true };
      const failure = { status: 403, code: "SignatureDoesNotMatch", message: "" };
      const url = new URL("https://authentik-media.s3.amazonaws.com/media/public/x.png");
      expect(diagnoseUrl(failure, url, settings, true)).to.equal("global-host");
      expect(diagnoseUrl(failure, url, settings, false)).to.equal("wrong-secret-key");
    });

    it("a custom domain that takes no signatures, or that has another's files", async () => {
      const name = await bucket();
      for (const [status, symptom] of [[401, "host-refused"], [403, "wrong-custom-domain"]] as const) {
        await behind({ answer: () => ({ status, body: "" }) }, async (host) => {
          const results = await verify(target(name, { customDomain: `${host}/${name}` }));
          expect(results.find(({ check }) => check === "url of 2026.5")?.symptom).to.equal(symptom);
        });
      }
    });

    it("a custom domain that leads elsewhere", async () => {
      const results = await verify(target(await bucket(), { customDomain: new URL(server.endpoint).host }));
      expect(results.find(({ check }) => check === "url of 2026.5")?.symptom).to.equal("wrong-custom-domain");
    });

    it("a custom domain with pages of its own, or open to all", async () => {
      await behind({ answer: () => ({ status: 200, headers: { "content-type": "text/html" }, body: "<html>" }) }, async (host) => {
        const name = await bucket();
        const results = await verify(target(name, { customDomain: `${host}/${name}` }));
        expect(results.find(({ check }) => check === "url of 2026.5")?.symptom).to.equal("content-changed");
        expect(results.find(({ check }) => check === "expired URL")?.symptom).to.equal("signature-unchecked");
      });
    });

    it("a custom domain whose host has no address, or where nothing listens", async () => {
      const name = await bucket();
      const unknown = await verify(target(name, { customDomain: `no-such-host.invalid/${name}` }));
      expect(unknown.find(({ check }) => check === "url of 2026.5")?.symptom).to.equal("dns");
      const dead = await verify(target(name, { customDomain: `127.0.0.1:${await freePort()}/${name}` }));
      expect(dead.find(({ check }) => check === "url of 2026.5")?.symptom).to.equal("refused");
      expect(await contents(name)).to.deep.equal([]);
    });
  });

  describe("names what is wrong on the way", () => {
    it("no address, nothing there", async () => {
      expectSymptoms(await verify(target("any", { endpoint: "http://no-such-host.invalid" })), { reach: "dns", "sign in": "dns" });
      expectSymptoms(await verify(target("any", { endpoint: `http://127.0.0.1:${await freePort()}` })), { reach: "refused", "sign in": "refused" });
    });

    it("connections cut", async () => {
      await spoiled(() => "reset", async (endpoint) => {
        expectSymptoms(await verify(target("any", { endpoint })), { reach: "reset", "sign in": "reset" });
      });
    });

    it("an answer lost after the upload was done, which is cleaned up", async () => {
      const name = await bucket();
      await spoiled(({ method, path }) => (method === "PUT" && path.includes(".png") ? "lost" : undefined), async (endpoint) => {
        const results = await verify(target(name, { endpoint }));
        expectSymptoms(results, { upload: "reset" });
        expect(await contents(name)).to.deep.equal([]);
      });
    });

    it("no answer, within the time limit of a request and of the run", async () => {
      const start = Date.now();
      await spoiled(() => "stall", async (endpoint) => {
        const [request, run] = await Promise.all([
          verify(target("any", { endpoint })),
          verify(target("any", { endpoint }), { timeoutMs: 7_000 }),
        ]);
        expectSymptoms(request, { reach: "timeout", "sign in": "timeout" });
        expectSymptoms(run, { reach: "timeout", "sign in": "timeout", run: "timeout" });
      });
      expect(Date.now() - start).to.be.lessThan(7_000);
    });

    it("files whose rest never comes", async () => {
      const name = await bucket();
      await spoiled(({ method, path }) => (method === "GET" && path.includes("X-Amz-Signature") ? "stall-body" : undefined), async (endpoint) => {
        const results = await verify(target(name, { endpoint }, { origins: [] }), { timeoutMs: 9_000 });
        expect(results.find(({ check }) => check === "url of 2026.5")?.symptom).to.equal("timeout");
        expect(await contents(name)).to.deep.equal([]);
      });
    });

    it("a clock that differs", async () => {
      const later = (seconds: number): ProxyOptions => ({ changeHeaders: (headers) => { headers.date = new Date(Date.now() + seconds * 1000).toUTCString(); } });
      const name = await bucket();
      await behind(later(3600), async (host) => {
        const results = await verify(target(name, { endpoint: `http://${host}` }));
        expectSymptoms(results, { reach: "clock" });
        expect(results.find(({ check }) => check === "reach")?.got).to.match(/3600 s ahead|3599 s ahead/);
      });
      await behind(later(-120), async (host) => {
        const results = await verify(target(name, { endpoint: `http://${host}` }));
        expectSymptoms(results, { reach: "clock" });
        expect(isWell(results)).to.equal(true);
      });
    });
  });

  describe("as a command", () => {
    it("says that all is well, without the secret", async () => {
      const { status, stdout, stderr } = run(await envFile(await bucket()), ["--json"]);
      expect(status, stderr).to.equal(0);
      const Output = v.object({ ok: v.literal(true), results: v.array(v.object({ check: v.string(), status: v.picklist(["ok"]) })) });
      expect(v.parse(Output, JSON.parse(stdout)).results.length).to.be.greaterThan(15);
      expect(stdout + stderr).not.to.include(USER.secretKey);
    });

    it("fails with 1 for what is wrong, and with 2 for what cannot be read", async () => {
      const wrong = run(await envFile(await bucket(), { secretKey: "it's other" }));
      expect(wrong.status).to.equal(1);
      expect(wrong.stdout).to.include("FAIL").and.include("wrong-secret-key").and.not.include("\u001b[");
      const file = join(dir, "broken.env");
      await writeFile(file, "AUTHENTIK_STORAGE__BACKEND=s3\nAUTHENTIK_STORAGE__S3__BUCKET_NAME=123\n");
      const broken = run(file);
      expect(broken.status).to.equal(2);
      expect(broken.stderr).to.include("AUTHENTIK_STORAGE__S3__BUCKET_NAME is read as JSON");
      expect(run(join(dir, "none.env")).status).to.equal(2);
    });

    it("with a clock an hour behind the server's, which refuses it", async () => {
      const shift = "const Real = Date; globalThis.Date = class extends Real { constructor(...args) { if (args.length) super(...args); else super(Real.now() - 3600000); } static now() { return Real.now() - 3600000; } };";
      const { status, stdout } = run(await envFile(await bucket()), [], ["--import", `data:text/javascript,${encodeURIComponent(shift)}`]);
      expect(status).to.equal(1);
      expect(stdout).to.match(/3600 s ahead|3599 s ahead/).and.include("RequestTimeTooSkewed");
    });

    it("ends in its time though the credentials never come", async () => {
      const config = join(dir, "aws-config");
      await writeFile(config, "[profile slow]\ncredential_process = sleep 25\n");
      const file = await envFile(await bucket(), { accessKey: undefined, secretKey: undefined, sessionProfile: "slow" });
      const start = Date.now();
      const { status, stdout } = await runAsync(file, { AWS_CONFIG_FILE: config }, ["--timeout", "10"]);
      expect(status, stdout).to.equal(1);
      expect(stdout).to.include("timeout");
      expect(Date.now() - start).to.be.lessThan(10_000);
    });

    it("leaves nothing behind when it is interrupted", async () => {
      const name = await bucket();
      await spoiled(({ path }) => (path.includes("X-Amz-Signature") ? "stall" : undefined), async (endpoint) => {
        const child = spawn(process.execPath, commandLine(await envFile(name, { endpoint })), { stdio: "ignore" });
        const ended = once(child, "exit");
        const deadline = Date.now() + 10_000;
        while ((await contents(name)).length < 2 && Date.now() < deadline) await sleep(20);
        expect(await contents(name)).not.to.deep.equal([]);
        child.kill("SIGINT");
        expect(await ended).to.deep.equal([1, null]);
        expect(await contents(name)).to.deep.equal([]);
      });
    });

    describe("over TLS", () => {
      let tls: { key: string; cert: string };
      let certFile: string;
      before(async () => {
        tls = await selfSigned();
        certFile = join(dir, "cert.pem");
        await writeFile(certFile, tls.cert);
      });

      it("names a certificate that is not trusted, and the other scheme", async () => {
        await behind({ tls }, async (host) => {
          expectSymptoms(await verify(target("any", { endpoint: `https://${host}` })), { reach: "certificate", "sign in": "certificate" });
        });
        expectSymptoms(await verify(target("any", { endpoint: server.endpoint.replace("http:", "https:") })), { reach: "scheme", "sign in": "scheme" });
      });

      it("sends checksums in trailers as boto3 does, and names a server that refuses those", async () => {
        let trailers = 0;
        const answer: ProxyOptions["answer"] = ({ headers }) => {
          if (headers["x-amz-trailer"] === undefined) return undefined;
          trailers += 1;
          return refuse ? { status: 400, body: "<Error><Code>InvalidArgument</Code><Message>trailing checksum</Message></Error>" } : undefined;
        };
        let refuse = false;
        await behind({ tls, answer }, async (host) => {
          const name = await bucket();
          const file = await envFile(name, { endpoint: `https://${host}`, secureUrls: true });
          const good = await runAsync(file, { NODE_EXTRA_CA_CERTS: certFile });
          expect(good.status, good.stdout).to.equal(0);
          // The small file and two parts.
          expect(trailers).to.equal(3);
          refuse = true;
          const refused = await runAsync(file, { NODE_EXTRA_CA_CERTS: certFile });
          expect(refused.status).to.equal(1);
          expect(refused.stdout).to.include("checksum-unsupported");
        });
      });
    });

    async function envFile(name: string, settings: Partial<StorageSettings> = {}): Promise<string> {
      const file = join(dir, `${name}.env`);
      await writeFile(file, formatEnv(buildEnv(target(name, settings).settings, parseRelease("2026.5")).env, "dotenv"));
      return file;
    }

    function commandLine(file: string, args: string[] = [], nodeArgs: string[] = []): string[] {
      return [...nodeArgs, "--import", "tsx/esm", "--", "tools/verify/command.ts", "--env-file", file, "--origin", ORIGIN, "--release", "2026.5", ...args];
    }

    function run(file: string, args: string[] = [], nodeArgs: string[] = []): { status: number | null; stdout: string; stderr: string } {
      const { status, stdout, stderr } = spawnSync(process.execPath, commandLine(file, args, nodeArgs), { encoding: "utf8", timeout: 20_000 });
      return { status, stdout, stderr };
    }

    /** For a server that is in this process. */
    async function runAsync(file: string, env: Record<string, string>, args: string[] = []): Promise<{ status: number | null; stdout: string }> {
      const child = spawn(process.execPath, commandLine(file, args), { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "ignore"] });
      let stdout = "";
      child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
      await once(child, "exit");
      return { status: child.exitCode, stdout };
    }
  });

  it("has each of its diagnoses in the docs", () => {
    const docs = readFileSync("docs/verify.md", "utf8");
    for (const symptom of Object.keys(SYMPTOMS)) expect(docs).to.include(`| \`${symptom}\` |`);
  });
});
