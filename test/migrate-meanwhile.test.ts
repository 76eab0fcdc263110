import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { dirname, join } from "node:path";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import type { FaultChooser } from "./support/fault-proxy.ts";
import {
  expectSameFiles,
  MIB,
  problemsOf,
  putObjects,
  readTree,
  repair,
  run,
  throughFaults,
  throughProxy,
  uploadsIn,
  useServer,
  writeTree,
  type Ground,
} from "./support/migration.ts";

const OLD = "public/x.png";
const SMALL = "media/public/x.png";
const LARGE = "media/public/large.bin";
const KEPT = "it was created or changed in the bucket during this run, and is kept";

interface Rejection {
  status: number;
  code: string;
}

type RequestTest = (request: IncomingMessage) => boolean;

/** How servers treat conditions. versitygw supports them, except for copies. */
const SERVERS: Readonly<Record<string, Rejection | undefined>> = {
  "supports conditions": undefined,
  "answers 501 to conditions": { status: 501, code: "NotImplemented" },
  "answers 400 to conditions": { status: 400, code: "InvalidArgument" },
  "finds no condition fulfilled": { status: 412, code: "PreconditionFailed" },
};

const CONFLICT: Rejection = { status: 409, code: "Conflict" };

const isJoining: RequestTest = ({ method, url = "" }) =>
  method === "POST" && url.includes("uploadId=");
const isRequest =
  (verb: string, key: string): RequestTest =>
  ({ method, url = "" }) =>
    method === verb && url.endsWith(key);

describe("migrate: changes by others during a run", function () {
  this.timeout(20_000);
  const server = useServer();
  let shelf: Ground;
  before(() => {
    shelf = server.fresh();
  });

  /** A function that stores an object at once, as another client would. */
  async function prepare(content: string, { inBucket }: Ground, key: string): Promise<() => void> {
    await putObjects(shelf.bucket, { prepared: content });
    const file = join(shelf.top, `${Math.random()}`);
    renameSync(join(shelf.inBucket, "prepared"), file);
    return () => {
      mkdirSync(dirname(join(inBucket, key)), { recursive: true });
      renameSync(file, join(inBucket, key));
    };
  }

  interface Event {
    /** The request before which it happens, once. */
    at: RequestTest;
    happens: () => void;
    /** The answer to conditions of writes and deletions. */
    rejection?: Rejection | undefined;
  }

  async function during<T>(
    bucket: StorageSettings,
    { at, happens, rejection }: Event,
    work: (bucket: StorageSettings) => Promise<T>,
  ): Promise<T> {
    let happened = false;
    const answer = (request: IncomingMessage) => {
      const { method, headers } = request;
      const condition = headers["if-match"] ?? headers["if-none-match"];
      if (rejection && method !== "GET" && condition !== undefined) {
        const body = `<Error><Code>${rejection.code}</Code></Error>`;
        return { status: rejection.status, body };
      }
      if (!happened && at(request)) {
        happened = true;
        happens();
      }
      return undefined;
    };
    const result = await throughProxy(bucket, { answer }, work);
    expect(happened).to.equal(true);
    return result;
  }

  for (const [name, rejection] of Object.entries(SERVERS)) {
    // Without conditions the object is read before a write; a change after that is not noticed.
    const [beforeSmall, beforeLarge] = rejection
      ? [isRequest("HEAD", SMALL), isRequest("HEAD", LARGE)]
      : [isRequest("PUT", SMALL), isJoining];

    describe(`on a server that ${name}`, () => {
      it("everything is written, changed and deleted", async () => {
        const { bucket, inBucket, folder, state } = server.fresh();
        const objects = { "media/public/old.png": "old", "media/public/extra.png": "extra" };
        await putObjects(bucket, { ...objects, "public/moved.png": "moved" });
        const files = { "media/public/old.png": "new", "media/public/moved.png": "moved" };
        writeTree(folder, { [SMALL]: "x", [LARGE]: randomBytes(9 * MIB), ...files });
        const event = { at: () => true, happens: () => undefined, rejection };
        await during(bucket, event, async (through) => {
          expect(problemsOf(await repair(through, true, { state }))).to.deep.equal([]);
          const full = await run(folder, through, { state, delete: true });
          expect(problemsOf(full)).to.deep.equal([]);
          writeTree(folder, { [LARGE]: randomBytes(9 * MIB) });
          expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
        });
        expectSameFiles(inBucket, folder);
      });

      for (const [key, at] of [
        [SMALL, beforeSmall],
        [LARGE, beforeLarge],
      ] as const) {
        const content = key === LARGE ? randomBytes(9 * MIB) : "of the disk";

        it(`${key} that was created is kept, and no part is left`, async () => {
          const ground = server.fresh();
          const { bucket, inBucket, folder, state } = ground;
          writeTree(folder, { [key]: content, "media/public/other.png": "other" });
          const happens = await prepare("of authentik", ground, key);
          const event = { at, happens, rejection };
          const { problems, copied } = await during(bucket, event, (through) =>
            run(folder, through, { state }),
          );
          expect(problems).to.deep.equal([{ key, kind: "skipped", reason: KEPT }]);
          expect(copied.files).to.equal(1);
          expect(readFileSync(join(inBucket, key), "utf8")).to.equal("of authentik");
          expect(uploadsIn(inBucket)).to.deep.equal([]);
        });

        it(`${key} that was changed is kept`, async () => {
          const ground = server.fresh();
          const { bucket, inBucket, folder, state } = ground;
          await putObjects(bucket, { [key]: "older" });
          writeTree(folder, { [key]: content });
          const happens = await prepare("newer", ground, key);
          const event = { at, happens, rejection };
          const { problems } = await during(bucket, event, (through) =>
            run(folder, through, { state }),
          );
          expect(problems.map(({ reason }) => reason)).to.deep.equal([KEPT]);
          expect(readFileSync(join(inBucket, key), "utf8")).to.equal("newer");
          expect(uploadsIn(inBucket)).to.deep.equal([]);
        });
      }

      it("what was deleted is not stored again", async () => {
        const { bucket, inBucket, folder, state } = server.fresh();
        await putObjects(bucket, { [SMALL]: "older" });
        writeTree(folder, { [SMALL]: "of the disk" });
        const happens = (): void => {
          rmSync(join(inBucket, SMALL));
        };
        const event = { at: beforeSmall, happens, rejection };
        const { problems } = await during(bucket, event, (through) =>
          run(folder, through, { state }),
        );
        const reasons = problems.map(({ reason }) => reason);
        expect(reasons).to.deep.equal(["it was deleted in the bucket during this run"]);
        expect(readTree(inBucket)).to.deep.equal({});
      });

      it("an extra object that was changed is not deleted", async () => {
        const ground = server.fresh();
        const { bucket, inBucket, folder, state } = ground;
        await putObjects(bucket, { [SMALL]: "older" });
        writeTree(folder, { "media/public/a.png": "a" });
        const at = isRequest(rejection ? "HEAD" : "DELETE", SMALL);
        const event = { at, happens: await prepare("newer", ground, SMALL), rejection };
        const summary = await during(bucket, event, (through) =>
          run(folder, through, { state, delete: true }),
        );
        expect(problemsOf(summary)).to.deep.equal([`skipped ${SMALL}`]);
        expect(readFileSync(join(inBucket, SMALL), "utf8")).to.equal("newer");
      });
    });
  }

  it("409 without a change is the server's failure, and not another program's change", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { [SMALL]: "x" });
    const event = { at: () => true, happens: () => undefined, rejection: CONFLICT };
    const { problems } = await during(bucket, event, (through) => run(folder, through, { state }));
    const reason = "the server answered 409 Conflict";
    expect(problems).to.deep.equal([{ key: SMALL, kind: "failed", reason }]);
  });

  it("the same content from another run is no conflict, and no part is left", async () => {
    const { bucket, inBucket, folder, state, top } = server.fresh();
    const other = server.fresh();
    writeTree(folder, { [SMALL]: "x", [LARGE]: randomBytes(9 * MIB) });
    const first = await run(folder, other.bucket, { state: join(top, "other-state") });
    expect(problemsOf(first)).to.deep.equal([]);
    const happens = (): void => {
      renameSync(join(other.inBucket, "media"), join(inBucket, "media"));
    };
    const event: Event = { at: ({ method }) => method !== "GET", happens };
    const summary = await during(bucket, event, (through) => run(folder, through, { state }));
    expect(problemsOf(summary)).to.deep.equal([]);
    expectSameFiles(inBucket, folder);
    expect(uploadsIn(inBucket)).to.deep.equal([]);
  });

  it("a lost answer is no conflict, for new files, changed ones and deletions", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    const seen = new Set<string>();
    const choose: FaultChooser = ({ method, path }) => {
      const isFirst = seen.size < seen.add(`${method} ${path}`).size;
      return isFirst && method !== "GET" && method !== "HEAD" ? "lost" : undefined;
    };
    await throughFaults(bucket, choose, async (through, { done }) => {
      for (const suffix of ["1", "2"]) {
        writeTree(folder, { [SMALL]: `x${suffix}`, [LARGE]: randomBytes(9 * MIB) });
        seen.clear();
        expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
        expectSameFiles(inBucket, folder);
      }
      rmSync(join(folder, SMALL));
      const summary = await run(folder, through, { state, delete: true });
      expect(problemsOf(summary)).to.deep.equal([]);
      expect(done.get("lost")).to.be.greaterThan(6);
    });
    expectSameFiles(inBucket, folder);
  });

  it("a lost answer to the joining of parts without MD5s: the checksums are compared", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [LARGE]: randomBytes(9 * MIB) });
    let joinings = 0;
    const sent: string[] = [];
    const choose: FaultChooser = ({ method, path }) => {
      if (method === "PUT") sent.push(path);
      const isJoining = method === "POST" && path.includes("uploadId=");
      return isJoining && joinings++ === 0 ? "lost" : undefined;
    };
    const changeHeaders = (headers: { etag?: string | undefined }): void => {
      if (headers.etag?.endsWith('-2"')) headers.etag = '"opaque-2"';
    };
    const summary = await throughFaults(bucket, choose, (faulty) =>
      throughProxy(faulty, { changeHeaders }, (opaque) => run(folder, opaque, { state })),
    );
    expect(problemsOf(summary)).to.deep.equal([]);
    expect(joinings).to.equal(2);
    expect(sent).to.have.length(2);
    expectSameFiles(inBucket, folder);
  });

  it("a repair does not replace an object that was created", async () => {
    const ground = server.fresh();
    const { bucket, inBucket, state } = ground;
    await putObjects(bucket, { [OLD]: "old", "public/y.png": "y" });
    const happens = await prepare("newer", ground, SMALL);
    const event = { at: isRequest("HEAD", SMALL), happens };
    const { problems, copied } = await during(bucket, event, (through) =>
      repair(through, true, { state }),
    );
    expect(problems).to.deep.equal([{ key: SMALL, kind: "skipped", reason: KEPT }]);
    expect(copied.files).to.equal(1);
    expect(readFileSync(join(inBucket, SMALL), "utf8")).to.equal("newer");
    expect(readFileSync(join(inBucket, OLD), "utf8")).to.equal("old");
  });

  it("a repair does not delete an object whose copy was deleted", async () => {
    const { bucket, inBucket, state } = server.fresh();
    await putObjects(bucket, { [OLD]: "x", [SMALL]: "x" });
    const happens = (): void => {
      rmSync(join(inBucket, SMALL));
    };
    const event = { at: isRequest("HEAD", SMALL), happens };
    const { problems, deleted } = await during(bucket, event, (through) =>
      repair(through, true, { state }),
    );
    expect(problems.map(({ reason }) => reason)).to.deep.equal(["the server answered 404"]);
    expect(deleted.files).to.equal(0);
    expect(readFileSync(join(inBucket, OLD), "utf8")).to.equal("x");
  });

  it("a repair does not delete an object that was changed after its copy was checked", async () => {
    const ground = server.fresh();
    const { bucket, inBucket, state } = ground;
    await putObjects(bucket, { [OLD]: "old" });
    const event = {
      at: isRequest("DELETE", OLD),
      happens: await prepare("newer", ground, OLD),
    };
    const { problems, deleted } = await during(bucket, event, (through) =>
      repair(through, true, { state }),
    );
    expect(problems).to.deep.equal([{ key: SMALL, kind: "skipped", reason: KEPT }]);
    expect(deleted.files).to.equal(0);
    expect(readFileSync(join(inBucket, OLD), "utf8")).to.equal("newer");
    expect(readFileSync(join(inBucket, SMALL), "utf8")).to.equal("old");
  });
});
