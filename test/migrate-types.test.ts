import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { Bucket } from "../tools/migrate/bucket.ts";
import { MemoryBudget } from "../tools/migrate/content.ts";
import { storedHeaders, type StoredHeaders } from "../tools/migrate/stored-headers.ts";
import {
  failureOf,
  MIB,
  problemsOf,
  putObjects,
  readTree,
  repair,
  repairStoredTypes,
  run,
  throughFaults,
  throughProxy,
  useServer,
  withClient,
  writeTree,
} from "./support/migration.ts";

const SVG = "media/public/x.svg";
const LARGE = "media/public/large.png";
const PLAIN = "media/public/no-ending";

const BLANK = { "content-type": "binary/octet-stream" };
/** What other tools store with an object. */
const EXTRAS = {
  "content-encoding": "gzip",
  "content-disposition": `attachment; filename="a b.svg"`,
  "content-language": "de",
  "cache-control": "max-age=60",
  expires: "Thu, 01 Dec 2033 16:00:00 GMT",
  "x-amz-meta-owner": "a, b;  c",
};

function storedOf(bucket: StorageSettings, key: string): Promise<StoredHeaders> {
  return withClient(bucket, async (client) => storedHeaders((await client.head(key)).headers));
}

describe("migrate: what is stored with an object", function () {
  this.timeout(20_000);
  const server = useServer();

  it("a wrong type is a change, and what else is stored stays", async () => {
    const { bucket, folder, state } = server.fresh();
    const large = Buffer.alloc(9 * MIB, "large");
    writeTree(folder, { [SVG]: "<svg/>", [LARGE]: large, [PLAIN]: "plain" });
    await putObjects(bucket, { [PLAIN]: "plain" }, { "content-type": "text/x-own" });
    const types = { [SVG]: "image/svg+xml", [LARGE]: "image/png" };
    for (let time = 0; time < 2; time++) {
      // The second time, another program has stored the same content again.
      await putObjects(bucket, { [SVG]: "<svg/>", [LARGE]: large }, { ...EXTRAS, ...BLANK });
      expect((await run(folder, bucket, { state, dryRun: true })).plan.update.files).to.equal(2);
      const summary = await run(folder, bucket, { state });
      expect(problemsOf(summary)).to.deep.equal([]);
      expect([summary.plan.update.files, summary.plan.same.files]).to.deep.equal([2, 1]);
      for (const [key, type] of Object.entries(types)) {
        expect(await storedOf(bucket, key)).to.deep.equal({ ...EXTRAS, "content-type": type });
      }
      expect(await storedOf(bucket, PLAIN)).to.deep.equal({ "content-type": "text/x-own" });
    }
  });

  it("an object is looked at again only if it was written since", async () => {
    const { bucket, folder, state } = server.fresh();
    const files = { [SVG]: "<svg/>", [LARGE]: "large", [PLAIN]: "plain" };
    writeTree(folder, files);
    await putObjects(bucket, { [SVG]: "<svg/>" }, { "content-type": "image/svg+xml" });
    let heads = 0;
    const choose = ({ method }: { method: string }): undefined => {
      if (method === "HEAD") heads++;
    };
    await throughFaults(bucket, choose, async (through) => {
      const headsOfRun = async () => {
        heads = 0;
        await run(folder, through, { state });
        return heads;
      };
      await headsOfRun();
      // versitygw's Date is up to a second late, and has whole seconds.
      await sleep(2100);
      await headsOfRun();
      expect(await headsOfRun()).to.equal(0);
      await putObjects(bucket, { [SVG]: "<svg/>" }, { "content-type": "image/svg+xml" });
      expect(await headsOfRun()).to.equal(1);
    });
  });

  it("between buckets all is kept, with authentik's type where the name shows one", async () => {
    const { bucket, state } = server.fresh();
    const other = server.fresh();
    const own = { ...EXTRAS, "content-type": "text/x-own" };
    await putObjects(
      bucket,
      { [SVG]: "<svg/>", [LARGE]: Buffer.alloc(9 * MIB), [PLAIN]: "p" },
      own,
    );
    await putObjects(other.bucket, { [PLAIN]: "p" }, { "content-type": "text/x-own" });
    expect((await run(bucket, other.bucket, { state })).copied.files).to.equal(3);
    const types = { [SVG]: "image/svg+xml", [LARGE]: "image/png", [PLAIN]: "text/x-own" };
    for (const [key, type] of Object.entries(types)) {
      expect(await storedOf(other.bucket, key)).to.deep.equal({ ...own, "content-type": type });
    }
    expect((await run(bucket, other.bucket, { state })).plan.same.files).to.equal(3);
  });

  it("a server that does not keep it: the file is skipped, by each run, with what is lost", async () => {
    const { bucket, state } = server.fresh();
    const other = server.fresh();
    await putObjects(bucket, { [SVG]: "<svg/>" }, { ...EXTRAS, "content-type": "image/svg+xml" });
    const changeHeaders = (headers: Record<string, unknown>): void => {
      delete headers["content-encoding"];
    };
    await throughProxy(other.bucket, { changeHeaders }, async (through) => {
      for (let time = 0; time < 2; time++) {
        const { problems } = await run(bucket, through, { state });
        expect(problems.map(({ kind }) => kind)).to.deep.equal(["skipped"]);
        expect(problems[0]?.reason).to.include("no content-encoding");
      }
    });
  });

  it("tags between buckets are reported, and a repair keeps them", async () => {
    const { bucket, state } = server.fresh();
    const other = server.fresh();
    await putObjects(bucket, { [SVG]: "<svg/>" }, { ...BLANK, "x-amz-tagging": "a=b" });
    const { problems } = await run(bucket, other.bucket, { state });
    expect(problems[0]?.reason).to.include("not its tags");
    expect(problemsOf(await repairStoredTypes(bucket, { state }))).to.deep.equal([]);
    expect(await storedOf(bucket, SVG)).to.deep.equal({
      "content-type": "image/svg+xml",
      "x-amz-tagging-count": "1",
    });
  });

  it("a misplaced object keeps what is stored with it", async () => {
    const { bucket, state } = server.fresh();
    await putObjects(bucket, { "public/x.svg": "<svg/>" }, { ...EXTRAS, ...BLANK });
    expect((await repair(bucket, false, { state })).copied.files).to.equal(1);
    const right = { ...EXTRAS, "content-type": "image/svg+xml" };
    expect(await storedOf(bucket, SVG)).to.deep.equal(right);
  });

  describe("the repair of types", () => {
    it("changes wrong types alone, in place, and nothing in a dry run", async () => {
      const { bucket, inBucket, state } = server.fresh();
      await putObjects(bucket, { [SVG]: "<svg/>", [PLAIN]: "plain" }, { ...EXTRAS, ...BLANK });
      await putObjects(bucket, { "reports/public/r.csv": "" }, { "content-type": "text/csv" });
      const before = readTree(inBucket);
      for (const dryRun of [true, false]) {
        const { plan } = await repairStoredTypes(bucket, { state, dryRun });
        expect([plan.update.files, plan.same.files]).to.deep.equal([1, 2]);
        const type = dryRun ? BLANK : { "content-type": "image/svg+xml" };
        expect(await storedOf(bucket, SVG)).to.deep.equal({ ...EXTRAS, ...type });
      }
      expect(await storedOf(bucket, PLAIN)).to.deep.equal({ ...EXTRAS, ...BLANK });
      expect(readTree(inBucket)).to.deep.equal(before);
      expect((await repairStoredTypes(bucket, { state })).plan.update.files).to.equal(0);
    });

    it("keeps an object that is replaced since the plan", async () => {
      const { bucket: settings } = server.fresh();
      await putObjects(settings, { [SVG]: "old" }, BLANK);
      await withClient(settings, async (client) => {
        const bucket = await Bucket.open(client, new MemoryBudget(), { readsMisplaced: false });
        for await (const item of bucket.list("media", () => undefined)) {
          await putObjects(settings, { [SVG]: "new" }, BLANK);
          expect(await failureOf(bucket.repairType(item))).to.include("was changed");
        }
      });
      expect(await storedOf(settings, SVG)).to.deep.equal(BLANK);
    });

    it("survives a lost answer", async () => {
      const { bucket, state } = server.fresh();
      await putObjects(bucket, { [SVG]: "<svg/>" }, BLANK);
      let puts = 0;
      const summary = await throughFaults(
        bucket,
        ({ method }) => (method === "PUT" && puts++ === 0 ? "lost" : undefined),
        (through) => repairStoredTypes(through, { state }),
      );
      expect(puts).to.equal(2);
      expect(problemsOf(summary)).to.deep.equal([]);
    });

    it("says it when the server ignores the new type", async () => {
      const { bucket, state } = server.fresh();
      await putObjects(bucket, { [SVG]: "<svg/>" }, BLANK);
      const body = '<CopyObjectResult><ETag>"x"</ETag></CopyObjectResult>';
      const answer = ({ method }: { method?: string | undefined }) =>
        method === "PUT" ? { status: 200, body } : undefined;
      await throughProxy(bucket, { answer }, async (through) => {
        const { problems } = await repairStoredTypes(through, { state });
        expect(problems[0]?.reason).to.include("type binary/octet-stream");
      });
      expect(await storedOf(bucket, SVG)).to.deep.equal(BLANK);
    });
  });
});
