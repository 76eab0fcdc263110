import { fork, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { Journal } from "../tools/migrate/journal.ts";
import { startFaultProxy } from "./support/fault-proxy.ts";
import { envFile, readTree, run, startServer, uploadsIn, uploadsLeft, writeTree, type TestServer } from "./support/migration.ts";

const MIB = 1024 * 1024;

describe("migrate: the journal", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  for (const mayList of [true, false]) {
    it(`a kill between the beginning of an upload and its answer: ${mayList ? "the upload is ended" : "told of, where uploads may not be listed"}`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/large.bin": randomBytes(9 * MIB) });
      let begun: () => void;
      const hasBegun = new Promise<void>((resolve) => { begun = resolve; });
      let spoils = true;
      const proxy = await startFaultProxy(server.endpoint, ({ method, path }) => {
        if (method === "GET" && path.includes("uploads=") && !mayList) return { status: 403, code: "AccessDenied" };
        if (!spoils || method !== "POST" || !path.includes("uploads=")) return undefined;
        // The server gets it; its answer goes nowhere.
        setTimeout(() => { begun(); }, 300);
        return "lost-silently";
      });
      try {
        const through = { ...bucket, endpoint: proxy.endpoint };
        const child = fork(new URL("support/migrate-child.ts", import.meta.url), { execArgv: ["--import", "tsx/esm"] });
        await once(child, "message");
        child.send({ from: folder, to: through, state });
        await hasBegun;
        const ended = once(child, "exit");
        child.kill("SIGKILL");
        await ended;
        expect(uploadsIn(inBucket)).to.have.length(1);
        spoils = false;
        expect((await run(folder, through, { state })).problems).to.deep.equal([]);
        expect(readTree(inBucket)).to.deep.equal(readTree(folder));
        expect(uploadsIn(inBucket)).to.have.length(mayList ? 0 : 1);
        expect(uploadsLeft(state)).to.deep.equal([]);
      } finally {
        await proxy.stop();
      }
    });
  }

  it("damaged or cut off, it costs a comparison and nothing else", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x", "media/public/large.bin": randomBytes(9 * MIB) });
    await run(folder, bucket, { state });
    const [pair = ""] = readdirSync(state);
    const same = join(state, pair, "same");
    const [uploadsFolder = ""] = readdirSync(join(state, pair)).filter((name) => name.startsWith("uploads-"));
    truncateSync(same, readFileSync(same).length - 3);
    for (const [name, text] of Object.entries({ "a.json": "", "b.json": '{"key', "c.json": '{"key":1}', "d.json.123": "{" })) writeFileSync(join(state, pair, uploadsFolder, name), text);
    expect((await run(folder, bucket, { state })).plan.same.files).to.equal(2);
    writeFileSync(same, randomBytes(8_001));
    writeTree(folder, { "media/public/x.png": "y" });
    expect((await run(folder, bucket, { state })).copied.files).to.equal(1);
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
  });

  it("of a run that was killed keeps its uploads, whatever is copied the other way meanwhile", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/large.bin": randomBytes(9 * MIB) });
    const journal = new Journal(state, [folder, server.endpoint]);
    await journal.keepUpload({ key: "media/public/large.bin", uploadId: "an-upload", version: "v", partSize: 1 });
    journal.close();
    const other = new Journal(state, [server.endpoint, folder]);
    expect([...other.uploads.keys()]).to.deep.equal([]);
    other.close();
    const again = new Journal(state, [folder, server.endpoint]);
    expect([...again.uploads.keys()]).to.deep.equal(["media/public/large.bin"]);
    again.close();
    expect(readTree(inBucket)).to.deep.equal({});
    expect((await run(folder, bucket, { state })).problems).to.deep.equal([]);
  });

  it("is one run's at a time; that of a run that was killed is taken over", async () => {
    const { state } = server.fresh();
    const other = fork(new URL("support/migrate-child.ts", import.meta.url), { execArgv: ["--import", "tsx/esm"] });
    await once(other, "message");
    new Journal(state, ["a", "b"]).close();
    const [pair = ""] = readdirSync(state);
    writeFileSync(join(state, pair, "process"), String(other.pid));
    expect(() => new Journal(state, ["a", "b"])).to.throw(`process ${other.pid ?? 0} is copying between the same places; wait for its end`);
    const ended = once(other, "exit");
    other.kill("SIGKILL");
    await ended;
    new Journal(state, ["a", "b"]).close();
    expect(readdirSync(join(state, pair))).not.to.include("process");
  });

  it("on a full disk: what is copied counts as copied, and the next run is told to read it again", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    await run(folder, bucket, { state });
    const [pair = ""] = readdirSync(state);
    writeFileSync(join(state, pair, "same"), randomBytes(1024));
    writeTree(folder, { "media/public/y.png": "y" });
    const limited = ["-c", 'ulimit -f 1; exec "$@"', "bash", process.execPath, "--import", "tsx/esm", "tools/migrate/command.ts"];
    const { status, stdout, stderr } = spawnSync("bash", [...limited, folder, envFile(top, bucket), "--yes", "--state", state], { encoding: "utf8" });
    expect(status, stderr).to.equal(0);
    expect(stdout).to.include("Copied 1 files").and.match(/Note: The journal in .* could not be written/);
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
  });

  it("in a folder that cannot be written, is an error that says what to do", () => {
    const { state } = server.fresh();
    writeFileSync(state, "a file");
    expect(() => new Journal(state, ["a", "b"])).to.throw(`the journal in "${state}" cannot be written; name a folder of yours with --state`);
  });

  it("two runs at the same time, up and down: what is there is right, and one more run completes it", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, {
      ...Object.fromEntries(Array.from({ length: 40 }, (_, index) => [`media/public/${index}.png`, randomBytes(3000)])),
      "media/public/large.bin": randomBytes(17 * MIB),
    });
    const tree = readTree(folder);
    await Promise.all([run(folder, bucket, { state }), run(folder, bucket, { state })]);
    expect((await run(folder, bucket, { state })).problems).to.deep.equal([]);
    expect(readTree(inBucket)).to.deep.equal(tree);
    expect(uploadsIn(inBucket)).to.deep.equal([]);
    const copy = join(folder, "..", "copy", "data");
    await Promise.all([run(bucket, copy, { state }), run(bucket, copy, { state })]);
    for (const [path, hash] of Object.entries(readTree(copy))) expect(hash).to.equal(tree[path]);
    expect((await run(bucket, copy, { state })).problems).to.deep.equal([]);
    expect(readTree(copy)).to.deep.equal(tree);
  });
});
