import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { authentikPolicy } from "../authentik/permissions.ts";
import { S3Bucket } from "../tools/migrate/s3.ts";
import { startFaultProxy, type FaultProxy } from "./support/fault-proxy.ts";
import { startListingServer } from "./support/listing-server.ts";
import { envFile, mend, readTree, run, startServer, temporaryFolder, writeTree, type TestServer } from "./support/migration.ts";

const MIB = 1024 * 1024;
const HARD_NAMES = [
  "a b.png", "é😀.svg", "100%25.png", "a+b c.png", "&<>\"'!*().gif", "l".repeat(251) + ".png", "deep/er/and/deeper.webp", "empty.png",
  "a-b.png", "a.png", "a/x.png", "%(theme)s.svg", "\uffee.png", "#?&=.png", "~.png", "back\\slash.png",
];

describe("migrate", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  /** Runs with all requests counted. */
  async function counting<T>(bucket: StorageSettings, work: (bucket: StorageSettings, sent: string[]) => Promise<T>): Promise<T> {
    const sent: string[] = [];
    const proxy: FaultProxy = await startFaultProxy(server.endpoint, ({ method, path }) => { sent.push(`${method} ${path}`); return undefined; });
    try {
      return await work({ ...bucket, endpoint: proxy.endpoint }, sent);
    } finally {
      await proxy.stop();
    }
  }

  const hardTree = Object.fromEntries(HARD_NAMES.map((name) => [`media/public/${name}`, name === "empty.png" ? "" : randomBytes(3000)]));

  it("moves every name and byte from files to a bucket, to another bucket, and back to files", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const other = server.fresh();
    writeTree(folder, { ...hardTree, "media/t_tenant1/x.png": "1", "reports/public/r.csv": "a,b", "media/public/large.bin": randomBytes(20 * MIB + 1) });
    const up = await run(folder, bucket, { state });
    expect(up.problems).to.deep.equal([]);
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
    await run(bucket, other.bucket, { state });
    expect(readTree(other.inBucket)).to.deep.equal(readTree(folder));
    const down = await run(other.bucket, other.folder, { state });
    expect(down.copied.files).to.equal(up.copied.files);
    expect(readTree(other.folder)).to.deep.equal(readTree(folder));
  });

  it("sets the content type that authentik guesses", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.svg": "<svg/>", "media/public/large.png": randomBytes(9 * MIB), "reports/public/r.csv": "a" });
    await run(folder, bucket, { state });
    const s3 = await S3Bucket.open(bucket);
    const types = await Promise.all(["media/public/x.svg", "media/public/large.png", "reports/public/r.csv"].map(async (key) => (await s3.head(key)).headers["content-type"]));
    await s3.close();
    expect(types).to.deep.equal(["image/svg+xml", "image/png", "text/csv"]);
  });

  it("reads and writes /media folders of the older releases", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const media = join(folder, "media");
    writeTree(media, { "public/x.png": "x", "t_tenant1/y.png": "y" });
    await run(media, bucket, { state });
    expect(Object.keys(readTree(inBucket))).to.have.members(["media/public/x.png", "media/t_tenant1/y.png"]);
    rmSync(media, { recursive: true });
    await run(bucket, media, { state });
    expect(Object.keys(readTree(media))).to.have.members(["public/x.png", "t_tenant1/y.png"]);
  });

  it("refuses reports that a /media folder has no place for", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(inBucket, { "media/public/x.png": "x", "reports/public/r.csv": "a" });
    const summary = await run(bucket, join(folder, "media"), { state, layout: "media" });
    expect(summary.problems.map(({ key }) => key)).to.deep.equal(["reports/public/r.csv"]);
    expect(summary.copied.files).to.equal(1);
  });

  it("does not take a folder that is not authentik's", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { "etc/passwd": "x" });
    const error: unknown = await run(folder, bucket, { state }).catch((thrown: unknown) => thrown);
    expect(String(error)).to.include("not authentik's");
  });

  describe("when run again", () => {
    it("sends and reads nothing when nothing has changed, in either direction, even without the journal", async () => {
      const { bucket, folder, state } = server.fresh();
      writeTree(folder, { ...hardTree, "media/public/large.bin": randomBytes(9 * MIB) });
      await run(folder, bucket, { state });
      await counting(bucket, async (counted, sent) => {
        for (const journal of [state, join(folder, "..", "other-state")]) {
          const up = await run(folder, counted, { state: journal });
          const down = await run(counted, folder, { state: journal });
          expect([up.copied.files, down.copied.files]).to.deep.equal([0, 0]);
        }
        expect(sent.filter((line) => !line.includes("list-type") && !line.startsWith("HEAD"))).to.deep.equal([]);
      });
    });

    it("notices a change that leaves size and modification time", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const file = join(folder, "media/public/x.png");
      writeTree(folder, { "media/public/x.png": "old content", "media/public/y.png": "y" });
      await run(folder, bucket, { state });
      const { atime, mtime } = statSync(file);
      writeFileSync(file, "new content");
      utimesSync(file, atime, mtime);
      expect((await run(folder, bucket, { state })).plan.update.files).to.equal(1);
      expect(readFileSync(join(inBucket, "media/public/x.png"), "utf8")).to.equal("new content");
    });

    it("does not send a file again that was only touched", async () => {
      const { bucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/x.png": "content" });
      await run(folder, bucket, { state });
      utimesSync(join(folder, "media/public/x.png"), new Date(), new Date());
      expect((await run(folder, bucket, { state })).plan.same.files).to.equal(1);
    });

    it("deletes only when asked, and nothing without a source", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/x.png": "x" });
      writeTree(inBucket, { "media/public/old.png": "old" });
      expect((await run(folder, bucket, { state })).plan.extra.files).to.equal(1);
      expect(Object.keys(readTree(inBucket))).to.include("media/public/old.png");
      expect((await run(folder, bucket, { state, delete: true })).deleted.files).to.equal(1);
      expect(Object.keys(readTree(inBucket))).to.deep.equal(["media/public/x.png"]);
      rmSync(join(folder, "media/public/x.png"));
      // Reports are no reason to delete all media.
      writeTree(folder, { "reports/public/r.csv": "r" });
      const summary = await run(folder, bucket, { state, delete: true });
      expect(summary).to.include({ withheld: true }).and.to.have.nested.property("deletions.files", 0);
      expect(summary.notes.join()).to.include("No media are deleted, as there are none to copy");
      expect(Object.keys(readTree(inBucket))).to.have.members(["media/public/x.png", "reports/public/r.csv"]);
    });

    it("what cannot be compared is a problem of that file, and the rest is copied", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/a.png": "aaa", "media/public/b.png": "bbb", "media/public/new.png": "n" });
      writeTree(inBucket, { "media/public/a.png": "AAA", "media/public/b.png": "bbb" });
      const proxy = await startFaultProxy(server.endpoint, ({ method, path }) => (method === "HEAD" && path.includes("a.png") ? { status: 403, code: "AccessDenied" } : undefined));
      try {
        const { problems } = await run(folder, { ...bucket, endpoint: proxy.endpoint }, { state });
        expect(problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal(["failed media/public/a.png"]);
        expect(readTree(inBucket)).to.include({ ...readTree(folder), "media/public/a.png": readTree(inBucket)["media/public/a.png"] });
      } finally {
        await proxy.stop();
      }
    });
  });

  it("plans without doing anything on a dry run", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    expect((await run(folder, bucket, { state, dryRun: true })).plan.create.files).to.equal(1);
    expect(readTree(inBucket)).to.deep.equal({});
  });

  describe("a bucket filled at its root", () => {
    it("is copied from as if it were in place", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(inBucket, { "public/x.png": "x", "t_tenant1/y.png": "y", "media/public/x.png": "newer", "other/z": "z" });
      await run(bucket, folder, { state });
      expect(readTree(folder)).to.have.all.keys("media/public/x.png", "media/t_tenant1/y.png");
      expect(readFileSync(join(folder, "media/public/x.png"), "utf8")).to.equal("newer");
    });

    it("is mended: copied into place, checked, and rid of the old keys only when asked", async () => {
      const { bucket, inBucket, state } = server.fresh();
      writeTree(inBucket, { "media/public/there.png": "authentik's", "other/z": "z" });
      const s3 = await S3Bucket.open(bucket);
      for (const name of ["x.png", "é +%.svg"]) await s3.put(`public/${name}`, Buffer.from(name), "binary/octet-stream");
      await s3.put("public/there.png", Buffer.from("old"), "image/png");
      const first = await mend(bucket, false, { state });
      expect(first).to.deep.include({ refused: 1, copied: { files: 2, bytes: 14 }, deleted: { files: 0, bytes: 0 } });
      expect((await s3.head("media/public/é +%.svg")).headers["content-type"]).to.equal("image/svg+xml");
      await s3.close();
      expect(Object.keys(readTree(inBucket))).to.include.members(["public/x.png", "media/public/x.png"]);
      await mend(bucket, true, { state });
      expect(Object.keys(readTree(inBucket)).sort()).to.deep.equal(["media/public/there.png", "media/public/x.png", "media/public/é +%.svg", "other/z", "public/there.png"]);
      expect(readFileSync(join(inBucket, "media/public/there.png"), "utf8")).to.equal("authentik's");
    });
  });

  describe("safety", () => {
    it("refuses keys that lead elsewhere, by name, and copies the rest", async () => {
      const keys = ["../../etc/passwd", "/etc/passwd", "media/public/../../../etc/passwd", "media/public/a", "media/public/a/b", "media/public/n\0ul", "media/public/sound.png"];
      const ordered = keys.sort();
      const listing = await startListingServer({ count: keys.length, keyAt: (index) => ordered[index] ?? "", content: Buffer.from("content") });
      const { folder, state } = server.fresh();
      try {
        const bucket = { bucketName: "b", endpoint: listing.endpoint, accessKey: "k", secretKey: "s", secureUrls: false };
        const summary = await run(bucket, folder, { state });
        expect(summary.problems.filter(({ kind }) => kind === "refused").map(({ key }) => key)).to.have.members(
          ["../../etc/passwd", "/etc/passwd", "media/public/../../../etc/passwd", "media/public/a/b", "media/public/n\0ul"],
        );
        expect(Object.keys(readTree(folder))).to.have.members(["media/public/a", "media/public/sound.png"]);
      } finally {
        await listing.stop();
      }
    });

    it("follows no symlink out of the root, neither reading nor writing", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const outside = temporaryFolder();
      writeTree(outside, { "secret.png": "secret" });
      writeTree(folder, { "media/public/x.png": "x" });
      symlinkSync(join(outside, "secret.png"), join(folder, "media/public/leak.png"));
      symlinkSync(outside, join(folder, "media/public/out"));
      symlinkSync("x.png", join(folder, "media/public/alias.png"));
      const up = await run(folder, bucket, { state });
      expect(up.problems.map(({ key }) => key)).to.have.members(["media/public/leak.png", "media/public/out"]);
      expect(Object.keys(readTree(inBucket))).to.have.members(["media/public/x.png", "media/public/alias.png"]);
      writeTree(inBucket, { "media/public/out/planted.png": "planted" });
      expect((await run(bucket, folder, { state })).problems.map(({ key }) => key)).to.deep.equal(["media/public/out/planted.png"]);
      expect(readdirSync(outside)).to.deep.equal(["secret.png"]);
    });

    it("does not put a file over a folder, or over one that came meanwhile", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(inBucket, { "media/public/a": "file", "media/public/b": "b", "media/public/c": "c" });
      writeTree(folder, { "media/public/a/x.png": "x" });
      let came = false;
      const onProgress = (): void => {
        if (!came) writeTree(folder, { "media/public/b": "newer" });
        came = true;
      };
      const summary = await run(bucket, folder, { state, onProgress });
      expect(summary.problems.map(({ key }) => key)).to.have.members(["media/public/a", "media/public/b"]);
      expect(readFileSync(join(folder, "media/public/b"), "utf8")).to.equal("newer");
      expect(summary.copied.files).to.equal(1);
    });

    it("notices a file that changes while it is read", async () => {
      const { bucket, folder, state } = server.fresh();
      const file = join(folder, "media/public/large.bin");
      writeTree(folder, { "media/public/large.bin": randomBytes(9 * MIB), "media/public/x.png": "x" });
      let size = 9 * MIB;
      const summary = await run(folder, bucket, { state, onProgress: () => { truncateSync(file, --size); } });
      expect(summary.problems).to.deep.equal([{ key: "media/public/large.bin", reason: "it changed while it was read", kind: "failed" }]);
    });
  });

  it("needs no more than the rights of authentik's own key", async () => {
    const { iamKeys, bucket, stop, inBucket } = await startWithUser();
    const { folder, state } = server.fresh();
    try {
      writeTree(folder, { "media/public/x.png": "x", "media/public/large.bin": randomBytes(9 * MIB) });
      writeTree(inBucket, { "media/public/old.png": "old", "public/y.png": "y" });
      const settings = { ...bucket, ...iamKeys };
      expect((await run(folder, settings, { state, delete: true })).problems).to.deep.equal([]);
      expect((await mend(settings, true, { state })).problems).to.deep.equal([]);
      expect(Object.keys(readTree(inBucket))).to.have.members(["media/public/x.png", "media/public/large.bin", "media/public/y.png"]);
    } finally {
      await stop();
    }
  });

  it("speaks virtual-hosted style", async () => {
    const bucket = { bucketName: "virtual", endpoint: "https://s3.provider/base", accessKey: "k", secretKey: "s", secureUrls: true } as const;
    const urls = await Promise.all((["auto", "path", "virtual"] as const).map(async (addressingStyle) => {
      const s3 = await S3Bucket.open({ ...bucket, addressingStyle });
      await s3.close();
      return s3.url;
    }));
    expect(urls).to.deep.equal(["https://s3.provider/base/virtual", "https://s3.provider/base/virtual", "https://virtual.s3.provider/base"]);
  });

  it("tells how many files the plan deletes, and which", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    writeTree(inBucket, { "media/public/x.png": "x", "media/public/old.png": "old", "public/x.png": "x" });
    const place = envFile(top, bucket);
    const dry = async (...args: string[]) => (await promisify(execFile)(process.execPath, ["--import", "tsx/esm", "tools/migrate/command.ts", ...args, "--dry-run", "--state", state])).stdout;
    expect(await dry(folder, place)).to.include("  media/public/old.png (3 B)\n").and.include("1 only in the destination.");
    expect(await dry(folder, place, "--delete")).to.include("- media/public/old.png (3 B)\n").and.include("1 only in the destination, 1 (3 B) to be deleted.");
    expect(await dry(folder, place, "--delete", "--json")).to.include('{"step":"delete","key":"media/public/old.png","bytes":3}\n');
    expect(await dry(place, "--mend-layout", "--delete-old")).to.include("- public/x.png (1 B)\n").and.include("1 the same, 0 only in the destination, 1 (1 B) to be deleted.");
    expect(await dry(place, "--mend-layout")).not.to.include("- public/x.png");
  });

  it("copies by a plan of which only the beginning is in memory", async () => {
    const { folder, top, state } = server.fresh();
    const to = join(top, "to");
    const many = Object.fromEntries(Array.from({ length: 10_010 }, (_, index) => [`media/public/${index}.png`, `${index}`]));
    writeTree(folder, { ...many, "media/public/z.png": "new", "media/public/zz é%+.png": "newer" });
    writeTree(to, { "media/public/z.png": "old content" });
    expect((await run(folder, to, { state })).copied.files).to.equal(10_012);
    expect(readTree(to)).to.deep.equal(readTree(folder));
  });

  it("copies no folder into itself", async () => {
    const { folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    const error: unknown = await promisify(execFile)(process.execPath, ["--import", "tsx/esm", "tools/migrate/command.ts", folder, join(folder, "media/public/copy"), "--yes", "--state", state]).catch((reason: unknown) => reason);
    expect(error).to.include({ code: 2 }).and.property("stderr").contains("would be copied into itself");
  });

  describe("the command", () => {
    async function command(...args: string[]): Promise<{ code: number; out: string; err: string }> {
      const child = promisify(execFile)(process.execPath, ["--import", "tsx/esm", "tools/migrate/command.ts", ...args]);
      return child.then(
        ({ stdout, stderr }) => ({ code: 0, out: stdout, err: stderr }),
        (error: unknown) => ({ code: Number(Reflect.get(Object(error), "code")), out: String(Reflect.get(Object(error), "stdout")), err: String(Reflect.get(Object(error), "stderr")) }),
      );
    }

    it("prints the plan, wants --yes without a terminal, says how it went, and no secret", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/x.png": "x" });
      const place = envFile(join(folder, ".."), bucket);
      const dry = await command(folder, place, "--dry-run", "--state", state);
      expect(dry.out).to.include("+ media/public/x.png");
      const unasked = await command(folder, place, "--state", state);
      expect(unasked).to.include({ code: 2 });
      expect(unasked.err).to.include("--yes");
      expect(readTree(inBucket)).to.deep.equal({});
      symlinkSync("/etc/passwd", join(folder, "media/public/link"));
      const done = await command(folder, place, "--yes", "--json", "--state", state);
      expect(done.code).to.equal(1);
      const lines = done.out.trim().split("\n").map((line): unknown => JSON.parse(line));
      expect(lines.at(-1)).to.have.nested.property("summary.copied.files", 1);
      expect(lines.at(-1)).to.have.nested.property("summary.refused", 1);
      expect(JSON.stringify([dry, unasked, done])).to.not.include(bucket.secretKey);
    });
  });
});

/** A server with a user who has what authentik's policy gives, and a bucket. */
async function startWithUser() {
  const { findVersitygw, startVersitygw } = await import("../tools/start/versitygw.ts");
  const folder = temporaryFolder();
  const root = { accessKey: "test-root", secretKey: "test-root-secret" };
  const iamKeys = { accessKey: "authentik", secretKey: "authentik-secret" };
  const server = await startVersitygw({ versitygw: await findVersitygw(".local/bin"), dataDir: join(folder, "buckets"), iamDir: join(folder, "iam"), root, users: [iamKeys] });
  const { CreateBucketCommand, PutBucketPolicyCommand } = await import("@aws-sdk/client-s3");
  const { rootClient } = await import("./support/server.ts");
  const client = rootClient(server, root);
  await client.send(new CreateBucketCommand({ Bucket: "users", ObjectOwnership: "BucketOwnerPreferred" }));
  await client.send(new PutBucketPolicyCommand({ Bucket: "users", Policy: JSON.stringify(authentikPolicy("arn:aws:s3:::users", [iamKeys.accessKey])) }));
  client.destroy();
  const inBucket = join(folder, "buckets", "users");
  mkdirSync(inBucket, { recursive: true });
  const bucket: StorageSettings = { bucketName: "users", endpoint: server.endpoint, region: "us-east-1", secureUrls: false };
  return { iamKeys, bucket, inBucket, stop: () => server.stop() };
}
