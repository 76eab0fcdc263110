import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { createServer } from "node:http";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import { digestOfObject, readObject } from "../tools/migrate/bucket-read.ts";
import { unquote } from "../tools/migrate/checksums.ts";
import { BucketClient } from "../tools/migrate/s3-client.ts";
import { Route } from "../tools/migrate/s3-route.ts";
import { StreamedAnswer } from "../tools/migrate/s3-stream.ts";
import type { Item } from "../tools/migrate/storage.ts";
import type { Fault, FaultChooser } from "./support/fault-proxy.ts";
import { listen } from "./support/listen.ts";
import { startListingServer } from "./support/listing-server.ts";
import {
  expectSameFiles,
  failureOf,
  filesIn,
  MIB,
  numbered,
  problemsOf,
  putObjects,
  readTree,
  run,
  settingsOf,
  TEST_RETRY_POLICY,
  throughFaults,
  throughProxy,
  useServer,
  withClient,
  writeTree,
} from "./support/migration.ts";
import type { ProxyOptions } from "./support/proxy.ts";

// biome-ignore format: a list of cases
const FAULTS: readonly Exclude<Fault, object>[] = [
  "reset", "lost", "slow-down", "stall", "stall-body", "hints", "drip", "truncate", "corrupt", "corrupt-request",
];

describe("migrate: faults", function () {
  this.timeout(30_000);
  const server = useServer();

  const files = {
    ...numbered(
      20,
      () => randomBytes(3000),
      (index) => `file ${index}.png`,
    ),
    "media/public/large.bin": randomBytes(17 * MIB),
  };

  for (const fault of FAULTS) {
    it(`retries after "${fault}", up and down`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, files);
      const tree = readTree(folder);
      // Only the first try of a call fails. What takes time is rarer.
      const every = /stall|hints|drip/.test(fault) ? 13 : 3;
      const seen = new Set<string>();
      const choose: FaultChooser = ({ method, path }) => {
        const isFirst = seen.size < seen.add(`${method} ${path}`).size;
        return isFirst && seen.size % every === 1 ? fault : undefined;
      };
      await throughFaults(bucket, choose, async (through, { done }) => {
        expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
        expect(done.get(fault)).to.be.greaterThan(0);
      });
      expect(readTree(inBucket)).to.deep.equal(tree);
      rmSync(folder, { recursive: true });
      await throughFaults(bucket, choose, async (through, { done }) => {
        expect(problemsOf(await run(through, folder, { state }))).to.deep.equal([]);
        expect(done.get(fault)).to.be.greaterThan(0);
      });
      expect(readTree(folder)).to.deep.equal(tree);
    });
  }

  const closes: ProxyOptions = {
    changeHeaders: (headers) => {
      headers.connection = "close";
    },
  };
  const keeps: ProxyOptions = {};
  for (const [name, hasRanges, options] of [
    ["keeps its connections", true, keeps],
    ["closes each connection", true, closes],
    ["supports no ranges", false, keeps],
    ["supports no ranges and closes each connection", false, closes],
  ] as const) {
    it(`reads large objects that arrive faster than they are stored: it ${name}`, async () => {
      const content = randomBytes(20 * MIB);
      const { bucket } = server.fresh();
      const keys = ["media/public/1.bin", "media/public/2.bin"] as const;
      const generated = {
        count: keys.length,
        keyAt: (index: number) => keys[index] ?? "",
        content,
      };
      const listing = await startListingServer(generated);
      if (hasRanges) {
        await putObjects(bucket, Object.fromEntries(keys.map((key) => [key, content])));
      }
      const settings = hasRanges ? bucket : settingsOf(listing.endpoint);
      await throughProxy(settings, options, (through) =>
        withClient(through, async (client) => {
          const items: Item[] = [];
          for await (const { etag: version, ...rest } of client.list("media/")) {
            items.push({ ...rest, version });
          }
          await Promise.all(
            items.map(async (item) => {
              const read: Buffer[] = [];
              for await (const chunk of readObject(client, item).chunks()) {
                read.push(chunk);
                if (read.length < 40) await sleep(5);
              }
              expect(Buffer.concat(read).equals(content)).to.equal(true);
            }),
          );
          // Readers that stop early leave no connection behind: there are 32.
          const first = items.slice(0, 1);
          for (const item of Array.from({ length: 40 }, () => first).flat()) {
            for await (const chunk of readObject(client, item).chunks())
              if (chunk.length > 0) break;
          }
        }),
      ).finally(() => listing.stop());
    });
  }

  for (const [name, end, share] of [
    ["is closed", (socket: Socket) => socket.end(), 0.5],
    ["is reset", (socket: Socket) => socket.resetAndDestroy(), 0.5],
    ["is closed after the last byte", (socket: Socket) => socket.end(), 1],
  ] as const) {
    it(`a connection that ${name} behind a paused answer`, async () => {
      const content = randomBytes(MIB);
      const server = createServer((request, response) => {
        const length = Math.round(content.length / share);
        response.writeHead(200, { connection: "close", "content-length": length });
        response.write(content, () => {
          end(request.socket);
        });
      });
      const { host, stop } = await listen(server);
      try {
        const route = await Route.to(`http://${host}`);
        const answer = new StreamedAnswer(route, 2000);
        await answer.open({ path: "/", headers: {} });
        const received: Buffer[] = [];
        const reading = async () => {
          for await (const chunk of answer.chunks()) {
            received.push(chunk);
            await sleep(50);
          }
        };
        const failure = await failureOf(reading());
        expect(failure).to.match(share === 1 ? /none/ : /ContentLengthMismatch|Socket|ECONN/);
        const read = Buffer.concat(received);
        expect(read.equals(content.subarray(0, read.length))).to.equal(true);
        if (share === 1) expect(read).to.have.length(content.length);
      } finally {
        await stop();
      }
    });
  }

  it("stops reading a large object when the client is closed", async () => {
    const { bucket } = server.fresh();
    const [key, content] = ["media/public/large.bin", randomBytes(9 * MIB)] as const;
    await putObjects(bucket, { [key]: content });
    const choose: FaultChooser = ({ method }) => (method === "GET" ? "stall-body" : undefined);
    await throughFaults(bucket, choose, async (through) => {
      const client = await BucketClient.open(through);
      const { headers } = await client.head(key);
      const version = unquote(headers.etag ?? "");
      const reading = failureOf(
        digestOfObject(client, "md5", { key, size: content.length, version }),
      );
      await sleep(300);
      await client.close();
      expect(await reading).to.include("no longer read");
    });
  });

  it("does not send the parts of a broken upload again", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/large.bin": randomBytes(33 * MIB) });
    const sent: string[] = [];
    let broken = true;
    const choose: FaultChooser = ({ method, path }) => {
      const [, part] = /partNumber=(\d+)/.exec(path) ?? [];
      if (method === "PUT" && part !== undefined) sent.push(part);
      return broken && part === "4" ? "reset" : undefined;
    };
    await throughFaults(bucket, choose, async (through) => {
      const retryPolicy = { ...TEST_RETRY_POLICY, attempts: 1 };
      expect((await run(folder, through, { state, retryPolicy })).failed).to.equal(1);
      broken = false;
      sent.length = 0;
      expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
    });
    expect(sent).to.include("4").and.not.include("1");
    expectSameFiles(inBucket, folder);
  });

  it("lists what still fails, with the cause, and copies the rest", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/bad.png": "bad", "media/public/good.png": "good" });
    const choose: FaultChooser = ({ path }) => (path.includes("bad.png") ? "slow-down" : undefined);
    const summary = await throughFaults(bucket, choose, (through) =>
      run(folder, through, { state }),
    );
    expect(problemsOf(summary)).to.deep.equal(["failed media/public/bad.png"]);
    expect(summary.problems[0]?.reason).to.include("SlowDown");
    expect(filesIn(inBucket)).to.deep.equal(["media/public/good.png"]);
  });

  it("never accepts corrupt bytes, however often they arrive", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(inBucket, { "media/public/large.bin": "" });
    await putObjects(bucket, { "media/public/x.png": randomBytes(3000) });
    const choose: FaultChooser = ({ path }) => (path.includes("x.png") ? "corrupt" : undefined);
    const summary = await throughFaults(bucket, choose, (through) =>
      run(through, folder, { state }),
    );
    expect(problemsOf(summary)).to.deep.equal(["failed media/public/x.png"]);
    expect(filesIn(folder)).to.deep.equal(["media/public/large.bin"]);
  });
});
