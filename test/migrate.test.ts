import { randomBytes } from "node:crypto";
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { CreateBucketCommand, PutBucketPolicyCommand } from "@aws-sdk/client-s3";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { authentikPolicy } from "../authentik/permissions.ts";
import { BucketClient } from "../tools/migrate/s3-client.ts";
import type { FaultChooser } from "./support/fault-proxy.ts";
import { startListingServer } from "./support/listing-server.ts";
import {
  command,
  envFile,
  expectSameFiles,
  failureOf,
  filesIn,
  MIB,
  numbered,
  problemsOf,
  putObjects,
  readTree,
  repair,
  repairStoredTypes,
  run,
  settingsOf,
  temporaryFolder,
  throughFaults,
  useServer,
  withClient,
  writeTree,
} from "./support/migration.ts";
import { AUTHENTIK, rootClient, startTestServer } from "./support/server.ts";

const X = "media/public/x.png";
const LARGE = "media/public/large.bin";
// biome-ignore format: a list of cases
const HARD_NAMES = [
  "a b.png", "é😀.svg", "100%25.png", "a+b c.png", "&<>\"'!*().gif", "l".repeat(251) + ".png",
  "deep/er/and/deeper.webp", "empty.png", "a-b.png", "a.png", "a/x.png", "%(theme)s.svg",
  "\uffee.png", "#?&=.png", "~.png", "back\\slash.png",
];

describe("migrate", function () {
  this.timeout(20_000);
  const server = useServer();

  const hardTree = numbered(
    HARD_NAMES.length,
    (index) => (HARD_NAMES[index] === "empty.png" ? "" : randomBytes(3000)),
    (index) => HARD_NAMES[index] ?? "",
  );

  it("copies every name and byte: folder, bucket, another bucket, folder", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const other = server.fresh();
    const more = { "media/t_tenant1/x.png": "1", "reports/public/r.csv": "a,b" };
    writeTree(folder, { ...hardTree, ...more, [LARGE]: randomBytes(20 * MIB + 1) });
    const up = await run(folder, bucket, { state });
    expect(problemsOf(up)).to.deep.equal([]);
    expectSameFiles(inBucket, folder);
    await run(bucket, other.bucket, { state });
    expectSameFiles(other.inBucket, folder);
    const down = await run(other.bucket, other.folder, { state });
    expect(down.copied.files).to.equal(up.copied.files);
    expectSameFiles(other.folder, folder);
  });

  it("sets the content type that authentik guesses", async () => {
    const { bucket, folder, state } = server.fresh();
    const files = {
      "media/public/x.svg": "<svg/>",
      "media/public/large.png": randomBytes(9 * MIB),
      "reports/public/r.csv": "a",
    };
    writeTree(folder, files);
    await run(folder, bucket, { state });
    const types = await withClient(bucket, (client) =>
      Promise.all(
        Object.keys(files).map(async (key) => (await client.head(key)).headers["content-type"]),
      ),
    );
    expect(types).to.deep.equal(["image/svg+xml", "image/png", "text/csv"]);
  });

  it("reads and writes /media folders of the older releases", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const media = join(folder, "media");
    writeTree(media, { "public/x.png": "x", "t_tenant1/y.png": "y" });
    await run(media, bucket, { state });
    expect(filesIn(inBucket)).to.deep.equal([X, "media/t_tenant1/y.png"]);
    rmSync(media, { recursive: true });
    await run(bucket, media, { state });
    expect(filesIn(media)).to.deep.equal(["public/x.png", "t_tenant1/y.png"]);
  });

  it("skips reports that a /media folder cannot hold", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(inBucket, { [X]: "x", "reports/public/r.csv": "a" });
    const summary = await run(bucket, join(folder, "media"), { state, layout: "media" });
    expect(problemsOf(summary)).to.deep.equal(["skipped reports/public/r.csv"]);
    expect(summary.copied.files).to.equal(1);
  });

  it("takes the schema of any name, and leaves what is beside the schemas", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const media = join(folder, "media");
    writeTree(media, { "sso/x.png": "x", "backup/y.png": "y" });
    expect(await failureOf(run(media, bucket, { state }))).to.include("--schema");
    writeTree(media, { "public/z.png": "z" });
    const unnamed = await run(media, bucket, { state });
    const skipped = ["skipped media/backup/", "skipped media/sso/"];
    expect(problemsOf(unnamed)).to.deep.equal(skipped);
    const named = await run(media, bucket, { state, schemas: ["sso"], delete: true });
    expect(problemsOf(named)).to.deep.equal([]);
    expect(filesIn(inBucket)).to.deep.equal(["media/public/z.png", "media/sso/x.png"]);

    // Neither copied nor deleted in a bucket, too.
    writeTree(inBucket, { "media/backup/y.png": "y" });
    const file = envFile(top, bucket);
    appendFileSync(file.slice("env:".length), 'AUTHENTIK_POSTGRESQL__DEFAULT_SCHEMA="sso"\n');
    const to = join(folder, "to/data");
    const args = ["--yes", "--delete", "--state", state];
    for (const ends of [
      [file, to],
      [to, file],
    ]) {
      const { code, out } = await command([...ends, ...args]);
      expect([code, out.includes("media/backup/")], out).to.deep.equal([0, true]);
    }
    expect(filesIn(to)).to.deep.equal(["media/public/z.png", "media/sso/x.png"]);
    expect(filesIn(inBucket)).to.include("media/backup/y.png");
  });

  it("repairs a layout with the schema of any name", async () => {
    const { bucket, inBucket, state } = server.fresh();
    writeTree(inBucket, { "sso/x.png": "x", "backup/y.png": "y" });
    expect((await repair(bucket, false, { state })).plan.create.files).to.equal(0);
    await repair(bucket, true, { state, schemas: ["sso"] });
    expect(filesIn(inBucket)).to.deep.equal(["backup/y.png", "media/sso/x.png"]);
  });

  it("does not take a folder where the system mounts disks for authentik's /media", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const media = join(folder, "media");
    mkdirSync(media, { recursive: true });
    writeTree(inBucket, { [X]: "x" });
    expect(await failureOf(run(media, bucket, { state }))).to.include("--layout");
    expect(await failureOf(run(bucket, media, { state }))).to.include("--layout");
    // A user named media, and a disk of that user.
    writeTree(media, { "media/USB/private.png": "private" });
    expect(problemsOf(await run(media, bucket, { state }))).to.deep.equal(["skipped media/USB/"]);
    expect(filesIn(inBucket)).to.deep.equal([X]);
  });

  it("does not accept a folder that is not authentik's", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { "etc/passwd": "x" });
    const failure = await failureOf(run(folder, bucket, { state }));
    expect(failure).to.include("not authentik's");
  });

  describe("when run again", () => {
    it("sends and reads nothing if nothing has changed, even without the journal", async () => {
      const { bucket, folder, state, top } = server.fresh();
      writeTree(folder, { ...hardTree, [LARGE]: randomBytes(9 * MIB) });
      await run(folder, bucket, { state });
      const sent: string[] = [];
      const choose: FaultChooser = ({ method, path }) => {
        if (method !== "HEAD" && !path.includes("list-type")) sent.push(`${method} ${path}`);
        return undefined;
      };
      await throughFaults(bucket, choose, async (counted) => {
        for (const journal of [state, join(top, "other-state")]) {
          const up = await run(folder, counted, { state: journal });
          const down = await run(counted, folder, { state: journal });
          expect([up.copied.files, down.copied.files]).to.deep.equal([0, 0]);
        }
      });
      expect(sent).to.deep.equal([]);
    });

    it("notices a change with the same size and modification time", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const file = join(folder, X);
      writeTree(folder, { [X]: "old content", "media/public/y.png": "y" });
      await run(folder, bucket, { state });
      const { atime, mtime } = statSync(file);
      writeFileSync(file, "new content");
      utimesSync(file, atime, mtime);
      expect((await run(folder, bucket, { state })).plan.update.files).to.equal(1);
      expect(readFileSync(join(inBucket, X), "utf8")).to.equal("new content");
    });

    it("does not send a file again if only its times changed", async () => {
      const { bucket, folder, state } = server.fresh();
      writeTree(folder, { [X]: "content" });
      await run(folder, bucket, { state });
      utimesSync(join(folder, X), new Date(), new Date());
      expect((await run(folder, bucket, { state })).plan.same.files).to.equal(1);
    });

    it("deletes only on request, and nothing without a source", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { [X]: "x" });
      writeTree(inBucket, { "media/public/old.png": "old" });
      expect((await run(folder, bucket, { state })).plan.extra.files).to.equal(1);
      expect(filesIn(inBucket)).to.include("media/public/old.png");
      expect((await run(folder, bucket, { state, delete: true })).deleted.files).to.equal(1);
      expect(filesIn(inBucket)).to.deep.equal([X]);
      rmSync(join(folder, X));
      // Reports are no reason to delete all media.
      writeTree(folder, { "reports/public/r.csv": "r" });
      const summary = await run(folder, bucket, { state, delete: true });
      expect(summary).to.include({ deletionsSkipped: true });
      expect(summary.deletions.files).to.equal(0);
      const note = "No media are deleted, because the source has none";
      expect(summary.notes.join()).to.include(note);
      expect(filesIn(inBucket)).to.deep.equal([X, "reports/public/r.csv"]);
    });

    it("a file that cannot be compared fails, and the rest is copied", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const [a, b] = ["media/public/a.png", "media/public/b.png"];
      writeTree(folder, { [a]: "aaa", [b]: "bbb", "media/public/new.png": "n" });
      writeTree(inBucket, { [a]: "AAA", [b]: "bbb" });
      const choose: FaultChooser = ({ method, path }) => {
        const isMeant = method === "HEAD" && path.includes("a.png");
        return isMeant ? { status: 403, code: "AccessDenied" } : undefined;
      };
      const before = readTree(inBucket)[a] ?? "";
      const summary = await throughFaults(bucket, choose, (through) =>
        run(folder, through, { state }),
      );
      expect(problemsOf(summary)).to.deep.equal([`failed ${a}`]);
      expect(readTree(inBucket)).to.deep.equal({ ...readTree(folder), [a]: before });
    });
  });

  it("changes nothing in a dry run", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [X]: "x" });
    expect((await run(folder, bucket, { state, dryRun: true })).plan.create.files).to.equal(1);
    expect(readTree(inBucket)).to.deep.equal({});
  });

  describe("a bucket with files at its root", () => {
    it("is copied from as if they were in the right place", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const misplaced = { "public/x.png": "x", "t_tenant1/y.png": "y" };
      writeTree(inBucket, { ...misplaced, [X]: "newer", "other/z": "z" });
      await run(bucket, folder, { state });
      expect(filesIn(folder)).to.deep.equal([X, "media/t_tenant1/y.png"]);
      expect(readFileSync(join(folder, X), "utf8")).to.equal("newer");
    });

    it("is repaired: copied, checked, and the old keys deleted only on request", async () => {
      const { bucket, inBucket, state } = server.fresh();
      const there = "media/public/there.png";
      writeTree(inBucket, { [there]: "authentik's", "other/z": "z" });
      const misplaced = { "public/x.png": "x.png", "public/é +%.svg": "é +%.svg" };
      await putObjects(bucket, { ...misplaced, "public/there.png": "old" });
      const first = await repair(bucket, false, { state });
      const amounts = { copied: { files: 2, bytes: 14 }, deleted: { files: 0, bytes: 0 } };
      expect(first).to.deep.include({ skipped: 1, ...amounts });
      const copy = await withClient(bucket, (client) => client.head("media/public/é +%.svg"));
      expect(copy.headers["content-type"]).to.equal("image/svg+xml");
      expect(filesIn(inBucket)).to.include.members(["public/x.png", X]);
      await repair(bucket, true, { state });
      const kept = [there, X, "media/public/é +%.svg", "other/z", "public/there.png"];
      expect(filesIn(inBucket)).to.deep.equal(kept);
      expect(readFileSync(join(inBucket, there), "utf8")).to.equal("authentik's");
    });
  });

  describe("safety", () => {
    it("skips keys that lead elsewhere, by name, and copies the rest", async () => {
      const invalid = [
        "../../etc/passwd",
        "/etc/passwd",
        "media/public/../../../etc/passwd",
        "media/public/a/b",
        "media/public/n\0ul",
      ];
      const valid = ["media/public/a", "media/public/valid.png"];
      const keys = [...invalid, ...valid].sort();
      const keyAt = (index: number): string => keys[index] ?? "";
      const content = Buffer.from("content");
      const listing = await startListingServer({ count: keys.length, keyAt, content });
      const { folder, state } = server.fresh();
      try {
        const { problems } = await run(settingsOf(listing.endpoint), folder, { state });
        const skipped = problems.filter(({ kind }) => kind === "skipped");
        expect(skipped.map(({ key }) => key)).to.have.members(invalid);
        expect(filesIn(folder)).to.deep.equal(valid);
      } finally {
        await listing.stop();
      }
    });

    it("follows no symlink out of the root, neither reading nor writing", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const outside = temporaryFolder();
      const inFolder = join(folder, "media/public");
      writeTree(outside, { "secret.png": "secret" });
      writeTree(folder, { [X]: "x" });
      symlinkSync(join(outside, "secret.png"), join(inFolder, "leak.png"));
      symlinkSync(outside, join(inFolder, "out"));
      symlinkSync("x.png", join(inFolder, "alias.png"));
      const up = await run(folder, bucket, { state });
      const links = ["skipped media/public/leak.png", "skipped media/public/out"];
      expect(problemsOf(up)).to.have.members(links);
      expect(filesIn(inBucket)).to.deep.equal(["media/public/alias.png", X]);
      writeTree(inBucket, { "media/public/out/planted.png": "planted" });
      const down = await run(bucket, folder, { state });
      expect(problemsOf(down)).to.deep.equal(["skipped media/public/out/planted.png"]);
      expect(readdirSync(outside)).to.deep.equal(["secret.png"]);
    });

    it("replaces neither a folder nor a file that was created during the run", async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const [a, b] = ["media/public/a", "media/public/b"];
      writeTree(inBucket, { [a]: "file", [b]: "b", "media/public/c": "c" });
      writeTree(folder, { "media/public/a/x.png": "x" });
      let created = false;
      const onProgress = (): void => {
        if (!created) writeTree(folder, { [b]: "newer" });
        created = true;
      };
      const summary = await run(bucket, folder, { state, onProgress });
      expect(problemsOf(summary)).to.have.members([`skipped ${a}`, `skipped ${b}`]);
      expect(readFileSync(join(folder, b), "utf8")).to.equal("newer");
      expect(summary.copied.files).to.equal(1);
    });

    it("notices a file that changes while it is read", async () => {
      const { bucket, folder, state } = server.fresh();
      let size = 9 * MIB;
      writeTree(folder, { [LARGE]: randomBytes(size), [X]: "x" });
      const onProgress = () => {
        truncateSync(join(folder, LARGE), --size);
      };
      const { problems } = await run(folder, bucket, { state, onProgress });
      const reason = "it changed while it was read";
      expect(problems).to.deep.equal([{ key: LARGE, reason, kind: "failed" }]);
    });
  });

  it("needs only the permissions of authentik's own key", async () => {
    const dataDir = temporaryFolder();
    const authentik = await startTestServer({ dataDir });
    const client = rootClient(authentik);
    const Bucket = "users";
    await client.send(new CreateBucketCommand({ Bucket, ObjectOwnership: "BucketOwnerPreferred" }));
    const policy = authentikPolicy(`arn:aws:s3:::${Bucket}`, [AUTHENTIK.accessKey]);
    await client.send(new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(policy) }));
    client.destroy();
    const inBucket = join(dataDir, Bucket);
    const settings = settingsOf(authentik.endpoint, { bucketName: Bucket, ...AUTHENTIK });
    const { folder, state } = server.fresh();
    try {
      writeTree(folder, { [X]: "x", [LARGE]: randomBytes(9 * MIB) });
      writeTree(inBucket, { "media/public/old.png": "old", "public/y.png": "y" });
      const summary = await run(folder, settings, { state, delete: true });
      expect(problemsOf(summary)).to.deep.equal([]);
      expect(problemsOf(await repair(settings, true, { state }))).to.deep.equal([]);
      writeTree(inBucket, { "media/public/blank.svg": "<svg/>" });
      const types = await repairStoredTypes(settings, { state });
      expect([types.copied.files, problemsOf(types)]).to.deep.equal([1, []]);
      rmSync(join(inBucket, "media/public/blank.svg"));
      expect(filesIn(inBucket)).to.deep.equal([LARGE, X, "media/public/y.png"]);
    } finally {
      await authentik.stop();
    }
  });

  const STYLES = [
    ["auto", "https://s3.provider/base/virtual"],
    ["path", "https://s3.provider/base/virtual"],
    ["virtual", "https://virtual.s3.provider/base"],
  ] as const;
  it("supports the virtual-hosted style", async () => {
    for (const [addressingStyle, url] of STYLES) {
      const settings: Partial<StorageSettings> = { bucketName: "virtual", addressingStyle };
      const client = await BucketClient.open(settingsOf("https://s3.provider/base", settings));
      expect(client.url).to.equal(url);
      await client.close();
    }
  });

  it("copies by a plan of which only the beginning is in memory", async () => {
    const { folder, top, state } = server.fresh();
    const to = join(top, "to");
    const z = "media/public/z.png";
    writeTree(folder, { ...numbered(10_010), [z]: "new", "media/public/zz é%+.png": "newer" });
    writeTree(to, { [z]: "old content" });
    expect((await run(folder, to, { state })).copied.files).to.equal(10_012);
    expectSameFiles(to, folder);
  });

  describe("the command", function () {
    this.timeout(60_000);

    it("shows how many files the plan deletes, and which", async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(folder, { [X]: "x" });
      writeTree(inBucket, { [X]: "x", "media/public/old.png": "old", "public/x.png": "x" });
      const file = envFile(top, bucket);
      const old = "media/public/old.png (3 B)\n";
      const json = '{"step":"delete","key":"media/public/old.png","bytes":3}\n';
      const extra = "1 only in the destination";
      const repaired = "1 the same, 0 only in the destination, 1 (1 B) to be deleted.";
      // biome-ignore format: a table of cases
      const CASES: [args: string[], texts: string[]][] = [
        [[folder, file], [`  ${old}`, `${extra}.`]],
        [[folder, file, "--delete"], [`- ${old}`, `${extra}, 1 (3 B) to be deleted.`]],
        [[folder, file, "--delete", "--json"], [json]],
        [[file, "--repair-layout", "--delete-old"], ["- public/x.png (1 B)\n", repaired]],
        [[file, "--mend-layout", "--delete-old"], ["- public/x.png (1 B)\n", repaired]],
      ];
      for (const [args, texts] of CASES) {
        const { out } = await command([...args, "--dry-run", "--state", state]);
        for (const text of texts) expect(out, args.join(" ")).to.include(text);
      }
      const { out } = await command([file, "--repair-layout", "--dry-run", "--state", state]);
      expect(out).not.to.include("- public/x.png");
    });

    it("copies no folder into itself", async () => {
      const { folder, state } = server.fresh();
      writeTree(folder, { [X]: "x" });
      const to = join(folder, "media/public/copy");
      const { code, err } = await command([folder, to, "--yes", "--state", state]);
      expect(code).to.equal(2);
      expect(err).to.include("would be copied into itself");
    });

    it("shows the plan, asks for --yes without a terminal, and prints no secret", async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(folder, { [X]: "x" });
      const args = [folder, envFile(top, bucket), "--state", state];
      const dry = await command([...args, "--dry-run"]);
      expect(dry.out).to.include(`+ ${X}`);
      const unasked = await command(args);
      expect(unasked).to.include({ code: 2 });
      expect(unasked.err).to.include("--yes");
      expect(readTree(inBucket)).to.deep.equal({});
      symlinkSync("/etc/passwd", join(folder, "media/public/link"));
      const done = await command([...args, "--yes", "--json"]);
      expect(done.code).to.equal(1);
      const last: unknown = JSON.parse(done.out.trim().split("\n").at(-1) ?? "");
      expect(last).to.have.nested.property("summary.copied.files", 1);
      expect(last).to.have.nested.property("summary.skipped", 1);
      expect(JSON.stringify([dry, unasked, done])).to.not.include(bucket.secretKey);
    });
  });
});
