/** What the commands make of a stack's outputs, of env files, and of authentik's variables in them. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { ADDRESSING_STYLES, EnvValueError, buildEnv, type StorageSettings } from "../authentik/env.ts";
import { EnvReadError, readEnv } from "../authentik/read-env.ts";
import { parseRelease } from "../authentik/release.ts";
import { SourceError, readEnvFile, readSource, readStack } from "../tools/lib/source.ts";
import { onPath } from "../tools/lib/programs.ts";

const S3 = { AUTHENTIK_STORAGE__BACKEND: "s3", AUTHENTIK_STORAGE__S3__BUCKET_NAME: "authentik-media" };
const MEDIA = { AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3", AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME: "authentik-media" };

function problems(env: Record<string, string>, release?: string): string {
  try {
    readEnv(env, release === undefined ? undefined : parseRelease(release));
    return "";
  } catch (error) {
    if (error instanceof EnvReadError) return error.problems.join("\n");
    throw error;
  }
}

describe("authentik's variables", () => {
  const text = fc.string({ unit: "grapheme", minLength: 1, maxLength: 15 });
  const settings: fc.Arbitrary<StorageSettings> = fc.record({
    bucketName: fc.constantFrom("authentik-media", "123", "true"),
    region: fc.option(fc.constantFrom("eu-central-1", "auto", "1"), { nil: undefined }),
    endpoint: fc.option(fc.constantFrom("https://s3.provider", "http://127.0.0.1:7070"), { nil: undefined }),
    useSsl: fc.constantFrom(undefined, false),
    keys: fc.option(fc.record({ accessKey: text, secretKey: text, sessionToken: fc.option(text, { nil: undefined }) }), { nil: undefined }),
    sessionProfile: fc.option(text, { nil: undefined }),
    customDomain: fc.option(fc.constantFrom("cdn.company", "authentik-media.s3.provider"), { nil: undefined }),
    secureUrls: fc.boolean(),
    addressingStyle: fc.constantFrom(undefined, ...ADDRESSING_STYLES),
    signatureVersion: fc.constantFrom(undefined, "s3" as const),
    urlExpiry: fc.constantFrom(undefined, "hours=1"),
    checksums: fc.constantFrom(undefined, "when_required" as const),
  }).map(({ keys, ...rest }) => ({ ...rest, ...keys }));

  it("are read back as they were written, on every release", () => {
    fc.assert(fc.property(settings, fc.constantFrom(undefined, "2025.10", "2025.12.2", "2026.5"), (written, name) => {
      const release = name === undefined ? undefined : parseRelease(name);
      const env = built(written, release);
      if (!env) return;
      const read = readEnv(env, release).settings;
      // Writing what was read gives the same variables: nothing that they say was lost.
      expect(buildEnv(read, release).env).to.deep.equal(env);
      for (const key of ["bucketName", "region", "endpoint", "accessKey", "secretKey", "sessionToken", "sessionProfile", "customDomain"] as const) {
        expect(read[key], key).to.equal(written[key]);
      }
    }), { numRuns: 500 });
  });

  function built(written: StorageSettings, release: ReturnType<typeof parseRelease>): Record<string, string> | undefined {
    try {
      return buildEnv(written, release).env;
    } catch (error) {
      if (error instanceof EnvValueError) return undefined;
      throw error;
    }
  }

  it("for media come before the general ones from 2025.12, and are alone before", () => {
    const both = { ...S3, ...MEDIA, AUTHENTIK_STORAGE__S3__REGION: "general", AUTHENTIK_STORAGE__MEDIA__S3__REGION: "media", AUTHENTIK_STORAGE__S3__ENDPOINT: "https://general" };
    expect(readEnv(both, parseRelease("2025.12")).settings).to.include({ region: "media", endpoint: "https://general" });
    expect(readEnv(both, parseRelease("2025.10")).settings).to.include({ region: "media", endpoint: undefined });
    expect(problems(S3, "2025.10")).to.include("AUTHENTIK_STORAGE__S3__BUCKET_NAME is not read before authentik 2025.12; write AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME");
  });

  it("are decoded as JSON: a number is no key, and its value is not told", () => {
    const message = problems({ ...S3, AUTHENTIK_STORAGE__S3__ACCESS_KEY: "123", AUTHENTIK_STORAGE__S3__SECRET_KEY: "45e67" });
    expect(message).to.include("AUTHENTIK_STORAGE__S3__ACCESS_KEY is read as JSON (number)").and.include("SECRET_KEY").and.not.include("123").and.not.include("45");
    expect(readEnv({ ...S3, AUTHENTIK_STORAGE__S3__ACCESS_KEY: '"123"', AUTHENTIK_STORAGE__S3__SECRET_KEY: "x" }).settings.accessKey).to.equal("123");
  });

  it("may be in small letters behind the prefix", () => {
    expect(readEnv({ AUTHENTIK_storage__backend: "s3", AUTHENTIK_STORAGE__s3__Bucket_Name: "b-b" }).settings.bucketName).to.equal("b-b");
  });

  it("may refer to other variables and to files, which are followed or said to be out of reach", () => {
    const env = { ...S3, AUTHENTIK_STORAGE__S3__ACCESS_KEY: "env://KEY", KEY: "123", AUTHENTIK_STORAGE__S3__SECRET_KEY: "file:///run/secret" };
    const read = readEnv(env, undefined, (path) => `content of ${path}\n`).settings;
    expect(read).to.include({ accessKey: "123", secretKey: "content of /run/secret" });
    expect(problems(env)).to.include('SECRET_KEY refers to the file "/run/secret"');
    expect(problems({ ...S3, AUTHENTIK_STORAGE__S3__REGION: "env://NONE" })).to.include('refers to the variable "NONE"');
    expect(readEnv({ ...S3, AUTHENTIK_STORAGE__S3__REGION: "env://NONE?eu-west-1" }).settings.region).to.equal("eu-west-1");
  });

  it("say all at once why authentik has no storage in them", () => {
    const message = problems({ AUTHENTIK_STORAGE__BACKEND: "file", AUTHENTIK_STORAGE__S3__ENDPOINT: "", AUTHENTIK_STORAGE__S3__ADDRESSING_STYLE: "host", AUTHENTIK_STORAGE__S3__ACCESS_KEY: "a" });
    for (const part of ['write AUTHENTIK_STORAGE__BACKEND=s3', "ENDPOINT is empty", '"host" is not one of the choices', "BUCKET_NAME is missing", "one is set and the other is not"]) {
      expect(message).to.include(part);
    }
    expect(problems({})).to.include("AUTHENTIK_STORAGE__BACKEND is missing");
  });

  it("that are neither true nor false are taken as the release takes them, with a warning", () => {
    const odd = { ...MEDIA, AUTHENTIK_STORAGE__MEDIA__S3__SECURE_URLS: "no" };
    for (const [release, secureUrls] of [["2025.10", true], ["2025.12", false]] as const) {
      const { settings: read, warnings } = readEnv(odd, parseRelease(release));
      expect(read.secureUrls).to.equal(secureUrls);
      expect(warnings.join()).to.include("SECURE_URLS is neither true nor false");
    }
  });
});

describe("a source of variables", function () {
  this.timeout(60_000);
  let dir: string;
  before(() => { dir = mkdtempSync(join(tmpdir(), "source-")); });
  after(() => { rmSync(dir, { recursive: true }); });
  const message = async (work: Promise<unknown>) => work.then(() => "", (error: unknown) => (error instanceof SourceError ? error.message : `other: ${String(error)}`));

  it("is an env file, as Compose reads it", async () => {
    const file = join(dir, "a.env");
    writeFileSync(file, "AUTHENTIK_STORAGE__BACKEND=s3 # files\nAUTHENTIK_STORAGE__S3__BUCKET_NAME='media'\nAUTHENTIK_STORAGE__S3__REGION=eu$missing\nPG_PASS=x\n");
    const source = await readSource(`env:${file}`, { origins: ["https://a.b"], release: parseRelease("2025.12") });
    expect(source?.settings).to.include({ bucketName: "media", region: "eu" });
    expect(source).to.deep.include({ origins: ["https://a.b"], release: { year: 2025, month: 12 } });
    expect(source?.warnings.join()).to.include('AUTHENTIK_STORAGE__S3__REGION: Compose replaces "$missing"');
  });

  it("says what is wrong with an env file", async () => {
    expect(await message(readEnvFile(join(dir, "none.env")))).to.include("cannot be read");
    const file = join(dir, "b.env");
    writeFileSync(file, "A=1\nB='open\n");
    expect(await message(readEnvFile(file))).to.include("line 2: B has a quote without an end");
    expect(await readSource("/data/media")).to.equal(undefined);
  });

  it("is a stack, whose outputs are read with its secrets", async function () {
    if ((await onPath("pulumi")) === undefined) { this.skip(); return; }
    const workDir = join(dir, "project");
    const state = join(dir, "state");
    spawnSync("mkdir", ["-p", workDir, state]);
    writeFileSync(join(workDir, "Pulumi.yaml"), "name: authentik-storage\nruntime: nodejs\n");
    const envVars = { PULUMI_BACKEND_URL: `file://${state}`, PULUMI_CONFIG_PASSPHRASE: "test" };
    const pulumi = (args: string[], input = "") => spawnSync("pulumi", args, { cwd: workDir, env: { ...process.env, ...envVars, PULUMI_SKIP_UPDATE_CHECK: "true" }, input, encoding: "utf8" });
    pulumi(["stack", "init", "dev"]);
    const location = { workDir, envVars };
    expect(await message(readStack("dev", location))).to.include("pulumi up --stack dev");
    expect(await message(readStack("other", location))).to.include("no stack named 'other' found");

    const exported: unknown = JSON.parse(pulumi(["stack", "export", "--stack", "dev"]).stdout);
    const outputs = { provider: "s3", origins: ["https://a.b"], authentikVersion: "2025.12", env: { ...S3, AUTHENTIK_STORAGE__S3__ACCESS_KEY: "k", AUTHENTIK_STORAGE__S3__SECRET_KEY: "s" } };
    pulumi(["stack", "import", "--stack", "dev"], JSON.stringify(withOutputs(exported, outputs)));
    const source = await readStack("dev", location);
    expect(source).to.deep.include({ name: 'stack "dev"', env: outputs.env, origins: outputs.origins, release: { year: 2025, month: 12 }, keyIsAdmin: true });
    expect(source.settings).to.include({ bucketName: "authentik-media", accessKey: "k", secretKey: "s" });
    pulumi(["config", "set", "--stack", "dev", "--secret", "adminAccessKey", "x"]);
    expect((await readStack("dev", location)).keyIsAdmin).to.equal(false);
  });

  function withOutputs(exported: unknown, outputs: object): unknown {
    const urn = "urn:pulumi:dev::authentik-storage::pulumi:pulumi:Stack::authentik-storage-dev";
    const resources = [{ urn, custom: false, type: "pulumi:pulumi:Stack", outputs }];
    const text = JSON.stringify(exported, (key, value: unknown) => (key === "deployment" && typeof value === "object" ? { ...value, resources } : value));
    const result: unknown = JSON.parse(text);
    return result;
  }
});
