/** The state's home: URLs and advice in this process, buckets on versitygw and Azurite, moves by the real command line tool. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CreateBucketCommand, GetBucketVersioningCommand, PutBucketPolicyCommand, PutObjectCommand, type S3Client } from "@aws-sdk/client-s3";
import { expect } from "chai";
import { run } from "../local/programs.ts";
import type { RunningServer } from "../local/versitygw.ts";
import { adviceOn, checkHome } from "../state/check.ts";
import { createHome } from "../state/create.ts";
import { isSameHome, parseHome, secretsProviderFault, StateError, type Home } from "../state/home.ts";
import { differences, moveStack, type Move } from "../state/move.ts";
import { pulumi as tool } from "../state/pulumi.ts";
import { startStack } from "../state/start.ts";
import { ACCOUNT, createContainer, startAzurite, type Azurite } from "./support/azurite.ts";
import { pulumi, REPOSITORY } from "./support/engine.ts";
import { AUTHENTIK, ROOT, rootClient, startTestServer } from "./support/server.ts";

const CLOUD = parseHome("https://api.pulumi.com");
const BUCKET = parseHome("s3://company-state?region=eu-central-1");

describe("state: what the URLs say", () => {
  const homes: [url: string, kind: string, place: string][] = [
    ["https://api.pulumi.com", "cloud", "api.pulumi.com"],
    ["s3://company-state?region=eu-central-1", "s3", "company-state"],
    ["azblob://state?storage_account=company", "azblob", "state"],
    ["gs://company-state", "gs", "company-state"],
    ["file:///srv/pulumi%20state", "file", "/srv/pulumi state"],
    ["file:///srv/../srv//state/?no_tmp_dir=false", "file", "/srv/state"],
  ];
  for (const [url, kind, place] of homes) {
    it(`takes ${url}`, () => { expect(parseHome(url)).to.include({ kind, place, url }); });
  }
  for (const url of ["company-state", "ftp://x", "s3://", "postgres://user:secret@host/db", "https://user:secret@api.pulumi.com"]) {
    it(`refuses ${url.replace("secret", "…")}, and does not repeat a password`, () => {
      expect(() => parseHome(url)).to.throw(StateError).with.property("message").that.does.not.contain("user:secret@api");
    });
  }
  const notWhole: [url: string, whole: string][] = [
    ["file://~", homedir()], ["file://~/state", join(homedir(), "state")], ["file://", process.cwd()], ["file://state", resolve("state")], ["file://./state", resolve("state")],
    ["file://localhost/srv", resolve("localhost/srv")], ["file:/srv/state", "/srv/state"], ["FILE:///srv/state", "/srv/state"],
  ];
  for (const [url, whole] of notWhole) {
    it(`refuses ${url}, and has the whole path`, () => { expect(() => parseHome(url)).to.throw(StateError, `"file://${whole}"`); });
  }
  const pairs: [one: string, other: string, same: boolean][] = [
    ["file:///srv/state", "file:///srv//x/../state/?no_tmp_dir=true", true],
    ["file:///srv/state", "file:///srv/states", false],
    ["https://api.pulumi.com", "https://api.pulumi.com/", true],
    ["s3://state?region=a", "s3://state/?region=a&profile=b", true],
    ["s3://state/a", "s3://state/b", false],
    ["s3://state", "s3://state?endpoint=https://s3.provider", false],
    ["azblob://state?storage_account=a", "azblob://state?storage_account=b", false],
  ];
  for (const [one, other, same] of pairs) {
    it(`${same ? "knows" : "does not take"} ${one} and ${other} for one home`, () => { expect(isSameHome(parseHome(one), parseHome(other))).to.equal(same); });
  }
  it("refuses a % that begins no character", () => { expect(() => parseHome("file:///srv/100%")).to.throw(StateError, "write %25"); });
  const sound = [
    "passphrase", "awskms://alias/pulumi-state?region=eu-central-1", "awskms://1234abcd-12ab-34cd-56ef-1234567890ab?region=eu-central-1",
    "awskms:///arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab", "azurekeyvault://company.vault.azure.net/keys/pulumi-state",
    "azurekeyvault://company.vault.azure.cn/keys/pulumi-state/0123456789abcdef", "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k",
  ];
  for (const provider of sound) it(`takes the secrets provider ${provider}`, () => { expect(secretsProviderFault(provider, BUCKET)).to.equal(undefined); });
  const faulty: [provider: string, fault: RegExp][] = [
    ["default", /works only there/],
    ["kms", /is not a secrets provider/],
    ["awskms://", /names no key/],
    ["awskms://arn:aws:kms:eu-central-1:123456789012:key/x", /three slashes: "awskms:\/\/\/arn:/],
    ["azurekeyvault://company/keys/x", /names no key/],
    ["azurekeyvault://company.vault.azure.net/secrets/x", /names no key/],
  ];
  for (const [provider, fault] of faulty) it(`refuses the secrets provider ${provider}`, () => { expect(secretsProviderFault(provider, BUCKET)).to.match(fault); });
  it("takes Pulumi Cloud's own secrets provider there", () => { expect(secretsProviderFault("default", CLOUD)).to.equal(undefined); });
});

describe("state: advice", () => {
  /** Words of pulumi 3.260, shortened. */
  const words: [said: string, url: string, advice: RegExp][] = [
    ["operation error S3: ListObjectsV2, https response error StatusCode: 404, NoSuchBucket: The specified bucket does not exist.", "s3://b", /create 's3:\/\/b'/],
    ["operation error S3: PutObject, https response error StatusCode: 403, api error AccessDenied: Access Denied.", "s3://b", /s3:PutObject/],
    ["(code=PermissionDenied): operation error S3: ListObjectsV2, api error AccessDenied", "s3://b", /s3:ListBucket/],
    ["operation error S3: GetObject, get identity: get credentials: failed to refresh cached credentials, no EC2 IMDS role found", "s3://b", /AWS_PROFILE/],
    ["api error InvalidAccessKeyId: The AWS Access Key Id you provided does not exist", "s3://b", /AWS_ACCESS_KEY_ID/],
    ["https response error StatusCode: 301, api error PermanentRedirect", "s3://b", /another region/],
    ['dial tcp 127.0.0.1:1: connect: connection refused', "s3://b", /Nobody answers/],
    ["RESPONSE 403: ERROR CODE: AuthorizationPermissionMismatch", "azblob://c", /Storage Blob Data Contributor/],
    ["DefaultAzureCredential: failed to acquire a token", "azblob://c", /az login/],
    ['unable to open state directory "file:///x": stat /x: no such file or directory', "file:///x", /create 'file:\/\/\/x'/],
    ["PULUMI_ACCESS_TOKEN must be set for login during non-interactive CLI sessions", "https://api.pulumi.com", /PULUMI_ACCESS_TOKEN/],
    ["something new", "s3://b", /docs\/state\.md/],
  ];
  for (const [said, url, advice] of words) it(`on "${said.slice(0, 60)}"`, () => { expect(adviceOn(said, parseHome(url))).to.match(advice); });
});

/** Credentials reach the tool and the AWS SDK by the environment alone, as a user's do. */
function withEnvironment(values: Record<string, string | undefined>): void {
  let before: NodeJS.ProcessEnv;
  beforeEach(() => {
    before = { ...process.env };
    setEnvironment({ AWS_PROFILE: undefined, AWS_EC2_METADATA_DISABLED: "true", ...values });
  });
  afterEach(() => { setEnvironment(Object.fromEntries(Object.keys({ ...before, ...process.env }).map((name) => [name, before[name]]))); });
}

function setEnvironment(values: Record<string, string | undefined>): void {
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) Reflect.deleteProperty(process.env, name);
    else process.env[name] = value;
  }
}

const AS_ROOT = { AWS_ACCESS_KEY_ID: ROOT.accessKey, AWS_SECRET_ACCESS_KEY: ROOT.secretKey, PULUMI_CONFIG_PASSPHRASE: "correct horse" };

function s3Url(server: RunningServer, bucket: string): string {
  return `s3://${bucket}?endpoint=${server.endpoint}&s3ForcePathStyle=true&region=us-east-1`;
}

describe("state: create", function () {
  this.timeout(60_000);
  let dir: string;
  let server: RunningServer;
  let s3: S3Client;
  withEnvironment(AS_ROOT);
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-versions-"));
    const [dataDir, versionsDir] = [join(dir, "data"), join(dir, "versions")];
    await mkdir(versionsDir);
    server = await startTestServer({ backend: ["posix", "--versioning-dir", versionsDir, dataDir], dataDir, iamDir: join(dir, "iam") });
    s3 = rootClient(server);
  });
  after(async () => {
    s3.destroy();
    await server.stop();
    await rm(dir, { recursive: true, force: true });
  });

  it("makes a bucket that keeps old versions, and again finds it", async () => {
    const home = parseHome(s3Url(server, "state"));
    const first = await createHome(home);
    expect(first).to.deep.include({ created: true, facts: ["keeps old versions"] });
    expect(first.wants.join()).to.contain("NotImplemented");
    expect(await createHome(home)).to.deep.equal({ ...first, created: false });
  });

  it("finishes an empty one, and leaves one with anything in it as it is", async () => {
    for (const [Bucket, status] of [["empty", "Enabled"], ["full", undefined]] as const) {
      await s3.send(new CreateBucketCommand({ Bucket }));
      if (Bucket === "full") await s3.send(new PutObjectCommand({ Bucket, Key: "x", Body: "x" }));
      const { created, wants } = await createHome(parseHome(s3Url(server, Bucket)));
      expect(created).to.equal(false);
      expect((await s3.send(new GetBucketVersioningCommand({ Bucket }))).Status).to.equal(status);
      expect(wants.some((want) => want.includes("left as it is"))).to.equal(Bucket === "full");
    }
  });

  it("says whose keys are wrong", async () => {
    process.env.AWS_SECRET_ACCESS_KEY = "wrong";
    const error: unknown = await createHome(parseHome(s3Url(server, "state"))).catch((error: unknown) => error);
    expect(error).to.be.instanceOf(StateError).with.property("message").that.matches(/"state" cannot be had.*HTTP 403.*AWS_PROFILE/s);
  });

  it("makes a folder that is its owner's alone", async () => {
    const home = parseHome(`file://${join(dir, "a", "b")}`);
    expect((await createHome(home)).created).to.equal(true);
    expect((await createHome(home)).created).to.equal(false);
  });

  it("gives the commands for what Azure's tool makes", async () => {
    const error: unknown = await createHome(parseHome("azblob://state?storage_account=company")).catch((error: unknown) => error);
    expect(error).to.be.instanceOf(StateError).with.property("message").that.contains("az storage container create --account-name company --name state");
  });
});

describe("state: what a move compares", () => {
  const mark = "1b47061264138c4ac30d75fd1eb44270";
  const secret = (ciphertext: string) => ({ "4dabf18193072939515e22adb298388d": mark, ciphertext });
  const old = [{ urn: "a", inputs: { key: secret("x"), n: 1 } }, { urn: "b" }];
  it("secrets that are encrypted anew are the same", () => { expect(differences(old, [{ urn: "b" }, { urn: "a", inputs: { key: secret("y"), n: 1 } }])).to.deep.equal([]); });
  it("everything else is not", () => {
    expect(differences(old, [{ urn: "a", inputs: { key: secret("x"), n: 2 } }, { urn: "c" }])).to.deep.equal(["a", "b", "c"]);
    expect(differences(old, [{ urn: "a", inputs: { key: "x", n: 1 } }, { urn: "b" }])).to.deep.equal(["a"]);
  });
});

(pulumi ? describe : describe.skip)("state: by the real command line tool", function () {
  this.timeout(120_000);
  this.slow(20_000);
  let dir: string;
  let server: RunningServer;
  let azurite: Azurite;
  let s3: S3Client;
  withEnvironment(AS_ROOT);

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-state-"));
    [server, azurite] = await Promise.all([startTestServer(), startAzurite()]);
    s3 = rootClient(server);
    await s3.send(new CreateBucketCommand({ Bucket: "pulumi-state" }));
    await createContainer(azurite.blobs, "pulumi-state");
    // Above the programs: the engine would fetch the plugin of every package that it finds below one.
    await symlink(join(REPOSITORY, "node_modules"), join(dir, "node_modules"));
  });
  beforeEach(() => { setEnvironment({ AZURE_STORAGE_ACCOUNT: ACCOUNT.name, AZURE_STORAGE_KEY: ACCOUNT.key }); });
  after(async () => {
    s3.destroy();
    await Promise.all([server.stop(), azurite.stop()]);
    await rm(dir, { recursive: true, force: true });
  });

  const bucket = () => parseHome(s3Url(server, "pulumi-state"));
  const container = () => parseHome(`azblob://pulumi-state?domain=${azurite.host}&protocol=http&localemu=true`);
  const folder = async (name: string) => {
    await mkdir(join(dir, name), { recursive: true });
    return parseHome(`file://${join(dir, name)}`);
  };

  describe("check", () => {
    it("passes a folder, a bucket and a container", async () => {
      for (const home of [await folder("check"), bucket(), container()]) {
        expect((await checkHome(home)).map(({ step, ok, said }) => [step, ok, said]), home.url).to.deep.equal([
          ["open it, list, write, lock", true, undefined], ["read", true, undefined], ["unlock, delete", true, undefined],
        ]);
      }
      const left = await readdir(join(dir, "check"), { recursive: true, withFileTypes: true });
      expect(left.filter((entry) => entry.isFile()).map(({ name }) => name).filter((name) => !name.endsWith(".attrs"))).to.deep.equal(["meta.yaml"]);
    });

    it("makes and finds a folder where Pulumi does, whatever its name", async () => {
      for (const name of ["a b", "100%25", "c%2Fd", "e\\\\f", "g/../h//i/"]) {
        const home = parseHome(`file://${dir}/${name}`);
        await createHome(home);
        expect((await checkHome(home)).map(({ ok, said }) => [ok, said]), name).to.deep.equal([[true, undefined], [true, undefined], [true, undefined]]);
        expect(await readdir(home.place), name).to.include(".pulumi");
      }
    });

    it("says what is wrong", async () => {
      const nowhere = parseHome(s3Url(server, "not-there"));
      expect(await checkHome(nowhere)).to.have.length(1).and.have.nested.property("[0].advice").that.contains("npm run state -- create");
      setEnvironment({ AWS_ACCESS_KEY_ID: AUTHENTIK.accessKey, AWS_SECRET_ACCESS_KEY: AUTHENTIK.secretKey });
      expect(await checkHome(bucket())).to.have.nested.property("[0].advice").that.contains("s3:GetObject");
      setEnvironment({ AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined });
      expect(await checkHome(bucket())).to.have.nested.property("[0].advice").that.contains("No credentials");
      setEnvironment({ AZURE_STORAGE_KEY: Buffer.alloc(64).toString("base64") });
      expect(await checkHome(container())).to.have.nested.property("[0].ok").that.equals(false);
    });

    it("finds a right that is missing only in the end", async () => {
      const arn = "arn:aws:s3:::no-delete";
      await s3.send(new CreateBucketCommand({ Bucket: "no-delete" }));
      const allow = (Action: string[], Resource: string) => ({ Effect: "Allow", Principal: { AWS: [AUTHENTIK.accessKey] }, Action, Resource });
      const Statement = [allow(["s3:ListBucket"], arn), allow(["s3:GetObject", "s3:PutObject"], `${arn}/*`)];
      await s3.send(new PutBucketPolicyCommand({ Bucket: "no-delete", Policy: JSON.stringify({ Version: "2012-10-17", Statement }) }));
      setEnvironment({ AWS_ACCESS_KEY_ID: AUTHENTIK.accessKey, AWS_SECRET_ACCESS_KEY: AUTHENTIK.secretKey });
      const results = await checkHome(parseHome(s3Url(server, "no-delete")));
      expect(results.at(-1), JSON.stringify(results)).to.include({ ok: false });
      expect(results.at(-1)?.advice, results.at(-1)?.said).to.contain("s3:DeleteObject");
    });
  });

  /** A project whose program has one component, with a secret; the docs' test moves a stack of this repository's program. */
  async function project(name: string): Promise<string> {
    const projectDir = join(dir, name);
    await mkdir(projectDir);
    await writeFile(join(projectDir, "package.json"), "{}");
    await writeFile(join(projectDir, "Pulumi.yaml"), "name: moved\nruntime: nodejs\n");
    await writeFile(join(projectDir, "index.js"), `
      const { Config } = require("@pulumi/pulumi/config.js");
      const { ComponentResource } = require("@pulumi/pulumi/resource.js");
      const config = new Config();
      new ComponentResource("test:index:Thing", "thing", { colour: config.get("colour"), key: config.requireSecret("key") });
      exports.key = config.requireSecret("key");`);
    return projectDir;
  }

  /** A project whose stack `prod` is up in a folder, with a secret. */
  async function stackUp(name: string, key: string, passphrase = AS_ROOT.PULUMI_CONFIG_PASSPHRASE): Promise<Omit<Move, "to">> {
    const [cwd, home, env] = [await project(name), await folder(`${name}-first`), { PULUMI_CONFIG_PASSPHRASE: passphrase }];
    await tool(["stack", "init", "prod"], { cwd, home, env });
    await changeKey(cwd, home, key, env);
    return { stack: "prod", from: home, projectDir: cwd, workDir: join(dir, `${name}-work`), progress: () => undefined };
  }

  async function changeKey(cwd: string, home: Home, key: string, env: Record<string, string> = {}): Promise<void> {
    await run("pulumi", ["config", "set", "--secret", "key", "--stack", "prod"], { cwd, env: { ...env, PULUMI_BACKEND_URL: home.url }, input: key });
    await tool(["up", "--stack", "prod", "--yes", "--skip-preview"], { cwd, home, env });
  }

  describe("start", () => {
    it("makes the stack with its secrets provider, and says that it is there", async () => {
      const start = { stack: "prod", home: bucket(), secretsProvider: "passphrase", projectDir: await project("start") };
      await startStack(start);
      expect(await readFile(join(start.projectDir, "Pulumi.prod.yaml"), "utf8")).to.match(/^encryptionsalt: /);
      expect(await startStack(start).catch((error: unknown) => error)).to.be.instanceOf(StateError).with.property("message").that.contains("already exists");
    });

    it("does nothing without the passphrase, or with a provider that cannot be", async () => {
      const start = { stack: "other", home: await folder("untouched"), secretsProvider: "passphrase", projectDir: dir };
      setEnvironment({ PULUMI_CONFIG_PASSPHRASE: undefined });
      expect(await startStack(start).catch((error: unknown) => error)).to.be.instanceOf(StateError).with.property("message").that.contains("PULUMI_CONFIG_PASSPHRASE");
      expect(await startStack({ ...start, secretsProvider: "default" }).catch((error: unknown) => error)).to.be.instanceOf(StateError);
      expect(await readdir(join(dir, "untouched"))).to.deep.equal([]);
    });
  });

  describe("an empty passphrase", () => {
    beforeEach(() => { setEnvironment({ PULUMI_CONFIG_PASSPHRASE: "" }); });

    it("encrypts no new stack, whichever way it is set", async () => {
      const start = { stack: "empty", home: await folder("no-passphrase"), secretsProvider: "passphrase", projectDir: await project("no-passphrase-project") };
      const refused = async (words: string) => {
        expect(await startStack(start).catch((error: unknown) => error)).to.be.instanceOf(StateError).with.property("message").that.contains(words);
        expect(await readdir(join(dir, "no-passphrase"))).to.deep.equal([]);
      };
      const file = join(dir, "passphrase.txt");
      await writeFile(file, "in a file\n");
      setEnvironment({ PULUMI_CONFIG_PASSPHRASE_FILE: file });
      await refused("PULUMI_CONFIG_PASSPHRASE is empty");
      setEnvironment({ PULUMI_CONFIG_PASSPHRASE: undefined, PULUMI_CONFIG_PASSPHRASE_FILE: `${file}.not-there` });
      await refused("cannot be read");
      await writeFile(`${file}.empty`, " \n");
      setEnvironment({ PULUMI_CONFIG_PASSPHRASE_FILE: `${file}.empty` });
      await refused('passphrase.txt.empty" is empty');
      setEnvironment({ PULUMI_CONFIG_PASSPHRASE_FILE: file });
      await startStack(start);
    });

    it("is not what a move begins to encrypt with", async () => {
      const projectDir = await project("from-key");
      await writeFile(join(projectDir, "Pulumi.prod.yaml"), "secretsprovider: awskms://alias/pulumi-state\n");
      const move = { stack: "prod", projectDir, workDir: join(dir, "from-key-work"), progress: () => undefined, from: await folder("from-key-home"), to: await folder("from-key-to") };
      const error: unknown = await moveStack({ ...move, secretsProvider: "passphrase" }).catch((error: unknown) => error);
      expect(error).to.be.instanceOf(StateError).with.property("message").that.contains("PULUMI_CONFIG_PASSPHRASE is empty");
    });

    it("moves with a stack that it does encrypt", async () => {
      const [move, to] = [await stackUp("with-empty", "hidden from nobody", ""), await folder("with-empty-second")];
      const moved = await moveStack({ ...move, to });
      expect(moved).to.deep.equal({ resources: 2, wasThere: false, oldDeleted: false });
      expect(await tool(["config", "get", "key", "--stack", "prod"], { cwd: move.projectDir, home: to })).to.contain("hidden from nobody");
    });
  });

  describe("move", () => {
    let move: Omit<Move, "from" | "to">;
    const SECRET = "moved-secret-0123456789";
    /** The stack, the component. */
    const RESOURCES = 2;

    before(async () => {
      move = await stackUp("move", SECRET);
    });

    it("says before anything is done that the passphrase is missing, or that the homes are one", async () => {
      const [from, to] = [await folder("move-first"), await folder("empty")];
      for (const same of [from, parseHome(`${from.url}/`)]) {
        const error: unknown = await moveStack({ ...move, from, to: same, deleteOld: true }).catch((error: unknown) => error);
        expect(error).to.be.instanceOf(StateError).with.property("message").that.contains("are one home");
      }
      expect(await tool(["stack", "ls", "--json"], { cwd: move.projectDir, home: from })).to.contain('"prod"');
      setEnvironment({ PULUMI_CONFIG_PASSPHRASE: undefined });
      expect(await moveStack({ ...move, from, to }).catch((error: unknown) => error)).to.be.instanceOf(StateError);
      expect(await readdir(join(dir, "empty"))).to.deep.equal([]);
    });

    it("goes from a folder to a bucket, in the place of an empty stack, and is found moved when run again", async () => {
      const [from, to] = [await folder("move-first"), bucket()];
      expect(await tool(["stack", "ls", "--json"], { cwd: move.projectDir, home: to }), "made by the test of start").to.contain('"prod"');
      expect(await moveStack({ ...move, from, to })).to.deep.equal({ resources: RESOURCES, wasThere: false, oldDeleted: false });
      expect(await moveStack({ ...move, from, to })).to.deep.equal({ resources: RESOURCES, wasThere: true, oldDeleted: false });
      expect(await tool(["stack", "output", "key", "--show-secrets", "--stack", "prod"], { cwd: move.projectDir, home: to })).to.contain(SECRET);
      expect(await tool(["config", "get", "key", "--stack", "prod"], { cwd: move.projectDir, home: to })).to.contain(SECRET);
    });

    it("goes on where it was killed, wherever that was", async () => {
      const [from, to] = [await folder("move-first"), await folder("killed")];
      for (const [step, delay] of [["at its old home", 300], ["copying", 100], ["copying", 350], ["comparing", 50]] as const) {
        await killAt(step, delay, { ...move, from, to });
        await tool(["stack", "export", "--stack", "prod"], { cwd: move.projectDir, home: from });
      }
      expect(await moveStack({ ...move, from, to })).to.deep.include({ resources: RESOURCES, oldDeleted: false });
      expect(await tool(["config", "get", "key", "--stack", "prod"], { cwd: move.projectDir, home: to })).to.contain(SECRET);
      expect(await readdir(move.workDir)).to.deep.equal([]);
    });

    /** Runs a move in a process of its own, which is killed with its children some time after it has named a step. */
    async function killAt(step: string, delayMs: number, move: Move): Promise<void> {
      const program = `
        const { moveStack } = await import(${JSON.stringify(join(REPOSITORY, "state/move.ts"))});
        const { parseHome } = await import(${JSON.stringify(join(REPOSITORY, "state/home.ts"))});
        const { from, to, ...move } = ${JSON.stringify({ ...move, from: move.from.url, to: move.to.url })};
        await moveStack({ ...move, from: parseHome(from), to: parseHome(to), progress: (step) => process.stdout.write(step + "\\n") });`;
      const child = spawn(process.execPath, ["--import", "tsx/esm", "--input-type=module", "--eval", program], { cwd: REPOSITORY, detached: true, stdio: ["ignore", "pipe", "ignore"] });
      let said = "";
      child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
      const ended = once(child, "exit");
      while (!said.includes(step) && child.exitCode === null) await sleep(10);
      await sleep(delayMs);
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGKILL");
      await ended;
    }

    describe("after a try that did not come to its end", () => {
      let edited: Omit<Move, "to">;
      const file = () => readFile(join(edited.projectDir, "Pulumi.prod.yaml"), "utf8");
      const failure = async (move: Move) => {
        const error: unknown = await moveStack(move).catch((error: unknown) => error);
        expect(error).to.be.instanceOf(StateError);
        return String(error);
      };
      before(async () => { edited = await stackUp("edited", SECRET); });

      it("has left nothing, where the copy failed", async () => {
        const [to, before] = [await folder("edited-failed"), await file()];
        setEnvironment({ AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined });
        expect(await failure({ ...edited, to, secretsProvider: "awskms://alias/pulumi-state?region=eu-central-1" })).to.contain("credentials");
        expect(await readdir(edited.workDir)).to.deep.equal([]);
        expect(await file()).to.equal(before);
        expect(await tool(["stack", "ls", "--json"], { cwd: edited.projectDir, home: to })).to.equal("[]\n");
      });

      it("says that the preview failed, and not that there are changes", async () => {
        setEnvironment({ PULUMI_CONFIG_PASSPHRASE: "wrong" });
        const said = await failure({ ...edited, to: await folder("edited-wrong") });
        expect(said).to.contain("it failed at file://").and.contain("incorrect passphrase").and.not.contain("pulumi up");
      });

      it("moves what has been changed and brought up since", async () => {
        const to = await folder("edited-second");
        await killAt("copying", 0, { ...edited, to });
        await changeKey(edited.projectDir, edited.from, `${SECRET}-second`);
        expect(await moveStack({ ...edited, to })).to.deep.include({ oldDeleted: false, resources: RESOURCES });
        expect(await tool(["config", "get", "key", "--stack", "prod"], { cwd: edited.projectDir, home: to })).to.equal(`${SECRET}-second\n`);
        expect(await tool(["stack", "output", "key", "--show-secrets", "--stack", "prod"], { cwd: edited.projectDir, home: to })).to.equal(`${SECRET}-second\n`);
      });

      it("does not write an old file over one that was edited, or a copy that another provider was asked for, and says how to begin anew", async () => {
        const to = await folder("edited-third");
        await killAt("comparing", 0, { ...edited, to });
        await appendFile(join(edited.projectDir, "Pulumi.prod.yaml"), "# edited\n");
        const edit = await file();
        expect(await failure({ ...edited, to })).to.match(/has changed: Pulumi\.prod\.yaml\. Nothing was written\./);
        expect(await failure({ ...edited, to, secretsProvider: "hashivault://other" })).to.contain("the secrets provider");
        expect(await file()).to.equal(edit);
        await tool(["stack", "rm", "prod", "--yes", "--force", "--preserve-config"], { cwd: edited.projectDir, home: to });
        expect(await moveStack({ ...edited, to })).to.deep.equal({ resources: RESOURCES, wasThere: false, oldDeleted: false });
        expect(await file()).to.contain("# edited").and.not.equal(edit);
        expect(await readdir(edited.workDir)).to.deep.equal([]);
      });

      it("tells a copy from a state that was brought up since, be it in a secret alone", async () => {
        const to = await folder("edited-fourth");
        await killAt("comparing", 0, { ...edited, to });
        const path = join(edited.projectDir, "Pulumi.prod.yaml");
        const before = await file();
        await changeKey(edited.projectDir, edited.from, `${SECRET}-fourth`);
        await writeFile(path, before);
        expect(await failure({ ...edited, to })).to.match(/has changed: the state at file:|differs from the one/);
        expect(await file()).to.equal(before);
      });
    });

    it("goes from a bucket to a container, and has the bucket forget it when told", async () => {
      const [from, to] = [bucket(), container()];
      expect(await moveStack({ ...move, from, to, deleteOld: true })).to.deep.equal({ resources: RESOURCES, wasThere: false, oldDeleted: true });
      const gone: unknown = await tool(["stack", "export", "--stack", "prod"], { cwd: move.projectDir, home: from }).catch((error: unknown) => error);
      expect(gone).to.be.instanceOf(StateError).with.property("message").that.contains("no stack named");
      expect(await tool(["config", "get", "key", "--stack", "prod"], { cwd: move.projectDir, home: to })).to.contain(SECRET);
    });

    it("does not begin while a preview shows changes, and tells two states apart", async () => {
      const options = { cwd: move.projectDir, home: container() };
      await tool(["config", "set", "colour", "red", "--stack", "prod"], options);
      const open: unknown = await moveStack({ ...move, from: container(), to: await folder("changed") }).catch((error: unknown) => error);
      expect(open).to.be.instanceOf(StateError).with.property("message").that.contains("run pulumi up first");
      await tool(["up", "--stack", "prod", "--yes", "--skip-preview"], options);
      const other: unknown = await moveStack({ ...move, from: await folder("move-first"), to: container() }).catch((error: unknown) => error);
      expect(other).to.be.instanceOf(StateError).with.property("message").that.contains("differs");
    });

    it("has left no secret in clear, in any home or file", async () => {
      const files = (await readdir(dir, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
      expect(files.length).to.be.greaterThan(20);
      for (const file of files) {
        expect(await readFile(join(file.parentPath, file.name), "utf8"), file.name).not.to.contain(SECRET);
      }
    });
  });
});
