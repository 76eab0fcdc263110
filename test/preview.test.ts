import { readdir, readFile } from "node:fs/promises";
import { expect } from "chai";
import fc from "fast-check";
import { diff } from "../tools/preview/diff.ts";
import { bucketsAtRisk } from "../tools/preview/guard.ts";
import { outcomeOf } from "../tools/preview/outcome.ts";
import {
  parseEvent,
  PlanError,
  planOf,
  type EngineEvent,
  type Plan,
} from "../tools/preview/plan.ts";
import { completePlan } from "../tools/preview/preview.ts";
import { logLine, renderJson, renderMarkdown, renderText } from "../tools/preview/render.ts";
import { failedReport, reportOn, type PlanReport } from "../tools/preview/report.ts";
import { SECRET_VARIABLES } from "../tools/preview/secrets.ts";
import { labelOf, lookUpTypes } from "../tools/preview/resource-types.ts";
import { PROVIDERS, resourceType } from "../providers/index.ts";
import { exampleValues } from "./support/examples.ts";
import { EXPECTED, PLAN_NAMES, recordedReport } from "./support/plans.ts";
import { record } from "./support/recorder.ts";

const typeOf = await lookUpTypes([
  "aws:s3/bucket:Bucket",
  "azure-native:storage:BlobContainer",
  "aws:iam/user:User",
]);
const SIGNATURE = "4dabf18193072939515e22adb298388d";
const SECRET = { [SIGNATURE]: "1b47061264138c4ac30d75fd1eb44270", ciphertext: "[secret]" };
const BUCKET = "aws:s3/bucket:Bucket";
/** Every operation of the engine's `StepOps`, by what it does to the resource. */
// biome-ignore format: a table of cases
const OPS = {
  harmless: ["same", "create", "update", "read", "refresh", "import", "diff", "extend-parameterize"],
  deleted: ["delete", "discard"],
  replaced: ["replace", "create-replacement", "read-replacement", "import-replacement", "remove-pending-replace"],
  "left over": ["delete-replaced", "discard-replaced"],
  unknown: ["obliterate"],
} as const;

interface Given {
  op: string;
  type?: string;
  name?: string;
  before?: Record<string, unknown> | undefined;
  after?: Record<string, unknown> | undefined;
  protect?: boolean;
  retainOnDelete?: boolean;
  detailedDiff?: Record<string, unknown>;
}

const COMPONENT = "urn:pulumi:prod::p::authentik-storage:aws:AwsStorage";

/** An event as the engine writes it for one step. */
function event(given: Given): EngineEvent {
  const { op, type = BUCKET, name = "authentik-media", detailedDiff } = given;
  const { protect, retainOnDelete } = given;
  const options = { parent: `${COMPONENT}::authentik`, protect, retainOnDelete };
  const state = (inputs?: Record<string, unknown>) => inputs && { inputs, outputs: {}, ...options };
  const states = { old: state(given.before), new: state(given.after) };
  const urn = `${COMPONENT}$${type}::${name}`;
  const metadata = { op, type, urn, logical: true, detailedDiff, ...states };
  return parseEvent(JSON.stringify({ resourcePreEvent: { metadata } }));
}

/** An event with a message of the engine. */
function messageEvent(message: string, severity: string): EngineEvent {
  return parseEvent(JSON.stringify({ diagnosticEvent: { message, severity } }));
}

const END = parseEvent('{"summaryEvent":{"result":"succeeded"}}');

function planWith(...steps: Given[]): Plan {
  return planOf([...steps.map(event), END]);
}

function reportWith(...steps: Given[]): PlanReport {
  return reportOn("prod", planWith(...steps), { deletionAllowed: false, typeOf });
}

describe("recorded plans of the real engine", () => {
  for (const name of PLAN_NAMES) {
    it(`are understood: ${name}`, async () => {
      EXPECTED[name](await recordedReport(name));
    });
  }

  it("may delete and replace buckets when that is allowed and nothing is protected", async () => {
    for (const name of PLAN_NAMES) {
      const { atRisk, ok } = await recordedReport(name, { deletionAllowed: true });
      if (atRisk.length > 0) expect(ok, name).to.equal(!name.startsWith("protected"));
    }
  });

  it("are rendered as Markdown and text", async () => {
    expect(renderMarkdown(await recordedReport("unchanged"))).to.equal(
      "### Preview of `prod`: no changes\n\n3 resources stay unchanged. " +
        "The values of secrets are not compared. Commit `0123456789ab`.",
    );
    expect(
      renderMarkdown(await recordedReport("origin")),
    ).to.contain(`### Preview of \`prod\`: 1 to be updated

2 resources stay unchanged. Commit \`0123456789ab\`.

**CORS policy \`authentik-cors\` will be updated**

\`\`\`diff
  origins
- https://authentik.company
+ https://new.company
+ https://auth.company
\`\`\``);
    const renamed = renderMarkdown(await recordedReport("renamed"));
    expect(renamed.split("\n").slice(2, 7).join("\n")).to.match(
      /> \[!CAUTION\]\n> \*\*The bucket "open-media" .*old one is deleted with every file in it\.\*\*/,
    );
    expect(renamed).to.contain("label `allow-bucket-deletion`");
    const text = renderText(await recordedReport("origin"), { color: false });
    expect(text).to.equal(`Preview of prod: 1 to be updated
2 resources stay unchanged.
CORS policy authentik-cors will be updated
    origins
  - https://authentik.company
  + https://new.company
  + https://auth.company`);
  });

  it("show Pulumi's messages when it fails", async () => {
    expect(renderMarkdown(await recordedReport("bad config")))
      .to.contain("**Pulumi's messages**")
      .and.to.contain('origins[0] = "https://a.company/"');
    for (const name of ["protected, renamed", "protected, removed"] as const) {
      expect(renderMarkdown(await recordedReport(name))).to.contain(
        "set protect to false in an earlier update.",
      );
    }
  });
});

describe("the guard of buckets", () => {
  it("knows every type that a provider protects, except settings that go with a bucket", async () => {
    for (const provider of PROVIDERS) {
      const { resources } = await record(await exampleValues(provider));
      const files = resources
        .filter(({ options }) => options.protect === true && !options.deletedWith)
        .map(({ type }) => type)
        // Records in the state are protected with the bucket.
        .filter((type) => !type.startsWith("authentik-storage:"));
      expect(files, provider).not.to.deep.equal([]);
      for (const type of files) {
        expect((await resourceType(type))?.holdsFiles, type).to.equal(true);
      }
    }
  });

  it("knows Azure's types in every API version, and no type with a similar name", async () => {
    for (const type of [
      "azure-native:storage/v20230101:BlobContainer",
      "azure-native:storage/v20220901:StorageAccount",
      "azure-native:storage:StorageAccount",
      "azure-native_storage_v20230101:storage:StorageAccount",
      "aws:s3/bucketV2:BucketV2",
    ]) {
      expect((await resourceType(type))?.holdsFiles, type).to.equal(true);
    }
    for (const type of [
      "aws:s3/bucketPolicy:BucketPolicy",
      "azure-native:storage:BlobServiceProperties",
    ]) {
      expect((await resourceType(type))?.holdsFiles, type).to.equal(undefined);
    }
  });

  for (const [risk, ops] of Object.entries(OPS)) {
    for (const op of ops) {
      it(`takes "${op}" of a bucket for ${risk}`, () => {
        const plan = planWith({ op, before: { bucket: "media" }, after: {} });
        const found = bucketsAtRisk(plan, typeOf).map(({ risk, bucket }) => ({ risk, bucket }));
        expect(found).to.deep.equal(risk === "harmless" ? [] : [{ risk, bucket: "media" }]);
      });
    }
  }

  it("includes protected resources of every type", () => {
    const step = { type: "aws:dynamodb/table:Table", before: {}, after: {} };
    expect(
      bucketsAtRisk(planWith({ ...step, op: "delete", protect: true }), typeOf),
    ).to.have.length(1);
    expect(bucketsAtRisk(planWith({ ...step, op: "delete" }), typeOf)).to.deep.equal([]);
  });

  it("lists a replaced bucket once", () => {
    const steps = ["create-replacement", "replace", "delete-replaced"].map((op) => ({
      op,
      before: { bucket: "media" },
      after: { bucket: "other" },
    }));
    expect(bucketsAtRisk(planWith(...steps), typeOf)).to.have.length(1);
  });

  it("finds a bucket that is left over, also when the new one of the same name changes", () => {
    const steps = ["update", "delete-replaced"].map((op) => ({
      op,
      before: { bucket: "media" },
      after: {},
    }));
    expect(bucketsAtRisk(planWith(...steps), typeOf).map(({ risk }) => risk)).to.deep.equal([
      "left over",
    ]);
  });

  it("reports that a retained bucket stays on the server", () => {
    const report = reportWith({
      op: "delete",
      type: "azure-native:storage:BlobContainer",
      before: { containerName: "media" },
      retainOnDelete: true,
    });
    expect(renderMarkdown(report)).to.contain("stays on the server with its files");
    expect(report.ok).to.equal(false);
  });

  it("fails every plan that puts a bucket at risk", () => {
    const { harmless: harmlessOps, ...risks } = OPS;
    const name = fc.string({ minLength: 1 });
    const type = fc.constantFrom(BUCKET, "aws:iam/user:User");
    const harmless = fc.record({ op: fc.constantFrom(...harmlessOps), type, name });
    const harmful = fc.record({ op: fc.constantFrom(...Object.values(risks).flat()), name });
    fc.assert(
      fc.property(fc.array(harmless), harmful, fc.array(harmless), (before, step, after) => {
        expect(reportWith(...before, step, ...after).ok).to.equal(false);
      }),
      { numRuns: 50 },
    );
  });
});

describe("the guard of files", () => {
  const lifecycle = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration";
  const aws = (more: object) => ({
    rules: [{ status: "Enabled", filter: { prefix: "" }, ...more }],
  });
  const versions = (noncurrentDays?: number, newerNoncurrentVersions?: number) =>
    aws({ noncurrentVersionExpiration: { noncurrentDays, newerNoncurrentVersions } });
  const r2 = (maxAge: number, enabled = true) => ({
    rules: [{ id: "x", enabled, deleteObjectsTransition: { condition: { type: "Age", maxAge } } }],
  });
  const blobs = (days: number, enabled = true) => ({ deleteRetentionPolicy: { enabled, days } });
  const azure = (prefix: string, days: number) => ({
    policy: {
      rules: [
        {
          definition: {
            filters: { blobTypes: ["blockBlob"], prefixMatch: [prefix] },
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: days } } },
          },
        },
      ],
    },
  });
  const lock = (condition: object) => ({ rules: [{ id: "x", enabled: true, condition }] });
  type Inputs = Record<string, unknown> | undefined;
  // biome-ignore format: a table of cases
  const CASES: readonly [what: string, type: string, before: Inputs, after: Inputs, isAtRisk: boolean][] = [
    ["a rule that expires files", lifecycle, aws({}), aws({ expiration: { days: 30 } }), true],
    ["such a rule of its own resource", lifecycle, undefined, aws({ expiration: { days: 30 } }), true],
    ["a rule with a date", lifecycle, aws({}), aws({ expiration: { date: "2030-01-01" } }), true],
    ["a rule that is off", lifecycle, aws({}), aws({ expiration: { days: 30 }, status: "Disabled" }), false],
    ["a rule that is switched on", lifecycle, aws({ expiration: { days: 30 }, status: "Disabled" }), aws({ expiration: { days: 30 } }), true],
    ["a rule for unfinished uploads", lifecycle, undefined, aws({ abortIncompleteMultipartUpload: { daysAfterInitiation: 7 }, expiration: { expiredObjectDeleteMarker: true } }), false],
    ["a rule for other files", lifecycle, aws({ expiration: { days: 1 }, filter: { prefix: "a/" } }), aws({ expiration: { days: 1 }, filter: { prefix: "" } }), true],
    ["less days", lifecycle, versions(30), versions(5), true],
    ["more days", lifecycle, versions(30), versions(50), false],
    ["fewer versions", lifecycle, versions(30, 5), versions(30), true],
    ["days that are not known", lifecycle, versions(30), aws({ noncurrentVersionExpiration: { noncurrentDays: "04da6b54-80e4-46f7-96ec-b56ff0331ba9" } }), true],
    ["no rules", lifecycle, versions(30), undefined, false],
    ["suspended versioning", "aws:s3/bucketVersioning:BucketVersioning", { versioningConfiguration: { status: "Enabled" } }, { versioningConfiguration: { status: "Suspended" } }, true],
    ["versioning without its resource", "aws:s3/bucketVersioning:BucketVersioning", { versioningConfiguration: { status: "Enabled" } }, undefined, true],
    ["versioning that begins", "aws:s3/bucketVersioning:BucketVersioning", undefined, { versioningConfiguration: { status: "Enabled" } }, false],
    ["inline versioning", BUCKET, { versioning: { enabled: true } }, { versioning: { enabled: false } }, true],
    ["forceDestroy", BUCKET, { forceDestroy: false }, { forceDestroy: true }, true],
    ["forceDestroy of a second name", "aws:s3/bucketV2:BucketV2", {}, { forceDestroy: true }, true],
    ["no forceDestroy", BUCKET, { forceDestroy: true }, {}, false],
    ["forceDestroy on a server", "pulumi-nodejs:dynamic/authentik-storage:S3Bucket", {}, { forceDestroy: true }, true],
    ["a shorter lock", "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration", { rule: { defaultRetention: { days: 9 } } }, { rule: { defaultRetention: { days: 8 } } }, true],
    ["a rule of R2", "cloudflare:index/r2BucketLifecycle:R2BucketLifecycle", { rules: [] }, r2(86400), true],
    ["a rule of R2 that is off", "cloudflare:index/r2BucketLifecycle:R2BucketLifecycle", { rules: [] }, r2(86400, false), false],
    ["a lock of R2", "cloudflare:index/r2BucketLock:R2BucketLock", lock({ type: "Age", maxAgeSeconds: 9 }), lock({ type: "Age", maxAgeSeconds: 8 }), true],
    ["a lock of R2 with an end", "cloudflare:index/r2BucketLock:R2BucketLock", lock({ type: "Indefinite" }), lock({ type: "Age", maxAgeSeconds: 8 }), true],
    ["no lock of R2", "cloudflare:index/r2BucketLock:R2BucketLock", lock({ type: "Indefinite" }), undefined, true],
    ["soft deletion that is off", "azure-native:storage:BlobServiceProperties", blobs(7), blobs(7, false), true],
    ["shorter soft deletion", "azure-native:storage/v20230101:BlobServiceProperties", blobs(7), blobs(3), true],
    ["longer soft deletion", "azure-native:storage:BlobServiceProperties", blobs(7), blobs(9), false],
    ["no soft deletion", "azure-native:storage:BlobServiceProperties", blobs(7), undefined, true],
    ["no versioning", "azure-native:storage:BlobServiceProperties", { isVersioningEnabled: true }, {}, true],
    ["a rule of Azure", "azure-native:storage:ManagementPolicy", undefined, azure("media/media", 30), true],
    ["a rule for unfinished uploads on Azure", "azure-native:storage:ManagementPolicy", undefined, azure("media/.sgwtmp/multipart", 7), false],
  ];
  for (const [what, type, before, after, isAtRisk] of CASES) {
    it(`${isAtRisk ? "asks" : "does not ask"} for the label: ${what}`, async () => {
      const op = before ? (after ? "update" : "delete") : "create";
      const plan = planWith({ op, type, before, after });
      const options = { deletionAllowed: false, typeOf: await lookUpTypes([type]) };
      const report = reportOn("prod", plan, options);
      expect(report.atRisk.map(({ risk }) => risk)).to.deep.equal(isAtRisk ? ["emptied"] : []);
      expect(report.ok).to.equal(!isAtRisk);
      expect(reportOn("prod", plan, { ...options, deletionAllowed: true }).ok).to.equal(true);
    });
  }

  it("does not ask for a new bucket, in which there is nothing to delete", async () => {
    const options = { deletionAllowed: false, typeOf: await lookUpTypes([lifecycle, BUCKET]) };
    const rule = {
      op: "create",
      type: lifecycle,
      name: "l",
      after: aws({ expiration: { days: 1 } }),
    };
    const bucket = { op: "create", after: { forceDestroy: true } };
    expect(reportOn("prod", planWith(bucket, rule), options).ok).to.equal(true);
  });

  it("asks when a later deletion would delete an account of Azure on the server too", async () => {
    const type = "azure-native:storage:StorageAccount";
    const metadata = { op: "same", type, urn: `${COMPONENT}$${type}::account` };
    const states = { old: { retainOnDelete: true }, new: { retainOnDelete: false } };
    const line = JSON.stringify({ resourcePreEvent: { metadata: { ...metadata, ...states } } });
    const plan = planOf([parseEvent(line), END]);
    const options = { deletionAllowed: false, typeOf: await lookUpTypes([type]) };
    expect(reportOn("prod", plan, options).ok).to.equal(false);
  });
});

describe("a plan", () => {
  it("has not succeeded without the engine's summary", () => {
    expect(planOf([]).succeeded).to.equal(false);
    expect(completePlan({ events: [END], code: 1, output: "error: killed" }).succeeded).to.equal(
      false,
    );
    const empty = completePlan({ events: [], code: 0, output: "" });
    expect(reportOn("prod", empty, { deletionAllowed: true, typeOf }).ok).to.equal(false);
    expect(planOf([parseEvent('{"errorEvent":{"error":"broken"}}'), END]).succeeded).to.equal(
      false,
    );
  });

  it("is not read from events of an unknown form", () => {
    expect(() => parseEvent("{")).to.throw(PlanError);
    expect(() => parseEvent('{"resourcePreEvent":{"metadata":{"op":"delete"}}}')).to.throw(
      PlanError,
      /too old or too new/,
    );
    expect(parseEvent('{"sequence":1,"newEvent":{}}')).to.deep.equal({});
  });

  it("leaves out the engine's debug messages, which have secrets in plain text", () => {
    const severities = ["debug", "info#err", "error"];
    const { diagnostics } = planOf(severities.map((name) => messageEvent(`of ${name}`, name)));
    const shown = diagnostics.map(({ severity, message }) => `${severity} ${message}`);
    expect(shown).to.deep.equal(["info of info#err", "error of error"]);
  });

  it("shows that a secret changes, without its values", () => {
    const report = reportWith({
      op: "update",
      type: "aws:x/y:Y",
      before: { password: SECRET, size: 1 },
      after: { password: SECRET, size: 2 },
      detailedDiff: { password: { diffKind: "update" }, size: {} },
    });
    expect(report.groups[0]?.resources[0]?.changes).to.deep.equal([
      { property: "size", removed: ["1"], added: ["2"] },
      { property: "password", removed: [], added: [], note: "changed; its values are not shown" },
    ]);
  });

  it("reports an update whose change does not show", () => {
    expect(
      renderMarkdown(
        reportWith({ op: "update", before: { __provider: "old" }, after: { __provider: "new" } }),
      ),
    ).to.contain("The change does not show here");
  });

  it("reports the exit status of a failure without a message", () => {
    const plan = completePlan({ events: [], code: 3, output: "" });
    const report = reportOn("prod", plan, { deletionAllowed: false, typeOf });
    expect(renderText(report, { color: false })).to.contain("status 3");
  });
});

describe("a difference", () => {
  it("of lists has the added and removed entries, whatever their positions", () => {
    expect(diff({ origins: ["a", "b", "c"] }, { origins: ["b", "d", "c"] })).to.deep.equal([
      { property: "origins", removed: ["a"], added: ["d"] },
    ]);
    expect(diff({ origins: ["a", "b"] }, { origins: ["b", "a"] })).to.deep.equal([
      { property: "origins", removed: [], added: [], note: "in another order" },
    ]);
  });

  it("of a CORS policy is the same for each cloud", () => {
    const change = [{ property: "origins", removed: ["https://old"], added: ["https://new"] }];
    const aws = (origin: string) => ({
      bucket: "b",
      corsRules: [{ allowedOrigins: [origin], allowedMethods: ["GET"] }],
    });
    const r2 = (origin: string) => ({
      rules: [{ allowed: { origins: [origin], methods: ["GET"] }, maxAgeSeconds: 3000 }],
    });
    expect(diff(aws("https://old"), aws("https://new"))).to.deep.equal(change);
    expect(diff(r2("https://old"), r2("https://new"))).to.deep.equal(change);
  });

  it("of policies in JSON compares their content", () => {
    const policy = (action: string) => ({
      policy: JSON.stringify({ Statement: [{ Action: ["s3:GetObject", action] }] }),
    });
    expect(diff(policy("s3:PutObject"), policy("s3:*"))).to.deep.equal([
      { property: "policy › Statement › Action", removed: ["s3:PutObject"], added: ["s3:*"] },
    ]);
  });

  it("hides values with a secret's name, also when Pulumi does not mark them as secrets", () => {
    const text = JSON.stringify(
      diff(
        {},
        {
          accessKey: "AKIA1",
          options: { secretKey: "hunter2", list: [{ token: "hunter3" }, { token: "hunter4" }] },
          env: [{ password: ["hunter5"] }],
        },
      ),
    );
    expect(text).not.to.match(/AKIA1|hunter/);
    expect(diff({ secretKey: "a" }, { secretKey: "b" })).to.deep.equal([
      { property: "secret key", removed: ["[secret]"], added: ["[secret]"] },
    ]);
  });

  it("hides a secret in a new output, however deep, and survives hostile names and sizes", () => {
    const named = [{ key: "api-token", value: "hunter2" }, 1];
    const outputs = {
      rules: [JSON.stringify({ a: [JSON.stringify({ password: "hunter2" })] }), named],
      credentials: { id: "hunter2" },
      url: "https://u:hunter2@host/",
      tags: { constructor: "x", toString: "y" },
      policy: "[".repeat(50_000),
      many: Array.from({ length: 20_000 }, (_, index) => `r${index}`),
      issuedOn: "2026-11-26",
      seen: SECRET,
    };
    const unknown = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
    const inputs = { many: Array.from({ length: 20_000 }, (_, index) => `q${index}`) };
    const type = "x:y:Z";
    const state = (outputs: object) => ({ inputs, outputs });
    const diffs = Object.keys(outputs);
    const urn = `${COMPONENT}$${type}::z`;
    const states = { old: state(outputs), new: state({ ...inputs, issuedOn: unknown }) };
    const metadata = { op: "update", type, urn, diffs, ...states };
    const events = ["resourcePreEvent", "resOutputsEvent"].map((kind) => {
      return parseEvent(JSON.stringify({ [kind]: { metadata } }));
    });
    const report = reportOn("prod", planOf([...events, END]), { deletionAllowed: false, typeOf });
    const shown = JSON.stringify(report);
    expect(shown).to.contain("tags › constructor");
    expect(shown).not.to.match(/hunter2|issued/);
  });

  it("marks a value that is known after the update", () => {
    expect(diff({ arn: "x" }, { arn: "04da6b54-80e4-46f7-96ec-b56ff0331ba9" })).to.deep.equal([
      { property: "arn", removed: ["x"], added: ["(known after the update)"] },
    ]);
  });

  it("exists exactly when two values differ", () => {
    const properties = fc.dictionary(
      fc.constantFrom("a", "b", "bC"),
      fc.oneof(
        fc.string(),
        fc.integer(),
        fc.boolean(),
        fc.array(fc.string()),
        fc.dictionary(fc.constantFrom("x", "y"), fc.string()),
      ),
    );
    fc.assert(
      fc.property(properties, (value) => {
        expect(diff(value, structuredClone(value))).to.deep.equal([]);
      }),
    );
    fc.assert(
      fc.property(properties, fc.string(), (value, text) => {
        fc.pre(value.b !== text && typeof value.b === "string");
        expect(diff(value, { ...value, b: text }).map(({ property }) => property)).to.deep.equal([
          "b",
        ]);
      }),
    );
  });
});

describe("a comment", () => {
  // biome-ignore format: a table of cases
  const NASTY = [
    "```\n# Merge at once", "@everyone #1 <img src=x>", "a | b", "<!-- -->", "[x](javascript:1)",
    "\u202Eoverride", "line\nline", "````", "<details>",
  ];

  /** The text without code, in which nothing is rendered. */
  function outsideOfCode(markdown: string): string {
    const lines: string[] = [];
    let fence: string | undefined;
    for (const line of markdown.split("\n")) {
      if (fence === undefined) fence = /^`{3,}/.exec(line)?.[0];
      else if (line === fence) fence = undefined;
      if (fence === undefined)
        lines.push(line.replaceAll(/(`+)(?:(?!\1)[^]|(?!\1)`)*?\1(?!`)/g, ""));
    }
    expect(fence, "an open block").to.equal(undefined);
    return lines.join("\n");
  }

  it("escapes values of config, resources and Pulumi's messages", () => {
    const text = fc.oneof(
      fc.constantFrom(...NASTY),
      fc.string(),
      fc.array(fc.constantFrom(...NASTY, "`", "\n")).map((parts) => parts.join("")),
    );
    fc.assert(
      fc.property(text, text, text, (name, value, message) => {
        const step = {
          name: `n${name}`,
          before: { bucket: value },
          after: { bucket: `${value}x`, list: [value] },
        };
        const steps = [
          { ...step, op: "replace" },
          { ...step, op: "update", type: "x:y:Z" },
        ];
        const events = [...steps.map(event), messageEvent(`m${message}`, "warning"), END];
        const markdown = renderMarkdown(
          reportOn("prod", planOf(events), { deletionAllowed: false, typeOf }),
        );
        const outside = outsideOfCode(markdown).replaceAll(/<\/?details>|<\/?summary>/g, "");
        expect(outside).not.to.match(/[<@|]|\]\(|javascript:|^# /m);
        expect(markdown).not.to.match(/\u202E/);
      }),
      { numRuns: 300 },
    );
  });

  it("has no mention and no link after GitHub has rendered it", () => {
    const failure =
      "said @octocat, @company/team, #1, company/repo#2, GH-3, gh-4, " +
      "www.evil.example and https://evil.example";
    const text = renderMarkdown(failedReport("prod", failure)).replaceAll(
      /&#(\d+);/g,
      (_, digits: string) => String.fromCharCode(Number(digits)),
    );
    expect(text).not.to.match(/@\w|#\d|\bGH-\d|\bwww\.|:\/\//i);
    expect(text.replaceAll("\u2060", "")).to.contain(failure);
  });

  it("shows a value of several lines in one, so that no line looks like a change", () => {
    const markdown = renderMarkdown(
      reportWith({ op: "update", before: { name: "a" }, after: { name: "a\n+ https://safe" } }),
    );
    expect(markdown).to.contain('+ name: "a\\n+ https://safe"');
    expect(markdown.split("\n")).not.to.include("+ https://safe");
  });

  it("is never longer than GitHub allows, and says where it is cut", () => {
    const many = Array.from({ length: 2000 }, (_, index) => ({
      op: "create",
      type: "x:y:Z",
      name: `name-${index}`,
      after: { text: `ü${"x".repeat(900)}` },
    }));
    const markdown = renderMarkdown(reportWith(...many, { op: "delete", before: {} }));
    expect(markdown.length).to.be.within(50_000, 65_000);
    expect(Buffer.byteLength(markdown)).to.be.lessThan(65_500);
    expect(markdown)
      .to.contain("GitHub limits the length of comments")
      .and.to.contain("[!CAUTION]");
    outsideOfCode(markdown);
    const long = reportWith({
      op: "update",
      type: "x:y:Z",
      before: { list: [] },
      after: { list: Array.from({ length: 9000 }, (_, index) => `https://${index}`) },
    });
    expect(renderMarkdown(long)).to.contain("more lines)");
    expect(renderMarkdown(failedReport("prod", "x".repeat(100_000))))
      .to.have.property("length")
      .that.is.within(2000, 2100);
  });

  it("escapes the type of a resource that no provider registers", () => {
    const type = "x:y:[click](https://evil.example) <img src=x> @everyone";
    const markdown = renderMarkdown(reportWith({ op: "create", type, after: { a: 1 } }));
    expect(outsideOfCode(markdown)).not.to.match(/[<@]|\]\(|:\/\//);
  });

  it("is the sample of the documentation", async () => {
    const page = await readFile(new URL("../docs/pull-requests.md", import.meta.url), "utf8");
    const lines = renderMarkdown(await recordedReport("origin")).split("\n");
    expect(page).to.contain(lines.map((line) => `> ${line}`.trimEnd()).join("\n"));
  });

  it("leaves out what is empty, off or a default of the provider in a new resource", () => {
    const after = {
      bucket: "media",
      forceDestroy: false,
      tags: {},
      acl: "private",
      rules: [{ days: 7, __defaults: ["days"], prefix: "a" }],
      __defaults: ["acl"],
    };
    const changes = reportWith({ op: "create", after }).groups[0]?.resources[0]?.changes;
    expect(changes?.map(({ property, added }) => [property, ...added])).to.deep.equal([
      ["bucket", "media"],
      ["prefix", "a"],
    ]);
  });

  it("has a label for every resource of each provider", async () => {
    for (const provider of PROVIDERS) {
      const types = (await record(await exampleValues(provider))).resources.map(({ type }) => type);
      const typeOf = await lookUpTypes(types);
      for (const type of types) {
        expect(labelOf(type, typeOf), type)
          .to.match(/^[A-Za-z]['A-Za-z0-9. -]+$/)
          .and.not.to.match(/[a-z][A-Z](?!ORS)/);
      }
    }
    expect(labelOf("aws:sns/topicPolicy:TopicPolicy", typeOf)).to.equal("Topic policy");
    expect(labelOf("pulumi:providers:aws", typeOf)).to.equal("Access to aws");
    expect(labelOf("", typeOf)).to.equal("Resource");
  });
});

describe("a job's log", () => {
  it("hides every secret that a workflow sets", async () => {
    const folder = new URL("../.github/workflows/", import.meta.url);
    const files = (await readdir(folder)).map((file) => readFile(new URL(file, folder), "utf8"));
    const workflows = (await Promise.all(files)).join("\n");
    const action = new URL("../.github/actions/stack/action.yml", import.meta.url);
    const inputs = [...workflows.matchAll(/^ *([\w-]+): \$\{\{[^}]*secrets\./gm)];
    const isSecret = ["github\\.token", ...inputs.map(([, input]) => `inputs\\.${input}`)].join(
      "|",
    );
    const setting = new RegExp(`^ *(\\w+): \\$\\{\\{[^}]*(?:${isSecret})`, "gm");
    const names = [...(await readFile(action, "utf8")).matchAll(setting)];
    expect(names).to.have.length(6);
    for (const [, name] of names) expect(SECRET_VARIABLES).to.include(name);
  });

  it("has no commands in the names of resources", () => {
    expect(logLine("create: x\n::set-output name=a::%0Ab##[error]\u202E")).to.equal(
      "create: x ::set-output name=a::%0Ab## [error]\\u{202e}",
    );
    const step = { op: "create", name: "##[add-mask]\u202Ex", after: { a: 1 } };
    const json = renderJson(reportWith(step));
    expect(json).not.to.match(/##\[|\u202E/);
    expect(JSON.parse(json)).to.deep.equal(JSON.parse(JSON.stringify(reportWith(step))));
  });

  it("has no commands to GitHub's runner or to the terminal", () => {
    const message = "::add-mask::x\n  ::set-output name=a::b\n##[error]x\u001b[2J";
    const plan = planOf([messageEvent(message, "info"), END]);
    const report = reportOn("prod", plan, { deletionAllowed: false, typeOf });
    for (const color of [false, true]) {
      const text = renderText(report, { color }).replaceAll(/\u001b\[\d+m/g, "");
      expect(text).not.to.match(/^\s*::/m);
      expect(text).not.to.contain("##[");
      expect(text).not.to.contain("\u001b");
    }
  });
});

describe("the outcome of a pull request's jobs", () => {
  const job = (result: string, stacks = '[{"stack":"prod"}]') => ({ result, outputs: { stacks } });
  const needs = (test: string, preview: string, stacks?: string) =>
    JSON.stringify({ test: job(test), stacks: job("success", stacks), preview: job(preview) });
  const own = { isFork: false, author: "somebody", actor: "somebody" };

  it("passes when every job passed, and fails when one failed", () => {
    expect(outcomeOf(needs("success", "success"), own).ok).to.equal(true);
    for (const bad of ["failure", "cancelled"]) {
      expect(outcomeOf(needs("success", bad), own)).to.deep.equal({
        ok: false,
        text: `The job preview: ${bad}.`,
      });
      expect(outcomeOf(needs(bad, "skipped"), { ...own, isFork: true }).ok).to.equal(false);
    }
  });

  it("reports why there was no preview", () => {
    expect(outcomeOf(needs("success", "skipped"), { ...own, isFork: true }))
      .to.have.property("text")
      .that.contains("comes from a fork");
    for (const dependabots of [{ actor: "dependabot[bot]" }, { author: "dependabot[bot]" }]) {
      expect(outcomeOf(needs("success", "skipped"), { ...own, ...dependabots }))
        .to.include({ ok: true })
        .and.property("text")
        .contains("Dependabot");
    }
    expect(outcomeOf(needs("success", "skipped", "[]"), own)).to.have.property("ok", true);
  });

  it("fails when there is no reason for that", () => {
    expect(outcomeOf(needs("success", "skipped"), own).ok).to.equal(false);
    expect(() => outcomeOf("{}x", own)).to.throw(SyntaxError);
    expect(outcomeOf("{}", own).ok).to.equal(false);
  });
});
