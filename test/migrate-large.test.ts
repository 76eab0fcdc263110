import { randomBytes } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { join } from "node:path";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { Bucket } from "../tools/migrate/bucket.ts";
import { MemoryBudget } from "../tools/migrate/content.ts";
import { Journal } from "../tools/migrate/journal.ts";
import type { Part } from "../tools/migrate/s3-answers.ts";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { ACCOUNT, createContainer, startAzurite, type Azurite } from "./support/azurite.ts";
import type { FaultChooser, ProxiedRequest } from "./support/fault-proxy.ts";
import {
  failureOf,
  MIB,
  problemsOf,
  putObjects,
  readTree,
  run,
  settingsOf,
  temporaryFolder,
  TEST_RETRY_POLICY,
  throughFaults,
  throughProxy,
  uploadsIn,
  uploadsLeft,
  useServer,
  withClient,
  writeTree,
} from "./support/migration.ts";
import type { ProxyOptions } from "./support/proxy.ts";
import { ROOT, startTestServer } from "./support/server.ts";

const SIZES = { whole: 8 * MIB, part: 5 * MIB };
const OLD = "public/x.png";
const NEW = "media/public/x.png";

describe("migrate: objects larger than the limit of one copy", function () {
  this.timeout(20_000);
  const server = useServer();

  /** Stores a misplaced object in parts of these sizes, and repairs it through a proxy. */
  async function repairInParts(sizes: readonly number[], choose: FaultChooser) {
    const { bucket: settings, inBucket, state } = server.fresh();
    const journal = new Journal(state, ["a", "b"]);
    const work = throughFaults(settings, choose, (through) =>
      withClient(through, async (client) => {
        const uploadId = await client.createUpload(OLD, { "content-type": "binary/octet-stream" });
        const parts: Part[] = [];
        for (const size of sizes) {
          parts.push(await client.uploadPart(OLD, uploadId, parts.length + 1, randomBytes(size)));
        }
        const version = await client.completeUpload(OLD, uploadId, parts);
        const bucket = await Bucket.open(client, new MemoryBudget(), { readsMisplaced: false });
        bucket.useJournal(journal);
        const size = sizes.reduce((sum, part) => sum + part, 0);
        const error = await failureOf(bucket.repair({ key: NEW, at: OLD, size, version }, SIZES));
        const headers = error === "none" ? (await client.head(NEW)).headers : {};
        return { error, type: headers["content-type"] };
      }),
    );
    const result = await work.finally(() => {
      journal.close();
    });
    const noted = journal.uploads.size;
    return { ...result, tree: readTree(inBucket), noted, left: uploadsIn(inBucket) };
  }

  for (const sizes of [[11 * MIB], [6 * MIB, 6 * MIB, 1]]) {
    it(`one of ${sizes.length} part(s) is repaired in other parts, with its type`, async () => {
      const copies: string[] = [];
      const { error, type, tree, left } = await repairInParts(sizes, ({ headers }) => {
        const range = headers["x-amz-copy-source-range"];
        if (range !== undefined) copies.push(String(range));
        return undefined;
      });
      expect(error).to.equal("none");
      expect(copies).to.have.length(3);
      expect(type).to.equal("image/png");
      expect(tree[NEW]).to.equal(tree[OLD]);
      expect(left).to.deep.equal([]);
    });
  }

  const isOfCopy = ({ path }: ProxiedRequest, text: string): boolean =>
    path.includes("media/") && path.includes(text);

  it("one is given its type in place, and keeps the rest; one with tags is kept as it is", async () => {
    const { bucket: settings, inBucket } = server.fresh();
    const blank = { "content-type": "binary/octet-stream", "x-amz-meta-owner": "me" };
    await putObjects(settings, { [NEW]: randomBytes(11 * MIB) }, blank);
    const before = readTree(inBucket);
    const changeHeaders = (headers: IncomingHttpHeaders) => {
      headers["x-amz-tagging-count"] = "1";
    };
    const repairType = (bucket: StorageSettings) =>
      withClient(bucket, async (client) => {
        const repaired = await Bucket.open(client, new MemoryBudget(), { readsMisplaced: false });
        for await (const item of repaired.list("media", () => undefined)) {
          await repaired.repairType(item, SIZES);
        }
        return (await client.head(NEW)).headers;
      });
    const failure = failureOf(throughProxy(settings, { changeHeaders }, repairType));
    expect(await failure).to.include("it has tags");
    const headers = await repairType(settings);
    expect(headers).to.include({ "content-type": "image/png", "x-amz-meta-owner": "me" });
    expect(headers.etag).to.match(/-3"$/);
    expect([readTree(inBucket), uploadsIn(inBucket)]).to.deep.equal([before, []]);
  });

  it("survives a lost answer to the joining of the parts", async () => {
    let completions = 0;
    const { error, tree } = await repairInParts([11 * MIB], (request) => {
      const isJoining = request.method === "POST" && isOfCopy(request, "uploadId=");
      return isJoining && completions++ === 0 ? "lost" : undefined;
    });
    expect(error).to.equal("none");
    expect(tree[NEW]).to.equal(tree[OLD]);
  });

  it("leaves no parts when it fails", async () => {
    const { error, tree, noted, left } = await repairInParts([11 * MIB], (request) =>
      isOfCopy(request, "partNumber=3") ? { status: 403, code: "AccessDenied" } : undefined,
    );
    expect(error).to.include("AccessDenied");
    expect(Object.keys(tree)).to.deep.equal([OLD]);
    expect(noted).to.equal(0);
    expect(left).to.deep.equal([]);
  });
});

describe("migrate: large files behind versitygw's Azure backend", function () {
  this.timeout(60_000);
  const LARGE = "media/public/large.bin";
  let azurite: Azurite;
  let gateway: RunningServer;
  let number = 0;

  before(async () => {
    azurite = await startAzurite();
    const keys = ["--account", ACCOUNT.name, "--access-key", ACCOUNT.key];
    gateway = await startTestServer({ backend: ["azure", ...keys, "--url", azurite.blobs] });
  });
  after(async () => {
    await gateway.stop();
    await azurite.stop();
  });

  async function fresh() {
    const bucketName = `fresh-${number++}`;
    await createContainer(azurite.blobs, bucketName);
    const top = temporaryFolder();
    const [folder, state, other] = ["data", "state", "other"].map((name) => join(top, name));
    const bucket = settingsOf(gateway.endpoint, { bucketName, ...ROOT });
    return { bucket, folder: String(folder), state: String(state), other: String(other) };
  }

  /** As an ingress does. */
  const hidesServer: ProxyOptions = {
    changeHeaders: (headers) => {
      headers.server = "envoy";
    },
  };

  const sizesIn = (bucket: StorageSettings) =>
    withClient(bucket, async (client) => {
      const sizes: Record<string, number> = {};
      for await (const { key, size } of client.list("")) sizes[key] = size;
      return sizes;
    });

  it("the end of a left upload would delete the file: it is not ended", async () => {
    const { bucket, folder, state, other } = await fresh();
    writeTree(folder, { [LARGE]: randomBytes(17 * MIB) });
    let isBroken = true;
    const choose: FaultChooser = ({ path }) =>
      isBroken && path.includes("partNumber=3") ? { status: 403, code: "AccessDenied" } : undefined;
    await throughProxy(bucket, hidesServer, (hidden) =>
      throughFaults(hidden, choose, async (through) => {
        expect((await run(folder, through, { state })).failed).to.equal(1);
        expect(uploadsLeft(state)).to.have.length(1);
        isBroken = false;
        // The file comes another way.
        expect(problemsOf(await run(folder, bucket, { state: other }))).to.deep.equal([]);
        expect((await run(folder, through, { state })).plan.same.files).to.equal(1);
      }),
    );
    expect(uploadsLeft(state)).to.deep.equal([]);
    expect(await sizesIn(bucket)).to.deep.equal({ [LARGE]: 17 * MIB });
  });

  it("a newer file that comes during the upload stays", async () => {
    const { bucket, folder, state } = await fresh();
    writeTree(folder, { [LARGE]: randomBytes(17 * MIB) });
    let newer: Promise<void> | undefined;
    let isThere = false;
    const choose: FaultChooser = ({ method, path }) => {
      if (path.includes("partNumber=2")) {
        newer ??= putObjects(bucket, { [LARGE]: "newer" }).then(() => {
          isThere = true;
        });
      }
      return method === "POST" && path.includes("uploadId=") && !isThere ? "slow-down" : undefined;
    };
    const retryPolicy = { ...TEST_RETRY_POLICY, pauseMs: 50 };
    const summary = await throughFaults(bucket, choose, (through) =>
      run(folder, through, { state, retryPolicy }),
    );
    await newer;
    expect(problemsOf(summary)).to.deep.equal([`skipped ${LARGE}`]);
    expect(await sizesIn(bucket)).to.deep.equal({ [LARGE]: "newer".length });
  });

  it("names characters outside ASCII as the reason", async () => {
    const { bucket, folder, state } = await fresh();
    const [small, large] = ["media/public/größe.png", "media/public/größe.bin"];
    writeTree(folder, { [small]: "x", [large]: randomBytes(9 * MIB) });
    const summary = await run(folder, bucket, { state });
    expect(summary.problems.map(({ key }) => key)).to.deep.equal([large]);
    expect(summary.problems[0]?.reason).to.include("its name has characters outside ASCII");
    expect(Object.keys(await sizesIn(bucket))).to.deep.equal([small]);
  });
});
