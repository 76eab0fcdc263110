import { resolve, sep } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { contentType } from "../authentik/objects.ts";
import { inPieces, MemoryBudget, partSizeOf } from "../tools/migrate/content.ts";
import {
  invalidKeyReason,
  keyOfPath,
  LAYOUTS,
  pathOfKey,
  recognizeLayout,
  usagesOf,
} from "../tools/migrate/layout.ts";
import {
  collisionFilter,
  compareKeys,
  merge,
  plan,
  type CompareVersions,
  type FileStep,
} from "../tools/migrate/plan.ts";
import type { S3Object } from "../tools/migrate/s3-answers.ts";
import { orderCheck, sorted, UnsortedError } from "../tools/migrate/sorted.ts";
import type { Item, Skip } from "../tools/migrate/storage.ts";

type Sizes = Readonly<Record<string, number>>;

const text = fc
  .string({ unit: "binary", maxLength: 4 })
  .filter((value) => !/\p{Surrogate}/u.test(value));
const part = fc.oneof(text, fc.constantFrom("a", "b", "a-", "..", ".", ""));
const path = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/"));
const usage = fc.constantFrom("media", "reports", "public");
const key = fc.tuple(usage, path).map((parts) => parts.join("/"));
const sizes = fc.dictionary(key, fc.nat(2));

function listing(files: Sizes): Item[] {
  return Object.entries(files)
    .map(([name, size]) => ({ key: name, size, version: `${name}:${size}` }))
    .sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)));
}

async function* streamed<T>(values: readonly T[]): AsyncGenerator<T> {
  for (const value of values) yield await Promise.resolve(value);
}

async function all<T>(values: AsyncIterable<T>): Promise<T[]> {
  const result: T[] = [];
  for await (const value of values) result.push(value);
  return result;
}

const skipNothing: Skip = (name) => {
  throw new Error(`"${name}" is skipped`);
};

const isSame = () => true;

function planOf(from: Sizes, to: Sizes, known: CompareVersions = isSame): Promise<FileStep[]> {
  return all(plan(streamed(listing(from)), streamed(listing(to)), known, skipNothing));
}

describe("migrate: planner", () => {
  it("orders keys as their UTF-8 bytes", () => {
    const isRight = (a: string, b: string) =>
      Math.sign(compareKeys(a, b)) === Buffer.compare(Buffer.from(a), Buffer.from(b));
    fc.assert(fc.property(text, text, isRight));
  });

  it("gives each key exactly one step, the right one", async () => {
    const check = async (from: Sizes, to: Sizes) => {
      const steps = await planOf(from, to);
      const expected = listing({ ...to, ...from }).map(({ key: name }) => {
        if (!Object.hasOwn(to, name)) return [name, "create"];
        if (!Object.hasOwn(from, name)) return [name, "extra"];
        return [name, from[name] === to[name] ? "same" : "update"];
      });
      const found = steps.map((step) => [(step.from ?? step.to).key, step.kind]);
      expect(found).to.deep.equal(expected);
    };
    await fc.assert(fc.asyncProperty(sizes, sizes, check));
  });

  it("is empty after it has been carried out", async () => {
    const check = async (from: Sizes, to: Sizes) => {
      const after = new Map(Object.entries(to));
      for (const step of await planOf(from, to, () => undefined)) {
        if (step.kind === "extra") after.delete(step.to.key);
        else after.set(step.from.key, step.from.size);
      }
      const again = await planOf(from, Object.fromEntries(after));
      expect(again.every(({ kind }) => kind === "same")).to.equal(true);
    };
    await fc.assert(fc.asyncProperty(sizes, sizes, check));
  });

  it("leaves open what only the content can show", async () => {
    const files = { "media/public/x": 1 };
    const [step] = await planOf(files, files, () => undefined);
    expect(step).to.include({ kind: "update", unsure: true });
  });

  it("skips what a listing has twice, on either side, and goes on", async () => {
    const right = listing({ "media/a/a": 1, "media/a/b": 1 });
    const wrong = right.flatMap((item) => [item, item]);
    for (const [from, to] of [
      [wrong, right],
      [right, wrong],
    ] as const) {
      const skipped: string[] = [];
      const steps = await all(
        plan(streamed(from), streamed(to), isSame, (name) => skipped.push(name)),
      );
      expect(skipped).to.deep.equal(["media/a/a", "media/a/b"]);
      expect(steps.map((step) => step.kind)).to.deep.equal(["same", "same"]);
    }
  });

  it("sorts listings that are out of order, on disk beyond what is held", async () => {
    const objects = fc
      .dictionary(key, fc.nat(2))
      .map((files) =>
        Object.entries(files).map(([name, size]) => ({ key: name, size, etag: `"${name}"` })),
      );
    const check = async (unsorted: S3Object[]) => {
      const found = await all(sorted(streamed(unsorted), 3));
      const keys = unsorted.map((object) => object.key).sort(compareKeys);
      expect(found.map((object) => object.key)).to.deep.equal(keys);
      expect(found).to.have.deep.members(unsorted);
      const isOrdered = unsorted.every(({ key: name }, index) => name === keys[index]);
      const checkAll = () => {
        const checkNext = orderCheck(() => undefined);
        for (const object of unsorted) checkNext(object.key);
      };
      if (isOrdered) checkAll();
      else expect(checkAll).to.throw(UnsortedError);
    };
    await fc.assert(fc.asyncProperty(objects, check));
  });

  it("merges two listings into one, the first before the second", async () => {
    const check = async (first: Sizes, second: Sizes) => {
      const [left, right] = [streamed(listing(first)), streamed(listing(second))];
      const merged = await all(merge(left, right, skipNothing));
      expect(merged).to.deep.equal(listing({ ...second, ...first }));
    };
    await fc.assert(fc.asyncProperty(sizes, sizes, check));
  });

  it("skips what would be both a file and a folder", () => {
    const check = (files: Sizes) => {
      const skipped: string[] = [];
      const skip: Skip = (name) => skipped.push(name);
      const kept = listing(files).filter(collisionFilter(skip));
      const names = kept.map((item) => item.key);
      const isBelow = (name: string) => names.some((other) => name.startsWith(`${other}/`));
      expect(names.filter(isBelow)).to.deep.equal([]);
      expect([...names, ...skipped].sort()).to.deep.equal(Object.keys(files).sort());
      expect(skipped.every(isBelow)).to.equal(true);
    };
    fc.assert(fc.property(sizes, check));
  });
});

describe("migrate: keys and paths", () => {
  const valid = key.filter((name) => invalidKeyReason(name) === undefined);
  const layouts = fc.constantFrom(...LAYOUTS);
  const fits = (name: string, layout: (typeof LAYOUTS)[number]): boolean =>
    usagesOf(layout).some((use) => name.startsWith(`${use}/`));

  it("maps keys to paths and back", () => {
    const check = fc.property(valid, layouts, (name, layout) => {
      fc.pre(fits(name, layout));
      expect(keyOfPath(pathOfKey(name, layout), layout)).to.equal(name);
    });
    fc.assert(check);
  });

  it("maps no two keys to one path, and none out of the root", () => {
    const check = fc.property(valid, valid, layouts, (a, b, layout) => {
      fc.pre(fits(a, layout) && fits(b, layout));
      const [left, right] = [a, b].map((name) => resolve("/root/data", pathOfKey(name, layout)));
      expect(left === right).to.equal(a === b);
      expect(left?.startsWith(`/root/data${sep}`)).to.equal(true);
    });
    fc.assert(check);
  });

  // biome-ignore format: a list of cases
  const INVALID = [
    "../../etc/passwd", "/etc/passwd", "media/public/../x", "media/public/./x", "media/public//x",
    "media/public/a\0b", "media/x", "other/public/x", `media/public/${"x".repeat(256)}`,
    `media/public/${"x/".repeat(600)}x`, "media/public/\ud800", "media/public/",
    "media/public/\u0001", "media/public/\uffff",
  ];
  // biome-ignore format: a list of cases
  const VALID = [
    "media/public/a b%+é😀.png", `media/public/${"é".repeat(127)}`, "reports/t_x/..a",
    "media/public/\\", "media/public/\n\t\r\u0085",
  ];
  it("skips keys that are not authentik's", () => {
    for (const name of INVALID) expect(invalidKeyReason(name), name).to.be.a("string");
    for (const name of VALID) expect(invalidKeyReason(name), name).to.equal(undefined);
  });

  it("recognizes both generations of local folders", () => {
    expect(recognizeLayout(["public", "t_other"])).to.equal("media");
    expect(recognizeLayout(["media"])).to.equal("data");
    expect(recognizeLayout(["reports", "certs"])).to.equal("data");
    expect(recognizeLayout(["etc"])).to.equal(undefined);
    expect(() => recognizeLayout(["public", "media"])).to.throw("--layout");
    expect(recognizeLayout(["sso", "backup"], ["sso"])).to.equal("media");
    expect(() => recognizeLayout(["media"], ["media"])).to.throw("--layout");
  });
});

describe("migrate: content", () => {
  // What `mimetypes.MimeTypes().guess_type` returns after `image/webp` and `application/gzip` are
  // added, as authentik adds them.
  // biome-ignore format: a list of cases
  const TYPES = {
    "a.png": "image/png", "a.PNG": "image/png", "x/y.jpeg": "image/jpeg", "x.svg": "image/svg+xml",
    "x.svgz": "image/svg+xml", "x.gif": "image/gif", "x.webp": "image/webp",
    "x.ico": "image/vnd.microsoft.icon", "..a.svg": "image/svg+xml",
    "x.tar.gz": "application/x-tar", "x.csv": "text/csv", "x.json": "application/json",
    "x.svg.GZ": "application/gzip",
  };
  it("guesses types as Python does", () => {
    for (const [name, type] of Object.entries(TYPES)) {
      expect(contentType(name), name).to.equal(type);
    }
    for (const name of [".png", "x.gz", "a.b/c", "x.", "x.unknown"]) {
      expect(contentType(name), name).to.equal("application/octet-stream");
    }
  });

  it("cuts parts that S3 accepts, for files of any size", () => {
    const check = fc.property(fc.integer({ min: 1, max: 5 * 1024 ** 4 }), (size) => {
      const partSize = partSizeOf(size);
      expect(Math.ceil(size / partSize)).to.be.at.most(10_000);
      expect(partSize).to.be.within(8 * 1024 ** 2, 5 * 1024 ** 3);
    });
    fc.assert(check);
  });

  it("cuts streams without losing a byte, in borrowed buffers", async () => {
    const chunksOf = fc.array(fc.uint8Array({ maxLength: 40 }));
    const sizeOf = fc.integer({ min: 1, max: 17 });
    const check = fc.asyncProperty(chunksOf, sizeOf, async (chunks, size) => {
      const memory = new MemoryBudget();
      const pieces: Buffer[] = [];
      const stream = streamed(chunks.map((chunk) => Buffer.from(chunk)));
      for await (const { bytes, buffer } of inPieces(stream, size, memory)) {
        pieces.push(Buffer.from(bytes));
        memory.giveBack(buffer);
      }
      expect(Buffer.concat(pieces)).to.deep.equal(Buffer.concat(chunks));
      expect(pieces.slice(0, -1).every(({ length }) => length === size)).to.equal(true);
    });
    await fc.assert(check);
  });
});
