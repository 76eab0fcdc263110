import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { dirname, join } from "node:path";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { S3Bucket } from "../tools/migrate/s3.ts";
import { startFaultProxy } from "./support/fault-proxy.ts";
import { IMPATIENT, mend, readTree, run, startServer, uploadsIn, writeTree, type Ground, type TestServer } from "./support/migration.ts";
import { startProxy } from "./support/proxy.ts";

const MIB = 1024 * 1024;
const SMALL = "media/public/x.png";
const LARGE = "media/public/large.bin";

/** Which conditions a server takes with what. versitygw takes them, but none with a copy. */
const SERVERS: Readonly<Record<string, { status: number; code: string } | undefined>> = {
  "takes conditions": undefined,
  "answers 501 to conditions": { status: 501, code: "NotImplemented" },
  "answers 400 to conditions": { status: 400, code: "InvalidArgument" },
  "finds no condition fulfilled": { status: 412, code: "PreconditionFailed" },
};

describe("migrate: what others do meanwhile", function () {
  this.timeout(20_000);
  let server: TestServer;
  let shelf: Ground;
  before(async () => {
    server = await startServer();
    shelf = server.fresh();
  });
  after(() => server.stop());

  async function put(bucket: StorageSettings, objects: Readonly<Record<string, Buffer | string>>): Promise<void> {
    const s3 = await S3Bucket.open(bucket, IMPATIENT);
    for (const [key, content] of Object.entries(objects)) await s3.put(key, Buffer.from(content), "image/png");
    await s3.close();
  }

  /** Gives a function that stores an object at once, as another client would. */
  async function shelve(content: Buffer | string, { inBucket }: Ground, key: string): Promise<() => void> {
    await put(shelf.bucket, { shelved: content });
    const file = join(shelf.top, `${Math.random()}`);
    renameSync(join(shelf.inBucket, "shelved"), file);
    return () => {
      mkdirSync(dirname(join(inBucket, key)), { recursive: true });
      renameSync(file, join(inBucket, key));
    };
  }

  interface Meanwhile {
    /** The request before which it happens, once. */
    at: (request: IncomingMessage) => boolean;
    happens: () => void;
    /** What conditions of writes and deletions are answered with. */
    refused?: { status: number; code: string } | undefined;
  }

  async function during<T>(bucket: StorageSettings, { at, happens, refused }: Meanwhile, work: (bucket: StorageSettings) => Promise<T>): Promise<T> {
    let happened = false;
    const proxy = await startProxy(server.endpoint, {
      answer: (request) => {
        const { method, headers } = request;
        if (refused && method !== "GET" && (headers["if-match"] ?? headers["if-none-match"]) !== undefined) {
          return { status: refused.status, body: `<Error><Code>${refused.code}</Code></Error>` };
        }
        if (!happened && at(request)) {
          happened = true;
          happens();
        }
        return undefined;
      },
    });
    try {
      const result = await work({ ...bucket, endpoint: `http://${proxy.host}` });
      expect(happened).to.equal(true);
      return result;
    } finally {
      await proxy.stop();
    }
  }

  const joins = ({ method, url = "" }: IncomingMessage): boolean => method === "POST" && url.includes("uploadId=");
  const asks = (verb: string, key: string) => ({ method, url = "" }: IncomingMessage): boolean => method === verb && url.endsWith(key);
  const nothing = (): void => undefined;
  const always = (): boolean => true;

  for (const [name, refused] of Object.entries(SERVERS)) {
    // A look comes before a write that has no condition; what comes between the two cannot be noticed.
    const [beforeSmall, beforeLarge] = refused ? [asks("HEAD", SMALL), asks("HEAD", LARGE)] : [asks("PUT", SMALL), joins];

    describe(`on a server that ${name}`, () => {
      it("all is written, changed and deleted", async () => {
        const { bucket, inBucket, folder, state } = server.fresh();
        await put(bucket, { "media/public/old.png": "old", "media/public/extra.png": "extra", "public/moved.png": "moved" });
        writeTree(folder, { [SMALL]: "x", [LARGE]: randomBytes(9 * MIB), "media/public/old.png": "new", "media/public/moved.png": "moved" });
        await during(bucket, { at: always, happens: nothing, refused }, async (through) => {
          expect((await mend(through, true, { state })).problems).to.deep.equal([]);
          expect((await run(folder, through, { state, delete: true })).problems).to.deep.equal([]);
          writeTree(folder, { [LARGE]: randomBytes(9 * MIB) });
          expect((await run(folder, through, { state })).problems).to.deep.equal([]);
        });
        expect(readTree(inBucket)).to.deep.equal(readTree(folder));
      });

      for (const [key, at] of [[SMALL, beforeSmall], [LARGE, beforeLarge]] as const) {
        it(`${key} that came stays, and no part is left`, async () => {
          const ground = server.fresh();
          const { bucket, inBucket, folder, state } = ground;
          writeTree(folder, { [key]: key === LARGE ? randomBytes(9 * MIB) : "of the disk", "media/public/other.png": "other" });
          const happens = await shelve("of authentik", ground, key);
          const { problems, copied } = await during(bucket, { at, happens, refused }, (through) => run(folder, through, { state }));
          expect(problems).to.deep.equal([{ key, kind: "refused", reason: "it came or was changed there while this ran, and stays" }]);
          expect(copied.files).to.equal(1);
          expect(readFileSync(join(inBucket, key), "utf8")).to.equal("of authentik");
          expect(uploadsIn(inBucket)).to.deep.equal([]);
        });

        it(`${key} that was changed stays`, async () => {
          const ground = server.fresh();
          const { bucket, inBucket, folder, state } = ground;
          await put(bucket, { [key]: "older" });
          writeTree(folder, { [key]: key === LARGE ? randomBytes(9 * MIB) : "of the disk" });
          const happens = await shelve("newer", ground, key);
          const { problems } = await during(bucket, { at, happens, refused }, (through) => run(folder, through, { state }));
          expect(problems.map(({ reason }) => reason)).to.deep.equal(["it came or was changed there while this ran, and stays"]);
          expect(readFileSync(join(inBucket, key), "utf8")).to.equal("newer");
          expect(uploadsIn(inBucket)).to.deep.equal([]);
        });
      }

      it("what was deleted is not stored again", async () => {
        const { bucket, inBucket, folder, state } = server.fresh();
        await put(bucket, { [SMALL]: "older" });
        writeTree(folder, { [SMALL]: "of the disk" });
        const happens = (): void => { rmSync(join(inBucket, SMALL)); };
        const { problems } = await during(bucket, { at: beforeSmall, happens, refused }, (through) => run(folder, through, { state }));
        expect(problems.map(({ reason }) => reason)).to.deep.equal(["it was deleted there while this ran"]);
        expect(readTree(inBucket)).to.deep.equal({});
      });

      it("an extra object that was changed is not deleted", async () => {
        const ground = server.fresh();
        const { bucket, inBucket, folder, state } = ground;
        await put(bucket, { [SMALL]: "older" });
        writeTree(folder, { "media/public/a.png": "a" });
        const at = asks(refused ? "HEAD" : "DELETE", SMALL);
        const { problems } = await during(bucket, { at, happens: await shelve("newer", ground, SMALL), refused }, (through) => run(folder, through, { state, delete: true }));
        expect(problems.map(({ key, kind }) => `${kind} ${key}`)).to.deep.equal([`refused ${SMALL}`]);
        expect(readFileSync(join(inBucket, SMALL), "utf8")).to.equal("newer");
      });
    });
  }

  it("the same content from another run is no conflict, and no part is left", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const other = server.fresh();
    writeTree(folder, { [SMALL]: "x", [LARGE]: randomBytes(9 * MIB) });
    expect((await run(folder, other.bucket, { state: join(top, "other-state") })).problems).to.deep.equal([]);
    const happens = (): void => { renameSync(join(other.inBucket, "media"), join(inBucket, "media")); };
    const { problems } = await during(bucket, { at: ({ method }) => method !== "GET", happens }, (through) => run(folder, through, { state }));
    expect(problems).to.deep.equal([]);
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
    expect(uploadsIn(inBucket)).to.deep.equal([]);
  });

  it("an answer that was lost is no conflict, neither for what is new nor for what is changed", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const seen = new Set<string>();
    const proxy = await startFaultProxy(server.endpoint, ({ method, path }) => {
      const isFirst = seen.size < seen.add(`${method} ${path}`).size;
      return isFirst && method !== "GET" && method !== "HEAD" ? "lost" : undefined;
    });
    try {
      for (const suffix of ["1", "2"]) {
        writeTree(folder, { [SMALL]: `x${suffix}`, [LARGE]: randomBytes(9 * MIB) });
        seen.clear();
        expect((await run(folder, { ...bucket, endpoint: proxy.endpoint }, { state })).problems).to.deep.equal([]);
        expect(readTree(inBucket)).to.deep.equal(readTree(folder));
      }
      rmSync(join(folder, SMALL));
      expect((await run(folder, { ...bucket, endpoint: proxy.endpoint }, { state, delete: true })).problems).to.deep.equal([]);
      expect(proxy.done.get("lost")).to.be.greaterThan(6);
    } finally {
      await proxy.stop();
    }
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
  });

  it("a lost answer to the joining of parts, where ETags are no MD5s: their checksums tell, and nothing is sent again", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [LARGE]: randomBytes(9 * MIB) });
    let joinings = 0;
    const sent: string[] = [];
    const faulty = await startFaultProxy(server.endpoint, ({ method, path }) => {
      if (method === "PUT") sent.push(path);
      return method === "POST" && path.includes("uploadId=") && joinings++ === 0 ? "lost" : undefined;
    });
    const opaque = await startProxy(faulty.endpoint, {
      changeHeaders: (headers) => { if (headers.etag?.endsWith('-2"')) headers.etag = '"opaque-2"'; },
    });
    try {
      expect((await run(folder, { ...bucket, endpoint: `http://${opaque.host}` }, { state })).problems).to.deep.equal([]);
    } finally {
      await opaque.stop();
      await faulty.stop();
    }
    expect(joinings).to.equal(2);
    expect(sent).to.have.length(2);
    expect(readTree(inBucket)).to.deep.equal(readTree(folder));
  });

  it("mends no object over one that came", async () => {
    const ground = server.fresh();
    const { bucket, inBucket, state } = ground;
    await put(bucket, { "public/x.png": "old", "public/y.png": "y" });
    const { problems, copied } = await during(bucket, { at: asks("HEAD", SMALL), happens: await shelve("newer", ground, SMALL) }, (through) => mend(through, true, { state }));
    expect(problems).to.deep.equal([{ key: SMALL, kind: "refused", reason: "it came or was changed there while this ran, and stays" }]);
    expect(copied.files).to.equal(1);
    expect(readFileSync(join(inBucket, SMALL), "utf8")).to.equal("newer");
    expect(readFileSync(join(inBucket, "public/x.png"), "utf8")).to.equal("old");
  });

  it("deletes no misplaced object that was replaced after its copy was checked", async () => {
    const ground = server.fresh();
    const { bucket, inBucket, state } = ground;
    await put(bucket, { "public/x.png": "old" });
    const happens = await shelve("newer", ground, "public/x.png");
    const { problems, deleted } = await during(bucket, { at: asks("DELETE", "public/x.png"), happens }, (through) => mend(through, true, { state }));
    expect(problems.map(({ kind, reason }) => `${kind} ${reason}`)).to.deep.equal(["refused it came or was changed there while this ran, and stays"]);
    expect(deleted.files).to.equal(0);
    expect(readFileSync(join(inBucket, "public/x.png"), "utf8")).to.equal("newer");
    expect(readFileSync(join(inBucket, SMALL), "utf8")).to.equal("old");
  });
});
