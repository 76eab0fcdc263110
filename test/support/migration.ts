/** Runs migrations, in this process or by the command, and compares their files. */
import { execFile, fork, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { buildEnv, type StorageSettings } from "../../authentik/env.ts";
import { findVersitygw, startVersitygw, type RunningServer } from "../../tools/start/versitygw.ts";
import { Bucket } from "../../tools/migrate/bucket.ts";
import { MemoryBudget } from "../../tools/migrate/content.ts";
import { Disk } from "../../tools/migrate/disk.ts";
import { Journal } from "../../tools/migrate/journal.ts";
import type { Layout } from "../../tools/migrate/layout.ts";
import { migrate, repairLayout, repairTypes } from "../../tools/migrate/migrate.ts";
import type { MigrationOptions, Summary } from "../../tools/migrate/run.ts";
import { BucketClient } from "../../tools/migrate/s3-client.ts";
import type { StoredHeaders } from "../../tools/migrate/stored-headers.ts";
import type { RetryPolicy } from "../../tools/migrate/s3-retry.ts";
import { startFaultProxy, type FaultChooser, type FaultProxy } from "./fault-proxy.ts";
import { startProxy, type ProxyOptions } from "./proxy.ts";
import { BIN_DIR } from "./setup.ts";

export const MIB = 1024 * 1024;

/** Short pauses. A stall is noticed after a second or two: undici's clock ticks once a second. */
export const TEST_RETRY_POLICY: RetryPolicy = {
  attempts: 8,
  pauseMs: 1,
  silenceMs: 500,
  slowestRate: 10_000,
};

/** A folder or a bucket. */
export type End = string | StorageSettings;

export interface TestRunOptions {
  state: string;
  delete?: boolean;
  dryRun?: boolean;
  layout?: Layout;
  schemas?: string[];
  retryPolicy?: RetryPolicy;
  signal?: AbortSignal;
  /** Called for each step of the plan, and for all progress. */
  onProgress?: () => void;
}

/** One whole migration, with a journal. */
export async function run(from: End, to: End, options: TestRunOptions): Promise<Summary> {
  const memory = new MemoryBudget();
  const first = await openEnd(from, memory, options, true);
  const second = await openEnd(to, memory, options, false);
  return withJournal([first, second], memory, options, (settings) =>
    migrate(first, second, options.delete ?? false, settings),
  );
}

/** One whole repair of a bucket's layout. */
export async function repair(
  settings: StorageSettings,
  deleteOld: boolean,
  options: TestRunOptions,
): Promise<Summary> {
  const memory = new MemoryBudget();
  const client = await BucketClient.open(settings, options.retryPolicy ?? TEST_RETRY_POLICY);
  const { schemas = [] } = options;
  const bucket = await Bucket.open(client, memory, { readsMisplaced: false, schemas });
  return withJournal([bucket, bucket], memory, options, (settings) =>
    repairLayout(bucket, deleteOld, settings),
  );
}

/** One whole repair of the types of a bucket's objects. */
export async function repairStoredTypes(
  settings: StorageSettings,
  options: TestRunOptions,
): Promise<Summary> {
  const memory = new MemoryBudget();
  const client = await BucketClient.open(settings, options.retryPolicy ?? TEST_RETRY_POLICY);
  const bucket = await Bucket.open(client, memory, { readsMisplaced: false });
  return withJournal([bucket, bucket], memory, options, (settings) =>
    repairTypes(bucket, settings),
  );
}

async function openEnd(
  end: End,
  memory: MemoryBudget,
  { layout, schemas = [], retryPolicy = TEST_RETRY_POLICY, dryRun = false }: TestRunOptions,
  isSource: boolean,
): Promise<Disk | Bucket> {
  if (typeof end === "string") {
    return Disk.open(end, { layout, schemas, mustExist: isSource, readOnly: dryRun });
  }
  const client = await BucketClient.open(end, retryPolicy);
  return Bucket.open(client, memory, { readsMisplaced: isSource, schemas });
}

async function withJournal(
  [from, to]: [Disk | Bucket, Disk | Bucket],
  memory: MemoryBudget,
  {
    state,
    dryRun = false,
    signal = new AbortController().signal,
    onProgress = () => undefined,
  }: TestRunOptions,
  work: (options: MigrationOptions) => Promise<Summary>,
): Promise<Summary> {
  const journal = new Journal(state, [from.name, to.name]);
  if (from.kind === "disk") from.useJournal(journal);
  to.useJournal(journal);
  const reporter = {
    compared: () => undefined,
    deletion: () => undefined,
    problem: () => undefined,
    restart: () => undefined,
    retry: () => undefined,
    step: onProgress,
    progress: onProgress,
  };
  try {
    const confirm = () => Promise.resolve(true);
    return await work({ journal, memory, reporter, dryRun, signal, confirm });
  } finally {
    journal.close();
    await Promise.all([from.close(), to.close()]);
  }
}

/** Problems as `failed media/public/x.png`. */
export function problemsOf({ problems }: Summary): string[] {
  return problems.map(({ kind, key }) => `${kind} ${key}`);
}

/** Why a promise fails; "none" if it does not. */
export async function failureOf(work: Promise<unknown>): Promise<string> {
  return work.then(() => "none", String);
}

/** The arguments of node for the command. */
export const MIGRATE = ["--import", "tsx/esm", "tools/migrate/command.ts"];

export interface CommandResult {
  code: number;
  out: string;
  err: string;
}

/** Runs the command without a terminal. */
export async function command(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<CommandResult> {
  const options = { env: { ...process.env, ...env } };
  return new Promise((resolve) => {
    execFile(process.execPath, [...MIGRATE, ...args], options, (error, out, err) => {
      resolve({ code: typeof error?.code === "number" ? error.code : 0, out, err });
    });
  });
}

/** Starts a process that waits for a job: `migrate-child.ts`. */
export async function startChild(): Promise<ChildProcess> {
  const script = new URL("migrate-child.ts", import.meta.url);
  const child = fork(script, { execArgv: ["--import", "tsx/esm"] });
  await once(child, "message");
  return child;
}

/** Kills a process and waits for its end. */
export async function kill(child: ChildProcess): Promise<void> {
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

const temporary: string[] = [];
process.once("exit", () => {
  for (const folder of temporary) rmSync(folder, { recursive: true, force: true });
});

/** A folder that is removed when the process ends. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "migrate-test-"));
  temporary.push(folder);
  return folder;
}

/** A server with root's keys. Its buckets are folders in `buckets`. */
export interface TestServer {
  readonly endpoint: string;
  readonly buckets: string;
  /** Makes an empty bucket and returns root's settings for it. */
  bucket: (name: string) => StorageSettings;
  fresh: () => Ground;
}

/** An empty bucket and folders for one migration. */
export interface Ground {
  bucket: StorageSettings;
  /** Where the server keeps the bucket's files. */
  inBucket: string;
  /** Does not exist yet. */
  folder: string;
  /** For the journal. */
  state: string;
  /** The folder of `folder` and `state`. */
  top: string;
}

/** A server that runs during the tests of the current suite. */
export function useServer(): TestServer {
  const folder = temporaryFolder();
  const root = { accessKey: "test-root", secretKey: "test-root-secret" };
  const buckets = join(folder, "buckets");
  let server: RunningServer | undefined;
  let number = 0;
  before(async () => {
    const versitygw = await findVersitygw(BIN_DIR);
    const iamDir = join(folder, "iam");
    server = await startVersitygw({ versitygw, dataDir: buckets, iamDir, root });
  });
  after(() => server?.stop());
  const bucket = (bucketName: string): StorageSettings => {
    mkdirSync(join(buckets, bucketName));
    return settingsOf(server?.endpoint ?? "", { bucketName, ...root });
  };
  const fresh = (): Ground => {
    const name = `fresh-${number++}`;
    const top = temporaryFolder();
    const [folder, state] = [join(top, "data"), join(top, "state")];
    return { bucket: bucket(name), inBucket: join(buckets, name), folder, state, top };
  };
  return {
    get endpoint() {
      return server?.endpoint ?? "";
    },
    buckets,
    bucket,
    fresh,
  };
}

/** Settings for a server that does not check signatures, unless they are given keys. */
export function settingsOf(
  endpoint: string,
  settings: Partial<StorageSettings> = {},
): StorageSettings {
  const keys = { accessKey: "k", secretKey: "s" };
  return {
    bucketName: "b",
    endpoint,
    region: "us-east-1",
    ...keys,
    secureUrls: false,
    ...settings,
  };
}

/** Works with a proxy in front of the bucket's server. */
export async function throughProxy<T>(
  bucket: StorageSettings,
  options: ProxyOptions,
  work: (bucket: StorageSettings) => Promise<T>,
): Promise<T> {
  const proxy = await startProxy(bucket.endpoint ?? "", options);
  const scheme = options.tls ? "https" : "http";
  try {
    return await work({ ...bucket, endpoint: `${scheme}://${proxy.host}` });
  } finally {
    await proxy.stop();
  }
}

/** Works with a proxy in front of the bucket's server that causes faults. */
export async function throughFaults<T>(
  bucket: StorageSettings,
  choose: FaultChooser,
  work: (bucket: StorageSettings, proxy: FaultProxy) => Promise<T>,
): Promise<T> {
  const proxy = await startFaultProxy(bucket.endpoint ?? "", choose);
  try {
    return await work({ ...bucket, endpoint: proxy.endpoint }, proxy);
  } finally {
    await proxy.stop();
  }
}

/** Works with a client of the bucket. */
export async function withClient<T>(
  bucket: StorageSettings,
  work: (client: BucketClient) => Promise<T>,
): Promise<T> {
  const client = await BucketClient.open(bucket, TEST_RETRY_POLICY);
  return work(client).finally(() => client.close());
}

/** Stores objects as another client would. */
export async function putObjects(
  bucket: StorageSettings,
  objects: Readonly<Record<string, Buffer | string>>,
  stored: StoredHeaders = { "content-type": "image/png" },
): Promise<void> {
  await withClient(bucket, async (client) => {
    for (const [key, content] of Object.entries(objects)) {
      await client.put(key, Buffer.from(content), stored);
    }
  });
}

/** Writes a bucket's variables into a folder, and returns `env:FILE` for the command. */
export function envFile(folder: string, settings: StorageSettings): string {
  const file = join(folder, "authentik.env");
  const lines = Object.entries(buildEnv(settings).env).map(([name, value]) => `${name}=${value}\n`);
  writeFileSync(file, lines.join(""));
  return `env:${file}`;
}

/** Writes files; names are paths below the folder. */
export function writeTree(folder: string, files: Readonly<Record<string, string | Buffer>>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

/** Files `media/public/0.png` and so on. */
export function numbered(
  count: number,
  content: (index: number) => string | Buffer = String,
  nameOf = (index: number): string => `${index}.png`,
): Record<string, string | Buffer> {
  const indices = Array.from({ length: count }, (_, index) => index);
  return Object.fromEntries(
    indices.map((index) => [`media/public/${nameOf(index)}`, content(index)]),
  );
}

/** Paths to the SHA-256 of their content. A server's own folders are left out. */
export function readTree(folder: string, below = ""): Record<string, string> {
  const tree: Record<string, string> = {};
  for (const entry of readdirSync(join(folder, below), { withFileTypes: true })) {
    if (entry.name.startsWith(".sgwtmp")) continue;
    const path = join(below, entry.name);
    if (entry.isDirectory()) Object.assign(tree, readTree(folder, path));
    else {
      const content = readFileSync(join(folder, path));
      tree[path] = createHash("sha256").update(content).digest("hex");
    }
  }
  return tree;
}

/** The paths of all files in a folder, in the order of `Array.sort`. */
export function filesIn(folder: string): string[] {
  return Object.keys(readTree(folder)).sort();
}

/** Expects the same files with the same content in two folders. */
export function expectSameFiles(folder: string, other: string): void {
  expect(readTree(folder)).to.deep.equal(readTree(other));
}

/** Ids of the uploads that versitygw keeps parts of. */
export function uploadsIn(bucketFolder: string): string[] {
  const found = readdirSync(bucketFolder, { recursive: true, withFileTypes: true });
  return found
    .filter((entry) => entry.isDirectory() && entry.parentPath.includes(".sgwtmp/multipart/"))
    .map(({ name }) => name);
}

/** The unfinished uploads in the journals of a state folder. */
export function uploadsLeft(state: string): string[] {
  const paths = readdirSync(state, { recursive: true, encoding: "utf8" });
  return paths.filter((path) => /\/uploads-[^/]+\/./.test(path));
}
