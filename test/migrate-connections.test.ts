import { spawn } from "node:child_process";
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
import { selfSigned } from "./support/certificate.ts";
import type { FaultChooser } from "./support/fault-proxy.ts";
import { listen } from "./support/listen.ts";
import { startListingServer } from "./support/listing-server.ts";
import {
  command,
  envFile,
  expectSameFiles,
  failureOf,
  MIB,
  MIGRATE,
  numbered,
  problemsOf,
  readTree,
  run,
  settingsOf,
  temporaryFolder,
  throughFaults,
  throughProxy,
  useServer,
  withClient,
  writeTree,
} from "./support/migration.ts";
import { startForwardProxy } from "./support/proxy.ts";
import { ROOT, startTestServer } from "./support/server.ts";
import { onTerminal } from "./support/terminal.ts";

const X = "media/public/x.png";
const EMPTY_LISTING = {
  status: 200,
  body: "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
};

describe("migrate: connections and credentials", function () {
  this.timeout(20_000);
  const server = useServer();

  it("the bucket in the host, end to end", async () => {
    const port = await freePort();
    const dataDir = temporaryFolder();
    mkdirSync(join(dataDir, "virtual"));
    const flags = ["--virtual-domain", `s3.test:${port}`];
    const virtual = await startTestServer({ port, dataDir, flags });
    const lookup = dns.lookup;
    // As DNS would: every name of the domain leads to this machine.
    const lead = (name: string, ...rest: unknown[]): unknown =>
      Reflect.apply(lookup, dns, [name.endsWith("s3.test") ? "127.0.0.1" : name, ...rest]);
    dns.lookup = Object.assign(lead, lookup);
    try {
      const { folder, state } = server.fresh();
      writeTree(folder, {
        "media/public/a b+%é.png": "x",
        "media/public/large.bin": randomBytes(9 * MIB),
      });
      const style = { bucketName: "virtual", addressingStyle: "virtual" } as const;
      const settings = settingsOf(`http://s3.test:${port}`, { ...ROOT, ...style });
      expect(problemsOf(await run(folder, settings, { state }))).to.deep.equal([]);
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

  it("TLS: a private certificate is trusted with NODE_EXTRA_CA_CERTS, and not without", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    writeTree(folder, { [X]: "x" });
    const tls = await selfSigned();
    const certFile = join(top, "cert.pem");
    writeFileSync(certFile, tls.cert);
    await throughProxy(bucket, { tls }, async (through) => {
      const args = [folder, envFile(top, through), "--yes", "--state", state];
      const untrusted = await command(args);
      expect(untrusted).to.include({ code: 2 });
      expect(untrusted.err).to.include("self-signed certificate");
      expect(await command(args, { NODE_EXTRA_CA_CERTS: certFile })).to.include({ code: 0 });
      expectSameFiles(inBucket, folder);
    });
  });

  it("keys of a profile and of the environment sign when the settings have none", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const { accessKey = "", secretKey = "", ...keyless } = bucket;
    writeTree(folder, { [X]: "x" });
    const credentials = join(top, "credentials");
    const keys = `aws_access_key_id = ${accessKey}\naws_secret_access_key = ${secretKey}\n`;
    writeFileSync(credentials, `[authentik]\n${keys}`);
    const alone = {
      AWS_EC2_METADATA_DISABLED: "true",
      AWS_SHARED_CREDENTIALS_FILE: credentials,
      AWS_CONFIG_FILE: join(top, "none"),
    };
    const flags = ["--yes", "--state", state];
    // A profile goes before keys, as for authentik.
    const wrong = { accessKey: "wrong", secretKey: "wrong", sessionProfile: "authentik" };
    const profile = envFile(top, { ...keyless, ...wrong });
    expect((await command([folder, profile, ...flags], alone)).code).to.equal(0);
    expectSameFiles(inBucket, folder);
    const none = envFile(top, keyless);
    const variables = { AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secretKey };
    const fromEnvironment = await command([folder, none, ...flags], { ...alone, ...variables });
    expect(fromEnvironment.code).to.equal(0);
    const without = await command([folder, none, ...flags], alone);
    expect(without.code).to.equal(2);
    expect(without.err).to.match(/cannot be listed: .*credentials/i);
  });

  describe("a role's credentials", () => {
    const noConfig = {
      AWS_EC2_METADATA_DISABLED: "true",
      AWS_SHARED_CREDENTIALS_FILE: "/none",
      AWS_CONFIG_FILE: "/none",
    };
    const names = [...Object.keys(noConfig), "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    const before = names.map((name) => [name, process.env[name]] as const);
    afterEach(() => {
      for (const [name, value] of before) {
        if (value === undefined) Reflect.deleteProperty(process.env, name);
        else process.env[name] = value;
      }
    });

    /** The tokens of some requests, with credentials that are valid for so long. */
    async function tokensOf(lifetimeMs: number): Promise<unknown[]> {
      let requests = 0;
      const role = createServer((_, response) => {
        requests += 1;
        const Expiration = new Date(Date.now() + lifetimeMs);
        const keys = { AccessKeyId: "key", SecretAccessKey: "secret" };
        response.end(JSON.stringify({ ...keys, Token: `token ${requests}`, Expiration }));
      });
      const { host, stop } = await listen(role);
      const uri = { AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://${host}/role` };
      Object.assign(process.env, noConfig, uri);
      const sent: unknown[] = [];
      const answer = ({ headers }: IncomingMessage) => {
        sent.push(headers["x-amz-security-token"]);
        expect(headers.authorization).to.include("x-amz-security-token");
        return EMPTY_LISTING;
      };
      const noKeys = { accessKey: undefined, secretKey: undefined };
      await throughProxy(settingsOf(server.endpoint, noKeys), { answer }, (through) =>
        withClient(through, async (client) => {
          for (let call = 0; call < 4; call++) {
            await client.folders();
            await sleep(50);
          }
        }),
      ).finally(stop);
      return sent;
    }

    it("are requested once while they are valid, and again before they expire", async () => {
      expect(new Set(await tokensOf(3_600_000))).to.have.all.keys("token 1");
      expect(new Set(await tokensOf(60_000)).size).to.be.greaterThan(1);
    });
  });

  it("a session token of the settings is sent and signed", async () => {
    const sent: unknown[] = [];
    const answer = ({ headers }: IncomingMessage) => {
      sent.push(headers["x-amz-security-token"], headers.authorization);
      return EMPTY_LISTING;
    };
    const settings = settingsOf(server.endpoint, { sessionToken: "the token", region: undefined });
    await throughProxy(settings, { answer }, (through) =>
      withClient(through, (client) => client.folders()),
    );
    expect(sent[0]).to.equal("the token");
    expect(sent[1]).to.match(/SignedHeaders=[^,]*x-amz-security-token/);
  });

  it("a redirect is not followed, and the message names the bucket's region", async () => {
    const { bucket, folder, state, top } = server.fresh();
    writeTree(folder, { [X]: "x" });
    const code = "<Code>PermanentRedirect</Code>";
    const answer = () => ({
      status: 301,
      headers: { "x-amz-bucket-region": "eu-south-2" },
      body: `<Error>${code}<Message>Elsewhere.</Message></Error>`,
    });
    const result = await throughProxy(bucket, { answer }, (through) =>
      command([folder, envFile(top, through), "--yes", "--state", state]),
    );
    expect(result.code).to.equal(2);
    const message = "301 PermanentRedirect: Elsewhere; it names the region eu-south-2; set this";
    expect(result.err).to.include(message);
  });

  it("an error that has a known cause says what to do", async () => {
    const date = new Date(Date.now() + 3_600_000).toUTCString();
    const skew = "<Code>RequestTimeTooSkewed</Code>";
    const malformed = "<Code>AuthorizationHeaderMalformed</Code><Region>eu-south-2</Region>";
    const location = "https://login.company/";
    // biome-ignore format: a table of cases
    const CASES: [status: number, headers: Record<string, string>, body: string, message: string][] = [
      [302, { location }, "<html>", "answered 302; it redirects to https://login.company/; correct"],
      [307, {}, "<Error><Endpoint>s3.company</Endpoint></Error>", "it redirects to s3.company; cor"],
      [400, {}, `<Error>${malformed}</Error>`, "it names the region eu-south-2; set this region"],
      [403, { date }, `<Error>${skew}</Error>`, " s behind the server's; set the clocks"],
      [413, {}, "<html>", "allow at least 8 MiB"],
      [502, {}, "<html><center>nginx</center></html>", "the server answered 502"],
    ];
    for (const [status, headers, body, message] of CASES) {
      const { bucket, folder, state } = server.fresh();
      writeTree(folder, { [X]: "x" });
      const failure = await throughProxy(
        bucket,
        { answer: () => ({ status, headers, body }) },
        (through) => failureOf(run(folder, through, { state })),
      );
      expect(failure).to.include(message);
    }
  });

  it("permissions that end during a run fail each file with the cause, and keep files", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, numbered(50));
    const expired = { status: 403, body: "<Error><Code>ExpiredToken</Code></Error>" };
    let requests = 0;
    const answer = () => (requests++ > 20 ? expired : undefined);
    const { copied, failed, problems } = await throughProxy(bucket, { answer }, (through) =>
      run(folder, through, { state }),
    );
    expect(copied.files + failed).to.equal(50);
    for (const { reason } of problems) expect(reason).to.include("403 ExpiredToken");
    expect(readTree(folder)).to.include(readTree(inBucket));
  });

  describe("a server that cannot be reached", () => {
    it("is said within two seconds, with what to check, and without a retry", async () => {
      const { folder, state, top } = server.fresh();
      writeTree(folder, { [X]: "x" });
      for (const [endpoint, code] of [
        [`http://127.0.0.1:${await freePort()}`, "ECONNREFUSED"],
        [`http://localhost:${await freePort()}`, "ECONNREFUSED"],
        ["http://no-such-host.invalid", "E"],
        [server.endpoint.replace("http:", "https:"), "E"],
      ] as const) {
        const args = [folder, envFile(top, settingsOf(endpoint)), "--yes", "--state", state];
        const start = Date.now();
        const { code: status, err } = await command(args);
        expect(status).to.equal(2);
        expect(Date.now() - start, endpoint).to.be.lessThan(5000);
        expect(err)
          .to.match(/^error: .*\n$/)
          .and.include(`${endpoint} cannot be reached: no complete answer arrived (${code}`)
          .and.include("check the scheme, host and port of the endpoint");
      }
    });

    it("later is tried again, and each try is shown", async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(folder, { [X]: "x" });
      const seen = new Set<string>();
      const choose: FaultChooser = ({ method, path }) =>
        method === "PUT" && seen.size < seen.add(path).size ? "slow-down" : undefined;
      const { code, err } = await throughFaults(bucket, choose, (through) =>
        command([folder, envFile(top, through), "--yes", "--state", state]),
      );
      expect(code).to.equal(0);
      expect(err).to.equal("try 2 of 8: the server answered 503 SlowDown: by the proxy\n");
      expectSameFiles(inBucket, folder);
    });
  });

  describe("a proxy of the environment", () => {
    const NO_PROXIES = { http_proxy: "", https_proxy: "", no_proxy: "" };

    it("gets requests with whole URLs for http, and tunnels for https", async () => {
      const tls = await selfSigned();
      const { bucket, inBucket, folder, state, top } = server.fresh();
      const certFile = join(top, "cert.pem");
      writeTree(folder, { [X]: "x", "media/public/large.bin": randomBytes(9 * MIB) });
      writeFileSync(certFile, tls.cert);
      const proxy = await startForwardProxy(`Basic ${btoa("user:p@ss")}`);
      const url = `http://user:p%40ss@${proxy.host}`;
      const more = { NODE_EXTRA_CA_CERTS: certFile };
      const migrate = (ends: string[], env: NodeJS.ProcessEnv) =>
        command([...ends, "--yes", "--state", state], { ...NO_PROXIES, ...env });
      const copy = (settings: StorageSettings, env: NodeJS.ProcessEnv) =>
        migrate([folder, envFile(top, settings)], env);
      const copyBack = async (settings: StorageSettings, env: NodeJS.ProcessEnv) => {
        const back = join(top, "back");
        mkdirSync(back);
        expect(await migrate([envFile(top, settings), back], env)).to.include({ code: 0 });
        expectSameFiles(back, folder);
        rmSync(back, { recursive: true });
      };
      try {
        expect((await copy(bucket, { http_proxy: url })).code).to.equal(0);
        expectSameFiles(inBucket, folder);
        expect(proxy.asked[0]).to.match(/^GET http:\/\/127\.0\.0\.1:\d+\/fresh-/);
        await copyBack(bucket, { http_proxy: url });
        expect(proxy.asked.join("\n")).to.match(/GET http:.*large\.bin$/m);
        await throughProxy(bucket, { tls }, async (through) => {
          rmSync(join(inBucket, X));
          proxy.asked.length = 0;
          expect(await copy(through, { https_proxy: url, ...more })).to.include({ code: 0 });
          expectSameFiles(inBucket, folder);
          await copyBack(through, { https_proxy: url, ...more });
          const { host } = new URL(through.endpoint ?? "");
          expect(new Set(proxy.asked)).to.deep.equal(new Set([`CONNECT ${host}`]));
          proxy.asked.length = 0;
          for (const env of [{ http_proxy: url }, { https_proxy: url, no_proxy: "127.0.0.1" }]) {
            expect((await copy(through, { ...env, ...more })).code).to.equal(0);
          }
          expect(proxy.asked).to.deep.equal([]);
          for (const settings of [through, bucket]) {
            const refusing = `http://user:wrong@${proxy.host}`;
            const env = { http_proxy: refusing, https_proxy: refusing, ...more };
            const start = Date.now();
            const { code, err } = await copy(settings, env);
            expect(code).to.equal(2);
            expect(err).to.include("407").and.include(proxy.host).and.not.include("wrong");
            expect(Date.now() - start).to.be.lessThan(5000);
          }
        });
      } finally {
        await proxy.stop();
      }
    }).timeout(60_000);
  });

  describe("on a terminal", () => {
    it("asks, shows the progress, and takes anything but yes as no", async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(
        folder,
        numbered(3, () => randomBytes(4 * MIB)),
      );
      // A slow connection, so that there is progress to show.
      let delayMs = 0;
      const answer = () => {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, delayMs);
        return undefined;
      };
      await throughProxy(bucket, { answer }, async (through) => {
        const args = [...MIGRATE, folder, envFile(top, through), "--state", state];
        const typing = async (keys: string): Promise<string> =>
          (await onTerminal(process.execPath, args, [["(y/N)", keys]])).text;
        for (const keys of ["n\r", "\r", "\x03", "\x04"]) {
          const shown = await typing(keys);
          expect(shown)
            .to.include("Continue? (y/N)")
            .and.match(/Nothing was changed|Aborted/);
          expect(shown.match(/Plan: /g)).to.have.length(1);
          expect(shown).not.to.match(/\n {4}at /);
          expect(readTree(inBucket)).to.deep.equal({});
        }
        delayMs = 150;
        const shown = await typing("y\r");
        expect(shown).to.match(/\r\u001b\[K\d of 3 files, .* of 12\.6 MB, .*\/s/);
        expect(shown).to.include("Copied 3 files").and.not.include(bucket.secretKey);
        expectSameFiles(inBucket, folder);
      });
    });

    it("shows the progress of the comparison", async () => {
      const { folder, state, top } = server.fresh();
      mkdirSync(join(folder, "media"), { recursive: true });
      const keyAt = (index: number) => `media/public/${String(index).padStart(6, "0")}.png`;
      const listing = await startListingServer({ count: 100_000, keyAt });
      try {
        const file = envFile(top, settingsOf(listing.endpoint));
        const args = [...MIGRATE, folder, file, "--state", state];
        const { text } = await onTerminal(process.execPath, args, []);
        expect(text).to.match(/\r\u001b\[K\d+ files compared/);
        expect(text).to.include("100000 only in the destination");
      } finally {
        await listing.stop();
      }
    });

    it("copies to the end when nobody reads its output any more", async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(folder, numbered(200));
      const args = [folder, envFile(top, bucket), "--yes", "--json", "--state", state];
      const stdio = ["ignore", "pipe", "pipe"] as const;
      const child = spawn(process.execPath, [...MIGRATE, ...args], { stdio: [...stdio] });
      child.stdout.destroy();
      let errors = "";
      child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
      expect(await once(child, "exit")).to.deep.equal([0, null]);
      expect(errors).not.to.include("EPIPE");
      expectSameFiles(inBucket, folder);
    });

    it("explains in one line what it cannot do, and exits with 2", async () => {
      const { bucket, folder, state, top } = server.fresh();
      const file = envFile(top, bucket);
      writeTree(folder, { [X]: "x" });
      // biome-ignore format: a table of cases
      const CASES: [args: string[], message: string][] = [
        [[folder], "write a source and a destination"],
        [[folder, file, "--delete-old"], "--delete-old requires --repair-layout"],
        [[folder, file, "--repair-layout"], "--repair-layout takes one argument"],
        [[folder, "--repair-layout"], "repairs a bucket"],
        [[folder, "--mend-layout"], "repairs a bucket"],
        [[file, file], "are both"],
        [[folder, "env:/not/there"], "cannot be read"],
        [["/not/there", file], "does not exist"],
        [[folder, file, "--yess"], "unknown option"],
        [[folder, file, "--layout", "both"], "Allowed choices"],
        [[folder, "s3://bucket", "--yes"], '"s3://bucket" is not supported'],
      ];
      for (const [args, message] of CASES) {
        const { code, out, err } = await command([...args, "--state", state]);
        expect({ code, out }, args.join(" ")).to.deep.equal({ code: 2, out: "" });
        expect(err)
          .to.match(/^error: .*\n(?:\(Did you mean --yes\?\)\n)?$/)
          .and.include(message);
      }
    }).timeout(60_000);
  });
});
