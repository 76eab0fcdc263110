/**
 * The guard of files on plans of the clouds' own plugins, and their deployment by a saved plan. It
 * needs the plugins, and an API for them: `AWS_ENDPOINT_URL` (e.g. of moto) or `CLOUDFLARE_BASE_URL`.
 */
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { deploy } from "../tools/preview/deploy.ts";
import { renderText } from "../tools/preview/render.ts";
import { preview } from "../tools/preview/preview.ts";
import { EngineProject, pulumi, REPOSITORY, STACK } from "./support/engine.ts";

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
  config: Record<string, unknown>;
  /** Inputs by type that ask for the label, and those that do not. */
  emptied: Record<string, object>;
  harmless: Record<string, object>;
}

const rule = { id: "clean-up", status: "Enabled", filter: { prefix: "" } };
const CLOUDS: Record<string, Cloud> = {
  aws: {
    isHere: process.env.AWS_ENDPOINT_URL !== undefined,
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
    isHere: process.env.CLOUDFLARE_BASE_URL !== undefined,
    config: {
      provider: "r2",
      accountId: "0123456789abcdef".repeat(2),
      bucketName: "authentik-media",
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

for (const [name, { isHere, config, emptied, harmless }] of Object.entries(CLOUDS)) {
  (pulumi && isHere ? describe : describe.skip)(`plans of the plugin of ${name}`, function () {
    this.timeout(400_000);
    let project: EngineProject;
    before(async () => {
      project = await EngineProject.create();
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
      await project.run("destroy", "--yes", "--skip-preview");
      await project.remove();
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
