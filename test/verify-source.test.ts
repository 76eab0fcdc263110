/** What is read from authentik's variables, and what commands read from stacks and env files. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import {
  ADDRESSING_STYLES,
  EnvValueError,
  buildEnv,
  type StorageSettings,
} from "../authentik/env.ts";
import { EnvReadError, readEnv } from "../authentik/read-env.ts";
import { parseRelease, type Release } from "../authentik/release.ts";
import { unreadVariables } from "../authentik/unread.ts";
import { SourceError, readEnvFile, readSource, readStack } from "../tools/lib/source.ts";
import { onPath } from "../tools/lib/programs.ts";

const S3 = {
  AUTHENTIK_STORAGE__BACKEND: "s3",
  AUTHENTIK_STORAGE__S3__BUCKET_NAME: "authentik-media",
};
const MEDIA = {
  AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3",
  AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME: "authentik-media",
};

/** `{ REGION: "x" }` as `{ AUTHENTIK_STORAGE__S3__REGION: "x" }`, with the bucket. */
function withS3(settings: Record<string, string>): Record<string, string> {
  const env: Record<string, string> = { ...S3 };
  for (const [name, value] of Object.entries(settings)) {
    env[`AUTHENTIK_STORAGE__S3__${name}`] = value;
  }
  return env;
}

function problemsOf(env: Record<string, string>, release?: string): string {
  try {
    readEnv(env, release === undefined ? undefined : parseRelease(release));
    return "";
  } catch (error) {
    if (error instanceof EnvReadError) return error.problems.join("\n");
    throw error;
  }
}

describe("authentik's variables", () => {
  const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
  const text = fc.string({ unit: "grapheme", minLength: 1, maxLength: 15 });
  const keys = fc.record({ accessKey: text, secretKey: text, sessionToken: optional(text) });
  const settings: fc.Arbitrary<StorageSettings> = fc
    .record({
      bucketName: fc.constantFrom("authentik-media", "123", "true"),
      region: fc.constantFrom(undefined, "eu-central-1", "auto", "1"),
      endpoint: fc.constantFrom(undefined, "https://s3.provider", "http://127.0.0.1:7070"),
      useSsl: fc.constantFrom(undefined, false),
      keys: optional(keys),
      sessionProfile: optional(text),
      customDomain: fc.constantFrom(undefined, "cdn.company", "authentik-media.s3.provider"),
      secureUrls: fc.boolean(),
      addressingStyle: fc.constantFrom(undefined, ...ADDRESSING_STYLES),
      signatureVersion: fc.constantFrom(undefined, "s3" as const),
      urlExpiry: fc.constantFrom(undefined, "hours=1"),
      checksums: fc.constantFrom(undefined, "when_required" as const),
    })
    .map(({ keys, ...rest }) => ({ ...rest, ...keys }));
  const release = fc
    .constantFrom(undefined, "2025.10", "2025.12.2", "2026.5")
    .map((name) => (name === undefined ? undefined : parseRelease(name)));
  const READ_BY_ALL = [
    "bucketName",
    "region",
    "endpoint",
    "accessKey",
    "secretKey",
    "sessionToken",
    "sessionProfile",
    "customDomain",
  ] as const;

  it("are read back as they were written, on every release", () => {
    const isKept = (written: StorageSettings, release: Release | undefined) => {
      const env = envOf(written, release);
      if (!env) return;
      const read = readEnv(env, release).settings;
      // The settings that were read give the same variables, so nothing in these was lost.
      expect(buildEnv(read, release).env).to.deep.equal(env);
      for (const key of READ_BY_ALL) expect(read[key], key).to.equal(written[key]);
    };
    fc.assert(fc.property(settings, release, isKept), { numRuns: 500 });
  });

  /** Undefined for a value that no variable can pass to authentik. */
  function envOf(
    written: StorageSettings,
    release: Release | undefined,
  ): Record<string, string> | undefined {
    try {
      return buildEnv(written, release).env;
    } catch (error) {
      if (error instanceof EnvValueError) return undefined;
      throw error;
    }
  }

  it("for media come before the general ones from 2025.12, and are read alone before", () => {
    const both = {
      ...MEDIA,
      AUTHENTIK_STORAGE__MEDIA__S3__REGION: "media",
      ...withS3({ REGION: "general", ENDPOINT: "https://general" }),
    };
    const settingsOf = (release: string) => readEnv(both, parseRelease(release)).settings;
    expect(settingsOf("2025.12")).to.include({ region: "media", endpoint: "https://general" });
    expect(settingsOf("2025.10")).to.include({ region: "media", endpoint: undefined });
    expect(problemsOf(S3, "2025.10")).to.include(
      "AUTHENTIK_STORAGE__S3__BUCKET_NAME is not read before authentik 2025.12; " +
        "write AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME",
    );
  });

  it("are decoded as JSON: a number is not a key, and messages do not show it", () => {
    const message = problemsOf(withS3({ ACCESS_KEY: "123", SECRET_KEY: "45e67" }));
    expect(message).to.include("AUTHENTIK_STORAGE__S3__ACCESS_KEY is read as JSON (number)");
    expect(message).to.include("SECRET_KEY").and.not.include("123").and.not.include("45");
    const quoted = withS3({ ACCESS_KEY: '"123"', SECRET_KEY: "x" });
    expect(readEnv(quoted).settings.accessKey).to.equal("123");
  });

  /** The names that are not read, and the names to write instead. */
  function unreadOf(names: readonly string[], release?: string): Record<string, string> {
    const env = { ...(release === "2025.10" ? MEDIA : S3) };
    const added = names.map((name) => [`AUTHENTIK_STORAGE${name}`, "s3"] as const);
    const parsed = release === undefined ? undefined : parseRelease(release);
    const { warnings } = readEnv({ ...env, ...Object.fromEntries(added) }, parsed);
    return Object.fromEntries(
      warnings.flatMap((warning) => {
        const [, name, advice] =
          /^AUTHENTIK_STORAGE(\w+) is not read by .+; (?:write AUTHENTIK_STORAGE)?(.+)$/.exec(
            warning,
          ) ?? [];
        return name === undefined || advice === undefined ? [] : [[name, advice]];
      }),
    );
  }

  // biome-ignore format: a table of cases
  const unread: [release: string | undefined, expected: Record<string, string>][] = [
    [undefined, { __S3__SECURITY_TOKEN: "__S3__SESSION_TOKEN", __MEDIA__S3__SECURITY_TOKEN: "__MEDIA__S3__SESSION_TOKEN" }],
    ["2025.12", { __S3__SECURITY_TOKEN: "__S3__SESSION_TOKEN", __S3__SIGNATURE_VERSION: "remove it" }],
    ["2026.5", { _S3_REGION: "__S3__REGION", _MEDIA_S3_BUCKET_NAME: "__MEDIA__S3__BUCKET_NAME" }],
    ["2026.5", { __S3__QUERYSTRING_AUTH: "remove it", __S3__OBJECT_ACL: "remove it" }],
    ["2025.10", { __S3__REGION: "__MEDIA__S3__REGION", _BACKEND: "__MEDIA__BACKEND", __MEDIA__S3__SESSION_TOKEN: "__MEDIA__S3__SECURITY_TOKEN" }],
    ["2025.10", { __MEDIA__S3__URL_EXPIRY: "remove it" }],
  ];
  for (const [release, expected] of unread) {
    it(`that ${release ?? "no"} release reads are named: ${Object.keys(expected).join()}`, () => {
      expect(unreadOf(Object.keys(expected), release)).to.deep.equal(expected);
    });
  }

  it("that are read are not named, nor those that the program writes", () => {
    const read = ["__FILE__PATH", "__REPORTS__BACKEND", "__MEDIA__S3__SESSION_TOKEN"];
    expect(unreadOf(read, "2026.5")).to.deep.equal({});
    const isSilent = (written: StorageSettings, release: Release | undefined) => {
      const env = envOf(written, release) ?? {};
      const readers = { release, hasGeneralNames: false };
      expect(unreadVariables(Object.keys(env), readers)).to.deep.equal([]);
    };
    fc.assert(fc.property(settings, release, isSilent), { numRuns: 200 });
  });

  it("give no token under a name that no release from 2025.12 reads", () => {
    const keys = withS3({ ACCESS_KEY: "k", SECRET_KEY: "s", SECURITY_TOKEN: "t" });
    for (const release of [undefined, "2025.12"]) {
      const parsed = release === undefined ? undefined : parseRelease(release);
      expect(readEnv(keys, parsed).settings.sessionToken).to.equal(undefined);
    }
    const older = { ...MEDIA, AUTHENTIK_STORAGE__MEDIA__S3__SECURITY_TOKEN: "t" };
    expect(readEnv(older).settings.sessionToken).to.equal("t");
  });

  it("with hosts that cannot work are reported without a request, once", () => {
    expect(problemsOf(withS3({ ENDPOINT: "s3.provider" }))).to.equal(
      'ENDPOINT "s3.provider" has no scheme; write "https://s3.provider"',
    );
    for (const scheme of ["https://", "http://", "//"]) {
      expect(problemsOf(withS3({ CUSTOM_DOMAIN: `${scheme}media.company/media` }))).to.include(
        'write "media.company/media"',
      );
    }
  });

  it("may have lower case behind the prefix", () => {
    const env = { AUTHENTIK_storage__backend: "s3", AUTHENTIK_STORAGE__s3__Bucket_Name: "b-b" };
    expect(readEnv(env).settings.bucketName).to.equal("b-b");
  });

  it("may refer to other variables and to files, which are read or reported", () => {
    const keys = withS3({ ACCESS_KEY: "env://KEY", SECRET_KEY: "file:///run/secret" });
    const env = { ...keys, KEY: "123" };
    const read = readEnv(env, undefined, (path) => `content of ${path}\n`).settings;
    expect(read).to.include({ accessKey: "123", secretKey: "content of /run/secret" });
    expect(problemsOf(env)).to.include('SECRET_KEY refers to the file "/run/secret"');
    const missing = withS3({ REGION: "env://NONE" });
    expect(problemsOf(missing)).to.include('refers to the variable "NONE"');
    const withDefault = withS3({ REGION: "env://NONE?eu-west-1" });
    expect(readEnv(withDefault).settings.region).to.equal("eu-west-1");
  });

  it("are reported with every reason why authentik has no storage in them", () => {
    const message = problemsOf({
      AUTHENTIK_STORAGE__BACKEND: "file",
      AUTHENTIK_STORAGE__S3__ENDPOINT: "",
      AUTHENTIK_STORAGE__S3__ADDRESSING_STYLE: "host",
      AUTHENTIK_STORAGE__S3__ACCESS_KEY: "a",
    });
    for (const part of [
      "write AUTHENTIK_STORAGE__BACKEND=s3",
      "ENDPOINT is empty",
      '"host" is not valid; write one of auto, path, virtual',
      "BUCKET_NAME is missing",
      "one of ACCESS_KEY and SECRET_KEY is missing",
    ]) {
      expect(message).to.include(part);
    }
    expect(problemsOf({})).to.include("AUTHENTIK_STORAGE__BACKEND is missing");
  });

  it("turn TLS off for an https endpoint to 2025.8, with a warning", () => {
    const env = {
      ...MEDIA,
      AUTHENTIK_STORAGE__MEDIA__S3__ENDPOINT: "https://s3.provider",
      AUTHENTIK_STORAGE__MEDIA__S3__USE_SSL: "false",
    };
    expect(readEnv(env, parseRelease("2025.8")).warnings.join()).to.include("remove USE_SSL");
    expect(readEnv(env, parseRelease("2025.10")).warnings).to.deep.equal([]);
  });

  it("have an empty token, which boto3 signs, and no other empty credential", () => {
    const env = withS3({ ACCESS_KEY: "", SECRET_KEY: "", SESSION_TOKEN: "" });
    expect(readEnv(env).settings).to.include({ accessKey: undefined, sessionToken: "" });
    const both = {
      ...MEDIA,
      AUTHENTIK_STORAGE__MEDIA__S3__SESSION_TOKEN: "",
      AUTHENTIK_STORAGE__MEDIA__S3__SECURITY_TOKEN: "token",
    };
    expect(readEnv(both).settings.sessionToken).to.equal("token");
  });

  it("that are neither true nor false are read as the release reads them, with a warning", () => {
    const env = { ...MEDIA, AUTHENTIK_STORAGE__MEDIA__S3__SECURE_URLS: "no" };
    for (const [release, secureUrls] of [
      ["2025.10", true],
      ["2025.12", false],
    ] as const) {
      const { settings, warnings } = readEnv(env, parseRelease(release));
      expect(settings.secureUrls).to.equal(secureUrls);
      expect(warnings.join()).to.include("SECURE_URLS is neither true nor false");
    }
  });
});

describe("a source of variables", function () {
  this.timeout(60_000);
  let dir: string;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "source-"));
  });
  after(() => {
    rmSync(dir, { recursive: true });
  });

  function write(name: string, lines: readonly string[]): string {
    const file = join(dir, name);
    writeFileSync(file, lines.map((line) => `${line}\n`).join(""));
    return file;
  }

  /** The message of a `SourceError`. */
  async function messageOf(work: Promise<unknown>): Promise<string> {
    const error = await work.then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    return error instanceof SourceError ? error.message : `other: ${String(error)}`;
  }

  it("is an env file, as Compose reads it", async () => {
    const file = write("a.env", [
      "AUTHENTIK_STORAGE__BACKEND=s3 # files",
      "AUTHENTIK_STORAGE__S3__BUCKET_NAME='media'",
      "AUTHENTIK_STORAGE__S3__REGION=eu$missing",
      "PG_PASS=x",
    ]);
    const options = { origins: ["https://a.b"], release: parseRelease("2025.12") };
    const source = await readEnvFile(file, options);
    expect(source.settings).to.include({ bucketName: "media", region: "eu" });
    expect(source).to.deep.include(options);
    expect(source.warnings.join()).to.include(
      'AUTHENTIK_STORAGE__S3__REGION: Compose replaces "$missing"',
    );
  });

  it("has the origin of AUTHENTIK_WEB__BASE_URL", async () => {
    const storage = Object.entries(S3).map(([name, value]) => `${name}=${value}`);
    for (const [line, origins] of [
      ["AUTHENTIK_WEB__BASE_URL=https://sso.company/", ["https://a.b", "https://sso.company"]],
      ["AUTHENTIK_WEB__BASE_URL=https://a.b", ["https://a.b"]],
      ["AUTHENTIK_WEB__BASE_URL=sso.company", ["https://a.b"]],
    ] as const) {
      const file = write("base.env", [...storage, line]);
      expect((await readEnvFile(file, { origins: ["https://a.b"] })).origins).to.deep.equal(
        origins,
      );
    }
  });

  it("says what is wrong with an env file", async () => {
    expect(await messageOf(readEnvFile(join(dir, "none.env")))).to.include("cannot be read");
    const file = write("b.env", ["A=1", "B='open"]);
    expect(await messageOf(readEnvFile(file))).to.include("line 2: B has a quote without an end");
    expect(await readSource("/data/media")).to.equal(undefined);
  });

  it("is a stack, whose outputs are read with its secrets", async function () {
    if ((await onPath("pulumi")) === undefined) this.skip();
    const workDir = join(dir, "project");
    const state = join(dir, "state");
    for (const folder of [workDir, state]) mkdirSync(folder);
    write("project/Pulumi.yaml", ["name: authentik-storage", "runtime: nodejs"]);
    const envVars = { PULUMI_BACKEND_URL: `file://${state}`, PULUMI_CONFIG_PASSPHRASE: "test" };
    const env = { ...process.env, ...envVars, PULUMI_SKIP_UPDATE_CHECK: "true" };
    const pulumi = (args: string[], input = "") =>
      spawnSync("pulumi", args, { cwd: workDir, env, input, encoding: "utf8" }).stdout;
    const location = { workDir, envVars };
    pulumi(["stack", "init", "dev"]);
    expect(await messageOf(readStack("dev", location))).to.include("pulumi up --stack dev");
    const other = await messageOf(readStack("other", location));
    expect(other).to.include("no stack named 'other' found");

    const outputs = {
      provider: "s3",
      origins: ["https://a.b"],
      authentikVersion: "2025.12",
      serviceAccounts: ["sso/authentik"],
      env: withS3({ ACCESS_KEY: "k", SECRET_KEY: "s" }),
    };
    const exported = pulumi(["stack", "export", "--stack", "dev"]);
    pulumi(["stack", "import", "--stack", "dev"], withOutputs(exported, outputs));
    const source = await readStack("dev", location);
    expect(source).to.deep.include({
      name: 'stack "dev"',
      env: outputs.env,
      origins: outputs.origins,
      serviceAccounts: outputs.serviceAccounts,
      release: { year: 2025, month: 12 },
      keyIsAdmin: true,
    });
    expect(source.settings).to.include({
      bucketName: "authentik-media",
      accessKey: "k",
      secretKey: "s",
    });
    pulumi(["config", "set", "--stack", "dev", "--secret", "adminAccessKey", "x"]);
    expect((await readStack("dev", location)).keyIsAdmin).to.equal(false);
  });

  /** An exported stack with outputs. */
  function withOutputs(exported: string, outputs: object): string {
    const type = "pulumi:pulumi:Stack";
    const urn = `urn:pulumi:dev::authentik-storage::${type}::authentik-storage-dev`;
    const resources = [{ urn, custom: false, type, outputs }];
    const state: unknown = JSON.parse(exported);
    return JSON.stringify(state, (key, value: unknown) =>
      key === "deployment" && typeof value === "object" ? { ...value, resources } : value,
    );
  }
});
