import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { allOf, ContentError, type Content } from "../tools/migrate/content.ts";
import { Disk } from "../tools/migrate/disk.ts";
import type { ProxiedRequest } from "./support/fault-proxy.ts";
import {
  filesIn,
  numbered,
  problemsOf,
  run,
  temporaryFolder,
  throughFaults,
  useServer,
  writeTree,
} from "./support/migration.ts";

type RequestTest = (request: ProxiedRequest) => boolean;

const isPut: RequestTest = ({ method }) => method === "PUT";
const isGet =
  (name: string): RequestTest =>
  ({ method, path }) =>
    method === "GET" && path.endsWith(`/${name}`);

describe("migrate: folders that change during a run", function () {
  this.timeout(20_000);
  const server = useServer();

  /** Lets something happen before the first request that is meant is answered. */
  async function whenRequested<T>(
    isMeant: RequestTest,
    happen: () => void,
    bucket: StorageSettings,
    work: (bucket: StorageSettings) => Promise<T>,
  ): Promise<T> {
    let happened = false;
    const choose = (request: ProxiedRequest) => {
      if (happened || !isMeant(request)) return undefined;
      happened = true;
      happen();
      return undefined;
    };
    const result = await throughFaults(bucket, choose, work);
    expect(happened).to.equal(true);
    return result;
  }

  /** Replaces a folder by a symlink to another one. */
  function swap(folder: string, other: string): void {
    renameSync(folder, `${folder}-before`);
    symlinkSync(other, folder);
  }

  /** More than are copied at once, so that some are still to be copied after the first one. */
  const many = numbered(200, String, (index) => `a/${1000 + index}.png`);

  it("nothing is read through a new symlink out of the root", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(outside, { "s.png": "secret" });
    writeTree(folder, { ...many, "media/public/z/s.png": "inner" });
    const swapZ = () => {
      swap(join(folder, "media/public/z"), outside);
    };
    const summary = await whenRequested(isPut, swapZ, bucket, (through) =>
      run(folder, through, { state }),
    );
    expect(problemsOf(summary)).to.deep.equal(["skipped media/public/z/s.png"]);
    expect(filesIn(inBucket)).to.have.members(Object.keys(many));
  });

  it("a folder that is replaced by a symlink to an empty one is not taken as empty", async () => {
    const { folder } = server.fresh();
    writeTree(folder, { "media/public/a/x.png": "x", "media/public/z/y.png": "y" });
    const skipped: string[] = [];
    const disk = await Disk.open(folder, { mustExist: true });
    for await (const { key } of disk.list("media", (name) => skipped.push(name))) {
      expect(key).to.equal("media/public/a/x.png");
      swap(join(folder, "media/public/z"), temporaryFolder());
    }
    expect(skipped).to.deep.equal(["media/public/z/"]);
  });

  it("nothing is written through a new symlink out of the root", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(inBucket, { ...many, "media/public/a/new/x.png": "x" });
    const swapA = () => {
      swap(join(folder, "media/public/a"), outside);
    };
    const { skipped, problems } = await whenRequested(isGet("1100.png"), swapA, bucket, (through) =>
      run(through, folder, { state }),
    );
    expect(readdirSync(outside)).to.deep.equal([]);
    expect(skipped).to.be.greaterThan(50);
    for (const { reason } of problems) expect(reason).to.include("symlink to a place outside of");
  });

  it("nothing is deleted through a new symlink out of the root", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(outside, { "precious.png": "outside" });
    writeTree(inBucket, { "media/public/k.png": "k" });
    writeTree(folder, { "media/public/x/precious.png": "1" });
    const swapX = () => {
      swap(join(folder, "media/public/x"), outside);
    };
    const summary = await whenRequested(isGet("k.png"), swapX, bucket, (through) =>
      run(through, folder, { state, delete: true }),
    );
    expect(problemsOf(summary)).to.deep.equal(["skipped media/public/x/precious.png"]);
    expect(filesIn(outside)).to.deep.equal(["precious.png"]);
  });

  it("a file that was rewritten or became another symlink since the plan is kept", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const inFolder = join(folder, "media/public");
    writeTree(inBucket, { "media/public/k.png": "k" });
    writeTree(inFolder, { "old.png": "old", "rewritten.png": "1" });
    symlinkSync("old.png", join(inFolder, "link.png"));
    symlinkSync("old.png", join(inFolder, "other-link.png"));
    const rewrite = () => {
      writeFileSync(join(inFolder, "rewritten.png"), "authentik's new file");
      rmSync(join(inFolder, "other-link.png"));
      symlinkSync("rewritten.png", join(inFolder, "other-link.png"));
    };
    const { problems } = await whenRequested(isGet("k.png"), rewrite, bucket, (through) =>
      run(through, folder, { state, delete: true }),
    );
    const keys = ["media/public/rewritten.png", "media/public/other-link.png"];
    expect(problems.map(({ key }) => key)).to.have.members(keys);
    expect(readdirSync(inFolder)).to.not.include("link.png");
    const content = readFileSync(join(inFolder, "rewritten.png"), "utf8");
    expect(content).to.equal("authentik's new file");
  });

  it("a FIFO that replaces a file is not waited for", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { ...many, "media/public/z.png": "z" });
    const replace = () => {
      rmSync(join(folder, "media/public/z.png"));
      execFileSync("mkfifo", [join(folder, "media/public/z.png")]);
    };
    const summary = await whenRequested(isPut, replace, bucket, (through) =>
      run(folder, through, { state }),
    );
    expect(problemsOf(summary)).to.deep.equal(["skipped media/public/z.png"]);
  });
});

describe("migrate: partly written files", () => {
  const KEY = "media/public/x.png";

  async function keysIn(folder: string, readOnly = false): Promise<string[]> {
    const keys: string[] = [];
    const disk = await Disk.open(folder, { mustExist: true, readOnly });
    const skip = (name: string): never => {
      throw new Error(`"${name}" was skipped`);
    };
    for await (const { key } of disk.list("media", skip)) keys.push(key);
    return keys;
  }

  function partsIn(folder: string): string[] {
    return readdirSync(join(folder, dirname(KEY))).filter((name) => name.endsWith(".part"));
  }

  it("those of an invisible process are removed when they have not grown for hours", async () => {
    const folder = temporaryFolder();
    const inFolder = join(folder, dirname(KEY));
    const ended = spawnSync("true").pid;
    const parts = [
      `.migrate-${ended}-0.part`,
      `.migrate-${ended}-0123456789abcdef-0.part`,
      `.migrate-${process.ppid}-0123456789abcdef-1.part`,
    ];
    writeTree(folder, { [KEY]: "x" });
    for (const name of parts) writeFileSync(join(inFolder, name), "half");
    expect(await keysIn(folder)).to.deep.equal([KEY]);
    expect(partsIn(folder)).to.have.members(parts);
    const before = new Date(Date.now() - 2 * 60 * 60 * 1000);
    for (const name of parts) utimesSync(join(inFolder, name), before, before);
    expect(await keysIn(folder, true)).to.deep.equal([KEY]);
    expect(partsIn(folder), "read only").to.have.members(parts);
    expect(await keysIn(folder)).to.deep.equal([KEY]);
    expect(partsIn(folder)).to.deep.equal([]);
  });

  it("no listing contains them, and no two runs have the same", async () => {
    const folder = temporaryFolder();
    const disks = await Promise.all([1, 2].map(() => Disk.open(folder, { mustExist: true })));
    const seen: string[] = [];
    const look = async () => {
      await keysIn(folder);
      seen.push(...partsIn(folder));
    };
    await Promise.all(
      disks.map((disk, index) =>
        disk.write(`media/public/${index}.png`, contentOf(look), undefined),
      ),
    );
    expect(new Set(seen).size).to.equal(2);
    expect(filesIn(folder)).to.deep.equal(["media/public/0.png", "media/public/1.png"]);
  });

  for (const replacement of [undefined, "of another process"]) {
    const change = replacement === undefined ? "removed" : "replaced";
    it(`one that another process ${change} is not moved to its target`, async () => {
      const folder = temporaryFolder();
      const disk = await Disk.open(folder, { mustExist: true });
      const take = () => {
        for (const name of partsIn(folder)) {
          const part = join(folder, dirname(KEY), name);
          // Its inode stays in use, so that the new file has another.
          renameSync(part, join(folder, "taken"));
          if (replacement !== undefined) writeFileSync(part, replacement);
        }
      };
      const writing: Promise<unknown> = disk.write(KEY, contentOf(take), undefined);
      const error = await writing.catch((reason: unknown) => reason);
      expect(error).to.be.an.instanceOf(ContentError);
      expect(existsSync(join(folder, KEY))).to.equal(false);
    });
  }

  /** Half a content, then something that happens, then the rest. */
  function contentOf(happen: () => void | Promise<void>): Content {
    async function* chunks(): AsyncGenerator<Buffer> {
      yield Buffer.alloc(512 * 1024);
      await happen();
      yield Buffer.from("rest");
    }
    return { size: 512 * 1024 + 4, version: "1", whole: () => allOf(chunks()), chunks };
  }
});
