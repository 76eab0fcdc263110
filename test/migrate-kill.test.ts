import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import {
  kill,
  MIB,
  numbered,
  problemsOf,
  readTree,
  run,
  startChild,
  temporaryFolder,
  uploadsLeft,
  useServer,
  writeTree,
  type End,
} from "./support/migration.ts";

const KILLS = 50;

describe("migrate: killed at any moment", function () {
  this.timeout(300_000);
  const server = useServer();
  let spare: Promise<ChildProcess>;
  after(async () => (await spare).kill("SIGKILL"));

  it(`is complete after another run, ${KILLS} times`, async () => {
    const folder = temporaryFolder();
    const source = join(folder, "source", "data");
    const small = numbered(
      60,
      (index) => randomBytes(1000 + 300 * index),
      (index) => `file ${index}.png`,
    );
    writeTree(source, { ...small, "media/public/large.bin": randomBytes(17 * MIB) });
    const tree = readTree(source);
    const full = server.bucket("full");
    await run(source, full, { state: join(folder, "state") });
    const longest = { up: 0, down: 0 };
    spare = startChild();
    const moments: string[] = [];
    for (let number = 0; number < KILLS; number++) {
      const child = await spare;
      // The next one starts while this one works.
      spare = startChild();
      const direction = number % 2 === 0 ? "up" : "down";
      const name = `killed-${number}`;
      const copy = join(folder, name, "data");
      const inBucket = join(server.buckets, name);
      const [from, to]: [End, End] =
        direction === "up" ? [source, server.bucket(name)] : [full, copy];
      mkdirSync(copy, { recursive: true });
      const state = join(folder, name, "state");
      const result = () => readTree(direction === "up" ? inBucket : copy);

      const start = performance.now();
      const done = once(child, "message");
      child.send({ from, to, state });
      // The first run of each direction shows how long a whole run takes.
      if (longest[direction] === 0) await done;
      else await Promise.race([done, sleep(Math.random() * longest[direction])]);
      longest[direction] ||= performance.now() - start;
      await kill(child);
      if (direction === "down") {
        for (const [path, hash] of Object.entries(result())) {
          if (!path.includes(".migrate-")) expect(hash, `"${path}"`).to.equal(tree[path]);
        }
      }
      const rerun = await run(from, to, { state });
      moments.push(`${direction} ${rerun.copied.files}`);
      expect(problemsOf(rerun)).to.deep.equal([]);
      expect(result()).to.deep.equal(tree);
      expect(uploadsLeft(state)).to.deep.equal([]);
      rmSync(join(folder, name), { recursive: true });
      if (direction === "up") rmSync(inBucket, { recursive: true });
    }
    // The kills happened at different moments: before, during and after the transfers.
    expect(new Set(moments).size).to.be.greaterThan(5);
  });
});
