/** Runs migrations in this process, and compares trees. */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { buildEnv, type StorageSettings } from "../../authentik/env.ts";
import { findVersitygw, startVersitygw, type RunningServer } from "../../tools/start/versitygw.ts";
import { Bucket } from "../../tools/migrate/bucket.ts";
import { MemoryBudget } from "../../tools/migrate/content.ts";
import { Disk } from "../../tools/migrate/disk.ts";
import { Journal } from "../../tools/migrate/journal.ts";
import type { Layout } from "../../tools/migrate/layout.ts";
import { mendLayout, migrate, type Options, type Summary } from "../../tools/migrate/migrate.ts";
import { S3Bucket, type Patience } from "../../tools/migrate/s3.ts";

/** Short pauses; a stall is noticed after a second or two (undici's clock ticks once a second). */
export const IMPATIENT: Patience = { attempts: 8, pauseMs: 1, silenceMs: 500, slowestRate: 10_000 };

/** A folder, or a bucket. */
export type End = string | StorageSettings;

export interface RunOptions {
  state: string;
  delete?: boolean;
  dryRun?: boolean;
  layout?: Layout;
  patience?: Patience;
  /** Called for each step of the plan, and each time something is done. */
  onProgress?: () => void;
}

/** One whole migration with a process's journal. */
export async function run(from: End, to: End, options: RunOptions): Promise<Summary> {
  const memory = new MemoryBudget();
  const first = await openEnd(from, memory, options, true);
  const second = await openEnd(to, memory, options, false);
  return withJournal([first, second], memory, options, (settings) => migrate(first, second, options.delete ?? false, settings));
}

export async function mend(bucket: StorageSettings, deleteOld: boolean, options: RunOptions): Promise<Summary> {
  const memory = new MemoryBudget();
  const s3 = await S3Bucket.open(bucket, options.patience ?? IMPATIENT);
  const place = await Bucket.open(s3, memory, { readsMisplaced: false });
  return withJournal([place, place], memory, options, (settings) => mendLayout(place, deleteOld, settings));
}

async function openEnd(end: End, memory: MemoryBudget, { layout, patience = IMPATIENT, dryRun = false }: RunOptions, isSource: boolean): Promise<Disk | Bucket> {
  if (typeof end === "string") return Disk.open(end, { layout, mustExist: isSource, readOnly: dryRun });
  return Bucket.open(await S3Bucket.open(end, patience), memory, { readsMisplaced: isSource });
}

async function withJournal(
  places: [Disk | Bucket, Disk | Bucket],
  memory: MemoryBudget,
  { state, dryRun = false, onProgress = () => undefined }: RunOptions,
  work: (options: Options) => Promise<Summary>,
): Promise<Summary> {
  const journal = new Journal(state, [places[0].name, places[1].name]);
  if (places[1].kind === "bucket") places[1].useJournal(journal);
  const reporter = { compared: () => undefined, deletion: () => undefined, step: onProgress, problem: () => undefined, progress: onProgress };
  try {
    return await work({ journal, memory, reporter, dryRun, confirm: () => Promise.resolve(true) });
  } finally {
    journal.close();
    await Promise.all(places.map((place) => place.close()));
  }
}

const temporary: string[] = [];
process.once("exit", () => { for (const folder of temporary) rmSync(folder, { recursive: true, force: true }); });

/** A folder that is gone when the process is. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "migrate-test-"));
  temporary.push(folder);
  return folder;
}

/** A server with root's keys and, for tests, its buckets as folders in `buckets`. */
export interface TestServer extends RunningServer {
  buckets: string;
  /** Makes an empty bucket and gives root's settings for it. */
  bucket: (name: string) => StorageSettings;
  fresh: () => Ground;
}

/** Places for one migration, all empty. */
export interface Ground {
  bucket: StorageSettings;
  /** Where the server keeps the bucket's files. */
  inBucket: string;
  /** Is not there yet. */
  folder: string;
  /** For the journal. */
  state: string;
  /** Folder of the two. */
  top: string;
}

export async function startServer(): Promise<TestServer> {
  const folder = temporaryFolder();
  const root = { accessKey: "test-root", secretKey: "test-root-secret" };
  const buckets = join(folder, "buckets");
  const server = await startVersitygw({ versitygw: await findVersitygw(".local/bin"), dataDir: buckets, iamDir: join(folder, "iam"), root });
  const bucket = (bucketName: string): StorageSettings => {
    mkdirSync(join(buckets, bucketName));
    return { bucketName, endpoint: server.endpoint, region: "us-east-1", ...root, secureUrls: false };
  };
  let number = 0;
  const fresh = (): Ground => {
    const name = `fresh-${number++}`;
    const top = temporaryFolder();
    return { bucket: bucket(name), inBucket: join(buckets, name), folder: join(top, "data"), state: join(top, "state"), top };
  };
  return { ...server, buckets, bucket, fresh };
}

/** Writes the variables for a bucket into a folder, and gives the place that they are for the command. */
export function envFile(folder: string, settings: StorageSettings): string {
  const file = join(folder, "authentik.env");
  writeFileSync(file, Object.entries(buildEnv(settings).env).map(([name, value]) => `${name}=${value}\n`).join(""));
  return `env:${file}`;
}

/** Writes files; names are paths below the folder. */
export function writeTree(folder: string, files: Readonly<Record<string, string | Buffer>>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

/** Paths to the SHA-256 of their content. A server's own folders are left out. */
export function readTree(folder: string, below = ""): Record<string, string> {
  const tree: Record<string, string> = {};
  for (const entry of readdirSync(join(folder, below), { withFileTypes: true })) {
    if (entry.name.startsWith(".sgwtmp")) continue;
    const path = join(below, entry.name);
    if (entry.isDirectory()) Object.assign(tree, readTree(folder, path));
    else tree[path] = createHash("sha256").update(readFileSync(join(folder, path))).digest("hex");
  }
  return tree;
}

/** Ids of the uploads that versitygw keeps parts of. */
export function uploadsIn(bucketFolder: string): string[] {
  const found = readdirSync(bucketFolder, { recursive: true, withFileTypes: true });
  return found.filter((entry) => entry.isDirectory() && entry.parentPath.includes(".sgwtmp/multipart/")).map(({ name }) => name);
}

/** What the journals in a state folder have of begun uploads. */
export function uploadsLeft(state: string): string[] {
  const journals = readdirSync(state).map((name) => join(state, name));
  return journals.flatMap((journal) => readdirSync(journal).filter((name) => name.startsWith("uploads-")).flatMap((name) => readdirSync(join(journal, name))));
}
