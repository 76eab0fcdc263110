import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import {
  DeleteBucketCommand,
  DeleteObjectCommand,
  GetBucketCorsCommand,
  HeadBucketCommand,
  PutBucketCorsCommand,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { Checkout } from "./support/checkout.ts";
import { EngineProject, pulumi, REPOSITORY } from "./support/engine.ts";
import { startFaultProxy } from "./support/fault-proxy.ts";
import { AUTHENTIK, ROOT, rootClient, startTestServer } from "./support/server.ts";

const Bucket = "authentik-media";
const SECRETS = {
  accessKey: AUTHENTIK.accessKey,
  secretKey: AUTHENTIK.secretKey,
  adminAccessKey: ROOT.accessKey,
  adminSecretKey: ROOT.secretKey,
};

(pulumi ? describe : describe.skip)("the program on the real Pulumi engine", function () {
  this.timeout(180_000);
  this.slow(20_000);
  let server: RunningServer;
  let s3: S3Client;
  let project: EngineProject;

  before(async () => {
    server = await startTestServer();
    s3 = rootClient(server);
    project = await EngineProject.create();
  });
  after(async () => {
    s3.destroy();
    await server.stop();
    await project.remove();
  });

  const origins = async () =>
    (await s3.send(new GetBucketCorsCommand({ Bucket }))).CORSRules?.[0]?.AllowedOrigins;

  it("refuses a bad config with all its problems, and no stack trace", async () => {
    await project.configure({
      provider: "s3",
      endpoint: "s3.provider",
      origins: ["https://a.company/"],
      bucketname: "x",
    });
    const text = await project.expectFailure("preview");
    for (const key of ["endpoint", "origins[0]", "bucketname", "accessKey", "secretKey"])
      expect(text).to.contain(`  ${key} `);
    expect(text).not.to.match(/\n\s+at /);
    await project.configure({ bucketname: undefined });
  });

  it("completes what was interrupted between bucket and CORS policy", async () => {
    let isCut = true;
    const proxy = await startFaultProxy(server.endpoint, ({ path }) =>
      isCut && path.includes("?cors") ? "reset" : undefined,
    );
    const other = await EngineProject.create();
    try {
      const values = {
        provider: "s3",
        endpoint: proxy.endpoint,
        bucketName: "cut-off",
        secureUrls: false,
        origins: ["https://authentik.company"],
      };
      await other.configure(values, SECRETS);
      // What the config says is known before anything exists.
      expect(await other.expectOk("preview")).to.match(/ bucket +: "cut-off"/);
      expect((await other.run("up", "--yes", "--skip-preview")).text).to.match(
        /could not put the CORS policy.*ECONNRESET/,
      );
      isCut = false;
      await other.expectOk("up", "--yes", "--skip-preview");
      expect(
        (await s3.send(new GetBucketCorsCommand({ Bucket: "cut-off" }))).CORSRules,
      ).to.have.length(1);
    } finally {
      await other.remove();
      await proxy.stop();
    }
  });

  it("creates bucket, CORS policy and bucket policy, and exports authentik's values", async () => {
    const values = {
      endpoint: server.endpoint,
      secureUrls: false,
      origins: ["https://authentik.company"],
    };
    await project.configure(values, { ...SECRETS, policyPrincipal: AUTHENTIK.accessKey });
    const plan = await project.plan();
    expect(Object.values(plan)).to.deep.equal(["create", "create", "create", "create", "create"]);
    await project.expectOk("up", "--yes", "--skip-preview");
    expect(await origins()).to.deep.equal(["https://authentik.company"]);
    const outputs: unknown = JSON.parse(
      await project.expectOk("stack", "output", "--show-secrets", "--json"),
    );
    const customDomain = `${new URL(server.endpoint).host}/${Bucket}`;
    expect(outputs).to.deep.equal({
      provider: "s3",
      bucket: Bucket,
      region: "us-east-1",
      endpoint: server.endpoint,
      secureUrls: false,
      customDomain,
      origins: ["https://authentik.company"],
      env: {
        AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3",
        AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME: Bucket,
        AUTHENTIK_STORAGE__MEDIA__S3__ENDPOINT: server.endpoint,
        AUTHENTIK_STORAGE__MEDIA__S3__ACCESS_KEY: AUTHENTIK.accessKey,
        AUTHENTIK_STORAGE__MEDIA__S3__SECRET_KEY: AUTHENTIK.secretKey,
        AUTHENTIK_STORAGE__MEDIA__S3__CUSTOM_DOMAIN: customDomain,
        AUTHENTIK_STORAGE__MEDIA__S3__SECURE_URLS: "false",
      },
    });
  });

  it("changes nothing when nothing has changed, a refresh included", async () => {
    await project.expectOk("up", "--yes", "--expect-no-changes", "--refresh");
  });

  it("shows a changed origin as one update, and does it", async () => {
    await project.configure({ origins: ["https://auth.company"] });
    expect(await project.plan()).to.deep.equal({ "authentik-cors": "update" });
    expect(await project.expectOk("preview", "--diff")).to.contain(
      '~ [0]: "https://authentik.company" => "https://auth.company"',
    );
    await project.expectOk("up", "--yes", "--skip-preview");
    expect(await origins()).to.deep.equal(["https://auth.company"]);
  });

  it("does not replace a protected bucket under another name", async () => {
    await project.configure({ bucketName: "other-media" });
    const text = await project.expectFailure("up", "--yes", "--skip-preview");
    expect(text).to.match(/protect/);
    await project.configure({ bucketName: undefined });
  });

  it("repairs a CORS policy that somebody else changed", async () => {
    const rule = { AllowedOrigins: ["*"], AllowedMethods: ["GET"] };
    await s3.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [rule] } }));
    await project.expectFailure("preview", "--refresh", "--expect-no-changes");
    await project.expectOk("up", "--yes", "--skip-preview", "--refresh");
    expect(await origins()).to.deep.equal(["https://auth.company"]);
  });

  it("creates a bucket again that somebody else deleted", async () => {
    await s3.send(new DeleteBucketCommand({ Bucket }));
    await project.expectOk("up", "--yes", "--skip-preview", "--refresh");
    expect(await origins()).to.deep.equal(["https://auth.company"]);
  });

  it("says what to do about a refresh with keys that are no longer valid", async () => {
    const proper = ROOT.secretKey;
    await project.configure({}, { adminSecretKey: "no-longer-valid" });
    // A change without a call to the server stores the new keys.
    await project.configure({ adopt: true });
    await project.expectOk("up", "--yes", "--skip-preview");
    const text = await project.expectFailure("refresh", "--yes", "--skip-preview");
    expect(text).to.contain("credentials of the last pulumi up");
    await project.configure({}, { adminSecretKey: proper });
    await project.expectOk("up", "--yes", "--skip-preview");
    await project.expectOk("refresh", "--yes", "--skip-preview");
  });

  it("destroys nothing while the bucket is protected", async () => {
    const text = await project.expectFailure("destroy", "--yes", "--skip-preview");
    expect(text).to.match(/protect/);
    expect(await origins()).to.deep.equal(["https://auth.company"]);
  });

  it("destroys nothing while the bucket has objects", async () => {
    await project.configure({ protect: false });
    await project.expectOk("up", "--yes", "--skip-preview");
    await s3.send(new PutObjectCommand({ Bucket, Key: "media/public/a", Body: "x" }));
    const text = await project.expectFailure("destroy", "--yes", "--skip-preview");
    expect(text).to.match(/not empty.*forceDestroy: true/);
    expect(await origins()).to.deep.equal(["https://auth.company"]);
    await s3.send(new DeleteObjectCommand({ Bucket, Key: "media/public/a" }));
    await project.expectOk("up", "--yes", "--skip-preview");
  });

  it("destroys an empty bucket that is not protected", async () => {
    await project.expectOk("destroy", "--yes", "--skip-preview");
    const gone: unknown = await s3
      .send(new HeadBucketCommand({ Bucket }))
      .catch((error: unknown) => error);
    expect(gone).to.be.instanceOf(Error).and.have.property("name", "NotFound");
  });

  it("has left no secret in state, config, history or output", async () => {
    const everything = `${await project.stored()}\n${project.written}`;
    expect(everything).to.contain("authentik-cors");
    for (const secret of Object.values(SECRETS))
      expect(everything.includes(secret), secret).to.equal(false);
  });

  it("refuses an older Pulumi before it creates anything", async () => {
    const checkout = await Checkout.create();
    const other = await EngineProject.create({ repository: checkout.dir });
    try {
      const file = join(checkout.dir, "program/index.js");
      await writeFile(file, (await readFile(file, "utf8")).replace(">=3.208.0", ">=99.0.0"));
      await other.configure({ provider: "s3" });
      const text = await other.expectFailure("preview");
      expect(text).to.contain("99.0.0").and.not.to.contain("authentik-bucket");
    } finally {
      await other.remove();
      await checkout.remove();
    }
  });

  it("is a component that another program can import", async () => {
    const other = await EngineProject.create({ name: "other-program", main: "program" });
    try {
      const main = join(other.dir, "program");
      await mkdir(main);
      await symlink(join(REPOSITORY, "node_modules"), join(main, "node_modules"));
      await symlink(REPOSITORY, join(main, "authentik-storage"));
      const program = { name: "other-program", type: "module", main: "index.ts" };
      await writeFile(join(main, "package.json"), JSON.stringify(program));
      await writeFile(
        join(main, "index.ts"),
        `
        import { Config } from "@pulumi/pulumi/config.js";
        import { output } from "@pulumi/pulumi/output.js";
        import { S3Storage } from "./authentik-storage/providers/s3/index.ts";
        const config = new Config();
        const storage = new S3Storage("files", {
          endpoint: config.require("server"),
          bucketName: "others-media",
          origins: ["https://authentik.company"],
          customDomain: "media.company/others-media",
          adminCredentials: output({
            accessKey: config.requireSecret("rootKey"),
            secretKey: config.requireSecret("rootSecret"),
          }),
        });
        export const bucket = storage.bucketName;
      `,
      );
      await other.configure(
        { server: server.endpoint },
        { rootKey: ROOT.accessKey, rootSecret: ROOT.secretKey },
      );

      const text = await other.expectFailure("preview");
      const entry = /"(#[a-z-]+)": "authentik-storage(\/[a-z0-9/-]+\.cjs)"/.exec(text);
      if (!entry?.[1]) throw new Error(`the error does not say which import to add:\n${text}`);
      expect(text).not.to.match(/\n\s+at /);

      const imports = { [entry[1]]: `./authentik-storage${entry[2]}` };
      await writeFile(join(main, "package.json"), JSON.stringify({ ...program, imports }));
      await other.expectOk("up", "--yes", "--skip-preview");
      expect(await other.expectOk("stack", "output", "bucket")).to.contain("others-media");
      await other.expectOk("up", "--yes", "--expect-no-changes", "--refresh");
      expect((await other.stored()).includes(ROOT.secretKey)).to.equal(false);
    } finally {
      await other.remove();
    }
  });
});
