/** What has to be done to make one side like the other. Pure: it sees two listings, and nothing else. */
import type { Refuse } from "./place.ts";

/** A file or an object. */
export interface Item {
  /** authentik's key, e.g. `media/public/application-icons/x.png`. */
  key: string;
  /** In bytes. */
  size: number;
  /** Is another one whenever the content is: an object's ETag; a file's inode, size and times. */
  version: string;
  /** Where it really is, if that is not where the key says: a misplaced object's key, the path behind a symlink. */
  at?: string | undefined;
}

export type Step =
  | { kind: "create"; from: Item; to?: undefined }
  /** `unsure`: of equal size, and nothing is known yet of the content. */
  | { kind: "update"; from: Item; to: Item; unsure: boolean }
  | { kind: "same"; from: Item; to: Item }
  | { kind: "extra"; from?: undefined; to: Item };

/** Whether two items of equal size have the same content, where that is known without reading them. */
export type Known = (from: Item, to: Item) => boolean | undefined;

/**
 * Compares two listings, each in the order of `compareKeys` and without repetition; what is not in order is refused, since it
 * would seem to be missing. Holds one item of each at a time.
 */
export async function* plan(from: AsyncIterable<Item>, to: AsyncIterable<Item>, known: Known, refuse: Refuse): AsyncGenerator<Step> {
  const left = ordered(from, refuse);
  const right = ordered(to, refuse);
  let [a, b] = [await left.next(), await right.next()];
  while (!a.done || !b.done) {
    const order = a.done ? 1 : b.done ? -1 : compareKeys(a.value.key, b.value.key);
    if (!a.done && order < 0) {
      yield { kind: "create", from: a.value };
    } else if (!b.done && order > 0) {
      yield { kind: "extra", to: b.value };
    } else if (!a.done && !b.done) {
      yield compare(a.value, b.value, known);
    }
    if (order <= 0) a = await left.next();
    if (order >= 0) b = await right.next();
  }
}

function compare(from: Item, to: Item, known: Known): Step {
  if (from.size !== to.size) return { kind: "update", from, to, unsure: false };
  const same = known(from, to);
  return same === true ? { kind: "same", from, to } : { kind: "update", from, to, unsure: same === undefined };
}

async function* ordered(items: AsyncIterable<Item>, refuse: Refuse): AsyncGenerator<Item, undefined> {
  let last: string | undefined;
  for await (const item of items) {
    if (last !== undefined && compareKeys(last, item.key) >= 0) {
      refuse(item.key, `the listing has it ${last === item.key ? "twice" : `after "${last}"`}, which is not S3's order`);
      continue;
    }
    last = item.key;
    yield item;
  }
  return undefined;
}

/** One ordered listing of two. Where both have a key, the first one's item is taken. */
export async function* merge(first: AsyncIterable<Item>, second: AsyncIterable<Item>, refuse: Refuse): AsyncGenerator<Item> {
  for await (const step of plan(first, second, () => true, refuse)) yield step.from ?? step.to;
}

/** Passes on what a disk can hold: where one key is a folder in another's path, the longer one is refused. */
export async function* withoutCollisions(items: AsyncIterable<Item>, refuse: Refuse): AsyncGenerator<Item> {
  // In an ordered listing all keys that begin with a key follow it without a gap, so the candidates are a stack.
  const shorter: string[] = [];
  for await (const item of items) {
    while (shorter.length > 0 && !item.key.startsWith(shorter.at(-1) ?? "")) shorter.pop();
    const file = shorter.find((key) => item.key[key.length] === "/");
    if (file !== undefined) {
      refuse(item.key, `"${file}" would have to be a file and a folder`);
      continue;
    }
    shorter.push(item.key);
    yield item;
  }
}

/** The order of S3's listings: that of the keys' UTF-8 bytes, which is not JavaScript's for characters beyond U+FFFF. */
export function compareKeys(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let index = 0; index < length; index++) {
    const [left, right] = [a.charCodeAt(index), b.charCodeAt(index)];
    if (left !== right) return codePointRank(left) - codePointRank(right);
  }
  return a.length - b.length;
}

/** Surrogates stand for code points above all others: they change places with what UTF-16 has behind them. */
function codePointRank(unit: number): number {
  if (unit >= 0xe000) return unit - 0x800;
  return unit >= 0xd800 ? unit + 0x2000 : unit;
}
