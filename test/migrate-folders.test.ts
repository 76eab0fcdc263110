import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { ContentError, type Content } from "../tools/migrate/content.ts";
import { Disk } from "../tools/migrate/disk.ts";
import { startFaultProxy } from "./support/fault-proxy.ts";
import { readTree, run, startServer, temporaryFolder, writeTree, type TestServer } from "./support/migration.ts";

describe("migrate: folders that change while it runs", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  /** Lets something happen before the first request that is meant gets its answer. */
  async function whenAsked<T>(isMeant: (method: string, path: string) => boolean, happen: () => void, bucket: StorageSettings, work: (bucket: StorageSettings) => Promise<T>): Promise<T> {
    let happened = false;
    const proxy = await startFaultProxy(server.endpoint, ({ method, path }) => {
      if (happened || !isMeant(method, path)) return undefined;
      happened = true;
      happen();
      return undefined;
    });
    try {
      return await work({ ...bucket, endpoint: proxy.endpoint });
    } finally {
      await proxy.stop();
      expect(happened).to.equal(true);
    }
  }

  /** Puts a symlink to a folder in the place of a folder. */
  function swap(folder: string, other: string): void {
    renameSync(folder, `${folder}-before`);
    symlinkSync(other, folder);
  }

  const isPut = (method: string) => method === "PUT";
  /** More than are copied at a time, so that others are still to come when the first one is. */
  const many = Object.fromEntries(Array.from({ length: 200 }, (_, index) => [`media/public/a/${1000 + index}.png`, `content ${index}`]));

  it("nothing is read through a symlink out of the root that came meanwhile", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(outside, { "s.png": "secret" });
    writeTree(folder, { ...many, "media/public/z/s.png": "inner" });
    const summary = await whenAsked(isPut, () => { swap(join(folder, "media/public/z"), outside); }, bucket, (proxied) => run(folder, proxied, { state }));
    expect(summary.problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal(["refused media/public/z/s.png"]);
    expect(Object.keys(readTree(inBucket))).to.have.members(Object.keys(many));
  });

  it("a folder that becomes a symlink to an empty one while it is listed does not count as empty", async () => {
    const { folder } = server.fresh();
    writeTree(folder, { "media/public/a/x.png": "x", "media/public/z/y.png": "y" });
    const refused: string[] = [];
    const disk = await Disk.open(folder, { mustExist: true });
    for await (const { key } of disk.list("media", (name) => refused.push(name))) {
      expect(key).to.equal("media/public/a/x.png");
      swap(join(folder, "media/public/z"), temporaryFolder());
    }
    expect(refused).to.deep.equal(["media/public/z/"]);
  });

  it("nothing is written through a symlink out of the root that came meanwhile", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(inBucket, { ...many, "media/public/a/new/x.png": "x" });
    const isLater = (method: string, path: string) => method === "GET" && path.includes("/1100.png");
    const summary = await whenAsked(isLater, () => { swap(join(folder, "media/public/a"), outside); }, bucket, (proxied) => run(proxied, folder, { state }));
    expect(readdirSync(outside)).to.deep.equal([]);
    expect(summary.refused).to.be.greaterThan(50);
    expect(summary.problems.map(({ reason }) => reason)).to.satisfy((reasons: string[]) => reasons.every((reason) => reason.includes("symlink out of")));
  });

  it("nothing is deleted through a symlink out of the root that came meanwhile", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(outside, { "precious.png": "outside" });
    writeTree(inBucket, { "media/public/k.png": "k" });
    writeTree(folder, { "media/public/x/precious.png": "1" });
    const isCopied = (method: string, path: string) => method === "GET" && path.endsWith("k.png");
    const swapX = () => { swap(join(folder, "media/public/x"), outside); };
    const summary = await whenAsked(isCopied, swapX, bucket, (proxied) => run(proxied, folder, { state, delete: true }));
    expect(summary.problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal(["refused media/public/x/precious.png"]);
    expect(Object.keys(readTree(outside))).to.deep.equal(["precious.png"]);
  });

  it("what was rewritten or became another symlink since the plan is not deleted", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(inBucket, { "media/public/k.png": "k" });
    writeTree(folder, { "media/public/old.png": "old", "media/public/rewritten.png": "1" });
    symlinkSync("old.png", join(folder, "media/public/link.png"));
    symlinkSync("old.png", join(folder, "media/public/other-link.png"));
    const rewrite = () => {
      writeFileSync(join(folder, "media/public/rewritten.png"), "authentik's new file");
      rmSync(join(folder, "media/public/other-link.png"));
      symlinkSync("rewritten.png", join(folder, "media/public/other-link.png"));
    };
    const isCopied = (method: string, path: string) => method === "GET" && path.endsWith("k.png");
    const summary = await whenAsked(isCopied, rewrite, bucket, (proxied) => run(proxied, folder, { state, delete: true }));
    expect(summary.problems.map(({ key }) => key)).to.have.members(["media/public/rewritten.png", "media/public/other-link.png"]);
    expect(readdirSync(join(folder, "media/public"))).to.not.include("link.png");
    expect(readFileSync(join(folder, "media/public/rewritten.png"), "utf8")).to.equal("authentik's new file");
  });

  it("a FIFO in the place of a file is not waited for", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { ...many, "media/public/z.png": "z" });
    const replace = () => {
      rmSync(join(folder, "media/public/z.png"));
      execFileSync("mkfifo", [join(folder, "media/public/z.png")]);
    };
    const summary = await whenAsked(isPut, replace, bucket, (proxied) => run(folder, proxied, { state }));
    expect(summary.problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal(["refused media/public/z.png"]);
  });
});

describe("migrate: half-written files", () => {
  const KEY = "media/public/x.png";

  async function keysIn(folder: string, readOnly = false): Promise<string[]> {
    const keys: string[] = [];
    const disk = await Disk.open(folder, { mustExist: true, readOnly });
    for await (const { key } of disk.list("media", (name) => { throw new Error(`"${name}" was refused`); })) keys.push(key);
    return keys;
  }

  function partsIn(folder: string): string[] {
    return readdirSync(join(folder, dirname(KEY))).filter((name) => name.endsWith(".part"));
  }

  it("those of a process that cannot be seen from here are removed when they have not grown for hours", async () => {
    const folder = temporaryFolder();
    const gone = spawnSync("true").pid;
    const parts = [`.migrate-${gone}-0.part`, `.migrate-${gone}-0123456789abcdef-0.part`, `.migrate-${process.ppid}-0123456789abcdef-1.part`];
    writeTree(folder, { [KEY]: "x", ...Object.fromEntries(parts.map((name) => [join(dirname(KEY), name), "half"])) });
    expect(await keysIn(folder)).to.deep.equal([KEY]);
    expect(partsIn(folder)).to.have.members(parts);
    const before = new Date(Date.now() - 2 * 60 * 60 * 1000);
    for (const name of parts) utimesSync(join(folder, dirname(KEY), name), before, before);
    expect(await keysIn(folder, true)).to.deep.equal([KEY]);
    expect(partsIn(folder), "read only").to.have.members(parts);
    expect(await keysIn(folder)).to.deep.equal([KEY]);
    expect(partsIn(folder)).to.deep.equal([]);
  });

  it("no listing takes those that are being written, and no two runs have the same", async () => {
    const folder = temporaryFolder();
    const disks = await Promise.all([1, 2].map(() => Disk.open(folder, { mustExist: true })));
    const seen: string[][] = [];
    await Promise.all(disks.map((disk, index) => disk.write(`media/public/${index}.png`, contentOf(async () => {
      await keysIn(folder);
      seen.push(partsIn(folder));
    }), undefined)));
    expect(new Set(seen.flat()).size).to.equal(2);
    expect(Object.keys(readTree(folder))).to.have.members(["media/public/0.png", "media/public/1.png"]);
  });

  it("one that another took away, or put his own in the place of, does not go into place", async () => {
    for (const content of [undefined, "another's"]) {
      const folder = temporaryFolder();
      const disk = await Disk.open(folder, { mustExist: true });
      const take = () => {
        for (const name of partsIn(folder)) {
          const part = join(folder, dirname(KEY), name);
          // Its inode stays taken, so that the new one has another.
          renameSync(part, join(folder, "taken"));
          if (content !== undefined) writeFileSync(part, content);
        }
      };
      const error: unknown = await disk.write(KEY, contentOf(take), undefined).catch((reason: unknown) => reason);
      expect(error).to.be.an.instanceOf(ContentError);
      expect(existsSync(join(folder, KEY))).to.equal(false);
    }
  });

  /** Half a content, then something that happens, then the rest. */
  function contentOf(happen: () => void | Promise<void>): Content {
    async function* chunks(): AsyncGenerator<Buffer> {
      yield Buffer.alloc(512 * 1024);
      await happen();
      yield Buffer.from("rest");
    }
    return { size: 512 * 1024 + 4, version: "1", chunks: chunks() };
  }
});
