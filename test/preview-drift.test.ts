/**
 * What somebody changed on the server, in plans of the real engine with the clouds' own plugins. The
 * recorded plans are understood everywhere. With `pulumi` on PATH they are made again: on R2 with
 * the plugin and a fake of its API, on AWS with the plugin and moto.
 * `UPDATE_PLANS=1` records them.
 */
import * as S3 from "@aws-sdk/client-s3";
import { expect } from "chai";
import { runEngine } from "../tools/preview/engine.ts";
import { planOf, type EngineEvent, type Plan } from "../tools/preview/plan.ts";
import { reportOnRun } from "../tools/preview/preview.ts";
import { renderText } from "../tools/preview/render.ts";
import type { PlanReport } from "../tools/preview/report.ts";
import { canFakeAws, startAws as startFakeAws } from "./support/aws.ts";
import { ACCOUNT, startCloudflare } from "./support/cloudflare.ts";
import { EngineProject, hasPlugin, pulumi, STACK } from "./support/engine.ts";
import { recordedReport, recordPlan } from "./support/plans.ts";

const ORIGIN = "https://authentik.company";
const NEW_CORS = [
  "CORS policy authentik-cors will be recreated (it is no longer on the server)",
  "  + methods: GET",
  `  + origins: ${ORIGIN}`,
];
const OLD_CORS = [
  "CORS policy authentik-cors will be updated",
  "  - expose headers: x-a",
  "  - origins: https://evil.example",
  `  + origins: ${ORIGIN}`,
  "  + request headers: Authorization",
];

/** The lines of each report about resources. Of a new resource, these are among them. */
const EXPECTED: Readonly<Record<string, readonly string[]>> = {
  "drift r2 method added": ["CORS policy authentik-cors will be updated", "  - methods: PUT"],
  "drift r2 CORS rule added": [
    "CORS policy authentik-cors will be updated",
    '  - rules: {"allowed":{"methods":["GET","DELETE"],"origins":["*"]},"id":"two"}',
  ],
  "drift r2 CORS changed": OLD_CORS,
  "drift r2 CORS deleted": NEW_CORS,
  "drift r2 key inactive": [
    "authentik's access key authentik-token-1 will be updated",
    "  - status: disabled",
    "  + status: active",
  ],
  "drift r2 rights added": [
    "authentik's access key authentik-token-1 will be updated",
    "  - policies › resources › com.cloudflare.edge.r2.bucket.other: *",
  ],
  "drift aws rule added": [
    "Lifecycle rules authentik-lifecycle will be updated",
    "    rules",
    '  - {"expiration":{"days":1,"expiredObjectDeleteMarker":false},"filter":{},"id":"delete-all","status":"Enabled"}',
  ],
  "drift aws rule changed": [
    "Lifecycle rules authentik-lifecycle will be updated",
    "  - expiration › days: 1",
    "  + expiration › days: 0",
    "  - expiration › expired object delete marker: false",
    "  + expiration › expired object delete marker: true",
  ],
  "drift aws method added": ["CORS policy authentik-cors will be updated", "  - methods: PUT"],
  "drift aws CORS changed": OLD_CORS,
  "drift aws CORS deleted": NEW_CORS,
  "drift aws tags added, versioning off": [
    "Bucket authentik-media will be updated",
    "  - tags › api-token: [secret]",
    "  - tags › x: y",
    "Versioning authentik-versioning will be updated",
    "  - versioning configuration › status: Suspended",
    "  + versioning configuration › status: Enabled",
  ],
  "drift aws key inactive": [
    "authentik's access key authentik-key-1 will be updated",
    "  - status: Inactive",
    "  + status: Active",
  ],
};

function check(name: string, report: PlanReport): void {
  const text = renderText({ ...report, unchanged: 0, diagnostics: [] }, { color: false });
  // The plugin of AWS has each tag twice.
  const lines = text
    .replaceAll("-media/default/01234567/", "-")
    .split("\n")
    .filter((line) => !line.includes("tags all"));
  const expected = EXPECTED[name] ?? [];
  if (expected === NEW_CORS) expect(lines).to.include.members(NEW_CORS);
  else expect(lines.slice(1)).to.have.members(expected);
}

describe("recorded drift of the clouds", () => {
  for (const name of Object.keys(EXPECTED)) {
    it(name, async () => {
      check(name, await recordedReport(name));
    });
  }
});

/** What happens on the server, by the name of the plan that follows. */
type Scenes = Record<string, () => unknown>;

interface Cloud {
  project: EngineProject;
  scenes: Scenes;
  stop: () => Promise<void>;
}

async function startR2(): Promise<Cloud> {
  const fake = await startCloudflare();
  const project = await EngineProject.create();
  Object.assign(project.env, fake.env);
  const config = { provider: "r2", accountId: ACCOUNT, bucketName: "media", protect: false };
  await project.configure({ ...config, origins: [ORIGIN] });
  await project.expectOk("up", "--yes", "--skip-preview");
  const [bucket] = fake.buckets.values();
  const [token] = fake.tokens.values();
  if (!bucket || !token) throw new Error("pulumi up made no bucket or no token");
  const allowed = { headers: ["Authorization"], methods: ["GET"], origins: [ORIGIN] };
  const rule = { allowed, maxAgeSeconds: 3000 };
  const put = (...rules: object[]) => (bucket.cors = { rules });
  return {
    project,
    scenes: {
      "drift r2 method added": () =>
        put({ ...rule, allowed: { ...allowed, methods: ["GET", "PUT"] } }),
      "drift r2 CORS rule added": () =>
        put(rule, { id: "two", allowed: { methods: ["GET", "DELETE"], origins: ["*"] } }),
      "drift r2 CORS changed": () => {
        const other = { methods: ["GET"], origins: ["https://evil.example"] };
        put({ ...rule, exposeHeaders: ["x-a"], allowed: other });
      },
      "drift r2 CORS deleted": () => delete bucket.cors,
      "drift r2 key inactive": () => {
        put(rule);
        token.status = "disabled";
      },
      "drift r2 rights added": () => {
        token.status = "active";
        for (const { resources } of token.policies) {
          resources["com.cloudflare.edge.r2.bucket.other"] = "*";
        }
      },
    },
    stop: () => fake.stop(),
  };
}

async function startAws(): Promise<Cloud> {
  const fake = await startFakeAws();
  const { s3 } = fake;
  const project = await EngineProject.create();
  Object.assign(project.env, fake.env);
  const Bucket = "media";
  const config = { provider: "aws", region: "eu-central-1", bucketName: Bucket, protect: false };
  await project.configure({ ...config, origins: [ORIGIN] });
  await project.expectOk("up", "--yes", "--skip-preview");
  const { CORSRules: [rule] = [] } = await s3.send(new S3.GetBucketCorsCommand({ Bucket }));
  const { Rules: rules = [] } = await s3.send(
    new S3.GetBucketLifecycleConfigurationCommand({ Bucket }),
  );
  if (!rule) throw new Error("the bucket has no CORS policy");
  const cors = (...CORSRules: S3.CORSRule[]) =>
    s3.send(new S3.PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules } }));
  const lifecycle = (...Rules: S3.LifecycleRule[]) =>
    s3.send(
      new S3.PutBucketLifecycleConfigurationCommand({ Bucket, LifecycleConfiguration: { Rules } }),
    );
  const Expiration = { Days: 1 };
  const tags = (...TagSet: S3.Tag[]) =>
    s3.send(new S3.PutBucketTaggingCommand({ Bucket, Tagging: { TagSet } }));
  const versioning = (Status: S3.BucketVersioningStatus) =>
    s3.send(new S3.PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status } }));
  return {
    project,
    scenes: {
      "drift aws rule added": () =>
        lifecycle(...rules, {
          ID: "delete-all",
          Status: "Enabled",
          Filter: { Prefix: "" },
          Expiration,
        }),
      "drift aws rule changed": () => lifecycle(...rules.map((one) => ({ ...one, Expiration }))),
      "drift aws method added": async () => {
        await lifecycle(...rules);
        await cors({ ...rule, AllowedMethods: ["GET", "PUT"] });
      },
      "drift aws CORS changed": () =>
        cors({
          ...rule,
          AllowedHeaders: undefined,
          ExposeHeaders: ["x-a"],
          AllowedOrigins: ["https://evil.example"],
        }),
      "drift aws CORS deleted": () => s3.send(new S3.DeleteBucketCorsCommand({ Bucket })),
      "drift aws tags added, versioning off": async () => {
        await cors(rule);
        await versioning("Suspended");
        const application = { Key: "application", Value: "authentik" };
        await tags(application, { Key: "api-token", Value: "hunter2" }, { Key: "x", Value: "y" });
      },
      "drift aws key inactive": async () => {
        await tags({ Key: "application", Value: "authentik" });
        await versioning("Enabled");
        const [UserName = ""] = await fake.iam("ListUsers", {}, "UserName");
        const [AccessKeyId = ""] = (await fake.keys()).keys();
        await fake.iam("UpdateAccessKey", { UserName, AccessKeyId, Status: "Inactive" });
      },
    },
    stop: () => fake.stop(),
  };
}

const CLOUDS: [name: string, isHere: boolean, start: () => Promise<Cloud>][] = [
  ["r2", await hasPlugin("cloudflare"), startR2],
  ["aws", canFakeAws, startAws],
];
for (const [name, isHere, start] of CLOUDS) {
  (pulumi && isHere ? describe : describe.skip)(`drift with the plugin of ${name}`, function () {
    this.timeout(400_000);
    let cloud: Cloud;
    before(async () => {
      cloud = await start();
    });
    after(async () => {
      await cloud.stop();
      await cloud.project.remove();
    });

    it("shows what was added, removed, changed and deleted on the server", async () => {
      const { project, scenes } = cloud;
      for (const [scene, happens] of Object.entries(scenes)) {
        await happens();
        const options = { workDir: project.dir, envVars: project.env, timeoutMs: 120_000 };
        const run = await runEngine("preview", STACK, ["--refresh"], options);
        const plan = planOf(run.events);
        const about = { deletionAllowed: false, operation: "drift" } as const;
        const report = await reportOnRun(STACK, run, plan, about);
        if (process.env.UPDATE_PLANS) {
          await recordPlan(scene, { text: withoutRest(run.events, plan) });
        }
        check(scene, report);
      }
    });
  });
}

/** Without what stays the same. */
function withoutRest(events: readonly EngineEvent[], { gone, steps }: Plan): string {
  const urns = [...gone, ...steps.map(({ urn }) => urn)];
  const ofSteps = events.filter(({ resourcePreEvent, resOutputsEvent, summaryEvent }) => {
    const { urn, op } = (resourcePreEvent ?? resOutputsEvent)?.metadata ?? { urn: "", op: "" };
    const isShown = urns.includes(urn) && (op !== "refresh" || gone.includes(urn));
    return summaryEvent !== undefined || isShown;
  });
  return ofSteps.map((event) => JSON.stringify(event)).join("\n");
}
