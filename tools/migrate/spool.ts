/** A plan's steps, on disk: a million of them may need more than the memory. */
import { mkdtemp, open, rm, type FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import type { FileStep } from "./plan.ts";
import { MigrateError } from "./storage.ts";

const ItemLine = v.object({
  key: v.string(),
  size: v.number(),
  version: v.string(),
  at: v.optional(v.string()),
});
const StepLine = v.variant("kind", [
  v.object({ kind: v.literal("create"), from: ItemLine }),
  v.object({
    kind: v.literal("update"),
    from: ItemLine,
    to: ItemLine,
    unsure: v.boolean(),
    stored: v.optional(v.string()),
  }),
  v.object({ kind: v.literal("same"), from: ItemLine, to: ItemLine }),
  v.object({ kind: v.literal("extra"), to: ItemLine }),
]);
/** How many steps stay in memory. */
const HELD_STEPS = 10_000;
const BUFFER_CHARACTERS = 256 * 1024;

/**
 * Steps in their order. The first ones are in memory, the others in a file that ends with the
 * process.
 */
export class Spool {
  private readonly file: FileHandle;
  private readonly folder: string;
  private readonly held: FileStep[] = [];
  private lines = "";

  private constructor(file: FileHandle, folder: string) {
    this.file = file;
    this.folder = folder;
  }

  /** @throws MigrateError when the system's folder for temporary files cannot be written */
  static async create(): Promise<Spool> {
    const folder = await mkdtemp(join(tmpdir(), "migrate-")).catch(failed);
    const file = await open(join(folder, "plan"), "wx+", 0o600).catch(failed);
    // NFS and FUSE keep an open file under another name. There `close` removes the folder.
    await rm(folder, { recursive: true }).catch(() => undefined);
    return new Spool(file, folder);
  }

  async add(step: FileStep): Promise<void> {
    if (this.held.length < HELD_STEPS) {
      this.held.push(step);
      return;
    }
    this.lines += `${JSON.stringify(step)}\n`;
    if (this.lines.length >= BUFFER_CHARACTERS) await this.flush();
  }

  private async flush(): Promise<void> {
    const lines = this.lines;
    this.lines = "";
    await this.file.writeFile(lines).catch(failed);
  }

  async *steps(): AsyncGenerator<FileStep> {
    await this.flush();
    for (const step of this.held) yield step;
    for await (const line of this.file.readLines({ start: 0, autoClose: false })) {
      yield v.parse(StepLine, JSON.parse(line));
    }
  }

  async close(): Promise<void> {
    await this.file.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

function failed(cause: unknown): never {
  const message = `the plan cannot be stored in "${tmpdir()}"`;
  throw new MigrateError(`${message}; name a folder with free space in TMPDIR`, { cause });
}
