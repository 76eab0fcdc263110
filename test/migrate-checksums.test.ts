import { randomBytes } from "node:crypto";
import { rmSync, writeFileSync } from "node:fs";
import type { IncomingHttpHeaders } from "node:http";
import { join } from "node:path";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { S3Bucket, type Part } from "../tools/migrate/s3.ts";
import { IMPATIENT, readTree, run, startServer, writeTree, type TestServer } from "./support/migration.ts";
import { startProxy } from "./support/proxy.ts";

const MIB = 1024 * 1024;
const FIVE = 5 * MIB;

/** What servers do to the headers by which bytes are checked. */
const SERVERS: Readonly<Record<string, (headers: IncomingHttpHeaders) => void>> = {
  "has CRC-32s and MD5s": () => undefined,
  "has MD5s alone": (headers) => { delete headers["x-amz-checksum-crc32"]; },
  "encrypts with a key of KMS, so that ETags are no MD5s": (headers) => {
    delete headers["x-amz-checksum-crc32"];
    headers["x-amz-server-side-encryption"] = "aws:kms";
  },
};

describe("migrate: what contents are checked by", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  /** As other programs do: parts of any sizes. */
  async function putInParts(bucket: StorageSettings, key: string, sizes: readonly number[]): Promise<void> {
    const s3 = await S3Bucket.open(bucket, IMPATIENT);
    const uploadId = await s3.createUpload(key, "image/png");
    const parts: Part[] = [];
    for (const size of sizes) parts.push(await s3.uploadPart(key, uploadId, parts.length + 1, randomBytes(size)));
    await s3.completeUpload(key, uploadId, parts);
    await s3.close();
  }

  /** Counts reads and writes of objects' bytes. */
  async function counting<T>(bucket: StorageSettings, changeHeaders: (headers: IncomingHttpHeaders) => void, knowsParts: boolean, work: (bucket: StorageSettings, moved: string[]) => Promise<T>): Promise<T> {
    const moved: string[] = [];
    const proxy = await startProxy(server.endpoint, {
      changeHeaders,
      answer: ({ method = "", url = "" }) => {
        if (/^(?:PUT|GET) \/[^/]+\/./.test(`${method} ${url}`)) moved.push(`${method} ${url}`);
        return !knowsParts && method === "HEAD" && url.includes("partNumber=") ? { status: 400, body: "" } : undefined;
      },
    });
    try {
      return await work({ ...bucket, endpoint: `http://${proxy.host}` }, moved);
    } finally {
      await proxy.stop();
    }
  }

  for (const [name, changeHeaders] of Object.entries(SERVERS)) {
    for (const knowsParts of [true, false]) {
      it(`a server that ${name}${knowsParts ? "" : ", and tells no sizes of parts"}: all comes down, and nothing goes twice`, async () => {
        const { bucket, inBucket, folder, state } = server.fresh();
        await putInParts(bucket, "media/public/as-boto3.bin", [8 * MIB, MIB]);
        await putInParts(bucket, "media/public/other-size.bin", [10 * MIB, 2 * MIB]);
        await putInParts(bucket, "media/public/uneven.bin", [FIVE + MIB, FIVE, FIVE + 1]);
        await counting(bucket, changeHeaders, knowsParts, async (through, moved) => {
          const down = await run(through, folder, { state });
          expect(down.problems).to.deep.equal([]);
          expect(readTree(folder)).to.deep.equal(readTree(inBucket));
          moved.length = 0;
          const again = await run(through, folder, { state });
          expect(again.plan.same.files).to.equal(3);
          expect(moved).to.deep.equal([]);
          const upAgain = await run(folder, through, { state: join(folder, "..", "no-journal") });
          expect(upAgain.plan.same.files).to.equal(3);
          expect(moved.filter((line) => line.startsWith("PUT"))).to.deep.equal([]);
        });
      });

      it(`a server that ${name}${knowsParts ? "" : ", and tells no sizes of parts"}: another content of the same size is noticed`, async () => {
        const { bucket, inBucket, folder, state } = server.fresh();
        const large = randomBytes(9 * MIB);
        writeTree(folder, { "media/public/x.png": "old", "media/public/large.bin": large });
        await counting(bucket, changeHeaders, knowsParts, async (through) => {
          await run(folder, through, { state });
          large.writeUInt8(large.readUInt8() ^ 0xff);
          writeTree(folder, { "media/public/x.png": "new", "media/public/large.bin": large });
          expect((await run(folder, through, { state })).plan.update.files).to.equal(2);
          expect(readTree(inBucket)).to.deep.equal(readTree(folder));
        });
      });
    }
  }

  it("an object without an ETag: neither taken for another content, nor sent or fetched twice", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    // Put there beside the server, which then has no ETag of it.
    writeTree(inBucket, { "media/public/x.png": "content 1", "media/public/y.png": "y" });
    await run(bucket, folder, { state });
    expect(readTree(folder)).to.deep.equal(readTree(inBucket));
    expect((await run(bucket, folder, { state })).plan.same.files).to.equal(2);
    writeFileSync(join(inBucket, "media/public/x.png"), "content 2");
    expect((await run(bucket, folder, { state })).copied.files).to.equal(1);
    expect(readTree(folder)).to.deep.equal(readTree(inBucket));
    expect((await run(folder, bucket, { state })).plan.same.files).to.equal(2);
  });

  it("a server that takes no checksums", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x", "media/public/large.bin": randomBytes(9 * MIB) });
    const proxy = await startProxy(server.endpoint, {
      answer: ({ headers }) => (Object.keys(headers).some((name) => name.startsWith("x-amz-checksum")) ? { status: 501, body: "<Error><Code>NotImplemented</Code></Error>" } : undefined),
    });
    try {
      const through: StorageSettings = { ...bucket, endpoint: `http://${proxy.host}`, checksums: "when_required" };
      expect((await run(folder, through, { state })).problems).to.deep.equal([]);
      expect(readTree(inBucket)).to.deep.equal(readTree(folder));
      rmSync(folder, { recursive: true });
      expect((await run(through, folder, { state })).problems).to.deep.equal([]);
      expect(readTree(inBucket)).to.deep.equal(readTree(folder));
    } finally {
      await proxy.stop();
    }
  });
});
