import { expect } from "chai";
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  ListBucketsCommand,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  PutObjectLegalHoldCommand,
  PutObjectRetentionCommand,
  type ObjectVersion,
  type S3Client,
} from "@aws-sdk/client-s3";
import * as operations from "../providers/s3/operations.ts";
import {
  failureOf,
  problemsOf,
  repairStoredTypes,
  settingsOf,
  temporaryFolder,
} from "./support/migration.ts";
import { moto, startMoto, type Moto } from "./support/moto.ts";
import { ROOT, rootClient } from "./support/server.ts";

const PAGE = 10;

(moto ? describe : describe.skip)("versions, on a server with AWS's semantics (moto)", function () {
  this.timeout(30_000);
  let server: Moto;
  let s3: S3Client;
  before(async () => {
    server = await startMoto({ MOTO_S3_DEFAULT_MAX_KEYS: String(PAGE) });
    s3 = rootClient({ endpoint: server.url });
  });
  after(async () => {
    s3.destroy();
    await server.stop();
  });

  const put = (Bucket: string, Key: string) =>
    s3.send(new PutObjectCommand({ Bucket, Key, Body: "x" }));
  const enableVersions = (Bucket: string) =>
    s3.send(
      new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: "Enabled" } }),
    );
  const versionsOf = async (Bucket: string): Promise<ObjectVersion[]> =>
    (await s3.send(new ListObjectVersionsCommand({ Bucket }))).Versions ?? [];
  const destroy = (bucket: string, forceDestroy: boolean) =>
    operations.bucket.delete(bucket, {
      endpoint: server.url,
      bucket,
      credentials: ROOT,
      forceDestroy,
    });

  it("a bucket is emptied of versions of before versioning, and of delete markers", async () => {
    const Bucket = "many-versions";
    await s3.send(new CreateBucketCommand({ Bucket }));
    await put(Bucket, "first");
    await put(Bucket, "hidden");
    await enableVersions(Bucket);
    for (let count = 0; count < 2 * PAGE; count++) await put(Bucket, "first");
    for (const Key of ["hidden", "hidden", "never-there"]) {
      await s3.send(new DeleteObjectCommand({ Bucket, Key }));
    }
    expect(await failureOf(destroy(Bucket, false))).to.match(/not empty.*forceDestroy: true/);
    await destroy(Bucket, true);
    const { Buckets = [] } = await s3.send(new ListBucketsCommand({}));
    expect(Buckets.map(({ Name }) => Name)).not.to.include(Bucket);
  });

  it("a bucket is not emptied of versions under retention or a legal hold", async () => {
    const Bucket = "held-versions";
    await s3.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: true }));
    for (const Key of ["free", "held", "retained"]) await put(Bucket, Key);
    const LegalHold = { Status: "ON" } as const;
    await s3.send(new PutObjectLegalHoldCommand({ Bucket, Key: "held", LegalHold }));
    const RetainUntilDate = new Date(Date.now() + 86_400_000);
    const Retention = { Mode: "COMPLIANCE", RetainUntilDate } as const;
    await s3.send(new PutObjectRetentionCommand({ Bucket, Key: "retained", Retention }));
    await s3.send(new DeleteObjectCommand({ Bucket, Key: "retained" }));
    expect(await failureOf(destroy(Bucket, true))).to.match(
      /refuses to delete 2 entries: "held" \(\S+\), "retained" \(\S+\)\. .*legal hold.*HTTP 403/,
    );
    expect((await versionsOf(Bucket)).map(({ Key }) => Key)).to.deep.equal(["held", "retained"]);
  });

  it("a repair of types keeps the old version, and changes no noncurrent one", async () => {
    const Bucket = "typed-versions";
    await s3.send(new CreateBucketCommand({ Bucket }));
    await put(Bucket, "media/public/x.svg");
    await enableVersions(Bucket);
    await put(Bucket, "media/public/deleted.svg");
    await s3.send(new DeleteObjectCommand({ Bucket, Key: "media/public/deleted.svg" }));
    const bucket = settingsOf(server.url, { bucketName: Bucket });
    const repairAll = () => repairStoredTypes(bucket, { state: temporaryFolder() });
    const summary = await repairAll();
    expect(problemsOf(summary)).to.deep.equal([]);
    expect(summary.copied.files).to.equal(1);
    expect((await repairAll()).plan.same.files).to.equal(1);
    const versions = await versionsOf(Bucket);
    expect(versions.map(({ Key, IsLatest }) => [Key, IsLatest])).to.deep.equal([
      ["media/public/deleted.svg", false],
      ["media/public/x.svg", true],
      ["media/public/x.svg", false],
    ]);
    expect(versions.at(-1)?.VersionId).to.equal("null");
  });
});
