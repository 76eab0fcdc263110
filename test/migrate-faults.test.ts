import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { S3Bucket } from "../tools/migrate/s3.ts";
import { startFaultProxy, type Fault, type ProxiedRequest } from "./support/fault-proxy.ts";
import { IMPATIENT, readTree, run, startServer, writeTree, type TestServer } from "./support/migration.ts";

const MIB = 1024 * 1024;
const FAULTS: readonly Exclude<Fault, object>[] = ["reset", "lost", "slow-down", "stall", "stall-body", "truncate", "corrupt", "corrupt-request"];

describe("migrate: faults", function () {
  this.timeout(30_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  /** Runs with a proxy before the bucket. */
  async function spoilt<T>(choose: (request: ProxiedRequest) => Fault | undefined, bucket: StorageSettings, work: (bucket: StorageSettings) => Promise<T>) {
    const proxy = await startFaultProxy(server.endpoint, choose);
    try {
      return { result: await work({ ...bucket, endpoint: proxy.endpoint }), done: proxy.done };
    } finally {
      await proxy.stop();
    }
  }

  const files = {
    ...Object.fromEntries(Array.from({ length: 20 }, (_, index) => [`media/public/file ${index}.png`, randomBytes(3000)])),
    "media/public/large.bin": randomBytes(17 * MIB),
  };

  for (const fault of FAULTS) {
    it(`gets over "${fault}", up and down`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, files);
      const tree = readTree(folder);
      // Only a call's first try is spoilt, and of stalls, which are waited for, fewer.
      const every = fault.startsWith("stall") ? 13 : 3;
      const seen = new Set<string>();
      const choose = ({ method, path }: ProxiedRequest): Fault | undefined => {
        const isFirst = seen.size < seen.add(`${method} ${path}`).size;
        return isFirst && seen.size % every === 1 ? fault : undefined;
      };
      const up = await spoilt(choose, bucket, (through) => run(folder, through, { state }));
      expect(up.result.problems).to.deep.equal([]);
      expect(readTree(inBucket)).to.deep.equal(tree);
      rmSync(folder, { recursive: true });
      const down = await spoilt(choose, bucket, (through) => run(through, folder, { state }));
      expect(down.result.problems).to.deep.equal([]);
      expect(readTree(folder)).to.deep.equal(tree);
      expect(up.done.get(fault)).to.be.greaterThan(0);
      expect(down.done.get(fault)).to.be.greaterThan(0);
    });
  }

  it("does not send the parts again that a broken upload has left", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/large.bin": randomBytes(33 * MIB) });
    const sent: string[] = [];
    let broken = true;
    const choose = ({ method, path }: ProxiedRequest): Fault | undefined => {
      const [, part] = /partNumber=(\d+)/.exec(path) ?? [];
      if (method === "PUT" && part !== undefined) sent.push(part);
      return broken && part === "4" ? "reset" : undefined;
    };
    await spoilt(choose, bucket, async (through) => {
      expect((await run(folder, through, { state, patience: { ...IMPATIENT, attempts: 1 } })).failed).to.equal(1);
      broken = false;
      sent.length = 0;
      expect((await run(folder, through, { state })).problems).to.deep.equal([]);
    });
    expect(sent).to.include("4").and.not.include("1");
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
  });

  it("lists what still fails, with the cause, and copies the rest", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/bad.png": "bad", "media/public/good.png": "good" });
    const { result } = await spoilt(({ path }) => (path.includes("bad.png") ? "slow-down" : undefined), bucket, (through) => run(folder, through, { state }));
    expect(result.problems).to.have.length(1);
    expect(result.problems[0]).to.include({ key: "media/public/bad.png", kind: "failed" });
    expect(result.problems[0]?.reason).to.include("SlowDown");
    expect(Object.keys(readTree(inBucket))).to.deep.equal(["media/public/good.png"]);
  });

  it("takes no corrupt bytes for good, however often they come", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(inBucket, { "media/public/large.bin": "" });
    const s3 = await S3Bucket.open(bucket);
    await s3.put("media/public/x.png", randomBytes(3000), "image/png");
    await s3.close();
    const { result } = await spoilt(({ path }) => (path.includes("x.png") ? "corrupt" : undefined), bucket, (through) => run(through, folder, { state }));
    expect(result.problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal(["failed media/public/x.png"]);
    expect(Object.keys(readTree(folder))).to.deep.equal(["media/public/large.bin"]);
  });
});
