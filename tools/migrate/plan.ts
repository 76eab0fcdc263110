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
 *
 * @param accepts tells which items of `from` are compared
 */
export async function* plan(
  from: AsyncIterable<Item>,
  to: AsyncIterable<Item>,
  compareVersions: CompareVersions,
  skip: Skip,
  accepts: (item: Item) => boolean = () => true,
): AsyncGenerator<FileStep> {
  const isNextLeft = orderFilter(skip);
  const left = reader(from, (item) => isNextLeft(item) && accepts(item));
  const right = reader(to, orderFilter(skip));
  let [a, b] = [await left(), await right()];
  while (a || b) {
    const order = !a ? 1 : !b ? -1 : compareKeys(a.key, b.key);
    if (a && order < 0) yield { kind: "create", from: a };
    else if (b && order > 0) yield { kind: "extra", to: b };
    else if (a && b) yield compare(a, b, compareVersions);
    if (order <= 0) a = await left();
    if (order >= 0) b = await right();
  }
}

function compare(from: Item, to: Item, compareVersions: CompareVersions): FileStep {
  if (from.size !== to.size) return { kind: "update", from, to, unsure: false };
  const same = compareVersions(from, to);
  if (same === true) return { kind: "same", from, to };
  return { kind: "update", from, to, unsure: same === undefined };
}

/** Reads the accepted items one by one; undefined after the last one. */
function reader(
  items: AsyncIterable<Item>,
  accepts: (item: Item) => boolean,
): () => Promise<Item | undefined> {
  const iterator = items[Symbol.asyncIterator]();
  return async () => {
    for (;;) {
      const next = await iterator.next();
      if (next.done === true) return undefined;
      if (accepts(next.value)) return next.value;
    }
  };
}

/** Accepts items in S3's order, and skips the others. */
function orderFilter(skip: Skip): (item: Item) => boolean {
  let last: string | undefined;
  return ({ key }) => {
    if (last !== undefined && compareKeys(last, key) >= 0) {
      const position = last === key ? "twice" : `after "${last}"`;
      skip(key, `the listing contains it ${position}, which is not S3's order`);
      return false;
    }
    last = key;
    return true;
  };
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
export function collisionFilter(skip: Skip): (item: Item) => boolean {
  // In an ordered listing, all keys that begin with a key follow it directly. So the candidates
  // are a stack.
  const shorter: string[] = [];
  return ({ key }) => {
    while (shorter.length > 0 && !key.startsWith(shorter.at(-1) ?? "")) shorter.pop();
    const file = shorter.find((other) => key[other.length] === "/");
    if (file !== undefined) {
      skip(key, `"${file}" would have to be both a file and a folder`);
      return false;
    }
    shorter.push(key);
    return true;
  };
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
