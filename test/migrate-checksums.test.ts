import { randomBytes } from "node:crypto";
import { rmSync, writeFileSync } from "node:fs";
import type { IncomingHttpHeaders } from "node:http";
import { join } from "node:path";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import type { Part } from "../tools/migrate/s3-answers.ts";
import {
  expectSameFiles,
  MIB,
  problemsOf,
  run,
  throughProxy,
  useServer,
  withClient,
  writeTree,
} from "./support/migration.ts";

const FIVE = 5 * MIB;

type ChangeHeaders = (headers: IncomingHttpHeaders) => void;

/** What servers do to the headers by which bytes are checked. */
const SERVERS: Readonly<Record<string, ChangeHeaders>> = {
  "has CRC-32s and MD5s": () => undefined,
  "has only MD5s": (headers) => {
    delete headers["x-amz-checksum-crc32"];
  },
  "encrypts with a key of KMS, so that ETags are no MD5s": (headers) => {
    delete headers["x-amz-checksum-crc32"];
    headers["x-amz-server-side-encryption"] = "aws:kms";
  },
  "returns CRC-32s of parts without their mark": (headers) => {
    const crc = headers["x-amz-checksum-crc32"];
    if (crc !== undefined) headers["x-amz-checksum-crc32"] = String(crc).split("-")[0];
    delete headers["x-amz-checksum-type"];
  },
};

describe("migrate: how contents are checked", function () {
  this.timeout(20_000);
  const server = useServer();

  /** As other programs do: parts of any sizes. */
  async function putInParts(bucket: StorageSettings, key: string, sizes: number[]): Promise<void> {
    await withClient(bucket, async (client) => {
      const uploadId = await client.createUpload(key, { "content-type": "image/png" });
      const parts: Part[] = [];
      for (const size of sizes) {
        parts.push(await client.uploadPart(key, uploadId, parts.length + 1, randomBytes(size)));
      }
      await client.completeUpload(key, uploadId, parts);
    });
  }

  /** Records reads and writes of objects' bytes. */
  function throughServer(
    bucket: StorageSettings,
    changeHeaders: ChangeHeaders,
    knowsParts: boolean,
    work: (bucket: StorageSettings, moved: string[]) => Promise<void>,
  ): Promise<void> {
    const moved: string[] = [];
    const answer = ({ method = "", url = "" }) => {
      if (/^(?:PUT|GET) \/[^/]+\/./.test(`${method} ${url}`)) moved.push(`${method} ${url}`);
      const isPart = method === "HEAD" && url.includes("partNumber=");
      return isPart && !knowsParts ? { status: 501, body: "" } : undefined;
    };
    return throughProxy(bucket, { changeHeaders, answer }, (through) => work(through, moved));
  }

  const servers = Object.entries(SERVERS).flatMap(([name, changeHeaders]) => [
    { name, changeHeaders, knowsParts: true },
    { name: `${name}, and reports no sizes of parts`, changeHeaders, knowsParts: false },
  ]);
  for (const { name, changeHeaders, knowsParts } of servers) {
    it(`a server that ${name}: everything is copied, and nothing twice`, async () => {
      const { bucket, inBucket, folder, state, top } = server.fresh();
      await putInParts(bucket, "media/public/as-boto3.bin", [8 * MIB, MIB]);
      await putInParts(bucket, "media/public/other-size.bin", [10 * MIB, 2 * MIB]);
      await putInParts(bucket, "media/public/uneven.bin", [FIVE + MIB, FIVE, FIVE + 1]);
      await throughServer(bucket, changeHeaders, knowsParts, async (through, moved) => {
        expect(problemsOf(await run(through, folder, { state }))).to.deep.equal([]);
        expectSameFiles(folder, inBucket);
        moved.length = 0;
        expect((await run(through, folder, { state })).plan.same.files).to.equal(3);
        expect(moved).to.deep.equal([]);
        const upAgain = await run(folder, through, { state: join(top, "no-journal") });
        expect(upAgain.plan.same.files).to.equal(3);
        expect(moved.filter((line) => line.startsWith("PUT"))).to.deep.equal([]);
      });
    });

    it(`a server that ${name}: another content of the same size is noticed`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const large = randomBytes(9 * MIB);
      writeTree(folder, { "media/public/x.png": "old", "media/public/large.bin": large });
      await throughServer(bucket, changeHeaders, knowsParts, async (through) => {
        await run(folder, through, { state });
        large.writeUInt8(large.readUInt8() ^ 0xff);
        writeTree(folder, { "media/public/x.png": "new", "media/public/large.bin": large });
        expect((await run(folder, through, { state })).plan.update.files).to.equal(2);
        expectSameFiles(inBucket, folder);
      });
    });
  }

  it("an object without an ETag is compared, and not sent or read twice", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    // The server did not write it, so it has no ETag.
    writeTree(inBucket, { "media/public/x": "content 1", "media/public/y": "y" });
    await run(bucket, folder, { state });
    expectSameFiles(folder, inBucket);
    expect((await run(bucket, folder, { state })).plan.same.files).to.equal(2);
    writeFileSync(join(inBucket, "media/public/x"), "content 2");
    expect((await run(bucket, folder, { state })).copied.files).to.equal(1);
    expectSameFiles(folder, inBucket);
    expect((await run(folder, bucket, { state })).plan.same.files).to.equal(2);
  });

  it("a server that does not support checksums", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, {
      "media/public/x.png": "x",
      "media/public/large.bin": randomBytes(9 * MIB),
    });
    const body = "<Error><Code>NotImplemented</Code></Error>";
    const answer = ({ headers }: { headers: IncomingHttpHeaders }) => {
      const hasChecksum = Object.keys(headers).some((name) => name.startsWith("x-amz-checksum"));
      return hasChecksum ? { status: 501, body } : undefined;
    };
    await throughProxy({ ...bucket, checksums: "when_required" }, { answer }, async (through) => {
      expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
      expectSameFiles(inBucket, folder);
      rmSync(folder, { recursive: true });
      expect(problemsOf(await run(through, folder, { state }))).to.deep.equal([]);
      expectSameFiles(inBucket, folder);
    });
  });
});
