import { writeFileSync } from "node:fs";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  DeleteBucketCommand,
  DeleteObjectCommand,
  GetBucketCorsCommand,
  ListBucketsCommand,
  PutBucketCorsCommand,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { expect } from "chai";
import * as v from "valibot";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { deploy, type Deployment } from "../tools/preview/deploy.ts";
import { runEngine } from "../tools/preview/engine.ts";
import {
  checkDrift,
  completePlan,
  preview,
  reportOnRun,
  type Drift,
} from "../tools/preview/preview.ts";
import { renderMarkdown, renderText } from "../tools/preview/render.ts";
import { type PlanReport } from "../tools/preview/report.ts";
import { EngineProject, pulumi, REPOSITORY, STACK } from "./support/engine.ts";
import { EXPECTED, PLAN_NAMES, recordPlan, type PlanName } from "./support/plans.ts";
import { AUTHENTIK, ROOT, rootClient, startTestServer } from "./support/server.ts";

const SECRETS = {
  accessKey: AUTHENTIK.accessKey,
  secretKey: AUTHENTIK.secretKey,
  adminAccessKey: ROOT.accessKey,
  adminSecretKey: ROOT.secretKey,
};
const Package = v.object({ imports: v.record(v.string(), v.string()) });
const NEW_SECRET = "another-secret-0123456789";
const TIMEOUT_MS = 60_000;
const PROGRAMS = {
  empty: "export {};",
  other: `
    import { readStackConfig } from ${JSON.stringify(join(REPOSITORY, "config/stack.ts"))};
    import { chooseProvider } from ${JSON.stringify(join(REPOSITORY, "providers/index.ts"))};
    (await chooseProvider(readStackConfig())).provision("other");`,
} as const;
const PACK = `
  const { PolicyPack } = require("@pulumi/policy");
  const validateResource = ({ type, props }, report) => {
    if (type.endsWith("BucketCors")) report("@everyone: " + props.rules[0].allowedOrigins[0]);
  };
  const description = "No origin is allowed.";
  const policy = { name: "no-such-origin", description, enforcementLevel: "mandatory" };
  new PolicyPack("test", { policies: [{ ...policy, validateResource }] });`;

/** A stack, its changes, and what the engine plans for each. */
class Scenes {
  readonly reports = new Map<PlanName, PlanReport>();
  private readonly server: RunningServer;
  readonly project: EngineProject;
  private readonly yaml: string;

  private constructor(server: RunningServer, project: EngineProject, yaml: string) {
    this.server = server;
    this.project = project;
    this.yaml = yaml;
  }

  static async create(server: RunningServer, config: Record<string, unknown>): Promise<Scenes> {
    const project = await EngineProject.create();
    await project.configure(
      {
        provider: "s3",
        endpoint: server.endpoint,
        secureUrls: false,
        origins: ["https://authentik.company"],
        ...config,
      },
      SECRETS,
    );
    return new Scenes(server, project, await readFile(join(project.dir, "Pulumi.yaml"), "utf8"));
  }

  get options(): { workDir: string; envVars: Record<string, string>; timeoutMs: number } {
    return { workDir: this.project.dir, envVars: this.project.env, timeoutMs: TIMEOUT_MS };
  }

  /** The plan with other values, which are then set back. */
  async changed(
    name: PlanName,
    values: Record<string, unknown>,
    back: Record<string, unknown>,
  ): Promise<void> {
    await this.project.configure(values);
    await this.plan(name);
    await this.project.configure(back);
  }

  async plan(name: PlanName, ...args: string[]): Promise<void> {
    const run = await runEngine("preview", STACK, args, this.options);
    const about = { deletionAllowed: false, operation: "preview" } as const;
    this.reports.set(name, await reportOnRun(STACK, run, completePlan(run), about));
    await this.record(name, ...args);
  }

  /** The plan of another program for the same stack. */
  async program(name: PlanName, program: keyof typeof PROGRAMS): Promise<void> {
    const main = join(this.project.dir, program);
    await mkdir(main, { recursive: true });
    // A stored handler is an import of package.json, which has to be in the program's folder.
    const { imports } = v.parse(Package, JSON.parse(await readFile("package.json", "utf8")));
    for (const folder of ["node_modules", "providers"]) {
      await symlink(join(REPOSITORY, folder), join(main, folder));
    }
    const content = { name: program, type: "module", main: "index.ts", imports };
    await writeFile(join(main, "package.json"), JSON.stringify(content));
    await writeFile(join(main, "index.ts"), PROGRAMS[program]);
    await this.project.setMain(main);
    await this.plan(name);
    await writeFile(join(this.project.dir, "Pulumi.yaml"), this.yaml);
  }

  async drift(name: PlanName): Promise<Drift> {
    const drift = await checkDrift(STACK, this.options);
    if (drift.kind !== "none") this.reports.set(name, drift.report);
    await this.record(name, "--refresh", "--expect-no-changes");
    return drift;
  }

  private async record(name: PlanName, ...args: string[]): Promise<void> {
    if (!process.env.UPDATE_PLANS) return;
    process.env.PULUMI_ENABLE_STREAMING_JSON_PREVIEW = "true";
    await recordPlan(
      name,
      await this.project.run("preview", "--json", "--color", "never", ...args),
      this.server.endpoint,
    );
  }
}

(pulumi ? describe : describe.skip)("plans of the real Pulumi engine", function () {
  this.timeout(480_000);
  this.slow(20_000);
  let server: RunningServer;
  let s3: S3Client;
  let kept: Scenes;
  let open: Scenes;
  let moved: Scenes;
  const deployments: Deployment[] = [];
  /** A deployment of a stack whose config changes between its plan and its update. */
  let overtaken: Deployment;
  let originsAfter: string[] | undefined;
  const drifts: Drift[] = [];
  let unreachable: Drift;
  let previewed: PlanReport;
  /**
   * Reports on a renamed bucket, while keys of the environment are parts of the engine's output.
   */
  const redacted: PlanReport[] = [];

  before(async () => {
    server = await startTestServer();
    s3 = rootClient(server);
    [kept, open, moved] = await Promise.all([
      Scenes.create(server, {}),
      Scenes.create(server, { bucketName: "open-media", protect: false }),
      Scenes.create(server, { bucketName: "old-media" }),
    ]);
    await Promise.all([planProtected(), planOpen(), replaceFilled()]);
  });
  after(async () => {
    s3.destroy();
    await server.stop();
    await Promise.all([kept, open, moved].map(({ project }) => project.remove()));
  });

  async function planProtected(): Promise<void> {
    const { project } = kept;
    await kept.plan("created");
    await project.expectOk("up", "--yes", "--skip-preview");
    const origins = ["https://authentik.company"];
    await kept.changed(
      "origin",
      { origins: ["https://new.company", "https://auth.company"] },
      { origins },
    );
    await kept.changed("bad config", { origins: ["https://a.company/"] }, { origins });
    await kept.changed(
      "protected, renamed",
      { bucketName: "other-media" },
      { bucketName: undefined },
    );
    await kept.changed(
      "unprotected and renamed",
      { protect: false, bucketName: "other-media" },
      { protect: undefined, bucketName: undefined },
    );
    await kept.changed("protection off", { protect: false }, { protect: undefined });
    await kept.program("protected, removed", "empty");
    await project.configure({ origins: ["https://b.company"] });
    const file = join(project.dir, `Pulumi.${STACK}.yaml`);
    const before = await readFile(file, "utf8");
    overtaken = await deploy(STACK, {
      ...kept.options,
      deletionAllowed: true,
      progress: (step) => {
        if (!step.startsWith("pulumi up")) return;
        writeFileSync(file, before.replaceAll("https://b.company", "https://late.company"));
      },
    });
    await project.configure({ origins });
    const { CORSRules } = await s3.send(new GetBucketCorsCommand({ Bucket: "authentik-media" }));
    originsAfter = CORSRules?.[0]?.AllowedOrigins;
    const pack = join(project.dir, "policy");
    await mkdir(pack);
    await symlink(join(REPOSITORY, "node_modules"), join(pack, "node_modules"));
    await writeFile(join(pack, "PulumiPolicy.yaml"), "runtime: nodejs\n");
    await writeFile(
      join(pack, "package.json"),
      JSON.stringify({ name: "test", version: "0.0.1", main: "index.cjs" }),
    );
    await writeFile(join(pack, "index.cjs"), PACK);
    previewed = await preview(STACK, {
      ...kept.options,
      deletionAllowed: false,
      commit: "0123456789",
    });
    await kept.plan("policy violated", "--policy-pack", pack);
    await project.configure({}, { secretKey: NEW_SECRET });
    await kept.plan("secret key");
  }

  async function planOpen(): Promise<void> {
    const { project } = open;
    await project.expectOk("up", "--yes", "--skip-preview");
    await project.configure({ bucketName: "other-media" });
    for (const AWS_ACCESS_KEY_ID of ["authentik-storage", "S3Bucket", "resourcePreEvent"]) {
      redacted.push(
        await preview(STACK, {
          ...open.options,
          envVars: { ...project.env, AWS_ACCESS_KEY_ID },
          deletionAllowed: false,
        }),
      );
    }
    await project.configure({ bucketName: "open-media" });
    drifts.push(await open.drift("unchanged"));
    await open.plan("unchanged");
    await open.changed("renamed", { bucketName: "other-media" }, { bucketName: "open-media" });
    await open.changed("forceDestroy on", { forceDestroy: true }, { forceDestroy: undefined });
    await open.changed(
      "other endpoint",
      { endpoint: server.endpoint.replace("127.0.0.1", "localhost") },
      { endpoint: server.endpoint },
    );
    await open.program("removed", "empty");
    await open.program("component renamed", "other");
    const types = "authentik-storage:s3:S3Storage$pulumi-nodejs:dynamic/authentik-storage:S3Bucket";
    const urn = `urn:pulumi:${STACK}::authentik-storage::${types}::authentik-bucket`;
    await open.plan("target replaced", "--target-replace", urn);
    const rule = { AllowedOrigins: ["*"], AllowedMethods: ["GET", "PUT"] };
    await s3.send(
      new PutBucketCorsCommand({ Bucket: "open-media", CORSConfiguration: { CORSRules: [rule] } }),
    );
    drifts.push(await open.drift("CORS policy changed by hand"));
    await s3.send(new DeleteBucketCommand({ Bucket: "open-media" }));
    drifts.push(await open.drift("bucket deleted by hand"));
    unreachable = await checkDrift(STACK, {
      ...open.options,
      envVars: { ...project.env, PULUMI_CONFIG_PASSPHRASE: "wrong" },
    });
  }

  /**
   * One change removes the protection and the name of a bucket, and Pulumi carries it out. The
   * bucket is not empty, so the replacement fails until it is emptied.
   */
  async function replaceFilled(): Promise<void> {
    const { project } = moved;
    const options = { ...moved.options, deletionAllowed: true, progress: () => undefined };
    await project.expectOk("up", "--yes", "--skip-preview");
    await s3.send(
      new PutObjectCommand({ Bucket: "old-media", Key: "media/public/a.png", Body: "a" }),
    );
    await project.configure({ protect: false, bucketName: "new-media" });
    deployments.push(await deploy(STACK, options));
    await s3.send(new DeleteObjectCommand({ Bucket: "old-media", Key: "media/public/a.png" }));
    deployments.push(
      await deploy(STACK, { ...options, deletionAllowed: false }),
      await deploy(STACK, options),
    );
  }

  // A bucket is left over only by a replacement of an earlier version, so these plans stay as recorded.
  const ofEarlierVersions = ["left over", "left over, and renamed"];
  for (const name of PLAN_NAMES.filter((name) => !ofEarlierVersions.includes(name))) {
    it(`are understood: ${name}`, () => {
      const report = [kept, open, moved].flatMap(({ reports }) => reports.get(name) ?? [])[0];
      if (!report) throw new Error(`there is no plan "${name}"`);
      EXPECTED[name](report);
    });
  }

  it("run the project's policy pack in a preview", () => {
    EXPECTED["policy violated"](previewed);
    expect(renderMarkdown(previewed))
      .to.contain("a policy is violated")
      .and.to.contain("https://authentik.company");
  });

  it("are carried out when the protection ends in the same change, as the preview says", async () => {
    const [first, notAllowed, last] = deployments;
    expect(first?.plan).to.include({ ok: true, failure: undefined });
    expect(first && renderMarkdown(first.plan))
      .to.contain('"old-media"')
      .and.not.to.contain("is protected");
    expect(first?.update).to.have.property("ok", false);
    expect(first?.update && renderText(first.update, { color: false }))
      .to.match(/^Deploy of test: failed\nPulumi could not finish the update. /)
      .and.to.match(/not empty|BucketNotEmpty/)
      .and.not.to.match(/preview/i);
    expect(notAllowed).to.have.nested.property("plan.ok", false);
    expect(last).to.have.nested.property("update.ok", true);
    const names = (await s3.send(new ListBucketsCommand({}))).Buckets?.map(({ Name }) => Name);
    expect(names).to.include("new-media").and.not.to.include("old-media");
  });

  it("are carried out only as they were checked", () => {
    expect(overtaken.plan).to.have.property("ok", true);
    expect(overtaken.update).to.have.property("ok", false);
    const text = overtaken.update ? renderText(overtaken.update, { color: false }) : "";
    expect(text).to.contain("something has changed since it was made");
    expect(text).not.to.contain("late.company");
    expect(originsAfter).to.deep.equal(["https://authentik.company"]);
  });

  it("are checked in the same way with every secret in the environment", () => {
    for (const { ok, atRisk } of redacted) {
      expect({ ok, risks: atRisk.map(({ risk }) => risk) }).to.deep.equal({
        ok: false,
        risks: ["replaced"],
      });
    }
    expect(redacted).to.have.length(3);
    expect(redacted[0] && renderMarkdown(redacted[0])).not.to.contain("authentik-storage");
  });

  it("distinguish drift from no drift", () => {
    expect(drifts.map(({ kind }) => kind)).to.deep.equal(["none", "drift", "drift"]);
  });

  it("report an error when the check cannot run, and never no drift", () => {
    expect(unreachable.kind).to.equal("error");
    expect(
      unreachable.kind === "error" && renderText(unreachable.report, { color: false }),
    ).to.contain("incorrect passphrase");
  });

  it("show no secret, whatever changes and whatever fails", () => {
    const reports = [
      ...[kept, open, moved].flatMap((scenes) => [...scenes.reports.values()]),
      previewed,
      ...deployments.flatMap(({ plan, update }) => update ?? plan),
    ];
    const shown = reports
      .flatMap((report) => [
        renderMarkdown(report),
        renderText(report, { color: false }),
        JSON.stringify(report),
      ])
      .join("\n");
    expect(shown).to.contain("authentik-cors");
    for (const secret of [...Object.values(SECRETS), NEW_SECRET])
      expect(shown.includes(secret), secret).to.equal(false);
  });

  it("stop at the time limit", async () => {
    const start = performance.now();
    const report = await preview(STACK, {
      ...kept.options,
      deletionAllowed: false,
      timeoutMs: 1000,
    });
    expect(report).to.have.property("failure").that.contains("did not end within 1 s");
    expect(performance.now() - start).to.be.lessThan(12_000);
  });

  it("stop with the command", async () => {
    const controller = new AbortController();
    setTimeout(() => {
      controller.abort();
    }, 300);
    const report = await preview(STACK, {
      ...kept.options,
      deletionAllowed: false,
      signal: controller.signal,
    });
    expect(report).to.have.property("failure").that.contains("stopped");
  });
});
