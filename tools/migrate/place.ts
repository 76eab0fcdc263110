/** What can be copied from and to. */
import type { Usage } from "../../authentik/objects.ts";
import type { Content } from "./content.ts";
import type { Item } from "./plan.ts";

/** Is told of a key that is not copied, and why. */
export type Refuse = (key: string, reason: string) => void;

/** A file or object that is not copied whatever happens. The rest goes on. */
export class Refusal extends Error {
  override name = "Refusal";
}

/** What ends a run: a place, the journal or the plan cannot be used. The message and those of its causes say what to do. */
export class MigrateError extends Error {
  override name = "MigrateError";
}

/** One side of a migration: a folder, or a bucket. */
export interface Place {
  /** Where it is, without credentials; also its identity. */
  readonly name: string;
  /** What it has room for. */
  readonly usages: readonly Usage[];
  /** Items in the order of `compareKeys`. */
  list(usage: Usage, refuse: Refuse): AsyncIterable<Item>;
  /** The item as it is now. */
  refresh(item: Item): Promise<Item>;
  read(item: Item): Content;
  /**
   * Stores a content under a key, whole or not at all, and gives its version.
   *
   * @param previous what the plan found there
   * @throws Refusal where it has no place for it
   */
  write(key: string, content: Content, previous: Item | undefined): Promise<string>;
  remove(item: Item): Promise<void>;
  close(): Promise<void>;
}
