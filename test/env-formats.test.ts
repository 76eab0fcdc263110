/** The forms of authentik's variables, read back by parsers of those forms and then by authentik's rules. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import * as v from "valibot";
import { parse as parseYaml } from "yaml";
import { EnvValueError, buildEnv, type StorageSettings } from "../authentik/env.ts";
import { readEnv } from "../authentik/read-env.ts";
import { parseRelease } from "../authentik/release.ts";
import { DotenvError, mergeDotenv, parseDotenv } from "../tools/lib/dotenv.ts";
import { DEFAULT_OPTIONS, FormatError, dotenvValues, formatEnv, type FormatOptions } from "../tools/env/formats.ts";
import { mergeIntoFile, writeSecretFile } from "../tools/env/write.ts";

type Env = Record<string, string>;
const Env = v.record(v.string(), v.string());

/** Texts made of what is special to some form, and of anything. */
const nasty = fc.oneof(
  fc.array(fc.constantFrom("$", "${", "}", "{{", "}}", "#", " #", " ", "'", '"', "\\", "`", "=", "\n", "\r\n", "\t", "!", "~", "%", "é", "💾", "a", "B", "1", "e", "null", "$(id)", "\u2028"), { maxLength: 12 })
    .map((parts) => parts.join("")),
  fc.string({ unit: "grapheme", maxLength: 20 }),
  fc.constantFrom("123", "12e34", "true", "null", '"quoted"', "[1]", "{}", "NaN", "0x1F", "yes", "1_000", "2026-01-01", "-", "?", "a: b", "x # y", "'"),
).filter((text) => text !== "");

const variables: fc.Arbitrary<{ env: Env; settings: StorageSettings }> = fc
  .record({ accessKey: nasty, secretKey: nasty, release: fc.constantFrom(undefined, "2025.10", "2026.8"), checksums: fc.constantFrom("when_required", "when_supported") })
  .map(({ accessKey, secretKey, release, checksums }) => {
    const settings: StorageSettings = {
      bucketName: "authentik-media", region: "eu-central-1", endpoint: "https://s3.provider", customDomain: "s3.provider/authentik-media", secureUrls: false,
      accessKey, secretKey, ...(checksums === "when_required" ? { checksums } : {}),
    };
    try {
      return { env: buildEnv(settings, release === undefined ? undefined : parseRelease(release)).env, settings };
    } catch (error) {
      if (error instanceof EnvValueError) return undefined;
      throw error;
    }
  })
  .filter((made) => made !== undefined);

/** That authentik reads the same of both, which is all that a form has to keep. */
function expectSame(read: Env, settings: StorageSettings): void {
  expect(defined(readEnv(read).settings)).to.deep.equal(defined(settings));
}

function defined(settings: StorageSettings): Record<string, unknown> {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

function holds(read: (env: Env) => Env, runs = 150): void {
  fc.assert(fc.property(variables, ({ env, settings }) => { expectSame(read(env), settings); }), { numRuns: runs });
}

describe("authentik's variables read back", function () {
  this.timeout(30_000);
  let dir: string;
  before(() => { dir = mkdtempSync(join(tmpdir(), "env-formats-")); });
  after(() => { rmSync(dir, { recursive: true }); });

  it("as they are", () => { holds((env) => env); });

  it("from JSON", () => { holds((env) => v.parse(Env, JSON.parse(formatEnv(env, "json")))); });

  it("from .env by Compose's rules", () => {
    holds((env) => Object.fromEntries(parseDotenv(formatEnv(env, "dotenv")).map(({ name, value = "" }) => [name, value])));
  });

  for (const shell of ["sh", "bash"]) {
    it(`from .env by ${shell}`, () => {
      const file = join(dir, `${shell}.env`);
      const script = 'set -a; . "$1"; shift; for name; do eval "printf \'%s\\\\0\' \\"\\$$name\\""; done';
      holds((env) => {
        writeFileSync(file, formatEnv(env, "dotenv"));
        const names = Object.keys(env);
        const { stdout, stderr } = spawnSync(shell, ["-c", script, shell, file, ...names], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], env: { PATH: process.env.PATH } });
        expect(stderr).to.equal("");
        const values = stdout.split("\0");
        return Object.fromEntries(names.map((name, index) => [name, values[index] ?? ""]));
      }, 100);
    });
  }

  it("from Compose's YAML, its $ replaced", () => {
    const File = v.object({ services: v.object({ server: v.object({ environment: Env }), worker: v.object({ environment: Env }) }) });
    holds((env) => {
      const { server, worker } = v.parse(File, parseYaml(formatEnv(env, "compose"))).services;
      expect(server).to.deep.equal(worker);
      expect(Object.values(server.environment).join("").replaceAll("$$", "")).not.to.include("$");
      return Object.fromEntries(Object.entries(server.environment).map(([name, value]) => [name, value.replaceAll("$$", () => "$")]));
    });
  });

  it("from a Kubernetes Secret, by a YAML 1.1 and a YAML 1.2 parser", () => {
    const File = v.object({ stringData: Env });
    for (const version of ["1.1", "1.2"] as const) {
      holds((env) => v.parse(File, parseYaml(formatEnv(env, "secret", { ...DEFAULT_OPTIONS, keysIn: "existing-secret" }), { version })).stringData);
    }
  });

  it("from the chart's values and the Secret that they name", () => {
    holds((env) => ({ ...readHelm(formatEnv(env, "helm"), renderByHand), ...v.parse(v.object({ stringData: Env }), parseYaml(formatEnv(env, "secret"))).stringData }));
    holds((env) => readHelm(formatEnv(env, "helm", { ...DEFAULT_OPTIONS, keysIn: "values" }), renderByHand));
  });

  it("from the chart's values by the template engine that Helm uses", function () {
    this.timeout(120_000);
    const samples = fc.sample(variables, 300).map(({ env, settings }) => ({ values: formatEnv(env, "helm", { ...DEFAULT_OPTIONS, keysIn: "values" }), settings }));
    const texts = new Set<string>();
    for (const { values } of samples) readHelm(values, (text) => { texts.add(text); return text; });
    const input = JSON.stringify([...texts]);
    const { stdout, stderr, status } = spawnSync("go", ["run", "test/fixtures/tpl.go"], { input, encoding: "utf8", maxBuffer: 50_000_000 });
    expect(status, stderr).to.equal(0);
    const results = v.parse(v.array(v.string()), JSON.parse(stdout));
    const rendered = new Map([...texts].map((text, index): [string, string | undefined] => [text, results[index]]));
    for (const { values, settings } of samples) expectSame(readHelm(values, (text) => rendered.get(text) ?? ""), settings);
  });

  it("from a task definition, the keys from where they are referred to", () => {
    const Task = v.object({ environment: v.array(v.object({ name: v.string(), value: v.string() })), secrets: v.array(v.object({ name: v.string(), valueFrom: v.string() })) });
    const secretArn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:authentik-AbCdEf";
    holds((env) => {
      const store = v.parse(Env, JSON.parse(formatEnv(env, "json")));
      const { environment, secrets } = v.parse(Task, JSON.parse(formatEnv(env, "ecs", { ...DEFAULT_OPTIONS, secretArn })));
      const referred = secrets.map(({ name, valueFrom }): [string, string] => [name, store[valueFrom.slice(secretArn.length + 1, -2)] ?? ""]);
      expect(referred.length).to.equal(2);
      return { ...Object.fromEntries(environment.map(({ name, value }) => [name, value])), ...Object.fromEntries(referred) };
    });
  });
});

const HelmFile = v.object({
  authentik: v.record(v.string(), v.unknown()),
  global: v.optional(v.object({ env: v.optional(v.array(v.object({ name: v.string(), value: v.string() })), []) })),
});

function readHelm(text: string, render: (value: string) => string): Env {
  const { authentik, global } = v.parse(HelmFile, parseYaml(text));
  const leaves = (prefix: string, node: unknown): [string, string][] => typeof node === "string"
    ? [[prefix, render(node)]]
    : Object.entries(v.parse(v.record(v.string(), v.unknown()), node)).flatMap(([key, value]) => leaves(`${prefix}__${key.toUpperCase()}`, value));
  const own = Object.entries(authentik).flatMap(([key, value]) => leaves(`AUTHENTIK_${key.toUpperCase()}`, value));
  return { ...Object.fromEntries(own), ...Object.fromEntries((global?.env ?? []).map(({ name, value }) => [name, value])) };
}

/** What `tpl` makes of the one action that we write. Any other would stay and not read back. */
function renderByHand(value: string): string {
  return value.replaceAll('{{ "{{" }}', "{{");
}

describe("the reader of .env files", () => {
  const recorded = v.parse(
    v.array(v.object({ text: v.string(), variables: v.nullable(Env) })),
    JSON.parse(readFileSync(new URL("fixtures/compose-dotenv.json", import.meta.url), "utf8")),
  );
  for (const { text, variables: expected } of recorded) {
    it(`reads ${JSON.stringify(text)} as Docker Compose does`, () => {
      const read = () => Object.fromEntries(parseDotenv(text, { HOME_DIR: "/root", EMPTY: "" }).flatMap(({ name, value }) => (value === undefined ? [] : [[name, value]])));
      if (expected === null) expect(read).to.throw(DotenvError);
      else expect(read()).to.deep.equal(expected);
    });
  }
});

describe("a form that cannot carry a value", () => {
  const refusal = (work: () => unknown) => { try { work(); return ""; } catch (error) { return error instanceof FormatError ? error.message : String(error); } };
  const keys = { AUTHENTIK_STORAGE__S3__ACCESS_KEY: "access", AUTHENTIK_STORAGE__S3__SECRET_KEY: "hidden-secret" };
  const options = (more: Partial<FormatOptions>): FormatOptions => ({ ...DEFAULT_OPTIONS, ...more });

  it("names it", () => {
    const message = refusal(() => formatEnv({ AWS_ENDPOINT_URL: "it's-hidden" }, "dotenv"));
    expect(message).to.match(/^AWS_ENDPOINT_URL cannot be carried/).and.not.include("hidden");
    expect(refusal(() => formatEnv(keys, "ecs"))).to.match(/ACCESS_KEY is a key.*--secret-arn/);
    expect(refusal(() => formatEnv(keys, "ecs", options({ secretArn: "arn:aws:s3:::x" })))).to.include('"arn:aws:s3:::x"');
    expect(refusal(() => formatEnv(keys, "helm", options({ roleArn: "arn:aws:iam::1:role/x" })))).to.include("ACCESS_KEY").and.not.include("hidden");
    expect(refusal(() => formatEnv({ AUTHENTIK_STORAGE__BACKEND: "s3" }, "secret"))).to.include("--role-arn");
  });

  it("gives both server and worker a role", () => {
    const file: unknown = parseYaml(formatEnv({ AUTHENTIK_STORAGE__BACKEND: "s3" }, "helm", options({ roleArn: "arn:aws:iam::1:role/x" })));
    expect(file).to.deep.include({
      server: { serviceAccountName: "authentik" },
      serviceAccount: { create: true, fullnameOverride: "authentik", annotations: { "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x" } },
    });
  });

  it("leaves everything to the Secret that replaces the chart's own", () => {
    const file: unknown = parseYaml(formatEnv(keys, "helm", options({ keysIn: "existing-secret", secretName: "all" })));
    expect(file).to.deep.equal({ authentik: { existingSecret: { secretName: "all" } } });
  });
});

describe("merging into a .env file", () => {
  const env = { AUTHENTIK_STORAGE__BACKEND: "s3", AUTHENTIK_STORAGE__S3__SECRET_KEY: "new secret", AUTHENTIK_STORAGE__S3__REGION: "eu-central-1" };
  const old = [
    "# authentik", "PG_PASS='pa$$ #1'", "", "AUTHENTIK_STORAGE__S3__REGION=us-east-1  # Use the region of the bucket",
    "AUTHENTIK_STORAGE__MEDIA__S3__REGION=us-east-1 # overrides", "export AUTHENTIK_STORAGE__S3__SECRET_KEY=\"old\nsecret\"", "AUTHENTIK_STORAGE__REPORTS__BACKEND=file",
    "AUTHENTIK_STORAGE__S3__REGION=again", "AWS_REQUEST_CHECKSUM_CALCULATION=when_required", "AUTHENTIK_STORAGE__FILE__PATH=/media", "AUTHENTIK_ERROR_REPORTING__ENABLED=true",
  ].join("\n");

  it("keeps other lines and comments, replaces in place, and removes what would override or contradict", () => {
    const { text, replaced } = mergeDotenv(old, dotenvValues(env), env);
    expect(text.split("\n")).to.deep.equal([
      "# authentik", "PG_PASS='pa$$ #1'", "", "AUTHENTIK_STORAGE__S3__REGION=eu-central-1  # Use the region of the bucket",
      "export AUTHENTIK_STORAGE__S3__SECRET_KEY='new secret'", "AUTHENTIK_STORAGE__FILE__PATH=/media", "AUTHENTIK_ERROR_REPORTING__ENABLED=true",
      "AUTHENTIK_STORAGE__BACKEND=s3", "",
    ]);
    expect(replaced.filter(({ removed }) => removed).map(({ name }) => name)).to.deep.equal([
      "AUTHENTIK_STORAGE__MEDIA__S3__REGION", "AUTHENTIK_STORAGE__REPORTS__BACKEND", "AUTHENTIK_STORAGE__S3__REGION", "AWS_REQUEST_CHECKSUM_CALCULATION",
    ]);
  });

  it("leaves reports alone where the new values are for media", () => {
    const media = { AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3" };
    expect(mergeDotenv("AUTHENTIK_STORAGE__REPORTS__BACKEND=file\n", media, media).text).to.include("REPORTS__BACKEND=file");
  });

  it("changes nothing the second time, and always reads back", () => {
    const line = fc.oneof(
      fc.constantFrom("", "# comment", "A=1", "B='x y' # z", "export C=\"a\nb\"", "AUTHENTIK_STORAGE__S3__ENDPOINT=x", "AUTHENTIK_STORAGE__S3__SECRET_KEY='o'", "AUTHENTIK_STORAGE__MEDIA__BACKEND=file # old"),
    );
    fc.assert(fc.property(variables, fc.array(line, { maxLength: 6 }), ({ env: made, settings }, lines) => {
      const once = mergeDotenv(lines.join("\n"), dotenvValues(made), made);
      const twice = mergeDotenv(once.text, dotenvValues(made), made);
      expect(twice.text).to.equal(once.text);
      expect(twice.replaced).to.deep.equal([]);
      const read = Object.fromEntries(parseDotenv(once.text).map(({ name, value = "" }) => [name, value]));
      expectSame(read, settings);
      for (const kept of lines.filter((text) => !text.startsWith("AUTHENTIK_"))) expect(once.text).to.include(kept);
    }));
  });

  it("writes files for their owner alone, and shows no old secret", async () => {
    const dir = mkdtempSync(join(tmpdir(), "env-merge-"));
    const file = join(dir, ".env");
    writeFileSync(file, old, { mode: 0o644 });
    const replaced = await mergeIntoFile(file, env);
    expect(statSync(file).mode & 0o777).to.equal(0o600);
    expect(JSON.stringify(replaced)).to.include("us-e****").and.not.include("old\\nsecret");
    await writeSecretFile(join(dir, "new"), "x");
    expect(statSync(join(dir, "new")).mode & 0o777).to.equal(0o600);
    rmSync(dir, { recursive: true });
  });
});
