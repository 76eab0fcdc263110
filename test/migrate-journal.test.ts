import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import { Journal } from "../tools/migrate/journal.ts";
import type { FaultChooser } from "./support/fault-proxy.ts";
import {
  envFile,
  expectSameFiles,
  kill,
  MIB,
  MIGRATE,
  numbered,
  problemsOf,
  readTree,
  run,
  startChild,
  throughFaults,
  uploadsIn,
  uploadsLeft,
  useServer,
  writeTree,
} from "./support/migration.ts";

const X = "media/public/x.png";
const LARGE = "media/public/large.bin";

/** The only journal in a state folder. */
function journalIn(state: string): string {
  const [name = ""] = readdirSync(state);
  return join(state, name);
}

describe("migrate: the journal", function () {
  this.timeout(20_000);
  const server = useServer();

  for (const mayList of [true, false]) {
    const result = mayList ? "it is ended" : "without the permission to list it, it is reported";
    it(`a kill before the server answers the beginning of an upload: ${result}`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { [X]: "x" });
      // In an empty bucket nothing shows whether the end of an upload would delete a file.
      await run(folder, bucket, { state });
      writeTree(folder, { [LARGE]: randomBytes(9 * MIB) });
      let begin: () => void;
      const begun = new Promise<void>((resolve) => (begin = resolve));
      let loses = true;
      const choose: FaultChooser = ({ method, path }) => {
        if (!path.includes("uploads=")) return undefined;
        if (method === "GET" && !mayList) return { status: 403, code: "AccessDenied" };
        if (method !== "POST" || !loses) return undefined;
        // The server receives it; its answer does not arrive.
        setTimeout(() => {
          begin();
        }, 300);
        return "lost-silently";
      };
      await throughFaults(bucket, choose, async (through) => {
        const child = await startChild();
        child.send({ from: folder, to: through, state });
        await begun;
        await kill(child);
        expect(uploadsIn(inBucket)).to.have.length(1);
        loses = false;
        expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
        expectSameFiles(inBucket, folder);
        expect(uploadsIn(inBucket)).to.have.length(mayList ? 0 : 1);
        expect(uploadsLeft(state)).to.deep.equal([]);
      });
    });
  }

  it("if it is damaged or cut off, only a comparison is necessary", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [X]: "x", [LARGE]: randomBytes(9 * MIB) });
    await run(folder, bucket, { state });
    const journal = journalIn(state);
    const same = join(journal, "same");
    truncateSync(same, readFileSync(same).length - 3);
    const uploads = readdirSync(journal).find((name) => name.startsWith("uploads-")) ?? "";
    const damaged = { "a.json": "", "b.json": '{"key', "c.json": '{"key":1}', "d.json.123": "{" };
    writeTree(join(journal, uploads), damaged);
    expect((await run(folder, bucket, { state })).plan.same.files).to.equal(2);
    writeFileSync(same, randomBytes(8_001));
    writeTree(folder, { [X]: "y" });
    expect((await run(folder, bucket, { state })).copied.files).to.equal(1);
    expectSameFiles(inBucket, folder);
  });

  it("keeps a killed run's uploads while files are copied in the other direction", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [LARGE]: randomBytes(9 * MIB) });
    const journal = new Journal(state, [folder, server.endpoint]);
    await journal.keepUpload({ key: LARGE, uploadId: "an-upload", version: "v", partSize: 1 });
    journal.close();
    const other = new Journal(state, [server.endpoint, folder]);
    expect([...other.uploads.keys()]).to.deep.equal([]);
    other.close();
    const again = new Journal(state, [folder, server.endpoint]);
    expect([...again.uploads.keys()]).to.deep.equal([LARGE]);
    again.close();
    expect(readTree(inBucket)).to.deep.equal({});
    expect(problemsOf(await run(folder, bucket, { state }))).to.deep.equal([]);
  });

  it("is used by one run at a time; that of a zombie, and of a used id, is taken over", async () => {
    const { state } = server.fresh();
    const names = JSON.stringify([state, ["a", "b"]]);
    const hold =
      'import { Journal } from "./tools/migrate/journal.ts"; ' +
      `new Journal(...${names}); console.log(process.pid); setInterval(() => {}, 1000);`;
    const args = ["--import", "tsx/esm", "--input-type=module", "--eval", hold];
    // A parent that never waits for the end of its child.
    const parent = spawn("sh", ["-c", '"$@" & exec sleep 60', "sh", process.execPath, ...args], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      const data: unknown[] = await once(parent.stdout, "data");
      const id = Number(data[0]);
      expect(() => new Journal(state, ["a", "b"])).to.throw(
        "another run is copying between the same two storages; wait for its end",
      );
      process.kill(id, "SIGKILL");
      if (process.platform === "linux") {
        while (!/^State:\s+Z/m.test(readFileSync(`/proc/${id}/status`, "utf8"))) await sleep(5);
      }
      expect(process.kill(id, 0), "its id is in use").to.equal(true);
      new Journal(state, ["a", "b"]).close();
    } finally {
      await kill(parent);
    }
  });

  it("on a full disk: files count as copied, and a note says that they are read again", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    writeTree(folder, { [X]: "x" });
    await run(folder, bucket, { state });
    writeFileSync(join(journalIn(state), "same"), randomBytes(1024));
    writeTree(folder, { "media/public/y.png": "y" });
    const limited = ["-c", 'ulimit -f 1; exec "$@"', "bash", process.execPath, ...MIGRATE];
    const args = [...limited, folder, envFile(top, bucket), "--yes", "--state", state];
    const { status, stdout, stderr } = spawnSync("bash", args, { encoding: "utf8" });
    expect(status, stderr).to.equal(0);
    expect(stdout).to.include("Copied 1 files");
    expect(stdout).to.match(/Note: The journal in .* could not be written/);
    expectSameFiles(inBucket, folder);
  });

  it("in a folder that cannot be written, fails with an error that says what to do", () => {
    const { state } = server.fresh();
    writeFileSync(state, "a file");
    const message = `the journal in "${state}" cannot be written; name another folder with --state`;
    expect(() => new Journal(state, ["a", "b"])).to.throw(message);
  });

  it("two runs at the same time, up and down: no wrong file, complete after one more", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const large = { [LARGE]: randomBytes(17 * MIB) };
    writeTree(folder, { ...numbered(40, () => randomBytes(3000)), ...large });
    const other = join(top, "other-state");
    await Promise.all([run(folder, bucket, { state }), run(folder, bucket, { state: other })]);
    expect(problemsOf(await run(folder, bucket, { state }))).to.deep.equal([]);
    expectSameFiles(inBucket, folder);
    expect(uploadsIn(inBucket)).to.deep.equal([]);
    const copy = join(top, "copy", "data");
    await Promise.all([run(bucket, copy, { state }), run(bucket, copy, { state: other })]);
    expect(readTree(folder)).to.include(readTree(copy));
    expect(problemsOf(await run(bucket, copy, { state }))).to.deep.equal([]);
    expectSameFiles(copy, folder);
  });
});
