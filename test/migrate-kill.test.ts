import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import type { FaultChooser } from "./support/fault-proxy.ts";
import {
  envFile,
  filesIn,
  kill,
  MIB,
  MIGRATE,
  numbered,
  problemsOf,
  readTree,
  run,
  startChild,
  temporaryFolder,
  throughFaults,
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

describe("migrate: stopped by a signal", function () {
  this.timeout(20_000);
  const server = useServer();

  // npm passes a terminal's Ctrl-C on: it arrives twice.
  for (const signals of [["SIGINT", "SIGINT"], ["SIGTERM"]] as const) {
    it(`${signals.join(", ")}: says what is left, leaves no part, and the next run continues`, async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      writeTree(inBucket, {
        ...numbered(20, () => randomBytes(3000)),
        "media/public/large.bin": randomBytes(MIB),
      });
      let asked: () => void;
      const isAsked = new Promise<void>((resolve) => (asked = resolve));
      const choose: FaultChooser = ({ method, path }) => {
        if (method !== "GET" || !path.endsWith("large.bin")) return undefined;
        setTimeout(asked, 500);
        return "lost-silently";
      };
      await throughFaults(bucket, choose, async (through) => {
        const args = [...MIGRATE, envFile(top, through), folder, "--yes", "--state", state];
        const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
        const output = text(child.stdout);
        await isAsked;
        const ended = once(child, "exit");
        for (const signal of signals) child.kill(signal);
        await ended;
        expect(child.exitCode).to.equal(1);
        expect(await output).to.equal(
          "Stopped: 20 files (60.0 kB) were copied, 1 files (1.0 MB) are left. " +
            "Run the same command again to continue.\n",
        );
      });
      expect(filesIn(folder).join()).not.to.include(".part");
      const rerun = await run(bucket, folder, { state });
      expect(rerun.copied.files).to.equal(1);
      expect(readTree(folder)).to.deep.equal(readTree(inBucket));
    });
  }
});
