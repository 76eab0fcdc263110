/** The steps that make one side like the other. Pure: it reads two listings and nothing else. */
import type { Item, Skip } from "./storage.ts";

export type FileStep =
  | { kind: "create"; from: Item; to?: undefined }
  /**
   * `unsure`: the sizes are equal, and the contents have not been compared yet. `stored`: the
   * contents are the same, but the stored headers are not, e.g. the type.
   */
  | { kind: "update"; from: Item; to: Item; unsure: boolean; stored?: string | undefined }
  | { kind: "same"; from: Item; to: Item }
  | { kind: "extra"; from?: undefined; to: Item };

/** Whether two items of equal size have the same content; undefined when only reading can tell. */
export type CompareVersions = (from: Item, to: Item) => boolean | undefined;

/**
 * Compares two listings, each in the order of `compareKeys` and without duplicates. An item out of
 * order is skipped, because it would seem to be missing. One item of each listing is in memory.
 */
export async function* plan(
  from: AsyncIterable<Item>,
  to: AsyncIterable<Item>,
  compareVersions: CompareVersions,
  skip: Skip,
): AsyncGenerator<FileStep> {
  const left = ordered(from, skip);
  const right = ordered(to, skip);
  let [a, b] = [await left.next(), await right.next()];
  while (!a.done || !b.done) {
    const order = a.done ? 1 : b.done ? -1 : compareKeys(a.value.key, b.value.key);
    if (!a.done && order < 0) {
      yield { kind: "create", from: a.value };
    } else if (!b.done && order > 0) {
      yield { kind: "extra", to: b.value };
    } else if (!a.done && !b.done) {
      yield compare(a.value, b.value, compareVersions);
    }
    if (order <= 0) a = await left.next();
    if (order >= 0) b = await right.next();
  }
}

function compare(from: Item, to: Item, compareVersions: CompareVersions): FileStep {
  if (from.size !== to.size) return { kind: "update", from, to, unsure: false };
  const same = compareVersions(from, to);
  if (same === true) return { kind: "same", from, to };
  return { kind: "update", from, to, unsure: same === undefined };
}

async function* ordered(items: AsyncIterable<Item>, skip: Skip): AsyncGenerator<Item, undefined> {
  let last: string | undefined;
  for await (const item of items) {
    if (last !== undefined && compareKeys(last, item.key) >= 0) {
      const position = last === item.key ? "twice" : `after "${last}"`;
      skip(item.key, `the listing contains it ${position}, which is not S3's order`);
      continue;
    }
    last = item.key;
    yield item;
  }
  return undefined;
}

/** Joins two ordered listings into one. If both have a key, the first listing's item is taken. */
export async function* merge(
  first: AsyncIterable<Item>,
  second: AsyncIterable<Item>,
  skip: Skip,
): AsyncGenerator<Item> {
  for await (const step of plan(first, second, () => true, skip)) yield step.from ?? step.to;
}

/** Skips keys that a disk cannot hold, because another key is a folder of their path. */
export async function* withoutCollisions(
  items: AsyncIterable<Item>,
  skip: Skip,
): AsyncGenerator<Item> {
  // In an ordered listing, all keys that begin with a key follow it directly. So the candidates
  // are a stack.
  const shorter: string[] = [];
  for await (const item of items) {
    while (shorter.length > 0 && !item.key.startsWith(shorter.at(-1) ?? "")) shorter.pop();
    const file = shorter.find((key) => item.key[key.length] === "/");
    if (file !== undefined) {
      skip(item.key, `"${file}" would have to be both a file and a folder`);
      continue;
    }
    shorter.push(item.key);
    yield item;
  }
}

/**
 * The order of S3's listings: that of the keys' UTF-8 bytes. JavaScript's order differs for
 * characters beyond U+FFFF.
 */
export function compareKeys(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let index = 0; index < length; index++) {
    const [left, right] = [a.charCodeAt(index), b.charCodeAt(index)];
    if (left !== right) return codePointRank(left) - codePointRank(right);
  }
  return a.length - b.length;
}

/** Surrogates stand for the highest code points, but other UTF-16 units are greater. */
function codePointRank(unit: number): number {
  if (unit >= 0xe000) return unit - 0x800;
  return unit >= 0xd800 ? unit + 0x2000 : unit;
}
