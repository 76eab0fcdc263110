import { fork, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { readTree, run, startServer, temporaryFolder, uploadsLeft, writeTree, type End, type TestServer } from "./support/migration.ts";

const KILLS = 50;
const MIB = 1024 * 1024;

describe("migrate: killed at any moment", function () {
  this.timeout(300_000);
  let server: TestServer;
  let spare: Promise<ChildProcess>;
  before(async () => { server = await startServer(); });
  after(async () => {
    (await spare).kill("SIGKILL");
    await server.stop();
  });

  it(`is complete after a rerun, ${KILLS} times`, async () => {
    const folder = temporaryFolder();
    const source = join(folder, "source", "data");
    writeTree(source, {
      ...Object.fromEntries(Array.from({ length: 60 }, (_, index) => [`media/public/file ${index}.png`, randomBytes(1000 + 300 * index)])),
      "media/public/large.bin": randomBytes(17 * MIB),
    });
    const tree = readTree(source);
    const full = server.bucket("full");
    await run(source, full, { state: join(folder, "state") });
    const longest = { up: 0, down: 0 };
    spare = startChild();
    const moments: string[] = [];
    for (let kill = 0; kill < KILLS; kill++) {
      const child = await spare;
      // The next one starts while this one works.
      spare = startChild();
      const direction = kill % 2 === 0 ? "up" : "down";
      const name = `killed-${kill}`;
      const copy = join(folder, name, "data");
      const bucket: StorageSettings = direction === "up" ? server.bucket(name) : full;
      const [from, to]: [End, End] = direction === "up" ? [source, bucket] : [full, copy];
      mkdirSync(copy, { recursive: true });
      const state = join(folder, name, "state");
      const result = () => (direction === "up" ? readTree(join(server.buckets, name)) : readTree(copy));

      const start = performance.now();
      const done = once(child, "message");
      child.send({ from, to, state });
      // The first of each direction shows how long a whole run takes.
      if (longest[direction] > 0) await Promise.race([done, sleep(Math.random() * longest[direction])]);
      else await done;
      longest[direction] ||= performance.now() - start;
      const exited = once(child, "exit");
      child.kill("SIGKILL");
      await exited;
      if (direction === "down") {
        for (const [path, hash] of Object.entries(result())) {
          if (!path.includes(".migrate-")) expect(hash, `"${path}" is half a file`).to.equal(tree[path]);
        }
      }
      const rerun = await run(from, to, { state });
      moments.push(`${direction} ${rerun.copied.files}`);
      expect(rerun.problems).to.deep.equal([]);
      expect(result()).to.deep.equal(tree);
      expect(uploadsLeft(state)).to.deep.equal([]);
      rmSync(join(folder, name), { recursive: true });
      if (direction === "up") rmSync(join(server.buckets, name), { recursive: true });
    }
    // The kills came at different moments: before, amid and after the transfers.
    expect(new Set(moments).size).to.be.greaterThan(5);
  });
});

async function startChild(): Promise<ChildProcess> {
  const child = fork(new URL("support/migrate-child.ts", import.meta.url), { execArgv: ["--import", "tsx/esm"] });
  await once(child, "message");
  return child;
}
