import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { join } from "node:path";
import { expect } from "chai";
import {
  expectSameFiles,
  failureOf,
  filesIn,
  MIB,
  problemsOf,
  putObjects,
  readTree,
  repair,
  repairStoredTypes,
  run,
  settingsOf,
  TEST_RETRY_POLICY,
  throughProxy,
  uploadsIn,
  useServer,
  withClient,
  writeTree,
} from "./support/migration.ts";
import { startListingServer } from "./support/listing-server.ts";
import type { ProxyAnswer } from "./support/proxy.ts";

type RequestTest = (request: IncomingMessage) => boolean;

const HTML = {
  status: 200,
  headers: { "content-type": "text/html" },
  body: "<html><body>Please log in</body></html>",
};
const A = "media/public/a.png";
const B = "media/public/b.png";
const LARGE = "media/public/large.bin";

function listing(inner: string): ProxyAnswer & { body: string } {
  const namespace = "http://s3.amazonaws.com/doc/2006-03-01/";
  const root = `<ListBucketResult xmlns="${namespace}">${inner}</ListBucketResult>`;
  return { status: 200, body: `<?xml version="1.0" encoding="UTF-8"?>\n${root}\n` };
}

function entry(key: string, size = "<Size>1</Size>"): string {
  const md5OfX = "9dd4e461268c8034f5c8564e155c67a6";
  return `<Contents><Key>${key}</Key>${size}<ETag>&quot;${md5OfX}&quot;</ETag></Contents>`;
}

const LAST = "<IsTruncated>false</IsTruncated>";
const URL_ENCODED = "<EncodingType>url</EncodingType>";

function morePages(token: string): string {
  const next = `<NextContinuationToken>${token}</NextContinuationToken>`;
  return `<IsTruncated>true</IsTruncated>${next}`;
}

const has = ({ url = "" }: IncomingMessage, text: string): boolean => url.includes(text);
const isListing: RequestTest = (request) => request.method === "GET" && has(request, "list-type=2");
const isOfMedia: RequestTest = (request) => isListing(request) && has(request, "prefix=media");
const isSecondPage: RequestTest = (request) =>
  isListing(request) && has(request, "continuation-token");
const isPut: RequestTest = (request) => request.method === "PUT" && !has(request, "uploadId=");
const isCreation: RequestTest = (request) => request.method === "POST" && has(request, "uploads=");
const isPart: RequestTest = (request) => request.method === "PUT" && has(request, "uploadId=");
const isJoining: RequestTest = (request) => request.method === "POST" && has(request, "uploadId=");

/** A proxy that answers these requests with a login page. */
const htmlFor = (isMeant: RequestTest) => ({
  answer: (request: IncomingMessage) => (isMeant(request) ? HTML : undefined),
});

/** A proxy that changes the ETags in headers. */
const etags = (change: (etag: string) => string) => ({
  changeHeaders: (headers: IncomingHttpHeaders): void => {
    if (headers.etag !== undefined) headers.etag = change(headers.etag);
  },
});

describe("migrate: answers that are not the requested ones", function () {
  this.timeout(20_000);
  const server = useServer();

  const internalError =
    "<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>try again</Message></Error>";
  const incomplete = `<ListBucketResult>${LAST}${entry(B)}<Contents><Key>x`;
  const emptyPage = `<ListBucketResult>${LAST}</ListBucketResult>`;
  const full = listing(entry(B).repeat(1000)).body;
  const counted = (count: number) => `<KeyCount>${count}</KeyCount>`;
  const uncounted = listing(LAST + counted(2) + entry(B)).body;
  const nested = listing(`${LAST}${counted(1)}<Page>${entry(B)}</Page>`).body;
  const inKey = listing(LAST + entry("media/<b/>")).body;
  const dtd = '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;&a;&a;">]>';
  const ownEntity = `${dtd}<ListBucketResult>${LAST}${entry("&c;")}</ListBucketResult>`;
  const deep = `<ListBucketResult>${"<a>".repeat(5 * MIB)}`;
  const wide = `<ListBucketResult>${"<a/>".repeat(MIB)}`;
  const latin = listing(LAST + entry("media/é")).body;
  const noSize = listing(LAST + entry(B, "")).body;
  const badSize = listing(LAST + entry(B, "<Size>-1</Size>")).body;
  const hugeSize = listing(LAST + entry(B, `<Size>${"9".repeat(16)}</Size>`)).body;
  const badUrl = listing(LAST + URL_ENCODED + entry("media/public/100%.png")).body;
  const badCharacter = listing(LAST + entry("media/public/&#x110000;.png")).body;
  const noToken = listing("<IsTruncated>true</IsTruncated>").body;
  const otherFolder = listing(LAST + entry("reports/public/b.csv")).body;
  const folders = listing(`${LAST}<CommonPrefixes><Prefix>media/</Prefix></CommonPrefixes>`).body;
  const badFlag = listing("<IsTruncated>maybe</IsTruncated>").body;
  const tooLong = listing(LAST + "x".repeat(16 * MIB)).body;
  // biome-ignore format: a table of cases
  const SECOND_PAGES: [name: string, body: string | Buffer, message: string][] = [
    ["is a login page", HTML.body, 'it is not <ListBucketResult>, but begins with "<html>'],
    ["is an error", internalError, "InternalError: try again"],
    ["is too long", tooLong, "it is longer than 16777216 bytes"],
    ["is empty", "", 'it is not <ListBucketResult>, but begins with ""'],
    ["is incomplete", incomplete, "its ListBucketResult is not complete XML (unclosed tag: Ke"],
    ["has something behind it", `${emptyPage}<p>`, "may contain only one root"],
    ["does not say whether there are more", full, "it has no <IsTruncated>, so there"],
    ["is empty and does not say so", listing("").body, "it has no <IsTruncated>, so there"],
    ["has fewer keys than it says", uncounted, "its <KeyCount> is 2, but it has 1"],
    ["has its keys in another place", nested, "its <KeyCount> is 1, but it has 0"],
    ["has a key with elements in it", inKey, "a <Key> has elements in it"],
    ["has an entity of its own", ownEntity, "undefined entity"],
    ["is nested deeply", deep, "too many elements"],
    ["has too many elements", wide, "too many elements"],
    ["is not in its encoding", Buffer.from(latin, "latin1"), "its text is not UTF-8"],
    ["says neither true nor false", badFlag, 'its <IsTruncated> is "maybe"'],
    ["has a next page without a token", noToken, "it has no <NextContinuationToken>"],
    ["names itself as the next one", listing(morePages("next")).body, "is endless"],
    ["has a key of another folder", otherFolder, 'it has "reports/public/b.csv", which is not in'],
    ["has folders that were not requested", folders, 'it has "media/", which is not in'],
    ["has an object without a size", noSize, "it has no <Size>"],
    ["has a size that no object has", hugeSize, 'a <Size> is "9999999999999999"'],
    ["has a size that is not a number", badSize, 'a <Size> is "-1"'],
    ["has a key that is not URL-encoded, but says so", badUrl, "URI malformed"],
    ["has a character that does not exist", badCharacter, "malformed character entity"],
  ];
  for (const [name, body, message] of SECOND_PAGES) {
    it(`a listing whose second page ${name}: nothing is deleted`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      const files = { [A]: "x", [B]: "x", "media/public/c.png": "x" };
      writeTree(inBucket, files);
      writeTree(folder, files);
      const tree = readTree(folder);
      let requests = 0;
      const answer = (request: IncomingMessage): ProxyAnswer | undefined => {
        if (!isSecondPage(request)) {
          return isOfMedia(request) ? listing(morePages("next") + entry(A)) : undefined;
        }
        return requests++ < TEST_RETRY_POLICY.attempts ? { status: 200, body } : undefined;
      };
      const failure = await throughProxy(bucket, { answer }, (through) =>
        failureOf(run(through, folder, { state, delete: true })),
      );
      expect(failure).to.include("S3Error").and.include(message);
      // A page that names itself would hardly change in a retry.
      expect(requests).to.equal(name.startsWith("names") ? 1 : TEST_RETRY_POLICY.attempts);
      expect(readTree(folder)).to.deep.equal(tree);
    });
  }

  const xml10 = (text: string) => text.replace("Contents>", 'Contents xmlns="">');
  const prefixed = (text: string) => text.replace(/<(\/?)(?=\w)/g, "<$1s3:");
  const cdata = (text: string) => text.replace(/<Key>(.*?)<\/Key>/g, "<Key><![CDATA[$1]]></Key>");
  const one = listing(LAST + entry(A)).body;
  // biome-ignore format: a table of cases
  const READ_BY_BOTO3: [name: string, body: string | Buffer, keys?: string[]][] = [
    ["elements with attributes", xml10(one)],
    ["a prefix", prefixed(one)],
    ["CDATA", cdata(one)],
    ["comments", one.replaceAll("><", "><!-- <Contents> -->\n<")],
    ["a text in two parts", one.replace("media/", "med<!-- -->ia<![CDATA[/]]>")],
    ["references", one.replace("media/", "&#x6d;&#101;dia&#47;")],
    ["False", one.replace("false", "False")],
    ["spaces around a number", one.replace("<Size>1<", "<Size> 1\n<")],
    ["no IsTruncated", listing(entry(A)).body],
    ["KeyCount without folders, and an empty page", listing(counted(0)).body, []],
    ["a byte order mark", `\uFEFF${one}`],
    ["ISO-8859-1", Buffer.from(latin.replace("UTF-8", "ISO-8859-1"), "latin1"), ["media/é"]],
  ];
  it("a listing is read wherever boto3 reads it", async () => {
    for (const [name, body, keys = [A]] of READ_BY_BOTO3) {
      const { bucket } = server.fresh();
      const found = await throughProxy(
        bucket,
        { answer: () => ({ status: 200, body }) },
        (through) =>
          withClient(through, async (client) => {
            const all: string[] = [];
            for await (const { key } of client.list("media/")) all.push(key);
            return all;
          }),
      );
      expect(found, name).to.deep.equal(keys);
    }
  });

  it("an upload's id under another root, as gofakes3 names it", async () => {
    const { bucket } = server.fresh();
    const body = "<InitiateMultipartUpload><UploadId>the-id</UploadId></InitiateMultipartUpload>";
    const id = await throughProxy(bucket, { answer: () => ({ status: 200, body }) }, (through) =>
      withClient(through, (client) => client.createUpload(A, { "content-type": "image/png" })),
    );
    expect(id).to.equal("the-id");
  });

  // biome-ignore format: a table of cases
  const ENDLESS: [name: string, tokens: number, page: string, requests: number][] = [
    ["whose pages name each other as the next one", 2, "", 3],
    ["whose pages are empty without end", Infinity, "", 1001],
    ["whose pages are the same without end", Infinity, entry(A), 1002],
  ];
  for (const [name, tokens, page, count] of ENDLESS) {
    it(`a listing ${name}: nothing is deleted`, async () => {
      const { bucket, folder, state } = server.fresh();
      writeTree(folder, { [A]: "x" });
      const tree = readTree(folder);
      let requests = 0;
      const answer = (request: IncomingMessage): ProxyAnswer | undefined =>
        isOfMedia(request) ? listing(morePages(`${requests++ % tokens}`) + page) : undefined;
      const failure = await throughProxy(bucket, { answer }, (through) =>
        failureOf(run(through, folder, { state, delete: true })),
      );
      expect(failure).to.include("the server's listing is endless");
      expect(requests).to.equal(count);
      expect(readTree(folder)).to.deep.equal(tree);
    });
  }

  it("a listing that is valid at the second try", async () => {
    const { bucket, folder, inBucket, state } = server.fresh();
    writeTree(inBucket, { [A]: "x" });
    let requests = 0;
    const isFirst: RequestTest = (request) => isListing(request) && requests++ % 2 === 0;
    await throughProxy(bucket, htmlFor(isFirst), (through) => run(through, folder, { state }));
    expectSameFiles(folder, inBucket);
  });

  it("a listing that is not in order: it is sorted, and nothing is deleted that exists", async () => {
    const { folder, state } = server.fresh();
    const other = server.fresh();
    const count = 2500;
    const keyAt = (index: number) => `media/public/${(index * 7) % count}.png`;
    const unsorted = await startListingServer({ count, keyAt, content: Buffer.from("x") });
    try {
      const settings = settingsOf(unsorted.endpoint);
      await run(settings, folder, { state });
      expect(filesIn(folder)).to.have.length(count);
      const again = await run(settings, folder, { state, delete: true });
      expect([again.copied.files, again.deleted.files]).to.deep.equal([0, 0]);
      const { plan } = await run(other.bucket, settings, { state, dryRun: true });
      expect(plan.extra.files).to.equal(count);
    } finally {
      await unsorted.stop();
    }
  });

  it("a listing without ETags: files are changed and repaired", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [A]: "y" });
    await putObjects(bucket, { [A]: "x" }, { "content-type": "text/plain" });
    await putObjects(bucket, { "public/b.png": "b" });
    const answer = (request: IncomingMessage): ProxyAnswer | undefined => {
      const ofRoot = has(request, "prefix=public") ? "public/b.png" : "";
      const key = isOfMedia(request) ? A : ofRoot;
      const object = `<Contents><Key>${key}</Key><Size>1</Size></Contents>`;
      return isListing(request) && key !== "" ? listing(LAST + object) : undefined;
    };
    await throughProxy(bucket, { answer }, async (through) => {
      expect(problemsOf(await repairStoredTypes(through, { state }))).to.deep.equal([]);
      expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
      expect(problemsOf(await repair(through, true, { state }))).to.deep.equal([]);
    });
    expect(readFileSync(join(inBucket, A), "utf8")).to.equal("y");
    expect(filesIn(inBucket)).to.deep.equal([A, B]);
  });

  it("HEAD without a Content-Length for an empty object, as Ceph answers", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [A]: "" });
    await putObjects(bucket, { [A]: "not empty", "public/b.png": "" });
    const changeHeaders = (headers: IncomingHttpHeaders) => {
      if (headers["content-length"] === "0") delete headers["content-length"];
    };
    await throughProxy(bucket, { changeHeaders }, async (through) => {
      expect(problemsOf(await repair(through, true, { state }))).to.deep.equal([]);
      expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
      const summary = await run(folder, through, { state, delete: true });
      expect(problemsOf(summary)).to.deep.equal([]);
      expect(summary.deleted.files).to.equal(1);
    });
    expect(filesIn(inBucket)).to.deep.equal([A]);
  });

  it("501 to a checksum: the server's message, and what to set", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { [A]: "a" });
    const message = "A header you provided implies functionality that is not implemented";
    const body = `<Error><Code>NotImplemented</Code><Message>${message}.</Message></Error>`;
    const answer = (request: IncomingMessage) =>
      request.headers["x-amz-checksum-crc32"] === undefined ? undefined : { status: 501, body };
    await throughProxy(bucket, { answer }, async (through) => {
      const { problems } = await run(folder, through, { state });
      expect(problems[0]?.reason).to.include(message).and.include("when_required");
    });
  });

  it("a server that gives the same answer to everything", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { [A]: "x" });
    await throughProxy(bucket, { answer: () => HTML }, async (through) => {
      for (const work of [
        () => run(folder, through, { state }),
        () => run(through, folder, { state }),
        () => repair(through, false, { state }),
      ]) {
        expect(await failureOf(work())).to.include("it is not <ListBucketResult>");
      }
    });
  });

  const WRITES: [isMeant: RequestTest, message: string][] = [
    [isPut, "it has no ETag"],
    [isCreation, "it is not <InitiateMultipartUploadResult>"],
    [isPart, "it has no ETag, and"],
    [isJoining, "it is not <CompleteMultipartUploadResult>"],
  ];
  it("a login page instead of each kind of write: the file does not count as copied", async () => {
    for (const [isMeant, message] of WRITES) {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { [A]: "x", [LARGE]: randomBytes(9 * MIB) });
      const { problems, copied } = await throughProxy(bucket, htmlFor(isMeant), (through) =>
        run(folder, through, { state }),
      );
      expect(problems.map(({ reason }) => reason).join()).to.include(message);
      expect(copied.files).to.equal(1);
      expect(filesIn(inBucket)).to.have.length(1);
    }
  });

  for (const [method, message] of [
    ["PUT", "it is not <CopyObjectResult>"],
    ["DELETE", 'it should be empty, but begins with "<html>'],
  ] as const) {
    it(`a login page instead of a server's copy or deletion: ${method}`, async () => {
      const { bucket, inBucket, state } = server.fresh();
      writeTree(inBucket, { "public/x.png": "x" });
      const options = htmlFor((request) => request.method === method);
      const { problems, deleted } = await throughProxy(bucket, options, (through) =>
        repair(through, true, { state }),
      );
      expect(problems.map(({ reason }) => reason).join()).to.include(message);
      expect(deleted.files).to.equal(0);
      expect(filesIn(inBucket)).to.include("public/x.png");
    });
  }

  it("an ETag of other bytes: the file does not count as copied", async () => {
    const { bucket, folder, state } = server.fresh();
    writeTree(folder, { [A]: "x" });
    const other = "0".repeat(32);
    const options = etags(() => `"${other}"`);
    const summary = await throughProxy(bucket, options, (through) =>
      run(folder, through, { state }),
    );
    expect(problemsOf(summary)).to.deep.equal([`failed ${A}`]);
    expect(summary.problems[0]?.reason).to.equal(
      `the server stored other bytes than were sent: it returned the ETag "${other}"`,
    );
  });

  it("an ETag of more parts, or of other ones", async () => {
    for (const etag of [`${"0".repeat(32)}-3`, `${"0".repeat(32)}-2`]) {
      const { bucket, folder, state } = server.fresh();
      writeTree(folder, { [LARGE]: randomBytes(9 * MIB) });
      const name = "CompleteMultipartUploadResult";
      const body = `<${name}><ETag>"${etag}"</ETag></${name}>`;
      const answer = (request: IncomingMessage) =>
        isJoining(request) ? { status: 200, body } : undefined;
      const { problems } = await throughProxy(bucket, { answer }, (through) =>
        run(folder, through, { state }),
      );
      const reasons = problems.map(({ reason }) => reason).join();
      expect(reasons).to.include(`other bytes than were sent: it returned the ETag "${etag}"`);
    }
  });

  it("a page of the object's size without an ETag: the listing's ETag is used", async () => {
    const { bucket, folder, state } = server.fresh();
    await putObjects(bucket, { [A]: Buffer.alloc(HTML.body.length, "x") });
    const isObject: RequestTest = ({ method, url }) => method === "GET" && !!url?.endsWith("a.png");
    const summary = await throughProxy(bucket, htmlFor(isObject), (through) =>
      run(through, folder, { state }),
    );
    expect(problemsOf(summary)).to.deep.equal([`failed ${A}`]);
    expect(filesIn(folder)).to.deep.equal([]);
  });

  it("weak ETags: parts are joined, equal files are recognized, objects are copied", async () => {
    const { bucket, inBucket, folder, state } = server.fresh();
    writeTree(folder, { [A]: "x", [LARGE]: randomBytes(9 * MIB) });
    const options = etags((etag) => `W/${etag}`);
    await throughProxy(bucket, options, async (through) => {
      expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
      expectSameFiles(inBucket, folder);
      expect((await run(folder, through, { state })).plan.same.files).to.equal(2);
      expect(problemsOf(await run(through, `${folder}-2`, { state }))).to.deep.equal([]);
    });
    expectSameFiles(`${folder}-2`, folder);
  });

  it("a folder in the endpoint is encoded once", async () => {
    const { bucket, folder, state } = server.fresh();
    const paths = new Set<string>();
    const answer = ({ url = "" }: IncomingMessage): ProxyAnswer => {
      paths.add(url.replace(/\?.*/, ""));
      return listing(LAST);
    };
    for (const path of ["/s3/pre fix", "/s3/pre%20fix/", "/s3/é", "/s3/100%!"]) {
      await throughProxy(bucket, { answer }, ({ endpoint = "", ...rest }) =>
        run({ ...rest, endpoint: endpoint + path }, folder, { state }),
      );
    }
    const encoded = ["pre%20fix", "%C3%A9", "100%25%21"];
    expect([...paths]).to.deep.equal(encoded.map((name) => `/s3/${name}/${bucket.bucketName}`));
  });

  for (const status of [403, 405, 501]) {
    it(`an upload that was left, of which the server answers ${status}: sent again`, async () => {
      const { bucket, inBucket, folder, state } = server.fresh();
      writeTree(folder, { [LARGE]: randomBytes(17 * MIB) });
      const error = (code: string) => `<Error><Code>${code}</Code></Error>`;
      let broken = true;
      const answer = (request: IncomingMessage): ProxyAnswer | undefined => {
        if (broken) {
          const isSecond = has(request, "partNumber=2");
          return isSecond ? { status: 403, body: error("AccessDenied") } : undefined;
        }
        const isQuestion = request.method === "GET" || request.method === "DELETE";
        const isMeant = isQuestion && has(request, "uploadId=");
        return isMeant ? { status, body: error("NotImplemented") } : undefined;
      };
      await throughProxy(bucket, { answer }, async (through) => {
        expect((await run(folder, through, { state })).failed).to.equal(1);
        expect(uploadsIn(inBucket)).to.have.length(1);
        broken = false;
        expect(problemsOf(await run(folder, through, { state }))).to.deep.equal([]);
      });
      expectSameFiles(inBucket, folder);
    });
  }
});
