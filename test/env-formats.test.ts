/** authentik's variables in each format, read back by its parsers and then by authentik's rules. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
import {
  DEFAULT_OPTIONS,
  FormatError,
  dotenvValues,
  formatEnv,
  type FormatOptions,
  type KeysIn,
} from "../tools/env/formats.ts";
import { mergeIntoFile } from "../tools/env/write.ts";

type Env = Record<string, string>;
const Env = v.record(v.string(), v.string());
const NameValuePairs = v.array(v.object({ name: v.string(), value: v.string() }));

/** Characters and texts that are special in a format. */
// biome-ignore format: a table of cases
const SPECIAL = [
  "$", "${", "}", "{{", "}}", "#", " #", " ", "'", '"', "\\", "`", "=", "\n", "\r\n", "\t", "!", "~", "%",
  "é", "💾", "a", "B", "1", "e", "null", "$(id)", "\u2028",
];
/** Values that JSON or YAML may read as something else. */
// biome-ignore format: a table of cases
const NOT_TEXT = [
  "123", "12e34", "true", "null", '"quoted"', "[1]", "{}", "NaN", "0x1F", "yes", "1_000", "2026-01-01", "-", "?",
  "a: b", "x # y", "'",
];
const value = fc
  .oneof(
    fc.array(fc.constantFrom(...SPECIAL), { maxLength: 12 }).map((parts) => parts.join("")),
    fc.string({ unit: "grapheme", maxLength: 20 }),
    fc.constantFrom(...NOT_TEXT),
  )
  .filter((text) => text !== "");

interface Written {
  env: Env;
  settings: StorageSettings;
}

const written: fc.Arbitrary<Written> = fc
  .record({
    accessKey: value,
    secretKey: value,
    checksums: fc.constantFrom(undefined, "when_required" as const),
    release: fc.constantFrom(undefined, parseRelease("2025.10"), parseRelease("2026.8")),
  })
  .map(({ release, ...keys }) => {
    const settings: StorageSettings = {
      bucketName: "authentik-media",
      region: "eu-central-1",
      endpoint: "https://s3.provider",
      customDomain: "s3.provider/authentik-media",
      secureUrls: false,
      ...keys,
    };
    try {
      return { env: buildEnv(settings, release).env, settings };
    } catch (error) {
      if (error instanceof EnvValueError) return undefined;
      throw error;
    }
  })
  .filter((made) => made !== undefined);

/** Expects that authentik reads the settings from the variables. A format has to keep no more. */
function expectSame(read: Env, settings: StorageSettings): void {
  expect(defined(readEnv(read).settings)).to.deep.equal(defined(settings));
}

function defined(settings: StorageSettings): Record<string, unknown> {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

/** Expects that `read`, which formats variables and reads them back, loses nothing. */
function expectKept(read: (env: Env) => Env, numRuns = 150): void {
  const isKept = ({ env, settings }: Written) => {
    expectSame(read(env), settings);
  };
  fc.assert(fc.property(written, isKept), { numRuns });
}

function options(changes: Partial<FormatOptions>): FormatOptions {
  return { ...DEFAULT_OPTIONS, ...changes };
}

function readDotenv(text: string, environment: Env = {}): Env {
  const read: Env = {};
  for (const { name, value } of parseDotenv(text, environment)) {
    if (value !== undefined) read[name] = value;
  }
  return read;
}

function fromPairs(pairs: v.InferOutput<typeof NameValuePairs>): Env {
  return Object.fromEntries(pairs.map(({ name, value }) => [name, value]));
}

describe("authentik's variables read back", function () {
  this.timeout(30_000);
  let dir: string;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "env-formats-"));
  });
  after(() => {
    rmSync(dir, { recursive: true });
  });

  it("without a format", () => {
    expectKept((env) => env);
  });

  it("from JSON", () => {
    expectKept((env) => v.parse(Env, JSON.parse(formatEnv(env, "json"))));
  });

  it("from .env by Compose's rules", () => {
    expectKept((env) => readDotenv(formatEnv(env, "dotenv")));
  });

  for (const shell of ["sh", "bash"]) {
    it(`from .env by ${shell}`, () => {
      const file = join(dir, `${shell}.env`);
      const print = 'for name; do eval "printf \'%s\\\\0\' \\"\\$$name\\""; done';
      const script = `set -a; . "$1"; shift; ${print}`;
      const read = (variables: Env): Env => {
        writeFileSync(file, formatEnv(variables, "dotenv"));
        const names = Object.keys(variables);
        const args = ["-c", script, shell, file, ...names];
        const { stdout, stderr } = spawnSync(shell, args, {
          encoding: "utf8",
          env: { PATH: process.env.PATH },
          // If its input is a socket, bash reads ~/.bashrc.
          stdio: ["ignore", "pipe", "pipe"],
        });
        expect(stderr).to.equal("");
        const values = stdout.split("\0");
        return Object.fromEntries(names.map((name, index) => [name, values[index] ?? ""]));
      };
      expectKept(read, 100);
    });
  }

  it("from Compose's YAML, in which it replaces $", () => {
    const Service = v.object({ environment: Env });
    const File = v.object({ services: v.object({ server: Service, worker: Service }) });
    expectKept((env) => {
      const { server, worker } = v.parse(File, parseYaml(formatEnv(env, "compose"))).services;
      expect(server).to.deep.equal(worker);
      const entries = Object.entries(server.environment);
      for (const [, value] of entries) expect(value.replaceAll("$$", "")).not.to.include("$");
      return Object.fromEntries(
        entries.map(([name, value]) => [name, value.replaceAll("$$", () => "$")]),
      );
    });
  });

  for (const version of ["1.1", "1.2"] as const) {
    it(`from a Kubernetes Secret by a parser of YAML ${version}`, () => {
      const everything = options({ keysIn: "existing-secret" });
      expectKept((env) => readSecret(formatEnv(env, "secret", everything), version));
    });
  }

  it("from the chart's values and the Secret that they name", () => {
    expectKept((env) => ({
      ...readHelm(formatEnv(env, "helm"), renderByHand),
      ...readSecret(formatEnv(env, "secret")),
    }));
  });

  const inValues = options({ keysIn: "values" });

  it("from the chart's values alone", () => {
    expectKept((env) => readHelm(formatEnv(env, "helm", inValues), renderByHand));
  });

  it("from the chart's values over those of any earlier hand-over", () => {
    const place = fc.constantFrom(...(["env-from", "values"] as const));
    const isKept = (before: Written, after: Written, keysBefore: KeysIn, keysIn: KeysIn) => {
      const values = (env: Env, where: KeysIn) =>
        v.parse(Values, parseYaml(formatEnv(env, "helm", options({ keysIn: where }))));
      const merged = reuseValues(values(before.env, keysBefore), values(after.env, keysIn));
      const secret = keysIn === "env-from" ? readSecret(formatEnv(after.env, "secret")) : {};
      const read = { ...readHelm(JSON.stringify(merged), renderByHand), ...secret };
      const names = (env: Env) => Object.keys(env).filter((name) => name.startsWith("AUTHENTIK_"));
      expect(names(read)).to.have.members(names(after.env));
      for (const [name, value] of Object.entries(after.env)) expect(read[name]).to.equal(value);
    };
    fc.assert(fc.property(written, written, place, place, isKept));
  });

  it("from the chart's values by Helm's template engine", function () {
    this.timeout(120_000);
    const samples = fc.sample(written, 300);
    const files = samples.map(({ env }) => formatEnv(env, "helm", inValues));
    const texts = new Set<string>();
    const collect = (text: string): string => {
      texts.add(text);
      return text;
    };
    for (const file of files) readHelm(file, collect);
    const rendered = renderWithGo([...texts]);
    for (const [index, { settings }] of samples.entries()) {
      const read = readHelm(files[index] ?? "", (text) => rendered.get(text) ?? "");
      expectSame(read, settings);
    }
  });

  it("from a task definition, with the keys from where they are referred to", () => {
    const secretArn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:authentik-AbCdEf";
    const Reference = v.object({ name: v.string(), valueFrom: v.string() });
    const Task = v.object({ environment: NameValuePairs, secrets: v.array(Reference) });
    expectKept((env) => {
      const store = v.parse(Env, JSON.parse(formatEnv(env, "json")));
      const text = formatEnv(env, "ecs", options({ secretArn }));
      const { environment, secrets } = v.parse(Task, JSON.parse(text));
      expect(secrets.length).to.equal(2);
      const read = fromPairs(environment);
      for (const { name, valueFrom } of secrets) {
        const [, key = ""] = /^:(.+)::$/.exec(valueFrom.slice(secretArn.length)) ?? [];
        read[name] = store[key] ?? "";
      }
      return read;
    });
  });
});

function readSecret(text: string, version: "1.1" | "1.2" = "1.2"): Env {
  const { data } = v.parse(v.object({ data: Env }), parseYaml(text, { version }));
  return Object.fromEntries(
    Object.entries(data).map(([name, value]) => [name, Buffer.from(value, "base64").toString()]),
  );
}

const HelmFile = v.object({
  authentik: v.record(v.string(), v.unknown()),
  global: v.optional(v.object({ env: v.optional(NameValuePairs, []) })),
});

type Values = Record<string, unknown>;
const Values = v.record(v.string(), v.unknown());
const isTable = (value: unknown): value is Values => !Array.isArray(value) && v.is(Values, value);

/** Helm's merge of new values over the earlier ones of a release (`--reuse-values`). */
function reuseValues(earlier: Values, now: Values): Values {
  const merged = { ...earlier, ...now };
  for (const [key, value] of Object.entries(now)) {
    const before = earlier[key];
    if (isTable(before) && isTable(value)) merged[key] = reuseValues(before, value);
  }
  return merged;
}

/** The variables that the chart makes of its values. */
function readHelm(text: string, render: (value: string) => string): Env {
  const { authentik, global } = v.parse(HelmFile, parseYaml(text));
  const env = fromPairs(global?.env ?? []);
  const addLeaves = (name: string, node: unknown): void => {
    if (typeof node === "string") {
      // The chart makes no variable of an empty value.
      if (node !== "") env[name] = render(node);
      return;
    }
    const branches = v.parse(v.record(v.string(), v.unknown()), node);
    for (const [key, value] of Object.entries(branches)) {
      addLeaves(`${name}__${key.toUpperCase()}`, value);
    }
  };
  for (const [key, value] of Object.entries(authentik)) {
    addLeaves(`AUTHENTIK_${key.toUpperCase()}`, value);
  }
  return env;
}

/** What `tpl` makes of the one action that this program writes. Another action would stay. */
function renderByHand(value: string): string {
  return value.replaceAll('{{ "{{" }}', "{{");
}

function renderWithGo(texts: readonly string[]): Map<string, string | undefined> {
  const { stdout, stderr, status } = spawnSync("go", ["run", "test/fixtures/tpl.go"], {
    input: JSON.stringify(texts),
    encoding: "utf8",
    maxBuffer: 50_000_000,
  });
  expect(status, stderr).to.equal(0);
  const results = v.parse(v.array(v.string()), JSON.parse(stdout));
  return new Map(texts.map((text, index) => [text, results[index]]));
}

describe("the reader of .env files", () => {
  const Case = v.object({ text: v.string(), variables: v.nullable(Env) });
  const fixture = new URL("fixtures/compose-dotenv.json", import.meta.url);
  const recorded = v.parse(v.array(Case), JSON.parse(readFileSync(fixture, "utf8")));
  for (const { text, variables } of recorded) {
    it(`reads ${JSON.stringify(text)} as Docker Compose does`, () => {
      const read = () => readDotenv(text, { HOME_DIR: "/root", EMPTY: "" });
      if (variables === null) expect(read).to.throw(DotenvError);
      else expect(read()).to.deep.equal(variables);
    });
  }
});

describe("a format", () => {
  const KEYS = {
    AUTHENTIK_STORAGE__S3__ACCESS_KEY: "access",
    AUTHENTIK_STORAGE__S3__SECRET_KEY: "hidden-secret",
  };
  const NO_KEYS = { AUTHENTIK_STORAGE__BACKEND: "s3" };
  const roleArn = "arn:aws:iam::1:role/x";
  const secretArn = "arn:aws:s3:::x";

  // biome-ignore format: a table of cases
  const refused: [what: string, format: () => string, message: RegExp][] = [
    ["a value with quotes", () => formatEnv({ AWS_ENDPOINT_URL: "it's-hidden" }, "dotenv"), /^AWS_ENDPOINT_URL cannot/],
    ["keys for ECS without a secret", () => formatEnv(KEYS, "ecs"), /ACCESS_KEY is a key.*--secret-arn/],
    ["another ARN", () => formatEnv(KEYS, "ecs", options({ secretArn })), /"arn:aws:s3:::x"/],
    ["keys beside a role", () => formatEnv(KEYS, "helm", options({ roleArn })), /ACCESS_KEY/],
    ["a Secret without keys", () => formatEnv(NO_KEYS, "secret"), /--role-arn/],
  ];
  for (const [what, format, message] of refused) {
    it(`refuses ${what}, and shows no value`, () => {
      expect(format)
        .to.throw(FormatError, message)
        .and.satisfy((error: Error) => !error.message.includes("hidden"));
    });
  }

  // biome-ignore format: a table of cases
  const accounts: [serviceAccounts: string[] | undefined, server: string, worker: string][] = [
    [undefined, "authentik", "authentik"],
    [["sso/one"], "one", "one"],
    [["sso/one", "sso/two"], "one", "two"],
  ];
  for (const [serviceAccounts, server, worker] of accounts) {
    it(`gives server and worker a role: ${serviceAccounts?.join() ?? "the chart's account"}`, () => {
      const text = formatEnv(NO_KEYS, "helm", options({ roleArn, serviceAccounts }));
      expect(parseYaml(text)).to.deep.include({
        server: { serviceAccountName: server },
        worker: { serviceAccountName: worker },
        serviceAccount: {
          create: true,
          fullnameOverride: worker,
          annotations: { "eks.amazonaws.com/role-arn": roleArn },
        },
      });
    });
  }

  it("says which lists of the chart's values it replaces", () => {
    expect(formatEnv(KEYS, "helm")).to.match(/# The lists below "global" replace your own/);
    expect(formatEnv(NO_KEYS, "helm")).not.to.include("The lists");
  });

  it("needs one list alone, in which the Secret has everything that is not authentik's", () => {
    const env = { ...KEYS, AWS_REQUEST_CHECKSUM_CALCULATION: "when_required" };
    const { global } = v.parse(
      v.object({ global: v.unknown() }),
      parseYaml(formatEnv(env, "helm")),
    );
    expect(global).to.deep.equal({ envFrom: [{ secretRef: { name: "authentik-storage" } }] });
    expect(readSecret(formatEnv(env, "secret"))).to.deep.equal(env);
  });

  it("leaves everything to a Secret that replaces the chart's", () => {
    const existing = options({ keysIn: "existing-secret", secretName: "all" });
    const file: unknown = parseYaml(formatEnv(KEYS, "helm", existing));
    expect(file).to.deep.equal({ authentik: { existingSecret: { secretName: "all" } } });
  });
});

describe("merging into a .env file", () => {
  const env = {
    AUTHENTIK_STORAGE__BACKEND: "s3",
    AUTHENTIK_STORAGE__S3__SECRET_KEY: "new secret",
    AUTHENTIK_STORAGE__S3__REGION: "eu-central-1",
  };
  const old = `# authentik
PG_PASS='pa$$ #1'

AUTHENTIK_STORAGE__S3__REGION=us-east-1  # Use the region of the bucket
AUTHENTIK_STORAGE__MEDIA__S3__REGION=us-east-1 # overrides
export AUTHENTIK_STORAGE__S3__SECRET_KEY="old
secret"
AUTHENTIK_STORAGE__REPORTS__BACKEND=file
AUTHENTIK_STORAGE__S3__REGION=again
AWS_REQUEST_CHECKSUM_CALCULATION=when_required
AUTHENTIK_STORAGE__FILE__PATH=/media
AUTHENTIK_ERROR_REPORTING__ENABLED=true`;
  const merged = `# authentik
PG_PASS='pa$$ #1'

AUTHENTIK_STORAGE__S3__REGION=eu-central-1  # Use the region of the bucket
export AUTHENTIK_STORAGE__S3__SECRET_KEY='new secret'
AUTHENTIK_STORAGE__FILE__PATH=/media
AUTHENTIK_ERROR_REPORTING__ENABLED=true
AUTHENTIK_STORAGE__BACKEND=s3
`;

  it("keeps other lines, replaces in place, and removes what would override or contradict", () => {
    const { text, replaced } = mergeDotenv(old, dotenvValues(env), env);
    expect(text).to.equal(merged);
    const removed = replaced.filter((change) => change.removed).map(({ name }) => name);
    expect(removed).to.deep.equal([
      "AUTHENTIK_STORAGE__MEDIA__S3__REGION",
      "AUTHENTIK_STORAGE__REPORTS__BACKEND",
      "AUTHENTIK_STORAGE__S3__REGION",
      "AWS_REQUEST_CHECKSUM_CALCULATION",
    ]);
  });

  it("keeps the settings of reports if the new ones are for media", () => {
    const media = { AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3" };
    const { text } = mergeDotenv("AUTHENTIK_STORAGE__REPORTS__BACKEND=file\n", media, media);
    expect(text).to.include("REPORTS__BACKEND=file");
  });

  it("changes nothing the second time, and can always be read back", () => {
    const line = fc.constantFrom(
      "",
      "# comment",
      "A=1",
      "B='x y' # z",
      'export C="a\nb"',
      "AUTHENTIK_STORAGE__S3__ENDPOINT=x",
      "AUTHENTIK_STORAGE__S3__SECRET_KEY='o'",
      "AUTHENTIK_STORAGE__MEDIA__BACKEND=file # old",
    );
    const isStable = ({ env, settings }: Written, lines: string[]) => {
      const values = dotenvValues(env);
      const once = mergeDotenv(lines.join("\n"), values, env);
      expect(mergeDotenv(once.text, values, env)).to.deep.equal({ text: once.text, replaced: [] });
      expectSame(readDotenv(once.text), settings);
      const kept = lines.filter((text) => !text.startsWith("AUTHENTIK_"));
      for (const text of kept) expect(once.text).to.include(text);
    };
    fc.assert(fc.property(written, fc.array(line, { maxLength: 6 }), isStable));
  });

  it("shows no old secret", async () => {
    const dir = mkdtempSync(join(tmpdir(), "env-merge-"));
    const file = join(dir, ".env");
    writeFileSync(file, old);
    const merge = await mergeIntoFile(file, env);
    const replaced = JSON.stringify(merge.replaced);
    expect(merge.names).to.include.members(["PG_PASS", ...Object.keys(env)]);
    expect(replaced).to.include("us-e****").and.not.include("old\\nsecret");
    rmSync(dir, { recursive: true });
  });

  it("names what is not read in the file, and says how long authentik caches old URLs", () => {
    const dir = mkdtempSync(join(tmpdir(), "env-command-"));
    const [source, file] = [join(dir, "source.env"), join(dir, ".env")];
    const bucket = { ...env, AUTHENTIK_STORAGE__S3__BUCKET_NAME: "media" };
    const keys = { ...bucket, AUTHENTIK_STORAGE__S3__ACCESS_KEY: "key" };
    writeFileSync(source, formatEnv(keys, "dotenv"));
    writeFileSync(file, "AUTHENTIK_STORAGE_S3_REGION=x\nAUTHENTIK_STORAGE__S3__ACCESS_KEY=old\n");
    const command = ["--import", "tsx/esm", "tools/env/command.ts", "--env-file", source];
    const args = [...command, "--output", file, "--merge"];
    const merge = () => spawnSync(process.execPath, args, { encoding: "utf8" }).stderr;
    const unread = "AUTHENTIK_STORAGE_S3_REGION is not read by authentik from 2025.12; write ";
    expect(merge()).to.include(unread).and.include("for up to 11 min");
    // The second time nothing changes.
    expect(merge()).to.include(unread).and.not.include("for up to");
    rmSync(dir, { recursive: true });
  });
});
