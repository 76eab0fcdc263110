import { randomBytes } from "node:crypto";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { expect } from "chai";
import type { StorageSettings } from "../authentik/env.ts";
import { S3Bucket } from "../tools/migrate/s3.ts";
import { IMPATIENT, mend, readTree, run, startServer, uploadsIn, writeTree, type TestServer } from "./support/migration.ts";
import { startProxy, type ProxyOptions } from "./support/proxy.ts";

const MIB = 1024 * 1024;
type Answer = NonNullable<ReturnType<NonNullable<ProxyOptions["answer"]>>>;

const HTML: Answer = { status: 200, headers: { "content-type": "text/html" }, body: "<html><body>Please log in</body></html>" };
const MD5_OF_X = "9dd4e461268c8034f5c8564e155c67a6";

function listing(inner: string): Answer {
  return { status: 200, body: `<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${inner}</ListBucketResult>\n` };
}

function entry(key: string): string {
  return `<Contents><Key>${key}</Key><Size>1</Size><ETag>&quot;${MD5_OF_X}&quot;</ETag></Contents>`;
}

const isListing = ({ method, url = "" }: IncomingMessage): boolean => method === "GET" && url.includes("list-type=2");
const isOfMedia = (request: IncomingMessage): boolean => isListing(request) && request.url?.includes("prefix=media") === true;
const isSecondPage = (request: IncomingMessage): boolean => isListing(request) && request.url?.includes("continuation-token") === true;
const isCreation = ({ method, url = "" }: IncomingMessage): boolean => method === "POST" && url.includes("uploads=");
const isJoining = ({ method, url = "" }: IncomingMessage): boolean => method === "POST" && url.includes("uploadId=");

describe("migrate: answers that are not what was asked for", function () {
  this.timeout(20_000);
  let server: TestServer;
  before(async () => { server = await startServer(); });
  after(() => server.stop());

  /** Works with a proxy before the bucket, which answers some requests itself. */
  async function answering<T>(bucket: StorageSettings, options: ProxyOptions, work: (bucket: StorageSettings) => Promise<T>): Promise<T> {
    const proxy = await startProxy(server.endpoint, options);
    try {
      return await work({ ...bucket, endpoint: `http://${proxy.host}` });
    } finally {
      await proxy.stop();
    }
  }

  const NEXT = "<IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>";
  const SECOND_PAGES: Readonly<Record<string, { body: string; says: string }>> = {
    "is a login page": { body: HTML.body, says: "it is no ListBucketResult, but begins with \"<html>" },
    "is an error": { body: "<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>try again</Message></Error>", says: "InternalError: try again" },
    "is longer than any": { body: listing(`<IsTruncated>false</IsTruncated>${"x".repeat(16 * MIB)}`).body, says: "it is longer than 16777216 bytes" },
    "is empty": { body: "", says: "it is no ListBucketResult, but begins with \"\"" },
    "is cut short": { body: `<ListBucketResult><IsTruncated>false</IsTruncated>${entry("media/public/b.png")}<Contents><Ke`, says: "its ListBucketResult is cut short" },
    "does not say whether there are more": { body: listing(entry("media/public/b.png")).body, says: "it lacks a <IsTruncated>" },
    "has a word for that which is none": { body: listing("<IsTruncated>maybe</IsTruncated>").body, says: "its <IsTruncated> is \"maybe\"" },
    "says that there are more, and not where": { body: listing("<IsTruncated>true</IsTruncated>").body, says: "it lacks a <NextContinuationToken>" },
    "names itself as the next one": { body: listing(NEXT).body, says: "has no end" },
    "has an object without a size": { body: listing("<IsTruncated>false</IsTruncated><Contents><Key>media/public/b.png</Key></Contents>").body, says: "it lacks a <Size>" },
    "has a size that is no number": { body: listing("<IsTruncated>false</IsTruncated><Contents><Key>media/public/b.png</Key><Size>-1</Size></Contents>").body, says: "a <Size> is \"-1\"" },
    "has a key that is not encoded as it says": { body: listing(`<IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>${entry("media/public/100%.png")}`).body, says: "URI malformed" },
    "has a character that there is not": { body: listing(`<IsTruncated>false</IsTruncated>${entry("media/public/&#x110000;.png")}`).body, says: "Invalid code point" },
  };
  for (const [name, { body, says }] of Object.entries(SECOND_PAGES)) {
    it(`a listing whose second page ${name}: nothing is deleted`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const files = { "media/public/a.png": "x", "media/public/b.png": "x", "media/public/c.png": "x" };
      writeTree(inBucket, files);
      writeTree(folder, files);
      const tree = readTree(folder);
      let asked = 0;
      const answer = (request: IncomingMessage): Answer | undefined => {
        if (isSecondPage(request)) return asked++ < IMPATIENT.attempts ? { status: 200, body } : undefined;
        return isOfMedia(request) ? listing(`${NEXT}${entry("media/public/a.png")}`) : undefined;
      };
      const error = await answering(bucket, { answer }, (through) => run(through, folder, { state, delete: true })).then(() => "none", String);
      expect(error).to.include("S3Error").and.include(says);
      // What names itself as the next page will hardly do better another time.
      expect(asked).to.equal(name.startsWith("names") ? 1 : IMPATIENT.attempts);
      expect(readTree(folder)).to.deep.equal(tree);
    });
  }

  it("a listing whose pages name each other as the next one: nothing is deleted", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/a.png": "x" });
    const tree = readTree(folder);
    let asked = 0;
    const answer = (request: IncomingMessage): Answer | undefined => {
      if (!isOfMedia(request)) return undefined;
      asked++;
      return listing(`<IsTruncated>true</IsTruncated><NextContinuationToken>${request.url?.includes("continuation-token=odd") ? "even" : "odd"}</NextContinuationToken>`);
    };
    const error = await answering(bucket, { answer }, (through) => run(through, folder, { state, delete: true })).then(() => "none", String);
    expect(error).to.include("the server's listing has no end");
    expect(asked).to.equal(3);
    expect(readTree(folder)).to.deep.equal(tree);
  });

  it("a listing that comes right at the second try", async () => {
    const { bucket, folder, inBucket, state } = server.fresh();
    writeTree(inBucket, { "media/public/a.png": "x" });
    let asked = 0;
    await answering(bucket, { answer: (request) => (isListing(request) && asked++ % 2 === 0 ? HTML : undefined) }, (through) => run(through, folder, { state }));
    expect(readTree(folder)).to.deep.equal(readTree(inBucket));
  });

  it("a server that says one thing to all", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/a.png": "x" });
    await answering(bucket, { answer: () => HTML }, async (through) => {
      for (const work of [() => run(folder, through, { state }), () => run(through, folder, { state }), () => mend(through, false, { state })]) {
        expect(await work().then(() => "none", String)).to.include("it is no ListBucketResult");
      }
    });
  });

  it("a login page in place of each kind of write: no file is taken for copied", async () => {
    const writes: Readonly<Record<string, (request: IncomingMessage) => boolean>> = {
      "it has no ETag": ({ method, url = "" }) => method === "PUT" && !url.includes("uploadId="),
      "it is no InitiateMultipartUploadResult": isCreation,
      "it has no ETag, and": ({ method, url = "" }) => method === "PUT" && url.includes("uploadId="),
      "it is no CompleteMultipartUploadResult": isJoining,
    };
    for (const [says, isIt] of Object.entries(writes)) {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/small.png": "x", "media/public/large.bin": randomBytes(9 * MIB) });
      const { problems, copied } = await answering(bucket, { answer: (request) => (isIt(request) ? HTML : undefined) }, (through) => run(folder, through, { state }));
      expect(problems.map(({ reason }) => reason).join()).to.include(says);
      expect(copied.files).to.equal(1);
      expect(Object.keys(readTree(inBucket))).to.have.length(1);
    }
  });

  it("a login page in place of a copy on the server's side, or of a deletion", async () => {
    for (const method of ["PUT", "DELETE"]) {
      const { bucket, inBucket, state } = server.fresh();
      writeTree(inBucket, { "public/x.png": "x" });
      const { problems, deleted } = await answering(bucket, { answer: (request) => (request.method === method ? HTML : undefined) }, (through) => mend(through, true, { state }));
      expect(problems.map(({ reason }) => reason).join()).to.include(method === "PUT" ? "it is no CopyObjectResult" : "it begins with \"<html>");
      expect(deleted.files).to.equal(0);
      expect(readTree(inBucket)["public/x.png"]).to.be.a("string");
    }
  });

  it("an ETag of other bytes: the file is not taken for copied", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x" });
    const other = "0".repeat(32);
    const changeHeaders = (headers: IncomingHttpHeaders): void => { if (headers.etag !== undefined) headers.etag = `"${other}"`; };
    const { problems } = await answering(bucket, { changeHeaders }, (through) => run(folder, through, { state }));
    expect(problems.map(({ kind, reason }) => `${kind} ${reason}`)).to.deep.equal([`failed the server has stored other bytes than were sent: it gives them the ETag "${other}"`]);
  });

  it("an ETag of more parts, or of other ones", async () => {
    for (const etag of [`${"0".repeat(32)}-3`, `${"0".repeat(32)}-2`]) {
      const { bucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/large.bin": randomBytes(9 * MIB) });
      const body = `<CompleteMultipartUploadResult><ETag>"${etag}"</ETag></CompleteMultipartUploadResult>`;
      const { problems } = await answering(bucket, { answer: (request) => (isJoining(request) ? { status: 200, body } : undefined) }, (through) => run(folder, through, { state }));
      expect(problems.map(({ reason }) => reason).join()).to.include(`other bytes than were sent: it gives them the ETag "${etag}"`);
    }
  });

  it("a page of the object's size in its place, without an ETag: the listing's tells it", async () => {
    const { bucket, folder, state } = server.fresh();
    const s3 = await S3Bucket.open(bucket, IMPATIENT);
    await s3.put("media/public/x.png", Buffer.alloc(HTML.body.length, "x"), "image/png");
    await s3.close();
    const { problems } = await answering(bucket, { answer: ({ method, url = "" }) => (method === "GET" && url.endsWith("x.png") ? HTML : undefined) }, (through) => run(through, folder, { state }));
    expect(problems.map(({ kind, key }) => `${kind} ${key}`)).to.deep.equal(["failed media/public/x.png"]);
    expect(readTree(folder)).to.deep.equal({});
  });

  it("weak ETags: parts are joined, what is the same is known, objects come down", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { "media/public/x.png": "x", "media/public/large.bin": randomBytes(9 * MIB) });
    const changeHeaders = (headers: IncomingHttpHeaders): void => { if (headers.etag !== undefined) headers.etag = `W/${headers.etag}`; };
    await answering(bucket, { changeHeaders }, async (through) => {
      expect((await run(folder, through, { state })).problems).to.deep.equal([]);
      expect(readTree(inBucket)).to.deep.equal(readTree(folder));
      expect((await run(folder, through, { state })).plan.same.files).to.equal(2);
      expect((await run(through, `${folder}-2`, { state })).problems).to.deep.equal([]);
    });
    expect(readTree(`${folder}-2`)).to.deep.equal(readTree(folder));
  });

  it("a folder in the endpoint is encoded once", async () => {
    const { bucket, folder, state } = server.fresh();
    const asked: string[] = [];
    const answer = ({ url = "" }: IncomingMessage): Answer => {
      asked.push(url.replace(/\?.*/, ""));
      return listing("<IsTruncated>false</IsTruncated>");
    };
    for (const path of ["/s3/pre fix", "/s3/pre%20fix/", "/s3/é", "/s3/100%!"]) {
      await answering(bucket, { answer }, ({ endpoint = "", ...rest }) => run({ ...rest, endpoint: endpoint + path }, folder, { state }));
    }
    expect([...new Set(asked)]).to.deep.equal(["pre%20fix", "%C3%A9", "100%25%21"].map((name) => `/s3/${name}/${bucket.bucketName}`));
  });

  for (const status of [403, 405, 501]) {
    it(`an upload that was left, where the server answers ${status} to all questions about it: the file is sent anew`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { "media/public/large.bin": randomBytes(17 * MIB) });
      let broken = true;
      const answer = ({ method, url = "" }: IncomingMessage): Answer | undefined => {
        if (broken && url.includes("partNumber=2")) return { status: 403, body: "<Error><Code>AccessDenied</Code></Error>" };
        const isAsked = (method === "GET" || method === "DELETE") && url.includes("uploadId=");
        return !broken && isAsked ? { status, body: "<Error><Code>NotImplemented</Code></Error>" } : undefined;
      };
      await answering(bucket, { answer }, async (through) => {
        expect((await run(folder, through, { state })).failed).to.equal(1);
        expect(uploadsIn(inBucket)).to.have.length(1);
        broken = false;
        expect((await run(folder, through, { state })).problems).to.deep.equal([]);
      });
      expect(readTree(inBucket)).to.deep.equal(readTree(folder));
    });
  }
});
