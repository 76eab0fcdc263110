import { execFile, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { Disk } from "../tools/migrate/disk.ts";
import { MigrateError } from "../tools/migrate/place.ts";
import { startListingServer } from "./support/listing-server.ts";
import { envFile, readTree, run, startServer, temporaryFolder, writeTree, type TestServer } from "./support/migration.ts";

const MIB = 1024 * 1024;
describe("migrate: disks", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  it("a symlink in the place of media/ is followed inside the root, and not out of it", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(outside, { "public/secret.png": "secret" });
    writeTree(folder, { "elsewhere/public/x.png": "x" });
    mkdirSync(join(folder, "reports"));
    symlinkSync(outside, join(folder, "media"));
    const refused = await run(folder, bucket, { state });
    expect(refused.problems.map(({ key }) => key)).to.deep.equal(["media"]);
    expect(readTree(inBucket)).to.deep.equal({});
    rmSync(join(folder, "media"));
    symlinkSync("elsewhere", join(folder, "media"));
    expect((await run(folder, bucket, { state })).copied.files).to.equal(1);
  });

  it("a usage's folder that cannot be reached does not count as empty: nothing is deleted", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const closed = temporaryFolder();
    writeTree(closed, { "media/public/x.png": "x" });
    writeTree(inBucket, { "media/public/x.png": "x" });
    writeTree(folder, { "reports/public/r.csv": "r" });
    chmodSync(closed, 0);
    giveToNobody(join(folder, ".."));
    const media = join(folder, "media");
    const ways: [string, () => void][] = [
      ["to nothing", () => { symlinkSync("/nowhere/media", media); }],
      ["behind a closed folder", () => { symlinkSync(join(closed, "media"), media); }],
      ["to itself", () => { symlinkSync("media", media); }],
      ["a file", () => { writeTree(folder, { media: "a file" }); }],
    ];
    for (const [way, make] of ways) {
      make();
      const summary = await asNobody(() => run(folder, bucket, { state, delete: true }));
      expect(summary.problems.map(({ key, kind }) => `${kind} ${key}`), way).to.deep.equal(["refused media"]);
      expect(summary.deleted.files, way).to.equal(0);
      rmSync(media);
    }
    expect(Object.keys(readTree(inBucket))).to.have.members(["media/public/x.png", "reports/public/r.csv"]);
    const summary = await run(folder, bucket, { state, delete: true });
    expect(summary.problems, "a folder that is not there").to.deep.equal([]);
  });

  it("what a disk has at its top for itself is left alone, in media/ and reports/ too", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const own = ["lost+found", ".Trash-1000", ".snapshots", "@eaDir", "#recycle"];
    const media = join(top, "media");
    writeTree(media, { "public/x.png": "x", "authentik/y.png": "y", "t_one/.hidden/lost+found": "z", ".DS_Store": "d" });
    for (const name of own) writeTree(media, { [`${name}/file.png`]: "the disk's" });
    chmodSync(join(media, "lost+found"), 0);
    giveToNobody(top);
    const up = await asNobody(() => run(media, bucket, { state, delete: true }));
    expect(up.problems).to.deep.equal([]);
    const keys = ["media/public/x.png", "media/authentik/y.png", "media/t_one/.hidden/lost+found"];
    expect(Object.keys(readTree(inBucket))).to.have.members(keys);

    // Of an earlier run, or a tool that knows nothing of it.
    writeTree(inBucket, { "media/lost+found/file.png": "the disk's" });
    writeTree(folder, { "reports/.snapshot/r.csv": "r", "lost+found/x": "x" });
    for (let time = 0; time < 2; time++) {
      const down = await run(bucket, folder, { state });
      expect(down.problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal(["refused media/lost+found/file.png"]);
    }
    expect(Object.keys(readTree(folder))).to.have.members([...keys, "reports/.snapshot/r.csv", "lost+found/x"]);
  });

  it("a half-written file in a folder that may only be read is passed over", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    // Of a process that has ended.
    const part = join(folder, `media/public/.migrate-${spawnSync("true").pid}-0.part`);
    writeTree(folder, { "media/public/x.png": "x" });
    writeFileSync(part, "half");
    utimesSync(part, 0, 0);
    giveToNobody(top);
    chmodSync(dirname(part), 0o555);
    expect((await asNobody(() => run(folder, bucket, { state }))).problems).to.deep.equal([]);
    expect(Object.keys(readTree(inBucket))).to.deep.equal(["media/public/x.png"]);
  });

  it("a folder whose files may not be looked at is no place", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    giveToNobody(join(folder, ".."));
    chmodSync(folder, 0o444);
    const error: unknown = await asNobody(() => run(folder, bucket, { state, delete: true })).catch((reason: unknown) => reason);
    expect(error).to.be.an.instanceOf(MigrateError).with.property("message").that.includes(folder);
  });

  it("a folder that is unmounted after it was opened ends the run", async () => {
    const { folder } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    const disk = await Disk.open(folder, { mustExist: true });
    renameSync(folder, `${folder}-unmounted`);
    for (const isEmptyFolder of [false, true]) {
      if (isEmptyFolder) mkdirSync(folder);
      const error: unknown = await disk.list("media", () => undefined).next().catch((reason: unknown) => reason);
      expect(error).to.be.an.instanceOf(MigrateError);
    }
  });

  it("a folder that goes while it is listed: the rest is copied, and nothing is deleted", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/a/x.png": "x", "media/public/b.png": "b", "media/public/z.png": "z" });
    await run(folder, bucket, { state });
    writeTree(folder, { "media/public/a/y.png": "y" });
    // Its name has been read when the first file in the folder before it is told of.
    writeTree(folder, { "media/public/z/gone.png": "gone" });
    const onProgress = () => { rmSync(join(folder, "media/public/z"), { recursive: true, force: true }); };
    const summary = await run(folder, bucket, { state, delete: true, onProgress });
    expect(summary.problems.map(({ key }) => key)).to.deep.equal(["media/public/z/"]);
    expect(summary.deleted.files).to.equal(0);
    expect(Object.keys(readTree(inBucket))).to.include("media/public/a/y.png");
  });

  it("a dry run makes no folder", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(inBucket, { "media/public/x.png": "x" });
    expect((await run(bucket, join(folder, "not/there"), { state, dryRun: true })).plan.create.files).to.equal(1);
    expect(existsSync(folder)).to.equal(false);
    await run(bucket, join(folder, "not/there"), { state });
    expect(readTree(join(folder, "not/there"))).to.have.all.keys("media/public/x.png");
  });

  it("a disk that takes no more of a file: nothing half stays, the rest is copied, and all of it when there is room", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const small = { "media/public/a.bin": randomBytes(1000), "media/public/z.bin": randomBytes(1000) };
    writeTree(inBucket, { ...small, "media/public/large.bin": randomBytes(3 * MIB), "media/public/larger.bin": randomBytes(20 * MIB) });
    const limited = ["-c", 'ulimit -f 1024; exec "$@"', "bash", process.execPath, "--import", "tsx/esm", "tools/migrate/command.ts"];
    const { status, stdout } = spawnSync("bash", [...limited, envFile(top, bucket), folder, "--yes", "--state", state], { encoding: "utf8" });
    expect(status, stdout).to.equal(1);
    for (const name of ["large", "larger"]) expect(stdout).to.match(new RegExp(`failed media/public/${name}\\.bin: .*(?:EFBIG|may be full)`));
    expect(readTree(folder)).to.have.all.keys(small);
    expect((await run(bucket, folder, { state })).copied.files).to.equal(2);
    expect(readTree(folder)).to.deep.equal(readTree(inBucket));
  });

  it("folders and files without permission are told of, and the rest goes on", async function () {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/closed/x.png": "x", "media/public/secret.png": "s", "media/public/z.png": "z" });
    chmodSync(join(folder, "media/public/closed"), 0);
    chmodSync(join(folder, "media/public/secret.png"), 0);
    giveToNobody(join(folder, ".."));
    const up = await asNobody(() => run(folder, bucket, { state, delete: true }));
    expect(up.problems.map(({ key, kind }) => `${kind} ${key}`)).to.have.members(["refused media/public/closed/", "failed media/public/secret.png"]);
    expect(Object.keys(readTree(inBucket))).to.deep.equal(["media/public/z.png"]);
    chmodSync(join(folder, "media/public/closed"), 0o500);
    writeTree(inBucket, { "media/public/closed/y.png": "y", "media/public/new.png": "new" });
    const down = await asNobody(() => run(bucket, folder, { state }));
    expect(down.problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal(["failed media/public/closed/y.png"]);
    expect(down.problems[0]?.reason).to.include("EACCES");
    expect(Object.keys(readTree(folder))).to.include("media/public/new.png");
  });
});

// For who may mount one.
if (mayMount()) describe("migrate: a full disk", () => {
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  it("nothing half stays, and the rest is copied when there is room", async () => {
    const { bucket, inBucket, state } = server.fresh();
    const names = Array.from({ length: 6 }, (_, index) => `media/public/${index}.bin`);
    writeTree(inBucket, Object.fromEntries(names.map((name) => [name, randomBytes(MIB)])));
    const small = await smallDisk("4m");
    try {
      const target = join(small.folder, "data");
      const { problems, copied } = await run(bucket, target, { state });
      // All six are written at once: that may leave room for none of them, or for four.
      expect(copied.files).to.be.within(0, 4);
      expect(problems).to.have.length(names.length - copied.files);
      for (const { reason, kind } of problems) expect(`${kind} ${reason}`).to.match(/^failed .*(?:ENOSPC|may be full)/);
      expect(readTree(inBucket)).to.include(readTree(target));
      await small.grow("20m");
      expect((await run(bucket, target, { state })).problems).to.deep.equal([]);
      expect(readTree(target)).to.deep.equal(readTree(inBucket));
    } finally {
      await small.remove();
    }
  });
});

// On a Mac, or wherever else TMPDIR is such a disk.
if (ignoresCase()) describe("migrate: a disk that ignores case", () => {
  it("refuses what the disk takes for another file or folder, each time alike", async () => {
    const keys = ["media/public/A/y.png", "media/public/X.png", "media/public/a/z.png", "media/public/b.png", "media/public/x.png"];
    const listing = await startListingServer({ count: keys.length, keyAt: (index) => keys[index] ?? "", content: Buffer.from("content") });
    const folder = temporaryFolder();
    const bucket: StorageSettings = { bucketName: "b", endpoint: listing.endpoint, accessKey: "k", secretKey: "s", secureUrls: false };
    try {
      for (let time = 0; time < 2; time++) {
        const { problems } = await run(bucket, join(folder, "data"), { state: join(folder, "state"), delete: true });
        expect(problems.map(({ kind }) => kind)).to.deep.equal(["refused", "refused"]);
        // Which of two comes first is chance; each is there under its own name, or not at all.
        const there = Object.keys(readTree(join(folder, "data")));
        expect(keys).to.include.members(there);
        expect([...there, ...problems.map(({ key }) => key)].sort()).to.deep.equal(keys);
      }
    } finally {
      await listing.stop();
    }
  });
});

/** APFS and NTFS do by default. */
function ignoresCase(): boolean {
  const folder = temporaryFolder();
  writeTree(folder, { A: "" });
  return existsSync(join(folder, "a"));
}

function mayMount(): boolean {
  const folder = temporaryFolder();
  return spawnSync("mount", ["-t", "tmpfs", "tmpfs", folder]).status === 0 && spawnSync("umount", [folder]).status === 0;
}

/** A disk of a given size. */
async function smallDisk(size: string) {
  const folder = temporaryFolder();
  const call = async (...command: [string, ...string[]]): Promise<void> => { await promisify(execFile)(command[0], command.slice(1)); };
  await call("mount", "-t", "tmpfs", "-o", `size=${size}`, "tmpfs", folder);
  return {
    folder,
    grow: (newSize: string) => call("mount", "-o", `remount,size=${newSize}`, folder),
    remove: () => call("umount", folder),
  };
}

const NOBODY = 65_534;

/** Permissions do not hold for root: where that runs the tests, it is somebody else for this work. */
async function asNobody<T>(work: () => Promise<T>): Promise<T> {
  const isRoot = process.geteuid?.() === 0;
  if (isRoot) process.seteuid?.(NOBODY);
  try {
    return await work();
  } finally {
    if (isRoot) process.seteuid?.(0);
  }
}

function giveToNobody(folder: string): void {
  if (process.geteuid?.() !== 0) return;
  for (const name of [".", ...readdirSync(folder, { recursive: true, encoding: "utf8" })]) chownSync(join(folder, name), NOBODY, NOBODY);
}
