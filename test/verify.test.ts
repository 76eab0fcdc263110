/** `verify` against real servers: working ones, and one for each thing that can be wrong. */
import { spawn, spawnSync, type SpawnSyncReturns } from "node:child_process";
import dns from "node:dns";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetBucketCorsCommand,
  GetBucketPolicyCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutBucketCorsCommand,
  PutBucketPolicyCommand,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { expect } from "chai";
import * as v from "valibot";
import { buildEnv, type StorageSettings } from "../authentik/env.ts";
import {
  BUCKET_ACTIONS,
  OBJECT_ACTIONS,
  authentikPolicy,
  type PolicyDocument,
  type PolicyStatement,
} from "../authentik/permissions.ts";
import { parseRelease } from "../authentik/release.ts";
import { formatEnv } from "../tools/env/formats.ts";
import {
  findVersitygw,
  freePort,
  startVersitygw,
  type RunningServer,
} from "../tools/start/versitygw.ts";
import { SYMPTOMS, diagnoseUrl, type Symptom } from "../tools/verify/diagnosis.ts";
import {
  allPassed,
  renderResults,
  verify,
  type CheckResult,
  type Target,
} from "../tools/verify/verify.ts";
import { selfSigned } from "./support/certificate.ts";
import { startFaultProxy, type Fault, type ProxiedRequest } from "./support/fault-proxy.ts";
import { startProxy, type ProxyOptions } from "./support/proxy.ts";
import { rootClient } from "./support/server.ts";
import { BIN_DIR } from "./support/setup.ts";

const ROOT = { accessKey: "root-key", secretKey: "root-secret" };
const USER = { accessKey: "authentik", secretKey: "authentik-secret" };
const NO_KEYS = { accessKey: undefined, secretKey: undefined };
const ORIGIN = "https://authentik.company";
const CORS = {
  AllowedOrigins: [ORIGIN],
  AllowedMethods: ["GET"],
  AllowedHeaders: ["Authorization"],
  MaxAgeSeconds: 3000,
};

/** authentik's policy for its user, with another statement. */
function policyWith(arn: string, statement: Omit<PolicyStatement, "Sid">): PolicyDocument {
  const policy = authentikPolicy(arn, [USER.accessKey]);
  return { ...policy, Statement: [...policy.Statement, { Sid: "Added", ...statement }] };
}

function policyWithout(arn: string, action: string): PolicyDocument {
  const policy = authentikPolicy(arn, [USER.accessKey]);
  const statements = policy.Statement.map((statement) => ({
    ...statement,
    Action: [statement.Action].flat().filter((name) => name !== action),
  }));
  return { ...policy, Statement: statements.filter(({ Action }) => Action.length > 0) };
}

function s3Error(code: string, message = ""): string {
  return `<Error><Code>${code}</Code><Message>${message}</Message></Error>`;
}

function resultOf(results: readonly CheckResult[], check: string): CheckResult {
  const result = results.find((candidate) => candidate.check === check);
  if (!result) throw new Error(`no check "${check}":\n${shown(results)}`);
  return result;
}

function shown(results: readonly CheckResult[]): string {
  return renderResults(results, "", { color: false });
}

function expectAllPassed(results: CheckResult[]): void {
  expect(allPassed(results), shown(results)).to.equal(true);
}

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
    return startVersitygw({
      versitygw: await findVersitygw(BIN_DIR),
      dataDir: join(dir, name),
      iamDir: join(dir, `${name}-iam`),
      root: ROOT,
      users: [USER],
      flags,
      ...(port === undefined ? {} : { port }),
    });
  }

  interface BucketOptions {
    name?: string;
    client?: S3Client;
    cors?: Partial<typeof CORS>;
    policy?: (arn: string) => PolicyDocument | undefined;
  }

  /** A new bucket as the program creates it, but for the options. */
  async function bucket(options: BucketOptions = {}): Promise<string> {
    const { name: Bucket = `bucket-${(buckets += 1)}`, client = admin } = options;
    const { policy = (arn: string) => authentikPolicy(arn, [USER.accessKey]) } = options;
    const rule = { ...CORS, ...options.cors };
    const document = policy(`arn:aws:s3:::${Bucket}`);
    await client.send(new CreateBucketCommand({ Bucket, ObjectOwnership: "BucketOwnerPreferred" }));
    if (rule.AllowedOrigins.length > 0) {
      const CORSConfiguration = { CORSRules: [rule] };
      await client.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration }));
    }
    if (document) await putPolicy(client, Bucket, document);
    return Bucket;
  }

  async function putPolicy(client: S3Client, Bucket: string, policy: object): Promise<void> {
    await client.send(new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(policy) }));
  }

  function target(
    bucketName: string,
    settings: Partial<StorageSettings> = {},
    more: Partial<Target> = {},
  ): Target {
    const endpoint = settings.endpoint ?? server.endpoint;
    const customDomain = `${new URL(endpoint).host}/${bucketName}`;
    const own = { bucketName, region: "us-east-1", endpoint, customDomain, secureUrls: false };
    return {
      settings: { ...own, ...USER, ...settings },
      origins: [ORIGIN],
      release: parseRelease("2026.5"),
      keyIsAdmin: false,
      ...more,
    };
  }

  /** Every object in a bucket, and every unfinished upload. */
  async function contents(Bucket: string): Promise<string[]> {
    const { Contents = [] } = await admin.send(new ListObjectsV2Command({ Bucket }));
    const { Uploads = [] } = await admin.send(new ListMultipartUploadsCommand({ Bucket }));
    return [...Contents, ...Uploads].map(({ Key = "" }) => Key);
  }

  type Symptoms = Readonly<Record<string, Symptom>>;

  /** Expects these symptoms of failures and warnings, and no others. */
  async function expectSymptoms(verified: Target, expected: Symptoms): Promise<CheckResult[]> {
    const results = await verify(verified);
    expectFound(results, expected);
    return results;
  }

  function expectFound(results: CheckResult[], expected: Symptoms): void {
    const found = results.flatMap(({ check, symptom }) => (symptom ? [[check, symptom]] : []));
    expect(Object.fromEntries(found), shown(results)).to.deep.equal(expected);
    expect(allPassed(results)).to.equal(results.every(({ status }) => status !== "failed"));
  }

  async function behindProxy<T>(
    options: ProxyOptions,
    work: (host: string) => Promise<T>,
  ): Promise<T> {
    const proxy = await startProxy(server.endpoint, options);
    try {
      return await work(proxy.host);
    } finally {
      await proxy.stop();
    }
  }

  async function withFaults<T>(
    choose: (request: ProxiedRequest) => Fault | undefined,
    work: (endpoint: string) => Promise<T>,
  ): Promise<T> {
    const proxy = await startFaultProxy(server.endpoint, choose);
    try {
      return await work(proxy.endpoint);
    } finally {
      await proxy.stop();
    }
  }

  describe("passes with a bucket that the program made", () => {
    for (const name of [undefined, "2025.10", "2025.12.1", "2025.12.2", "2026.4", "2026.5"]) {
      it(`for ${name ?? "any release"}, and leaves nothing in it`, async () => {
        const bucketName = await bucket();
        const release = name === undefined ? undefined : parseRelease(name);
        const { settings } = target(bucketName);
        // buildEnv knows which custom domain 2025.12.0 and 2025.12.1 need.
        const customDomain = buildEnv(settings, release).env.AUTHENTIK_STORAGE__S3__CUSTOM_DOMAIN;
        const changed = name === "2025.12.1" ? { customDomain } : {};
        const results = await verify(target(bucketName, changed, { release }));
        expectAllPassed(results);
        expect(results.filter(({ status }) => status !== "ok")).to.deep.equal([]);
        expect(urlChecks(results).length).to.equal(release === undefined ? 3 : 1);
        expect(await contents(bucketName)).to.deep.equal([]);
      });
    }

    function urlChecks(results: CheckResult[]): string[] {
      return results.map(({ check }) => check).filter((check) => check.startsWith("URL of"));
    }

    it("for the releases that can read the names, if no release is given", async () => {
      const more = { release: undefined, hasGeneralNames: true };
      const results = await verify(target(await bucket(), {}, more));
      expectAllPassed(results);
      expect(urlChecks(results)).to.deep.equal(["URL of 2026.4", "URL of 2026.5"]);
    });

    it("without a custom domain", async () => {
      expectAllPassed(await verify(target(await bucket(), { customDomain: undefined })));
    });

    it("with the legacy signature, if the server knows it", async () => {
      const results = await verify(target(await bucket(), { signatureVersion: "s3" }));
      const { tried, status } = resultOf(results, "URL of 2026.5");
      expect(tried).to.include("<signature>");
      // versitygw does not know it, which shows that the URL differs from the default's.
      expect(status).to.equal("failed");
    });

    it("in virtual-hosted style", async () => {
      const port = await freePort();
      const virtual = await start("virtual", ["--virtual-domain", `s3.test:${port}`], port);
      const client = rootClient(virtual, ROOT);
      const restore = resolveToThisMachine("s3.test");
      try {
        const name = await bucket({ name: "virtual-media", client });
        const host = `s3.test:${port}`;
        const addressing = { addressingStyle: "virtual", customDomain: `${name}.${host}` } as const;
        const settings = { endpoint: `http://${host}`, ...addressing };
        for (const release of ["2025.12", "2026.5"].map(parseRelease)) {
          expectAllPassed(await verify(target(name, settings, { release })));
        }
        // Older releases do not read the style. So a stack has to name a release for it.
        const older = await verify(target(name, settings, { release: parseRelease("2025.10") }));
        expect(resultOf(older, "URL of 2025.10").got).to.include("403 SignatureDoesNotMatch");
      } finally {
        restore();
        client.destroy();
        await virtual.stop();
      }
    });

    /** Resolves every name in a domain to this machine, as DNS would do. */
    function resolveToThisMachine(domain: string): () => void {
      const { lookup } = dns;
      const replacement = (name: string, ...rest: unknown[]): unknown => {
        const host = name.endsWith(domain) ? "127.0.0.1" : name;
        return Reflect.apply(lookup, dns, [host, ...rest]);
      };
      dns.lookup = Object.assign(replacement, lookup);
      return () => {
        dns.lookup = lookup;
      };
    }
  });

  describe("says what is wrong with the files", () => {
    it("types that are not authentik's, in a sample or in all, and how to repair them", async () => {
      const Bucket = await bucket();
      const more = { argument: "stack:prod", release: parseRelease("2025.12.1") };
      const put = (Key: string, ContentType: string) =>
        admin.send(new PutObjectCommand({ Bucket, Key, ContentType, Body: "x" }));
      for (let index = 0; index < 100; index++) {
        await put(
          `media/public/${index}.svg`,
          index < 60 ? "binary/octet-stream" : "image/svg+xml",
        );
      }
      await put("media/public/no-ending", "binary/octet-stream");
      await put("reports/t_one/r.csv", "text/plain");
      for (const [allTypes, counts] of [
        [false, "31 of 51 files"],
        [true, "61 of 101 files"],
      ] as const) {
        const verified = target(Bucket, { customDomain: undefined }, more);
        const results = await verify(verified, { allTypes });
        expectFound(results, { "stored types": "wrong-type" });
        const { got, advice } = resultOf(results, "stored types");
        expect(got)
          .to.include(counts)
          .and.include("1 of type text/plain, e.g. reports/t_one/r.csv");
        expect(advice).to.include("npm run migrate -- stack:prod --repair-types");
        expect(advice).to.include("2025.12.2");
      }
    });
  });

  describe("says what is wrong with the key", () => {
    it("an unknown access key, a wrong secret key", async () => {
      const name = await bucket();
      const unknownKey = target(name, { accessKey: "nobody" });
      const wrongSecret = target(name, { secretKey: "other" });
      await expectSymptoms(unknownKey, { "bucket access": "wrong-access-key" });
      await expectSymptoms(wrongSecret, { "bucket access": "wrong-secret-key" });
    });

    it("a key that is still unknown when its time is over", async () => {
      const start = performance.now();
      const results = await verify(target(await bucket(), { accessKey: "nobody" }), {
        newKeyMs: 3000,
      });
      expectFound(results, { "bucket access": "wrong-access-key" });
      expect(performance.now() - start).to.be.within(1900, 6000);
    });

    it("nothing if a new key, or its right, is known a little later", async () => {
      let refusals = 1;
      const unknown = { status: 403, body: s3Error("InvalidAccessKeyId") };
      const answer: ProxyOptions["answer"] = ({ url = "" }) =>
        url.includes("list-type=2") && refusals-- > 0 ? unknown : undefined;
      await behindProxy({ answer }, async (host) => {
        const verified = target(await bucket(), { endpoint: `http://${host}` });
        expectAllPassed(await verify(verified, { newKeyMs: 10_000 }));
      });
      const name = await bucket({ policy: () => undefined });
      const policy = authentikPolicy(`arn:aws:s3:::${name}`, [USER.accessKey]);
      const [results] = await Promise.all([
        verify(target(name), { newKeyMs: 10_000 }),
        sleep(500).then(() => putPolicy(admin, name, policy)),
      ]);
      expectAllPassed(results);
    });

    it("no credentials at all", async () => {
      const environment = {
        AWS_EC2_METADATA_DISABLED: "true",
        AWS_SHARED_CREDENTIALS_FILE: join(dir, "none"),
        AWS_CONFIG_FILE: join(dir, "none"),
        AWS_ACCESS_KEY_ID: undefined,
        AWS_SECRET_ACCESS_KEY: undefined,
      };
      await withEnvironment(environment, async () => {
        const verified = target(await bucket(), NO_KEYS);
        await expectSymptoms(verified, { "bucket access": "no-credentials" });
      });
    });

    it("whose credentials it uses, if authentik has no keys of its own", async () => {
      const { accessKey: AWS_ACCESS_KEY_ID, secretKey: AWS_SECRET_ACCESS_KEY } = USER;
      await withEnvironment({ AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY }, async () => {
        const results = await verify(target(await bucket(), NO_KEYS));
        expectAllPassed(results);
        expect(resultOf(results, "identity").got).to.equal("the access key authentik");
      });
    });

    async function withEnvironment(
      values: Readonly<Record<string, string | undefined>>,
      work: () => Promise<void>,
    ): Promise<void> {
      const before = { ...process.env };
      const names = Object.keys(values);
      for (const name of names) Reflect.deleteProperty(process.env, name);
      for (const [name, value] of Object.entries(values)) {
        if (value !== undefined) process.env[name] = value;
      }
      try {
        await work();
      } finally {
        for (const name of names) Reflect.deleteProperty(process.env, name);
        Object.assign(process.env, before);
      }
    }

    for (const [action, ...expected] of [
      ["s3:ListBucket", "bucket access", "list"],
      ["s3:GetObject", "head", "head of the large file", "URL of 2026.5"],
      ["s3:PutObject", "upload"],
      ["s3:DeleteObject", "delete"],
      ["s3:AbortMultipartUpload", "abort upload"],
      ["s3:ListMultipartUploadParts", "list parts"],
    ] as const) {
      it(`${action} missing`, async () => {
        const name = await bucket({ policy: (arn) => policyWithout(arn, action) });
        const results = await verify(target(name));
        const failed = results.filter(({ status }) => status === "failed");
        const checks = failed.map(({ check }) => check);
        expect(checks, shown(results)).to.have.members(expected);
        for (const { advice } of failed) expect(advice).to.include(action);
        const left = await contents(name);
        if (action !== "s3:DeleteObject") expect(left).to.deep.equal([]);
        for (const Key of left) {
          expect(resultOf(results, "delete").advice).to.include(Key);
          await admin.send(new DeleteObjectCommand({ Bucket: name, Key }));
        }
      });
    }

    it("s3:PutObjectAcl missing, so that an upload is refused only with its ACL", async () => {
      const policy = (arn: string) =>
        policyWith(arn, {
          Effect: "Deny",
          Principal: { AWS: [USER.accessKey] },
          Action: "s3:PutObject",
          Resource: `${arn}/*`,
          Condition: { StringEquals: { "s3:x-amz-acl": "private" } },
        });
      const verified = target(await bucket({ policy }));
      const results = await expectSymptoms(verified, { upload: "missing-permission" });
      expect(resultOf(results, "upload").advice).to.include("s3:PutObjectAcl");
    });

    it("rights that it should not have", async () => {
      const [name] = [await bucket(), await bucket()];
      const excess = {
        "other buckets": "excess-rights",
        "change cors": "excess-rights",
        "change policy": "excess-rights",
      } as const;
      const failed = await expectSymptoms(target(name, ROOT), excess);
      expect(allPassed(failed)).to.equal(false);
      const warned = await expectSymptoms(target(name, ROOT, { keyIsAdmin: true }), excess);
      expect(allPassed(warned)).to.equal(true);
      // versitygw accepts the attempts, and has got back what was there.
      const settings = await settingsOf(name);
      expect(settings.policy).to.deep.equal(
        authentikPolicy(`arn:aws:s3:::${name}`, [USER.accessKey]),
      );
      expect(settings.cors).to.deep.equal([CORS]);
      expectAllPassed(await verify(target(name)));
    });

    /** The bucket's policy and CORS rules. */
    async function settingsOf(Bucket: string): Promise<{ policy: unknown; cors: unknown }> {
      const { Policy = "" } = await admin.send(new GetBucketPolicyCommand({ Bucket }));
      const { CORSRules } = await admin.send(new GetBucketCorsCommand({ Bucket }));
      const policy: unknown = JSON.parse(Policy);
      return { policy, cors: CORSRules };
    }

    it("puts back what was there if an attempt gets no answer, and reports a 5xx", async () => {
      const name = await bucket();
      const before = await settingsOf(name);
      const isFirst = new Set(["policy=", "cors="]);
      const lost = ({ method, path }: ProxiedRequest): Fault | undefined => {
        const setting = [...isFirst].find((query) => path.includes(`?${query}`));
        if (method !== "PUT" || setting === undefined) return undefined;
        isFirst.delete(setting);
        return "lost";
      };
      await withFaults(lost, async (endpoint) => {
        const results = await verify(target(name, { ...ROOT, endpoint }, { keyIsAdmin: true }));
        expect(resultOf(results, "change policy").symptom).to.equal("reset");
        expect(isFirst.size).to.equal(0);
        expect(await settingsOf(name)).to.deep.equal(before);
      });
      const fails = { status: 500, body: s3Error("InternalError") };
      const answer: ProxyOptions["answer"] = ({ url = "" }) =>
        url.includes("?policy=") || url.includes("?cors=") ? fails : undefined;
      await behindProxy({ answer }, async (host) => {
        const results = await expectSymptoms(target(name, { endpoint: `http://${host}` }), {
          "change cors": "unknown",
          "change policy": "unknown",
        });
        expect(allPassed(results)).to.equal(true);
      });
    });
  });

  describe("says what is wrong with the bucket", () => {
    it("it does not exist", async () => {
      await expectSymptoms(target("no-such-bucket", ROOT), { "bucket access": "no-bucket" });
    });

    it("no CORS policy, or one for another origin", async () => {
      const none = target(await bucket({ cors: { AllowedOrigins: [] } }));
      await expectSymptoms(none, { [`cors ${ORIGIN}`]: "cors-missing" });
      const other = "https://sso.company";
      const both = target(await bucket(), {}, { origins: [ORIGIN, other] });
      await expectSymptoms(both, { [`cors ${other}`]: "cors-missing" });
    });

    it("a CORS policy that does not allow the header of the setup page", async () => {
      const verified = target(await bucket({ cors: { AllowedHeaders: ["X-Other"] } }));
      const results = await expectSymptoms(verified, { [`cors ${ORIGIN}`]: "cors-missing" });
      expect(allPassed(results)).to.equal(true);
    });

    it("a CORS policy for everyone", async () => {
      const verified = target(await bucket({ cors: { AllowedOrigins: ["*"] } }));
      await expectSymptoms(verified, { "cors of other origins": "cors-open" });
    });

    it("public", async () => {
      const publicRead = { Effect: "Allow", Principal: "*", Action: "s3:GetObject" } as const;
      const policy = (arn: string) => policyWith(arn, { ...publicRead, Resource: `${arn}/*` });
      const verified = target(await bucket({ policy }));
      const { endpoint, bucketName } = verified.settings;
      const results = await verify({ ...verified, publicUrl: `${endpoint}/${bucketName}` });
      expect(resultOf(results, "unsigned URL").symptom).to.equal("public-bucket");
      expect(resultOf(results, "public URL").symptom).to.equal("public-bucket");
      expect(allPassed(results)).to.equal(false);
    });

    it("public or not, at an address that does not answer here, which is no failure", async () => {
      const publicUrl = `http://127.0.0.1:${await freePort()}`;
      const verified = { ...target(await bucket()), publicUrl };
      await expectSymptoms(verified, { "public URL": "refused" });
    });

    it("it refuses ACLs, without which the other checks go on", async () => {
      // versitygw accepts the ACL "private" whatever the bucket's ownership. AWS answers this:
      const body = s3Error("AccessControlListNotSupported", "The bucket does not allow ACLs");
      const answer: ProxyOptions["answer"] = ({ headers }) =>
        headers["x-amz-acl"] === undefined ? undefined : { status: 400, body };
      await behindProxy({ answer }, async (host) => {
        const name = await bucket();
        const verified = target(name, { endpoint: `http://${host}` });
        await expectSymptoms(verified, { upload: "acl-unsupported" });
        expect(await contents(name)).to.deep.equal([]);
      });
    });

    it("it refuses checksums, unless authentik is set to send none", async () => {
      const body = s3Error("NotImplemented", "A header implies functionality not implemented");
      const isChecksum = (name: string) => /^x-amz-(?:checksum|sdk-checksum|trailer)/.test(name);
      const answer: ProxyOptions["answer"] = ({ headers }) =>
        Object.keys(headers).some(isChecksum) ? { status: 501, body } : undefined;
      await behindProxy({ answer }, async (host) => {
        const name = await bucket();
        const endpoint = `http://${host}`;
        await expectSymptoms(target(name, { endpoint }), { upload: "checksum-unsupported" });
        const none = target(name, { endpoint, checksums: "when_required" });
        expectAllPassed(await verify(none));
      });
    });

    it("it is in another region", async () => {
      const elsewhere = await start("elsewhere", ["--region", "eu-central-1"]);
      try {
        const verified = target("any", { endpoint: elsewhere.endpoint });
        const results = await expectSymptoms(verified, { "bucket access": "wrong-region" });
        expect(resultOf(results, "bucket access").got).to.include("eu-central-1");
      } finally {
        await elsewhere.stop();
      }
    });
  });

  describe("says what is wrong with the URLs", () => {
    it("the bucket twice", async () => {
      const release = parseRelease("2025.12.1");
      const results = await verify(target(await bucket(), {}, { release }));
      expect(resultOf(results, "URL of 2025.12.1").symptom).to.equal("bucket-twice");
    });

    const TO_2026_4 = /^To 2026.4 authentik signs this URL for the endpoint's host/;
    const FROM_2026_5 = /^From 2026.5 authentik signs this URL for /;

    it("a proxy that sends the wrong host for the release", async () => {
      for (const [sendsOwnHost, works, fails, advice, seen] of [
        [true, "2026.4", "2026.5", FROM_2026_5, /The server sees 127.0.0.1:\d+, which was right/],
        [false, "2026.5", "2026.4", TO_2026_4, /The server sees 127.0.0.1:\d+, the host that bro/],
      ] as const) {
        await behindProxy({ sendsOwnHost }, async (host) => {
          const name = await bucket();
          const settings = { customDomain: `${host}/${name}` };
          const run = (release: string) =>
            verify(target(name, settings, { release: parseRelease(release) }));
          expectAllPassed(await run(works));
          const failed = resultOf(await run(fails), `URL of ${fails}`);
          expect(failed).to.include({ status: "failed", symptom: "host-refused" });
          expect(failed.advice).to.match(advice).and.match(seen).and.include(host);
        });
      }
    });

    it("a proxy that sends a third host", async () => {
      const other = await startProxy(server.endpoint, {});
      try {
        const third = `http://${other.host}`;
        const proxy = await startProxy(third, { sendsOwnHost: true });
        const name = await bucket();
        const settings = { customDomain: `${proxy.host}/${name}` };
        for (const release of ["2026.4", "2026.5"]) {
          const results = await verify(target(name, settings, { release: parseRelease(release) }));
          const { symptom, advice } = resultOf(results, `URL of ${release}`);
          expect(symptom).to.equal("host-refused");
          expect(advice).to.include("The server sees another host, or a changed path.");
        }
        await proxy.stop();
      } finally {
        await other.stop();
      }
    });

    it("a wrong path on the endpoint's own host, where there is no proxy", async () => {
      const { host } = new URL(server.endpoint);
      const name = await bucket();
      for (const [path, release] of [
        ["", "2026.4"],
        ["", "2026.5"],
        ["/other", "2026.4"],
        ["/other", "2026.5"],
        [`//${name}`, "2026.5"],
      ] as const) {
        const settings = { customDomain: `${host}${path}` };
        const results = await verify(target(name, settings, { release: parseRelease(release) }));
        const { symptom, advice } = resultOf(results, `URL of ${release}`);
        expect(symptom, `${path} on ${release}`).to.equal("wrong-custom-domain");
        expect(advice).to.include(`Write "${host}/${name}"`);
      }
    });

    it("settings with which authentik fails", async () => {
      for (const [release, settings] of [
        ["2024.8.0", { customDomain: "media.company" }],
        ["2025.12.2", { urlExpiry: "15 minutes" }],
      ] as const) {
        const options = { release: parseRelease(release) };
        const results = await verify(target(await bucket(), settings, options));
        const [failed, ...others] = results.filter(({ status }) => status === "failed");
        expect(failed).to.include({ check: `URL of ${release}`, symptom: "no-url" });
        expect(others).to.deep.equal([]);
      }
    });

    it("AWS's global host, which redirects browsers", () => {
      const settings = { bucketName: "authentik-media", region: "eu-central-1", secureUrls: true };
      const failure = { status: 403, code: "SignatureDoesNotMatch", message: "" };
      const url = new URL("https://authentik-media.s3.amazonaws.com/media/public/x.png");
      expect(diagnoseUrl(failure, url, settings, true)).to.equal("global-host");
      expect(diagnoseUrl(failure, url, settings, false)).to.equal("wrong-secret-key");
    });

    async function symptomAt(name: string, customDomain: string): Promise<Symptom | undefined> {
      const results = await verify(target(name, { customDomain }));
      return resultOf(results, "URL of 2026.5").symptom;
    }

    for (const [status, symptom] of [
      [401, "host-refused"],
      [403, "wrong-custom-domain"],
    ] as const) {
      it(`a custom domain that answers ${status}`, async () => {
        const name = await bucket();
        await behindProxy({ answer: () => ({ status, body: "" }) }, async (host) => {
          expect(await symptomAt(name, `${host}/${name}`)).to.equal(symptom);
        });
      });
    }

    it("a custom domain that leads elsewhere", async () => {
      const { host } = new URL(server.endpoint);
      expect(await symptomAt(await bucket(), host)).to.equal("wrong-custom-domain");
    });

    it("a custom domain with its own pages, or open to all", async () => {
      const page = { status: 200, headers: { "content-type": "text/html" }, body: "<html>" };
      await behindProxy({ answer: () => page }, async (host) => {
        const name = await bucket();
        const results = await verify(target(name, { customDomain: `${host}/${name}` }));
        expect(resultOf(results, "URL of 2026.5").symptom).to.equal("content-changed");
        expect(resultOf(results, "expired URL").symptom).to.equal("content-changed");
        expect(resultOf(results, "unsigned URL").symptom).to.equal("content-changed");
      });
    });

    it("a custom domain whose host has no DNS record, or at which nothing listens", async () => {
      const name = await bucket();
      for (const [host, symptom] of [
        ["no-such-host.invalid", "dns"],
        [`127.0.0.1:${await freePort()}`, "refused"],
      ] as const) {
        const verified = target(name, { customDomain: `${host}/${name}` }, { release: undefined });
        const results = await expectSymptoms(verified, { "custom domain": symptom });
        const { advice } = resultOf(results, "custom domain");
        expect(advice).to.include(`CUSTOM_DOMAIN is "${host}/${name}"`);
      }
      expect(await contents(name)).to.deep.equal([]);
    });
  });

  describe("says what is wrong with the connection", () => {
    async function expectAtEndpoint(endpoint: string, symptom: Symptom): Promise<void> {
      await expectSymptoms(target("any", { endpoint }), {
        endpoint: symptom,
        "bucket access": symptom,
      });
    }

    it("no DNS record, nothing that listens", async () => {
      await expectAtEndpoint("http://no-such-host.invalid", "dns");
      await expectAtEndpoint(`http://127.0.0.1:${await freePort()}`, "refused");
    });

    it("closed connections", async () => {
      await withFaults(
        () => "reset",
        (endpoint) => expectAtEndpoint(endpoint, "reset"),
      );
    });

    it("an untrusted certificate, the other scheme", async () => {
      await behindProxy({ tls: await selfSigned() }, (host) =>
        expectAtEndpoint(`https://${host}`, "certificate"),
      );
      await expectAtEndpoint(server.endpoint.replace("http:", "https:"), "scheme");
    });

    for (const [what, type, body] of [
      ["a web page", "text/html", "<!doctype html><html><body>Welcome</body></html>"],
      ["another program", "application/json", '{"status":"ok"}'],
      ["nothing", "text/plain", ""],
    ] as const) {
      it(`${what} in place of an S3 server`, async () => {
        const page = { status: 200, headers: { "content-type": type }, body };
        await behindProxy({ answer: () => page }, (host) =>
          expectSymptoms(target("any", { endpoint: `http://${host}` }), {
            "bucket access": "not-s3",
          }),
        );
      });
    }

    const html = { headers: { "content-type": "text/html" }, body: "<html></html>" };
    for (const [what, status, symptom] of [
      ["a web page", 200, "not-s3"],
      ["a redirect that is not S3's", 308, "not-s3"],
      ["a proxy's limit", 413, "too-large"],
    ] as const) {
      it(`${what} in the place of the answers to uploads`, async () => {
        const page = { ...html, status };
        const answer: ProxyOptions["answer"] = ({ method }) =>
          method === "PUT" ? page : undefined;
        await behindProxy({ answer }, async (host) => {
          const verified = target(await bucket(), { endpoint: `http://${host}` });
          await expectSymptoms(verified, { upload: symptom });
        });
      });
    }

    it("a web page in the place of the answers to deletions", async () => {
      const page = { ...html, status: 200 };
      const answer: ProxyOptions["answer"] = ({ method }) =>
        method === "DELETE" ? page : undefined;
      await behindProxy({ answer }, async (host) => {
        const verified = target(await bucket(), { endpoint: `http://${host}` });
        const both = { "abort upload": "not-s3", delete: "left-behind" } as const;
        await expectSymptoms(verified, both);
      });
    });

    it("answers that are longer than any of S3", async () => {
      const page = { status: 200, body: Buffer.alloc(17 * 1024 * 1024) };
      await behindProxy({ answer: () => page }, async (host) => {
        const results = await verify(target("any", { endpoint: `http://${host}` }));
        for (const check of ["endpoint", "bucket access"]) {
          expect(resultOf(results, check).got).to.include("longer than 16 MiB");
        }
      });
    });

    it("answers to uploads and deletions that do not end", async () => {
      const name = await bucket();
      const faults: Readonly<Record<string, Fault>> = { POST: "drip", DELETE: "stall" };
      await withFaults(
        ({ method }) => faults[method],
        async (endpoint) => {
          const start = Date.now();
          const results = await verify(target(name, { endpoint }), { timeoutMs: 7_000 });
          expect(Date.now() - start).to.be.lessThan(8_000);
          expect(resultOf(results, "multipart upload").symptom).to.equal("timeout");
          expect(resultOf(results, "delete").symptom).to.equal("left-behind");
        },
      );
    });

    it("an answer lost after the upload was done, which is cleaned up", async () => {
      const name = await bucket();
      const isUpload = ({ method, path }: ProxiedRequest) =>
        method === "PUT" && path.includes(".png");
      await withFaults(
        (request) => (isUpload(request) ? "lost" : undefined),
        (endpoint) => expectSymptoms(target(name, { endpoint }), { upload: "reset" }),
      );
      expect(await contents(name)).to.deep.equal([]);
    });

    it("no answer, within the time limit of a request and of the run", async () => {
      const start = Date.now();
      await withFaults(
        () => "stall",
        async (endpoint) => {
          const [request, run] = await Promise.all([
            verify(target("any", { endpoint })),
            verify(target("any", { endpoint }), { timeoutMs: 7_000 }),
          ]);
          const both = { endpoint: "timeout", "bucket access": "timeout" } as const;
          expectFound(request, both);
          expectFound(run, { ...both, run: "timeout" });
        },
      );
      expect(Date.now() - start).to.be.lessThan(7_000);
    });

    it("files whose rest never comes", async () => {
      const name = await bucket();
      const isSignedGet = ({ method, path }: ProxiedRequest) =>
        method === "GET" && path.includes("X-Amz-Signature");
      await withFaults(
        (request) => (isSignedGet(request) ? "stall-body" : undefined),
        async (endpoint) => {
          const verified = target(name, { endpoint }, { origins: [] });
          const results = await verify(verified, { timeoutMs: 9_000 });
          expect(resultOf(results, "URL of 2026.5").symptom).to.equal("timeout");
          expect(await contents(name)).to.deep.equal([]);
        },
      );
    });

    for (const [seconds, got, passed] of [
      [3600, /3600 s ahead|3599 s ahead/, false],
      [-120, /120 s behind|121 s behind/, true],
    ] as const) {
      it(`a clock that differs by ${seconds} s`, async () => {
        const changeHeaders: ProxyOptions["changeHeaders"] = (headers) => {
          headers.date = new Date(Date.now() + seconds * 1000).toUTCString();
        };
        await behindProxy({ changeHeaders }, async (host) => {
          const verified = target(await bucket(), { endpoint: `http://${host}` });
          const results = await expectSymptoms(verified, { endpoint: "clock" });
          expect(resultOf(results, "endpoint").got).to.match(got);
          expect(allPassed(results)).to.equal(passed);
        });
      });
    }
  });

  describe("as a command", () => {
    it("says that everything works, without the secret", async () => {
      const { status, stdout, stderr } = run(await envFile(await bucket()), ["--json"]);
      expect(status, stderr).to.equal(0);
      const Result = v.object({ check: v.string(), status: v.picklist(["ok"]) });
      const Output = v.object({ ok: v.literal(true), results: v.array(Result) });
      expect(v.parse(Output, JSON.parse(stdout)).results.length).to.be.greaterThan(15);
      expect(stdout + stderr).not.to.include(USER.secretKey);
    });

    it("fails with 1 if a check failed, and with 2 if the settings cannot be read", async () => {
      const wrong = run(await envFile(await bucket(), { secretKey: "it's other" }));
      expect(wrong.status).to.equal(1);
      expect(wrong.stdout).to.include("FAIL").and.include("wrong-secret-key");
      expect(wrong.stdout).not.to.include("\u001b[");
      const file = join(dir, "broken.env");
      const bucketName = "AUTHENTIK_STORAGE__S3__BUCKET_NAME";
      await writeFile(file, `AUTHENTIK_STORAGE__BACKEND=s3\n${bucketName}=123\n`);
      const broken = run(file);
      expect(broken.status).to.equal(2);
      expect(broken.stderr).to.include(`${bucketName} is read as JSON`);
      expect(run(join(dir, "none.env")).status).to.equal(2);
    });

    it("with a clock an hour behind the server's, which refuses it", async () => {
      const shift = `
        const now = () => Real.now() - 3600000;
        const Real = Date;
        globalThis.Date = class extends Real {
          constructor(...args) { super(...(args.length > 0 ? args : [now()])); }
          static now() { return now(); }
        };`;
      const module = `data:text/javascript,${encodeURIComponent(shift)}`;
      const { status, stdout } = run(await envFile(await bucket()), [], ["--import", module]);
      expect(status).to.equal(1);
      expect(stdout).to.include("RequestTimeTooSkewed");
      expect(stdout).to.match(/3600 s ahead|3599 s ahead/);
    });

    it("ends in time although the credentials never come", async () => {
      const config = join(dir, "aws-config");
      await writeFile(config, "[profile slow]\ncredential_process = sleep 25\n");
      const file = await envFile(await bucket(), { ...NO_KEYS, sessionProfile: "slow" });
      const start = Date.now();
      const { status, stdout } = await runAsync(file, { AWS_CONFIG_FILE: config }, "10");
      expect(status, stdout).to.equal(1);
      expect(stdout).to.include("timeout");
      expect(Date.now() - start).to.be.lessThan(10_000);
    });

    it("leaves nothing behind when it is interrupted", async () => {
      const name = await bucket();
      const isSigned = ({ path }: ProxiedRequest) => path.includes("X-Amz-Signature");
      await withFaults(
        (request) => (isSigned(request) ? "stall" : undefined),
        async (endpoint) => {
          const args = commandLine(await envFile(name, { endpoint }));
          const child = spawn(process.execPath, args, { stdio: "ignore" });
          const ended = once(child, "exit");
          const deadline = Date.now() + 10_000;
          while ((await contents(name)).length < 2 && Date.now() < deadline) await sleep(20);
          expect(await contents(name)).not.to.deep.equal([]);
          child.kill("SIGINT");
          expect(await ended).to.deep.equal([1, null]);
          expect(await contents(name)).to.deep.equal([]);
        },
      );
    });

    it("sends checksums in trailers over TLS as boto3 does; a server may refuse them", async () => {
      const tls = await selfSigned();
      const certFile = join(dir, "cert.pem");
      await writeFile(certFile, tls.cert);
      const refusal = { status: 400, body: s3Error("InvalidArgument", "trailing checksum") };
      let trailers = 0;
      let refuses = false;
      const answer: ProxyOptions["answer"] = ({ headers }) => {
        if (headers["x-amz-trailer"] === undefined) return undefined;
        trailers += 1;
        return refuses ? refusal : undefined;
      };
      await behindProxy({ tls, answer }, async (host) => {
        const settings = { endpoint: `https://${host}`, secureUrls: true };
        const file = await envFile(await bucket(), settings);
        const accepted = await runAsync(file, { NODE_EXTRA_CA_CERTS: certFile });
        expect(accepted.status, accepted.stdout).to.equal(0);
        // The small file, the file that an abort must keep, and two parts.
        expect(trailers).to.equal(4);
        refuses = true;
        const refused = await runAsync(file, { NODE_EXTRA_CA_CERTS: certFile });
        expect(refused.status).to.equal(1);
        expect(refused.stdout).to.include("checksum-unsupported");
      });
    });

    async function envFile(name: string, settings: Partial<StorageSettings> = {}): Promise<string> {
      const file = join(dir, `${name}.env`);
      const { env } = buildEnv(target(name, settings).settings, parseRelease("2026.5"));
      await writeFile(file, formatEnv(env, "dotenv"));
      return file;
    }

    function commandLine(file: string, args: string[] = [], nodeArgs: string[] = []): string[] {
      const command = ["--import", "tsx/esm", "--", "tools/verify/command.ts"];
      const options = ["--env-file", file, "--origin", ORIGIN, "--release", "2026.5"];
      return [...nodeArgs, ...command, ...options, ...args];
    }

    function run(file: string, args?: string[], nodeArgs?: string[]): SpawnSyncReturns<string> {
      const options = { encoding: "utf8", timeout: 20_000 } as const;
      return spawnSync(process.execPath, commandLine(file, args, nodeArgs), options);
    }

    /** For a server in this process. */
    async function runAsync(
      file: string,
      env: Record<string, string>,
      timeout = "30",
    ): Promise<{ status: number | null; stdout: string }> {
      const child = spawn(process.execPath, commandLine(file, ["--timeout", timeout]), {
        env: { ...process.env, ...env },
        stdio: ["ignore", "pipe", "ignore"],
      });
      let stdout = "";
      child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
      await once(child, "exit");
      return { status: child.exitCode, stdout };
    }
  });

  describe("has in its docs", () => {
    const page = readFileSync("docs/verify.md", "utf8");

    it("each of its diagnoses", () => {
      const text = page.replaceAll(/\[([^\]]+)\]\(#[\w-]+\)/g, "$1");
      for (const [symptom, meaning] of Object.entries(SYMPTOMS)) {
        const row = text.split("\n").find((line) => line.startsWith(`| \`${symptom}\` |`));
        expect(row, symptom).to.satisfy((line = "") => line.endsWith(` | ${meaning} |`));
      }
    });

    it("each permission that authentik needs, and no other", () => {
      const [, section = ""] = page.split("## Permissions\n");
      const listed = [...section.matchAll(/^\| `(s3:\w+)` \| (.+?) \|/gm)];
      expect(listed.map(([, action, on]) => `${action} ${on}`)).to.deep.equal([
        ...BUCKET_ACTIONS.map((action) => `${action} the bucket`),
        ...OBJECT_ACTIONS.map((action) => `${action} its objects`),
      ]);
    });
  });
});
