import { resolve, sep } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { contentType } from "../authentik/objects.ts";
import { inPieces, MemoryBudget, partSizeOf } from "../tools/migrate/content.ts";
import { keyFlaw, keyOfPath, LAYOUTS, pathOfKey, recogniseLayout, usagesOf } from "../tools/migrate/layout.ts";
import { compareKeys, merge, plan, withoutCollisions, type Item, type Step } from "../tools/migrate/plan.ts";

const text = fc.string({ unit: "binary", maxLength: 4 }).filter((value) => !/\p{Surrogate}/u.test(value));
const path = fc.array(fc.oneof(text, fc.constantFrom("a", "b", "a-", "..", ".", "")), { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/"));
const key = fc.tuple(fc.constantFrom("media", "reports", "public"), path).map((parts) => parts.join("/"));
const sizes = fc.dictionary(key, fc.nat(2));

function listing(files: Readonly<Record<string, number>>): Item[] {
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

/** Refuses what is not to be refused. */
const none = (name: string): never => { throw new Error(`"${name}" is refused`); };

describe("migrate: planner", () => {
  it("orders keys as their UTF-8 bytes", () => {
    fc.assert(fc.property(text, text, (a, b) => Math.sign(compareKeys(a, b)) === Buffer.compare(Buffer.from(a), Buffer.from(b))));
  });

  it("gives each key exactly one step, the right one", async () => {
    await fc.assert(fc.asyncProperty(sizes, sizes, async (from, to) => {
      const steps = await all(plan(streamed(listing(from)), streamed(listing(to)), () => true, none));
      const expected = listing({ ...to, ...from }).map(({ key: name }): [string, Step["kind"]] => {
        if (!Object.hasOwn(to, name)) return [name, "create"];
        if (!Object.hasOwn(from, name)) return [name, "extra"];
        return [name, from[name] === to[name] ? "same" : "update"];
      });
      expect(steps.map((step) => [(step.from ?? step.to).key, step.kind])).to.deep.equal(expected);
    }));
  });

  it("is empty after it has been carried out", async () => {
    await fc.assert(fc.asyncProperty(sizes, sizes, async (from, to) => {
      const after = new Map(Object.entries(to));
      for await (const { kind, from: source, to: target } of plan(streamed(listing(from)), streamed(listing(to)), () => undefined, none)) {
        if (kind === "extra") after.delete(target.key);
        else after.set(source.key, source.size);
      }
      const again = await all(plan(streamed(listing(from)), streamed(listing(Object.fromEntries(after))), () => true, none));
      expect(again.every(({ kind }) => kind === "same")).to.equal(true);
    }));
  });

  it("leaves open what only the content can tell", async () => {
    const from = listing({ "media/public/x": 1 });
    const [step] = await all(plan(streamed(from), streamed(from), () => undefined, none));
    expect(step).to.include({ kind: "update", unsure: true });
  });

  it("refuses what is out of order in a listing, on either side, and goes on with the rest", async () => {
    const right = listing({ "media/a/a": 1, "media/a/b": 1, "media/a/c": 1 });
    const [a, b, c] = right;
    const wrong = [b, a, b, c].filter((item) => item !== undefined);
    for (const [from, to] of [[wrong, right], [right, wrong]] as const) {
      const refused: string[] = [];
      const steps = await all(plan(streamed(from), streamed(to), () => true, (name, reason) => { refused.push(`${name} ${reason}`); }));
      expect(refused).to.deep.equal([`media/a/a the listing has it after "media/a/b", which is not S3's order`, "media/a/b the listing has it twice, which is not S3's order"]);
      expect(steps.map(({ kind }) => kind)).to.deep.equal([from === wrong ? "extra" : "create", "same", "same"]);
    }
  });

  it("merges two listings into one, the first before the second", async () => {
    await fc.assert(fc.asyncProperty(sizes, sizes, async (first, second) => {
      const merged = await all(merge(streamed(listing(first)), streamed(listing(second)), none));
      expect(merged).to.deep.equal(listing({ ...second, ...first }));
    }));
  });

  it("lets nothing through that would be a file and a folder", async () => {
    await fc.assert(fc.asyncProperty(sizes, async (files) => {
      const refused: string[] = [];
      const kept = await all(withoutCollisions(streamed(listing(files)), (name) => refused.push(name)));
      const names = kept.map((item) => item.key);
      expect(names.filter((name) => names.some((other) => name.startsWith(`${other}/`)))).to.deep.equal([]);
      expect([...names, ...refused].sort()).to.deep.equal(Object.keys(files).sort());
      expect(refused.every((name) => names.some((other) => name.startsWith(`${other}/`)))).to.equal(true);
    }));
  });
});

describe("migrate: keys and paths", () => {
  const sound = key.filter((name) => keyFlaw(name) === undefined);

  it("maps keys to paths and back", () => {
    fc.assert(fc.property(sound, fc.constantFrom(...LAYOUTS), (name, layout) => {
      fc.pre(usagesOf(layout).some((usage) => name.startsWith(`${usage}/`)));
      expect(keyOfPath(pathOfKey(name, layout), layout)).to.equal(name);
    }));
  });

  it("maps no two keys to one path, and none out of the root", () => {
    fc.assert(fc.property(sound, sound, fc.constantFrom(...LAYOUTS), (a, b, layout) => {
      fc.pre([a, b].every((name) => usagesOf(layout).some((usage) => name.startsWith(`${usage}/`))));
      const [left, right] = [a, b].map((name) => resolve("/root/folder", pathOfKey(name, layout)));
      expect(left === right).to.equal(a === b);
      expect(left?.startsWith(`/root/folder${sep}`)).to.equal(true);
    }));
  });

  it("refuses keys that are none of authentik's", () => {
    for (const name of [
      "../../etc/passwd", "/etc/passwd", "media/public/../x", "media/public/./x", "media/public//x", "media/public/a\0b", "media/x",
      "other/public/x", `media/public/${"x".repeat(256)}`, `media/public/${"x/".repeat(600)}x`, "media/public/\ud800", "media/public/", "media/public/\u0001", "media/public/\uffff",
    ]) expect(keyFlaw(name), name).to.be.a("string");
    for (const name of ["media/public/a b%+é😀.png", `media/public/${"é".repeat(127)}`, "reports/t_x/..a", "media/public/\\", "media/public/\n\t\r\u0085"]) {
      expect(keyFlaw(name), name).to.equal(undefined);
    }
  });

  it("recognises both generations of local folders", () => {
    expect(recogniseLayout(["public", "t_other"])).to.equal("media");
    expect(recogniseLayout(["media"])).to.equal("data");
    expect(recogniseLayout(["reports", "certs"])).to.equal("data");
    expect(recogniseLayout(["etc"])).to.equal(undefined);
    expect(() => recogniseLayout(["public", "media"])).to.throw("--layout");
  });
});

describe("migrate: content", () => {
  it("guesses types as Python does", () => {
    // What `mimetypes.MimeTypes().guess_type` answers with `image/webp` and `application/gzip` added, as authentik adds them.
    const guessed = {
      "a.png": "image/png", "a.PNG": "image/png", "x/y.jpeg": "image/jpeg", "x.svg": "image/svg+xml", "x.svgz": "image/svg+xml", "x.gif": "image/gif",
      "x.webp": "image/webp", "x.ico": "image/vnd.microsoft.icon", "..a.svg": "image/svg+xml", "x.tar.gz": "application/x-tar", "x.csv": "text/csv",
      "x.json": "application/json", "x.svg.GZ": "application/gzip",
    };
    for (const [name, type] of Object.entries(guessed)) expect(contentType(name), name).to.equal(type);
    for (const name of [".png", "x.gz", "a.b/c", "x.", "x.unknown"]) expect(contentType(name), name).to.equal("application/octet-stream");
  });

  it("cuts parts that S3 takes, for files of any size", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 5 * 1024 ** 4 }), (size) => {
      const part = partSizeOf(size);
      expect(Math.ceil(size / part)).to.be.at.most(10_000);
      expect(part).to.be.within(8 * 1024 ** 2, 5 * 1024 ** 3);
    }));
  });

  it("cuts streams without losing a byte, in borrowed buffers", async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 40 })), fc.integer({ min: 1, max: 17 }), async (chunks, size) => {
      const memory = new MemoryBudget();
      const pieces: Buffer[] = [];
      for await (const { bytes, buffer } of inPieces(streamed(chunks.map((chunk) => Buffer.from(chunk))), size, memory)) {
        pieces.push(Buffer.from(bytes));
        memory.giveBack(buffer);
      }
      expect(Buffer.concat(pieces)).to.deep.equal(Buffer.concat(chunks));
      expect(pieces.slice(0, -1).every(({ length }) => length === size)).to.equal(true);
    }));
  });
});
