/** `verify` against real servers: one that is right, and one for each thing that can be wrong. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { S3Client, CreateBucketCommand, PutBucketCorsCommand, PutBucketPolicyCommand, ListObjectsV2Command, ListMultipartUploadsCommand } from "@aws-sdk/client-s3";
import { expect } from "chai";
import { authentikPolicy } from "../authentik/permissions.ts";
import { parseRelease } from "../authentik/release.ts";
import { findVersitygw, startVersitygw, type RunningServer } from "../local/versitygw.ts";
import { isWell, verify, type Target } from "../verify/index.ts";

const ROOT = { accessKey: "root-key", secretKey: "root-secret" };
const USER = { accessKey: "authentik", secretKey: "authentik-secret" };
const ORIGIN = "https://authentik.company";

describe("verify", function () {
  this.timeout(30_000);
  let server: RunningServer;
  let dir: string;
  let admin: S3Client;

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "verify-"));
    server = await startVersitygw({ versitygw: await findVersitygw(".local/bin"), dataDir: join(dir, "data"), iamDir: join(dir, "iam"), root: ROOT, users: [USER] });
    admin = new S3Client({ endpoint: server.endpoint, region: "us-east-1", forcePathStyle: true, credentials: { accessKeyId: ROOT.accessKey, secretAccessKey: ROOT.secretKey } });
    const Bucket = "authentik-media";
    await admin.send(new CreateBucketCommand({ Bucket, ACL: "private", ObjectOwnership: "BucketOwnerPreferred" }));
    await admin.send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [{ AllowedOrigins: [ORIGIN], AllowedMethods: ["GET"], AllowedHeaders: ["Authorization"], MaxAgeSeconds: 3000 }] } }));
    await admin.send(new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(authentikPolicy(`arn:aws:s3:::${Bucket}`, [USER.accessKey])) }));
  });
  after(async () => {
    admin.destroy();
    await server.stop();
    await rm(dir, { recursive: true });
  });

  function target(): Target {
    return {
      settings: {
        bucketName: "authentik-media", region: "us-east-1", endpoint: server.endpoint, ...USER, secureUrls: false,
        customDomain: `${new URL(server.endpoint).host}/authentik-media`,
      },
      origins: [ORIGIN],
      release: parseRelease("2025.12"),
      keyIsAdmin: false,
    };
  }

  it("finds nothing wrong with a bucket made by the program", async () => {
    const results = await verify(target());
    expect(isWell(results)).to.equal(true);
    const { Contents } = await admin.send(new ListObjectsV2Command({ Bucket: "authentik-media" }));
    expect(Contents).to.equal(undefined);
    const { Uploads = [] } = await admin.send(new ListMultipartUploadsCommand({ Bucket: "authentik-media" }));
    expect(Uploads).to.deep.equal([]);
  });
});
