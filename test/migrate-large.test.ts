import { randomBytes } from "node:crypto";
import { expect } from "chai";
import { Bucket } from "../tools/migrate/bucket.ts";
import { MemoryBudget } from "../tools/migrate/content.ts";
import { Journal } from "../tools/migrate/journal.ts";
import { S3Bucket, type Part } from "../tools/migrate/s3.ts";
import { startFaultProxy, type Fault, type ProxiedRequest } from "./support/fault-proxy.ts";
import { IMPATIENT, readTree, startServer, uploadsIn, type TestServer } from "./support/migration.ts";

const MIB = 1024 * 1024;
const SIZES = { whole: 8 * MIB, part: 5 * MIB };
const OLD = "public/x.png";
const NEW = "media/public/x.png";

describe("migrate: objects larger than one request copies", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  /** Puts a misplaced object in parts of these sizes, and mends it through a proxy. */
  async function mendInParts(sizes: readonly number[], choose: (request: ProxiedRequest) => Fault | undefined) {
    const { bucket: settings, inBucket, state } = server.fresh();
    const proxy = await startFaultProxy(server.endpoint, choose);
    const s3 = await S3Bucket.open({ ...settings, endpoint: proxy.endpoint }, IMPATIENT);
    const journal = new Journal(state, ["a", "b"]);
    try {
      const uploadId = await s3.createUpload(OLD, "binary/octet-stream");
      const parts: Part[] = [];
      for (const size of sizes) parts.push(await s3.uploadPart(OLD, uploadId, parts.length + 1, randomBytes(size)));
      const version = await s3.completeUpload(OLD, uploadId, parts);
      const bucket = await Bucket.open(s3, new MemoryBudget(), { readsMisplaced: false });
      bucket.useJournal(journal);
      const size = sizes.reduce((sum, part) => sum + part, 0);
      const error = await bucket.mend({ key: NEW, at: OLD, size, version }, SIZES).then(() => undefined, String);
      const type = error === undefined ? (await s3.head(NEW)).headers["content-type"] : undefined;
      return { error, type, tree: readTree(inBucket), noted: journal.uploads.size, left: uploadsIn(inBucket) };
    } finally {
      journal.close();
      await s3.close();
      await proxy.stop();
    }
  }

  for (const sizes of [[11 * MIB], [6 * MIB, 6 * MIB, 1]]) {
    it(`one that came in ${sizes.length} part(s) is mended in parts of its own, with its type`, async () => {
      const copies: string[] = [];
      const { error, type, tree, left } = await mendInParts(sizes, ({ headers }) => {
        const range = headers["x-amz-copy-source-range"];
        if (range !== undefined) copies.push(String(range));
        return undefined;
      });
      expect(error).to.equal(undefined);
      expect(copies).to.have.length(3);
      expect(type).to.equal("image/png");
      expect(tree[NEW]).to.equal(tree[OLD]);
      expect(left).to.deep.equal([]);
    });
  }

  it("gets over a lost answer to the joining of the parts", async () => {
    let completions = 0;
    const isJoin = ({ method, path }: ProxiedRequest) => method === "POST" && path.includes("media/") && path.includes("uploadId=");
    const { error, tree } = await mendInParts([11 * MIB], (request) => (isJoin(request) && completions++ === 0 ? "lost" : undefined));
    expect(error).to.equal(undefined);
    expect(tree[NEW]).to.equal(tree[OLD]);
  });

  it("leaves no parts when it fails", async () => {
    const isThird = ({ path }: ProxiedRequest) => path.includes("media/") && path.includes("partNumber=3");
    const { error, tree, noted, left } = await mendInParts([11 * MIB], (request) => (isThird(request) ? { status: 403, code: "AccessDenied" } : undefined));
    expect(error).to.include("AccessDenied");
    expect(Object.keys(tree)).to.deep.equal([OLD]);
    expect(noted).to.equal(0);
    expect(left).to.deep.equal([]);
  });
});
