/**
 * The guard of files on plans of the clouds' own plugins, and their deployment by a saved plan. It
 * needs the plugins, and moto for AWS.
 */
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { deploy } from "../tools/preview/deploy.ts";
import { renderText } from "../tools/preview/render.ts";
import { preview } from "../tools/preview/preview.ts";
import { canFakeAws, startAws, type FakeAws } from "./support/aws.ts";
import { ACCOUNT, startCloudflare, type FakeCloudflare } from "./support/cloudflare.ts";
import { EngineProject, hasPlugin, pulumi, REPOSITORY, STACK } from "./support/engine.ts";

/** The project's program, with other inputs of one type of resources. */
const PROGRAM = `
  import { runtime } from "@pulumi/pulumi";
  const { type, inputs } = JSON.parse(process.env.CHANGED_INPUTS ?? "{}");
  runtime.registerStackTransformation((resource) =>
    resource.type === type
      ? { props: { ...resource.props, ...inputs }, opts: resource.opts }
      : undefined);
  const { readStackConfig } = await import(${JSON.stringify(join(REPOSITORY, "config/stack.ts"))});
  const { chooseProvider } = await import(${JSON.stringify(join(REPOSITORY, "providers/index.ts"))});
  (await chooseProvider(readStackConfig())).provision("authentik");`;

interface Cloud {
  isHere: boolean;
  start: () => Promise<FakeAws | FakeCloudflare>;
  config: Record<string, unknown>;
  /** Inputs by type that ask for the label, and those that do not. */
  emptied: Record<string, object>;
  harmless: Record<string, object>;
}

const rule = { id: "clean-up", status: "Enabled", filter: { prefix: "" } };
const CLOUDS: Record<string, Cloud> = {
  aws: {
    isHere: canFakeAws,
    start: startAws,
    config: { provider: "aws", region: "eu-central-1" },
    emptied: {
      "aws:s3/bucket:Bucket": { forceDestroy: true },
      "aws:s3/bucketVersioning:BucketVersioning": {
        versioningConfiguration: { status: "Suspended" },
      },
      "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": {
        rules: [{ ...rule, expiration: { days: 30 } }],
      },
    },
    harmless: {
      "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": {
        rules: [{ ...rule, noncurrentVersionExpiration: { noncurrentDays: 60 } }],
      },
    },
  },
  r2: {
    isHere: await hasPlugin("cloudflare"),
    // Only a bucket that is adopted has lifecycle rules in the stack.
    start: async () => {
      const fake = await startCloudflare();
      fake.put("default/media");
      return fake;
    },
    config: {
      provider: "r2",
      accountId: ACCOUNT,
      bucketName: "media",
      adopt: true,
    },
    emptied: {
      "cloudflare:index/r2BucketLifecycle:R2BucketLifecycle": {
        rules: [
          {
            id: "expire",
            enabled: true,
            conditions: { prefix: "" },
            deleteObjectsTransition: { condition: { type: "Age", maxAge: 86_400 } },
          },
        ],
      },
    },
    harmless: {},
  },
};

for (const [name, { isHere, start, config, emptied, harmless }] of Object.entries(CLOUDS)) {
  (pulumi && isHere ? describe : describe.skip)(`plans of the plugin of ${name}`, function () {
    this.timeout(400_000);
    let fake: FakeAws | FakeCloudflare;
    let project: EngineProject;
    before(async () => {
      fake = await start();
      project = await EngineProject.create();
      Object.assign(project.env, fake.env);
      const main = join(project.dir, "changed");
      await mkdir(main);
      for (const folder of ["node_modules", "providers"]) {
        await symlink(join(REPOSITORY, folder), join(main, folder));
      }
      await writeFile(join(main, "package.json"), '{ "type": "module", "main": "index.ts" }');
      await writeFile(join(main, "index.ts"), PROGRAM);
      await project.setMain(main);
      await project.configure({
        ...config,
        protect: false,
        origins: ["https://authentik.company"],
      });
    });
    after(async () => {
      await project.remove();
      await fake.stop();
    });

    const options = (type?: string, inputs?: object) => ({
      workDir: project.dir,
      envVars: { ...project.env, CHANGED_INPUTS: JSON.stringify({ type, inputs }) },
      timeoutMs: 120_000,
      deletionAllowed: false,
      progress: () => undefined,
    });

    it("are carried out as they were saved, also the first one and a new key", async () => {
      for (const keyGeneration of [1, 2]) {
        await project.configure({ keyGeneration });
        const { plan, update } = await deploy(STACK, options());
        const shown = renderText(update ?? plan, { color: false });
        expect(update, shown).to.have.property("ok", true);
      }
    });

    it("need the label when they would delete files or keep them for a shorter time", async () => {
      for (const [type, inputs] of Object.entries(emptied)) {
        const report = await preview(STACK, options(type, inputs));
        expect(report.atRisk.map(({ type, risk }) => ({ type, risk }))).to.deep.equal([
          { type, risk: "emptied" },
        ]);
        expect(report.ok).to.equal(false);
      }
      for (const [type, inputs] of Object.entries(harmless)) {
        const report = await preview(STACK, options(type, inputs));
        expect(report, renderText(report, { color: false })).to.have.property("ok", true);
      }
    });
  });
}
