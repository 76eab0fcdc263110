import { execFile, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { Disk } from "../tools/migrate/disk.ts";
import { MigrateError } from "../tools/migrate/storage.ts";
import { startListingServer } from "./support/listing-server.ts";
import {
  command,
  envFile,
  expectSameFiles,
  filesIn,
  MIB,
  MIGRATE,
  numbered,
  problemsOf,
  readTree,
  run,
  settingsOf,
  temporaryFolder,
  useServer,
  writeTree,
} from "./support/migration.ts";

const X = "media/public/x.png";

describe("migrate: disks", function () {
  this.timeout(20_000);
  const server = useServer();

  it("a symlink instead of media/ is followed inside the root, and not out of it", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const outside = temporaryFolder();
    writeTree(outside, { "public/secret.png": "secret" });
    writeTree(folder, { "elsewhere/public/x.png": "x" });
    mkdirSync(join(folder, "reports"));
    symlinkSync(outside, join(folder, "media"));
    expect(problemsOf(await run(folder, bucket, { state }))).to.deep.equal(["skipped media"]);
    expect(readTree(inBucket)).to.deep.equal({});
    rmSync(join(folder, "media"));
    symlinkSync("elsewhere", join(folder, "media"));
    expect((await run(folder, bucket, { state })).copied.files).to.equal(1);
  });

  it("a usage's folder that cannot be reached does not count as empty", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const closed = temporaryFolder();
    writeTree(closed, { [X]: "x" });
    writeTree(inBucket, { [X]: "x" });
    writeTree(folder, { "reports/public/r.csv": "r" });
    chmodSync(closed, 0);
    giveToNobody(join(folder, ".."));
    const media = join(folder, "media");
    const linkTo = (target: string) => () => {
      symlinkSync(target, media);
    };
    const WAYS: [way: string, make: () => void][] = [
      ["a link to nothing", linkTo("/nowhere/media")],
      ["a link into a closed folder", linkTo(join(closed, "media"))],
      ["a link to itself", linkTo("media")],
      [
        "a file",
        () => {
          writeTree(folder, { media: "a file" });
        },
      ],
    ];
    for (const [way, make] of WAYS) {
      make();
      const summary = await asNobody(() => run(folder, bucket, { state, delete: true }));
      expect(problemsOf(summary), way).to.deep.equal(["skipped media"]);
      expect(summary.deleted.files, way).to.equal(0);
      rmSync(media);
    }
    expect(filesIn(inBucket)).to.deep.equal([X, "reports/public/r.csv"]);
    const summary = await run(folder, bucket, { state, delete: true });
    expect(problemsOf(summary), "a missing folder").to.deep.equal([]);
  });

  it("folders of the disk itself are not touched, in media/ and reports/ too", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const own = ["lost+found", ".Trash-1000", ".snapshots", "@eaDir", "#recycle"];
    const media = join(top, "media");
    const files = { "public/x.png": "x", "authentik/y.png": "y" };
    writeTree(media, { ...files, "t_one/.hidden/lost+found": "z", ".DS_Store": "d" });
    for (const name of own) writeTree(media, { [`${name}/file.png`]: "the disk's" });
    chmodSync(join(media, "lost+found"), 0);
    giveToNobody(top);
    const schemas = ["authentik"];
    const up = await asNobody(() => run(media, bucket, { state, schemas, delete: true }));
    expect(problemsOf(up)).to.deep.equal([]);
    const keys = ["media/authentik/y.png", X, "media/t_one/.hidden/lost+found"];
    expect(filesIn(inBucket)).to.deep.equal(keys);

    // Of an earlier run, or of another tool.
    writeTree(inBucket, { "media/lost+found/file.png": "the disk's" });
    writeTree(folder, { "reports/.snapshot/r.csv": "r", "lost+found/x": "x" });
    for (let time = 0; time < 2; time++) {
      const down = await run(bucket, folder, { state, schemas });
      expect(problemsOf(down)).to.deep.equal([]);
    }
    const others = ["reports/.snapshot/r.csv", "lost+found/x"];
    expect(filesIn(folder)).to.have.members([...keys, ...others]);
  });

  it("a partly written file in a read-only folder is ignored", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    // Of a process that has ended.
    const part = join(folder, `media/public/.migrate-${spawnSync("true").pid}-0.part`);
    writeTree(folder, { [X]: "x" });
    writeFileSync(part, "half");
    utimesSync(part, 0, 0);
    giveToNobody(top);
    chmodSync(dirname(part), 0o555);
    const summary = await asNobody(() => run(folder, bucket, { state }));
    expect(problemsOf(summary)).to.deep.equal([]);
    expect(filesIn(inBucket)).to.deep.equal([X]);
  });

  it("a folder whose files may not be examined is an error", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { [X]: "x" });
    giveToNobody(join(folder, ".."));
    chmodSync(folder, 0o444);
    const work: Promise<unknown> = asNobody(() => run(folder, bucket, { state, delete: true }));
    const error = await work.catch((reason: unknown) => reason);
    expect(error).to.be.an.instanceOf(MigrateError);
    expect(error).to.have.property("message").that.includes(folder);
  });

  it("a slow disk is listed and read as a fast one", async () => {
    const { folder } = server.fresh();
    writeTree(folder, { ...numbered(200), [X]: "x".repeat(3_000_000) });
    symlinkSync("nothing", join(folder, "media/public/link.png"));
    writeFileSync(Buffer.from(join(folder, "media/public/\xff.png"), "latin1"), "x");
    const list = async () => {
      const disk = await Disk.open(folder, { mustExist: true });
      const found: unknown[] = [];
      const skip = (key: string, reason: string) => found.push([key, reason]);
      for await (const item of disk.list("media", skip)) {
        const whole = await disk.read(item).whole();
        const chunks: Buffer[] = [];
        for await (const chunk of disk.read(item).chunks()) chunks.push(Buffer.from(chunk));
        expect(Buffer.concat(chunks)).to.deep.equal(Buffer.concat(whole));
        found.push([item, Buffer.concat(whole).toString("latin1", 0, 100)]);
      }
      return found;
    };
    const fast = await list();
    expect(fast).to.have.length(203);
    let ms = 0;
    performance.now = () => (ms += 5);
    try {
      expect(await list()).to.have.deep.members(fast);
    } finally {
      // Its own `now` is gone, and that of the prototype is back.
      Reflect.deleteProperty(performance, "now");
    }
  });

  it("a folder that is unmounted after it was opened ends the run", async () => {
    const { folder } = server.fresh();
    writeTree(folder, { [X]: "x" });
    const disk = await Disk.open(folder, { mustExist: true });
    renameSync(folder, `${folder}-unmounted`);
    for (const isEmptyFolder of [false, true]) {
      if (isEmptyFolder) mkdirSync(folder);
      const listing: Promise<unknown> = disk.list("media", () => undefined).next();
      const error = await listing.catch((reason: unknown) => reason);
      expect(error).to.be.an.instanceOf(MigrateError);
    }
  });

  it("a folder removed during the listing: the rest is copied, nothing deleted", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const files = { "media/public/a/x.png": "x", "media/public/b.png": "b" };
    writeTree(folder, { ...files, "media/public/z.png": "z" });
    await run(folder, bucket, { state });
    writeTree(folder, { "media/public/a/0.png": "y" });
    // Its name has been read when the first file of the folder before it is reported.
    writeTree(folder, { "media/public/z/gone.png": "gone" });
    const onProgress = () => {
      rmSync(join(folder, "media/public/z"), { recursive: true, force: true });
    };
    const summary = await run(folder, bucket, { state, delete: true, onProgress });
    expect(problemsOf(summary)).to.deep.equal(["skipped media/public/z/"]);
    expect(summary.deleted.files).to.equal(0);
    expect(filesIn(inBucket)).to.include("media/public/a/0.png");
  });

  it("a dry run makes no folder", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(inBucket, { [X]: "x" });
    const target = join(folder, "not/there");
    const { plan } = await run(bucket, target, { state, dryRun: true });
    expect(plan.create.files).to.equal(1);
    expect(existsSync(folder)).to.equal(false);
    await run(bucket, target, { state });
    expect(filesIn(target)).to.deep.equal([X]);
  });

  it("a file that a disk cannot hold: no part of it stays, and it is copied later", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const small = numbered(2, () => randomBytes(1000));
    const large = {
      "media/public/large.bin": randomBytes(3 * MIB),
      "media/public/larger.bin": randomBytes(20 * MIB),
    };
    writeTree(inBucket, { ...small, ...large });
    const limited = ["-c", 'ulimit -f 1024; exec "$@"', "bash", process.execPath, ...MIGRATE];
    const args = [...limited, envFile(top, bucket), folder, "--yes", "--state", state];
    const { status, stdout } = spawnSync("bash", args, { encoding: "utf8" });
    expect(status, stdout).to.equal(1);
    for (const name of ["large", "larger"]) {
      const line = new RegExp(`failed media/public/${name}\\.bin: .*(?:EFBIG|may be full)`);
      expect(stdout).to.match(line);
    }
    expect(filesIn(folder)).to.have.members(Object.keys(small));
    expect((await run(bucket, folder, { state })).copied.files).to.equal(2);
    expectSameFiles(folder, inBucket);
  });

  it("without the programs sync and flock, files are synced one by one, and a note says it", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    writeTree(inBucket, numbered(10));
    const args = [envFile(top, bucket), folder, "--yes", "--state", state];
    const { code, out } = await command(args, { PATH: "/nowhere" });
    expect(code, out).to.equal(0);
    expect(out).to.include("this system cannot prevent it");
    expectSameFiles(folder, inBucket);
    const rerun = await run(bucket, folder, { state });
    expect(rerun.plan.same.files).to.equal(10);
  });

  it("files and folders without permission are reported, and the rest is copied", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const closed = join(folder, "media/public/closed");
    const files = { "media/public/secret.png": "s", "media/public/z.png": "z" };
    writeTree(folder, { "media/public/closed/x.png": "x", ...files });
    chmodSync(closed, 0);
    chmodSync(join(folder, "media/public/secret.png"), 0);
    giveToNobody(join(folder, ".."));
    const up = await asNobody(() => run(folder, bucket, { state, delete: true }));
    const problems = ["skipped media/public/closed/", "failed media/public/secret.png"];
    expect(problemsOf(up)).to.have.members(problems);
    expect(filesIn(inBucket)).to.deep.equal(["media/public/z.png"]);
    chmodSync(closed, 0o500);
    writeTree(inBucket, { "media/public/closed/y.png": "y", "media/public/new.png": "new" });
    const down = await asNobody(() => run(bucket, folder, { state }));
    expect(problemsOf(down)).to.deep.equal(["failed media/public/closed/y.png"]);
    expect(down.problems[0]?.reason).to.include("EACCES");
    expect(filesIn(folder)).to.include("media/public/new.png");
  });
});

// For users who may mount one.
if (mayMount()) {
  describe("migrate: a full disk", () => {
    const server = useServer();

    it("no file stays incomplete, and the rest is copied when there is space", async () => {
      const { bucket, inBucket, state } = server.fresh();
      const files = numbered(6, () => randomBytes(MIB));
      writeTree(inBucket, files);
      const small = await smallDisk("4m");
      try {
        const target = join(small.folder, "data");
        const { problems, copied } = await run(bucket, target, { state });
        // All six are written at once: that may leave space for none of them, or for four.
        expect(copied.files).to.be.within(0, 4);
        expect(problems).to.have.length(6 - copied.files);
        for (const { reason, kind } of problems) {
          expect(`${kind} ${reason}`).to.match(/^failed .*(?:ENOSPC|may be full)/);
        }
        expect(readTree(inBucket)).to.include(readTree(target));
        await small.grow("20m");
        expect(problemsOf(await run(bucket, target, { state }))).to.deep.equal([]);
        expectSameFiles(target, inBucket);
      } finally {
        await small.remove();
      }
    });
  });
}

// On a Mac, or wherever else TMPDIR is such a disk.
if (ignoresCase()) {
  describe("migrate: a disk that ignores case", () => {
    it("skips what the disk treats as another file or folder, each time the same", async () => {
      const names = ["A/y.png", "X.png", "a/z.png", "b.png", "x.png"];
      const keys = names.map((name) => `media/public/${name}`);
      const keyAt = (index: number): string => keys[index] ?? "";
      const content = Buffer.from("content");
      const listing = await startListingServer({ count: keys.length, keyAt, content });
      const folder = temporaryFolder();
      const data = join(folder, "data");
      const options = { state: join(folder, "state"), delete: true };
      try {
        for (let time = 0; time < 2; time++) {
          const { problems } = await run(settingsOf(listing.endpoint), data, options);
          expect(problems.map(({ kind }) => kind)).to.deep.equal(["skipped", "skipped"]);
          // Which of two comes first is chance. Each has its own name, or is missing.
          const copied = filesIn(data);
          expect(keys).to.include.members(copied);
          const all = [...copied, ...problems.map(({ key }) => key)];
          expect(all.sort()).to.deep.equal(keys);
        }
      } finally {
        await listing.stop();
      }
    });
  });
}

/** APFS and NTFS do by default. */
function ignoresCase(): boolean {
  const folder = temporaryFolder();
  writeTree(folder, { A: "" });
  return existsSync(join(folder, "a"));
}

function mayMount(): boolean {
  const folder = temporaryFolder();
  const { status } = spawnSync("mount", ["-t", "tmpfs", "tmpfs", folder]);
  return status === 0 && spawnSync("umount", [folder]).status === 0;
}

/** A disk of a given size. */
async function smallDisk(size: string) {
  const folder = temporaryFolder();
  const call = async (program: string, ...args: string[]): Promise<void> => {
    await promisify(execFile)(program, args);
  };
  await call("mount", "-t", "tmpfs", "-o", `size=${size}`, "tmpfs", folder);
  return {
    folder,
    grow: (newSize: string) => call("mount", "-o", `remount,size=${newSize}`, folder),
    remove: () => call("umount", folder),
  };
}

const NOBODY = 65_534;

/** Permissions do not limit root. If root runs the tests, it becomes another user for this work. */
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
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
  for (const name of [".", ...names]) chownSync(join(folder, name), NOBODY, NOBODY);
}
