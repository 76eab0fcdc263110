/** What every provider has to hold, whatever the cloud, and the table of what each example stack registers. */
import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { expect } from "chai";
import * as v from "valibot";
import { PROVIDERS, type ProviderName } from "../providers/index.ts";
import { exampleValues } from "./support/examples.ts";
import { configProblems, record, type Recorded, type Recording } from "./support/recorder.ts";

const SNAPSHOT = new URL("fixtures/resources.md", import.meta.url);

/** What differs between the providers, as far as the contract leaves it open. */
interface Traits {
  /** Types of what holds the files: it must be protected. */
  holders: string[];
  /** Type of the CORS policy, and its origins. GET is the only method of each. */
  cors: { type: string; origins: (inputs: unknown) => string[] };
  /** Type of a key of authentik's, where the provider makes keys. */
  key?: string;
  /** Whether `forceDestroy` is possible. */
  forceDestroy: boolean;
  /** What adopting takes beside the bucket's name. */
  adoption: Record<string, string>;
  /** The clouds' packages that a stack may load. */
  packages: string[];
}

const Allowed = v.object({
  allowedOrigins: v.array(v.string()),
  allowedMethods: v.tuple([v.literal("GET")]),
});
const S3Cors = v.object({ rules: v.tuple([Allowed]) });
const AwsCors = v.object({ corsRules: v.tuple([Allowed]) });
const R2Cors = v.object({
  rules: v.tuple([
    v.object({
      allowed: v.object({ origins: v.array(v.string()), methods: v.tuple([v.literal("GET")]) }),
    }),
  ]),
});
const s3Origins = (inputs: unknown) => v.parse(S3Cors, inputs).rules[0].allowedOrigins;

const traits: Record<ProviderName, Traits> = {
  aws: {
    holders: ["aws:s3/bucket:Bucket"],
    cors: {
      type: "aws:s3/bucketCorsConfiguration:BucketCorsConfiguration",
      origins: (inputs) => v.parse(AwsCors, inputs).corsRules[0].allowedOrigins,
    },
    key: "aws:iam/accessKey:AccessKey",
    forceDestroy: true,
    adoption: { bucketName: "company-media" },
    packages: ["aws"],
  },
  r2: {
    holders: ["cloudflare:index/r2Bucket:R2Bucket"],
    cors: {
      type: "cloudflare:index/r2BucketCors:R2BucketCors",
      origins: (inputs) => v.parse(R2Cors, inputs).rules[0].allowed.origins,
    },
    key: "cloudflare:index/accountToken:AccountToken",
    forceDestroy: false,
    adoption: {},
    packages: ["cloudflare"],
  },
  azure: {
    holders: ["azure-native:storage:StorageAccount", "azure-native:storage:BlobContainer"],
    cors: { type: "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors", origins: s3Origins },
    forceDestroy: true,
    adoption: {
      subscriptionId: "00000000-0000-0000-0000-000000000001",
      storageAccountName: "companymedia",
    },
    packages: ["azure-native", "random"],
  },
  s3: {
    holders: ["pulumi-nodejs:dynamic/authentik-storage:S3Bucket"],
    cors: { type: "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors", origins: s3Origins },
    forceDestroy: true,
    adoption: {},
    packages: [],
  },
};

for (const provider of PROVIDERS) {
  const { holders, cors, key, forceDestroy, adoption } = traits[provider];

  describe(`contract: ${provider}`, () => {
    let values: Record<string, string>;
    let recording: Recording;
    before(async () => {
      values = await exampleValues(provider);
      recording = await record(values);
    });
    const held = (from: Recording) => holders.map((type) => from.one(type));

    it("provides what authentik needs", () => {
      expect(recording.bucketName).to.match(/^[a-z0-9-]{3,63}$/);
      expect(recording.endpoint).to.match(/^https:\/\/[^/]+$/);
      if (recording.customDomain !== undefined) {
        expect(recording.customDomain).to.equal(
          `${recording.endpoint.slice("https://".length)}/${recording.bucketName}`,
        );
      }
      expect(recording.credentials.accessKey).to.be.a("string").and.not.equal("");
      expect(recording.credentials.secretKey).to.be.a("string").and.not.equal("");
    });

    it("keeps the credentials secret, also in its registered outputs", () => {
      expect(recording.credentialsAreSecret).to.equal(true);
      for (const { name, inputs, secretInputs } of recording.resources) {
        const clear = JSON.stringify(
          Object.entries(inputs).filter(
            ([input]) => !secretInputs.some((path) => path.split(".")[0] === input),
          ),
        );
        expect(clear, name).not.to.contain(recording.credentials.secretKey);
      }
    });

    it("creates everything below one component", () => {
      const [component, ...rest] = recording.resources;
      expect(component?.type).to.match(
        new RegExp(`^authentik-storage:${provider}:[A-Z0-9][A-Za-z0-9]+Storage$`),
      );
      expect(rest.map(({ parent }) => parent)).to.deep.equal(rest.map(() => component?.name));
    });

    it("allows exactly the origins to load files", () => {
      expect(cors.origins(recording.one(cors.type).inputs)).to.deep.equal([
        "https://authentik.company",
      ]);
    });

    it("protects the files by default", async () => {
      for (const { type, options } of held(recording)) expect(options.protect, type).to.equal(true);
      for (const { type, options } of held(await record({ ...values, protect: "false" })))
        expect(options.protect, type).to.equal(undefined);
    });

    it("never deletes a bucket with files without forceDestroy", async () => {
      const deletes = (from: Recording) =>
        held(from).some(
          ({ inputs, options }) =>
            inputs.forceDestroy === true ||
            (provider === "azure" && options.retainOnDelete !== true),
        );
      expect(deletes(recording)).to.equal(false);
      if (forceDestroy)
        expect(deletes(await record({ ...values, forceDestroy: "true" }))).to.equal(true);
      else
        expect((await configProblems({ ...values, forceDestroy: "true" })).join()).to.match(
          /^forceDestroy: is not possible/,
        );
    });

    it("adopts only with adopt", async () => {
      const adopts = (from: Recording) =>
        held(from).map(
          ({ inputs, options }) => options.import !== undefined || inputs.adopt === true,
        );
      expect(adopts(recording)).to.deep.equal(holders.map(() => false));
      expect(adopts(await record({ ...values, ...adoption, adopt: "true" }))).to.deep.equal(
        holders.map(() => true),
      );
    });

    it("does not delete the settings of a bucket that stays", () => {
      const bucket = held(recording).at(-1)?.name;
      expect(recording.one(cors.type).options).to.include({ deletedWith: bucket });
      expect(recording.one(cors.type).options.dependsOn).to.include(bucket);
    });

    if (key !== undefined) {
      it("rotates the keys in two slots", async () => {
        const keysAt = async (changes: Record<string, string>) =>
          (await record({ ...values, ...changes }))
            .all(key)
            .map(({ name, options }) => `${name.slice(-1)}:${String(options.replacementTrigger)}`)
            .sort();
        expect(await keysAt({})).to.deep.equal(["1:1"]);
        expect(await keysAt({ keyGeneration: "2" })).to.deep.equal(["0:2", "1:1"]);
        expect(await keysAt({ keyGeneration: "3" })).to.deep.equal(["0:2", "1:3"]);
        expect(await keysAt({ keyGeneration: "3", retirePreviousKey: "true" })).to.deep.equal([
          "1:3",
        ]);
        const { credentials } = await record({ ...values, keyGeneration: "2" });
        expect(credentials.accessKey).to.match(/0$/);
      });
    }
  });
}

describe("example stacks", function () {
  this.timeout(60_000);

  it("register what was reviewed (UPDATE_SNAPSHOT=1 writes it again)", async () => {
    const tables: string[] = [];
    for (const provider of PROVIDERS) {
      const { resources } = await record(await exampleValues(provider));
      tables.push(
        `## ${provider}\n\n| resource | type | options |\n| --- | --- | --- |\n${resources.map(row).sort().join("\n")}\n`,
      );
    }
    const actual = `# What each example stack registers\n\n${tables.join("\n")}`;
    if (process.env.UPDATE_SNAPSHOT === "1") await writeFile(SNAPSHOT, actual);
    expect(actual).to.equal(await readFile(SNAPSHOT, "utf8"));
  });

  for (const provider of PROVIDERS) {
    it(`${provider} loads no other cloud's modules`, async () => {
      expect(await loadedClouds(provider)).to.deep.equal(traits[provider].packages);
    });
  }
});

describe("the process of the S3 resources", function () {
  this.timeout(60_000);

  it("loads no compiler and no npm, and operations.ts only for a resource that has changed", async () => {
    const probe = `
      import { createRequire } from "node:module";
      const require = createRequire(process.cwd() + "/");
      await import("./providers/s3/plugin/pulumi-resource-pulumi-nodejs");
      const { cors } = require("./providers/s3/dynamic-provider.cjs");
      await cors.configure({ config: { get: () => undefined } });
      const unchanged = await cors.diff("id", { a: [1], b: 2 }, { b: 2, a: [1] });
      const before = Object.keys(require.cache);
      const changed = await cors.diff("id", { a: [1], b: 2 }, { b: 2, a: [3] });
      console.log(JSON.stringify({ before, changes: [unchanged.changes, changed.changes] }));
      process.exit();
    `;
    const args = ["--input-type=module", "--eval", probe, "--", "script", "engine"];
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 60_000 });
    const Probe = v.object({ before: v.array(v.string()), changes: v.array(v.boolean()) });
    const { before, changes } = v.parse(Probe, JSON.parse(/^\{.*$/m.exec(stdout)?.[0] ?? ""));
    expect(changes).to.deep.equal([false, true]);
    // The SDK's script loads 780 modules.
    expect(before).to.have.length.below(230);
    expect(
      before.filter((file) => /typescript|tsx|arborist|smithy|\.ts$/.test(file)),
    ).to.deep.equal([]);
  });
});

function row({ name, type, options }: Recorded): string {
  const shown = Object.entries(options).map(
    ([key, value]) => `${key} ${Array.isArray(value) ? value.join(" ") : String(value)}`,
  );
  return `| ${name} | ${type} | ${shown.join("; ")} |`;
}

/** The clouds' packages that a program loads. */
async function loadedClouds(provider: ProviderName): Promise<string[]> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["tools/run.js", "test/fixtures/in-process.ts", provider],
    { timeout: 30_000 },
  );
  return v.parse(v.object({ clouds: v.array(v.string()) }), JSON.parse(stdout)).clouds;
}
