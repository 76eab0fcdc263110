import { execFile, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import dns from "node:dns";
import { once } from "node:events";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { freePort } from "../tools/start/versitygw.ts";
import { S3Bucket } from "../tools/migrate/s3.ts";
import { selfSigned } from "./support/certificate.ts";
import { listen } from "./support/listen.ts";
import { startListingServer } from "./support/listing-server.ts";
import { envFile, IMPATIENT, readTree, run, startServer, temporaryFolder, writeTree, type TestServer } from "./support/migration.ts";
import { startProxy } from "./support/proxy.ts";
import { ROOT, startTestServer } from "./support/server.ts";
import { onTerminal } from "./support/terminal.ts";

const MIB = 1024 * 1024;
const EMPTY_LISTING = { status: 200, body: "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>" };
const MIGRATE = ["--import", "tsx/esm", "tools/migrate/command.ts"];

describe("migrate: connections and credentials", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  async function command(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<{ code: number; out: string; err: string }> {
    return new Promise((resolve) => {
      execFile(process.execPath, [...MIGRATE, ...args], { env: { ...process.env, ...env } }, (error, out, err) => {
        resolve({ code: typeof error?.code === "number" ? error.code : 0, out, err });
      });
    });
  }

  it("the bucket in the host, end to end", async () => {
    const port = await freePort();
    const dataDir = temporaryFolder();
    mkdirSync(join(dataDir, "virtual"));
    const virtual = await startTestServer({ port, dataDir, flags: ["--virtual-domain", `s3.test:${port}`] });
    const lookup = dns.lookup;
    // As DNS would: every name of the domain leads to this machine.
    const lead = (name: string, ...rest: unknown[]): unknown => Reflect.apply(lookup, dns, [name.endsWith("s3.test") ? "127.0.0.1" : name, ...rest]);
    dns.lookup = Object.assign(lead, lookup);
    try {
      const { folder, state } = server.fresh();
      writeTree(folder, { "media/public/a b+%é.png": "x", "media/public/large.bin": randomBytes(9 * MIB) });
      const settings: StorageSettings = { bucketName: "virtual", endpoint: `http://s3.test:${port}`, region: "us-east-1", ...ROOT, addressingStyle: "virtual", secureUrls: false };
      expect((await run(folder, settings, { state })).problems).to.deep.equal([]);
      const tree = readTree(folder);
      expect(readTree(join(dataDir, "virtual"))).to.deep.equal(tree);
      rmSync(folder, { recursive: true });
      await run(settings, folder, { state });
      expect(readTree(folder)).to.deep.equal(tree);
    } finally {
      dns.lookup = lookup;
      await virtual.stop();
    }
  });

  it("TLS: a certificate of one's own is trusted with NODE_EXTRA_CA_CERTS, and refused without", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    const tls = await selfSigned();
    const certFile = join(top, "cert.pem");
    writeFileSync(certFile, tls.cert);
    const proxy = await startProxy(server.endpoint, { tls });
    try {
      const place = envFile(top, { ...bucket, endpoint: `https://${proxy.host}` });
      const refused = await command([folder, place, "--yes", "--state", state]);
      expect(refused).to.include({ code: 2 });
      expect(refused.err).to.include("self-signed certificate");
      expect(await command([folder, place, "--yes", "--state", state], { NODE_EXTRA_CA_CERTS: certFile })).to.include({ code: 0 });
      expect(readTree(inBucket)).to.deep.equal(readTree(folder));
    } finally {
      await proxy.stop();
    }
  });

  it("keys of a profile and of the environment sign when the settings have none", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const { accessKey = "", secretKey = "", ...keyless } = bucket;
    writeTree(folder, { "media/public/x.png": "x" });
    const credentials = join(top, "credentials");
    writeFileSync(credentials, `[authentik]\naws_access_key_id = ${accessKey}\naws_secret_access_key = ${secretKey}\n`);
    const alone = { AWS_EC2_METADATA_DISABLED: "true", AWS_SHARED_CREDENTIALS_FILE: credentials, AWS_CONFIG_FILE: join(top, "none") };
    // A profile goes before keys, as for authentik.
    const profile = envFile(top, { ...keyless, accessKey: "wrong", secretKey: "wrong", sessionProfile: "authentik" });
    expect((await command([folder, profile, "--yes", "--state", state], alone)).code).to.equal(0);
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
    const none = envFile(top, keyless);
    const fromEnvironment = await command([folder, none, "--yes", "--state", state], { ...alone, AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secretKey });
    expect(fromEnvironment.code).to.equal(0);
    const without = await command([folder, none, "--yes", "--state", state], alone);
    expect(without.code).to.equal(2);
    expect(without.err).to.match(/cannot be listed: .*credentials/i);
  });

  describe("a role's credentials", () => {
    const variables = ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_DISABLED", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"] as const;
    const before = variables.map((name) => [name, process.env[name]] as const);
    afterEach(() => { for (const [name, value] of before) { if (value === undefined) Reflect.deleteProperty(process.env, name); else process.env[name] = value; } });

    /** The tokens that some requests are sent with, with credentials that last so long. */
    async function tokensOf(lifetimeMs: number): Promise<unknown[]> {
      let asked = 0;
      const role = createServer((_, response) => {
        asked += 1;
        response.end(JSON.stringify({ AccessKeyId: "key", SecretAccessKey: "secret", Token: `token ${asked}`, Expiration: new Date(Date.now() + lifetimeMs) }));
      });
      const { host, stop } = await listen(role);
      Object.assign(process.env, {
        AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://${host}/role`,
        AWS_EC2_METADATA_DISABLED: "true", AWS_SHARED_CREDENTIALS_FILE: "/none", AWS_CONFIG_FILE: "/none",
      });
      const sent: unknown[] = [];
      const answer = ({ headers }: IncomingMessage) => {
        sent.push(headers["x-amz-security-token"]);
        expect(headers.authorization).to.include("x-amz-security-token");
        return EMPTY_LISTING;
      };
      const proxy = await startProxy(server.endpoint, { answer });
      const s3 = await S3Bucket.open({ bucketName: "b", endpoint: `http://${proxy.host}`, region: "us-east-1", secureUrls: false }, IMPATIENT);
      try {
        for (let call = 0; call < 4; call++) {
          await s3.folders();
          await sleep(50);
        }
        return sent;
      } finally {
        await s3.close();
        await proxy.stop();
        await stop();
      }
    }

    it("are asked for once while they last, and anew before they expire", async () => {
      expect(new Set(await tokensOf(3_600_000))).to.have.all.keys("token 1");
      expect(new Set(await tokensOf(60_000)).size).to.be.greaterThan(1);
    });
  });

  it("a session token of the settings is sent, and signed", async () => {
    const sent: unknown[] = [];
    const proxy = await startProxy(server.endpoint, { answer: ({ headers }) => { sent.push(headers["x-amz-security-token"], headers.authorization); return EMPTY_LISTING; } });
    const s3 = await S3Bucket.open({ bucketName: "b", endpoint: `http://${proxy.host}`, accessKey: "k", secretKey: "s", sessionToken: "the token", secureUrls: false }, IMPATIENT);
    await s3.folders().finally(() => Promise.all([s3.close(), proxy.stop()]));
    expect(sent[0]).to.equal("the token");
    expect(sent[1]).to.match(/SignedHeaders=[^,]*x-amz-security-token/);
  });

  it("a redirect is not followed, and says where the bucket is", async () => {
    const { folder, state, top } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    const proxy = await startProxy(server.endpoint, {
      answer: () => ({ status: 301, headers: { "x-amz-bucket-region": "eu-south-2" }, body: "<Error><Code>PermanentRedirect</Code><Message>Elsewhere.</Message></Error>" }),
    });
    try {
      const { err, code } = await command([folder, envFile(top, { ...server.fresh().bucket, endpoint: `http://${proxy.host}` }), "--yes", "--state", state]);
      expect(code).to.equal(2);
      expect(err).to.include("301 PermanentRedirect: Elsewhere.: it names eu-south-2");
    } finally {
      await proxy.stop();
    }
  });

  it("rights that end in the middle fail each file, with the cause, and leave what is there", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`media/public/${index}.png`, `${index}`])));
    let requests = 0;
    const proxy = await startProxy(server.endpoint, { answer: () => (requests++ > 20 ? { status: 403, body: "<Error><Code>ExpiredToken</Code></Error>" } : undefined) });
    try {
      const { copied, failed, problems } = await run(folder, { ...bucket, endpoint: `http://${proxy.host}` }, { state });
      expect(copied.files + failed).to.equal(50);
      expect(problems.every(({ reason }) => reason.includes("403 ExpiredToken"))).to.equal(true);
      expect(readTree(folder)).to.include(readTree(inBucket));
    } finally {
      await proxy.stop();
    }
  });

  describe("at the terminal", () => {
    it("asks, shows how it goes, and takes anything but yes for no", async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(folder, Object.fromEntries(Array.from({ length: 3 }, (_, index) => [`media/public/${index}.bin`, randomBytes(4 * MIB)])));
      // A slow line: so that there is a progress to show.
      let slow = 0;
      const proxy = await startProxy(server.endpoint, { answer: () => { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, slow); return undefined; } });
      const place = envFile(top, { ...bucket, endpoint: `http://${proxy.host}` });
      const typing = async (keys: string) => (await onTerminal(process.execPath, [...MIGRATE, folder, place, "--state", state], [["(y/N)", keys]])).text;
      try {
        for (const keys of ["n\r", "\r", "\x03", "\x04"]) {
          const shown = await typing(keys);
          expect(shown).to.include("Go on? (y/N)").and.match(/Copied 0 files|Aborted/);
          expect(shown).not.to.match(/\n {4}at /);
          expect(readTree(inBucket)).to.deep.equal({});
        }
        slow = 150;
        const shown = await typing("y\r");
        expect(shown).to.match(/\r\u001b\[K\d of 3 files, .* of 12\.6 MB, .*\/s/).and.include("Copied 3 files");
        expect(shown).not.to.include(bucket.secretKey);
        expect(readTree(inBucket)).to.deep.equal(readTree(folder));
      } finally {
        await proxy.stop();
      }
    });

    it("shows how the comparison goes", async () => {
      const { folder, state, top } = server.fresh();
      mkdirSync(join(folder, "media"), { recursive: true });
      const listing = await startListingServer({ count: 100_000, keyAt: (index) => `media/public/${String(index).padStart(6, "0")}.png` });
      try {
        const place = envFile(top, { bucketName: "listed", endpoint: listing.endpoint, accessKey: "k", secretKey: "s", secureUrls: false });
        const { text: shown } = await onTerminal(process.execPath, [...MIGRATE, folder, place, "--state", state], []);
        expect(shown).to.match(/\r\u001b\[K\d+ files compared/).and.include("100000 only in the destination");
      } finally {
        await listing.stop();
      }
    });

    it("copies to the end when nobody reads its output any more", async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(folder, Object.fromEntries(Array.from({ length: 200 }, (_, index) => [`media/public/${index}.png`, `${index}`])));
      const child = spawn(process.execPath, [...MIGRATE, folder, envFile(top, bucket), "--yes", "--json", "--state", state], { stdio: ["ignore", "pipe", "pipe"] });
      child.stdout.destroy();
      let errors = "";
      child.stderr.on("data", (chunk: Buffer) => { errors += chunk.toString(); });
      expect(await once(child, "exit")).to.deep.equal([0, null]);
      expect(errors).not.to.include("EPIPE");
      expect(readTree(inBucket)).to.deep.equal(readTree(folder));
    });

    it("tells what cannot be tried in one line, and exits with 2", async () => {
      const { bucket, folder, state, top } = server.fresh();
      const place = envFile(top, bucket);
      writeTree(folder, { "media/public/x.png": "x" });
      for (const [args, words] of [
        [[folder], "write two places"],
        [[folder, place, "--delete-old"], "--delete-old goes with --mend-layout"],
        [[folder, "--mend-layout"], "mends buckets"],
        [[place, place], "are both"],
        [[folder, "env:/not/there"], "cannot be read"],
        [["/not/there", place], "is not there"],
        [[folder, place, "--yess"], "unknown option"],
        [[folder, place, "--layout", "both"], "Allowed choices"],
      ] as const) {
        const { code, out, err } = await command([...args, "--state", state]);
        expect({ code, out }, args.join(" ")).to.deep.equal({ code: 2, out: "" });
        expect(err).to.match(/^error: .*\n(?:\(Did you mean --yes\?\)\n)?$/).and.include(words);
      }
    });

    it("takes no URL for a folder", async () => {
      const { folder, state } = server.fresh();
      writeTree(folder, { "media/public/x.png": "x" });
      const { code, err } = await command([folder, "s3://bucket", "--yes", "--state", state]);
      expect(code).to.equal(2);
      expect(err).to.include('"s3://bucket" is no place');
    });
  });
});
