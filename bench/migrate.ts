/** Times `migrate` against `aws s3 sync` and `rclone copy` on a local server, and prints one table. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { link, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { promisify } from "node:util";
import * as v from "valibot";
import { buildEnv } from "../authentik/env.ts";
import { onPath } from "../tools/lib/programs.ts";
import { findVersitygw, startVersitygw } from "../tools/start/versitygw.ts";
import { startListingServer } from "../test/support/listing-server.ts";
import { measure, report, type Figure, type Sample } from "./measure.ts";

const SMALL_FILES = 5000;
const LARGE_FILES = 4;
const LARGE_BYTES = 256 * 1024 * 1024;
type Column = `${"small" | "large" | "nothing to do"} ${"up" | "down"}`;
const LISTED_KEYS = 1_000_000;
const KEYS = { accessKey: "bench", secretKey: "bench-secret" };
const Manifest = v.object({ scripts: v.object({ migrate: v.string() }) });
/** What `npm run migrate` runs: `node`, its flags, and the command. */
const [, ...MIGRATE] = v
  .parse(Manifest, JSON.parse(readFileSync("package.json", "utf8")))
  .scripts.migrate.split(" ");

interface Tool {
  name: string;
  /** The command line that makes `to` like `from`; one of them is a folder, the other `bucket`. */
  args(from: string, to: string, bucket: string): string[];
  env: Record<string, string>;
}

export interface BenchOptions {
  rounds: number;
  /** Measures only these columns: those that begin with it. */
  only: string;
  /** Whether the server keeps connections open. versitygw does not unless it is told to. */
  keepAlive: boolean;
  json: boolean;
}

/**
 * Times every tool that is on PATH in turn, in both directions, several times, and prints medians
 * and ratios; then a listing of a million keys.
 */
export async function benchMigrate(options: BenchOptions): Promise<void> {
  const { rounds, only, keepAlive } = options;
  const work = await mkdtemp(join(tmpdir(), "bench-migrate-"));
  const server = await startVersitygw({
    versitygw: await findVersitygw(".local/bin"),
    dataDir: join(work, "buckets"),
    iamDir: join(work, "iam"),
    root: KEYS,
    flags: keepAlive ? [] : ["--keep-alive=false"],
  });
  const isWanted = (column: string) => column.startsWith(only);
  try {
    await makeFiles(join(work, "small"), SMALL_FILES, (index) => 1000 + ((index * 7919) % 19_000));
    await makeFiles(join(work, "large"), LARGE_FILES, () => LARGE_BYTES);
    for (const name of ["small", "large"]) await linkFiles(join(work, name), join(work, "all"));
    const samples: Sample[] = [];
    const found = await tools(work, server.endpoint);
    const take = async (tool: Tool, column: Column, way: Way) => {
      samples.push({ tool: tool.name, column, figure: await time(tool, way, work) });
    };
    const start = (tool: Tool, set: string, round: number) =>
      newTrip(tool, set, round, work, server.endpoint);
    const inTurn = async (count: number, run: (tool: Tool, round: number) => Promise<void>) => {
      for (let round = 0; round < count; round += 1)
        for (const tool of found) await run(tool, round);
    };
    // What was copied stays, except the largest: after thousands of files were deleted others take a
    // disk several times as long, for minutes.
    if (isWanted("small"))
      await inTurn(rounds, async (tool, round) => {
        const trip = await start(tool, "small", round);
        await take(tool, "small up", trip.up);
        await take(tool, "small down", trip.down);
      });
    if (isWanted("nothing")) {
      await inTurn(1, async (tool) => {
        const trip = await start(tool, "all", 0);
        for (const way of [trip.up, trip.down]) await time(tool, way, work);
      });
      await inTurn(rounds, async (tool) => {
        const trip = await start(tool, "all", 0);
        await take(tool, "nothing to do up", trip.up);
        await take(tool, "nothing to do down", trip.down);
      });
    }
    if (isWanted("large"))
      await inTurn(rounds, async (tool, round) => {
        const trip = await start(tool, "large", round);
        await take(tool, "large up", trip.up);
        await take(tool, "large down", trip.down);
        await trip.remove();
      });
    if (isWanted("listing")) {
      const column = `listing of ${LISTED_KEYS} keys`;
      samples.push({ tool: "migrate", column, figure: await listMany(work) });
    }
    const connections = keepAlive ? "keeps connections open" : "closes each connection";
    const title = `migrate: medians of ${rounds} rounds, on a server that ${connections}`;
    report(title, samples, "migrate", options);
  } finally {
    await server.stop();
    await rm(work, { recursive: true });
  }
}

type Way = [from: string, to: string, bucket: string];

/** From a folder into a bucket of its own, and from there into another folder: what a tool is given. */
interface Trip {
  up: Way;
  down: Way;
  remove(): Promise<void>;
}

async function newTrip(
  tool: Tool,
  set: string,
  round: number,
  work: string,
  endpoint: string,
): Promise<Trip> {
  const bucket = `${tool.name.replaceAll(/\W+/g, "-")}-${set}-${round}`;
  const copy = join(work, "copy", bucket);
  const stored = join(work, "buckets", bucket);
  await writeEnvFile(work, endpoint, bucket);
  for (const folder of [copy, stored]) await mkdir(folder, { recursive: true });
  return {
    up: [join(work, set), bucket, bucket],
    down: [bucket, copy, bucket],
    remove: async () => {
      for (const folder of [copy, stored]) await rm(folder, { recursive: true });
    },
  };
}

async function makeFiles(
  folder: string,
  count: number,
  size: (index: number) => number,
): Promise<void> {
  for (let index = 0; index < count; index++) {
    const path = join(folder, "media", "public", `${basename(folder)}-${index % 10}`);
    await mkdir(path, { recursive: true });
    await writeFile(join(path, `file-${index}.png`), randomBytes(size(index)));
  }
}

/** Puts a folder's files into another one too. */
async function linkFiles(folder: string, to: string): Promise<void> {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const linked = join(to, relative(folder, path));
    await mkdir(dirname(linked), { recursive: true });
    await link(path, linked);
  }
}

async function writeEnvFile(work: string, endpoint: string, bucket: string): Promise<string> {
  const { env } = buildEnv({
    bucketName: bucket,
    endpoint,
    region: "us-east-1",
    ...KEYS,
    secureUrls: false,
  });
  const file = join(work, `${bucket}.env`);
  await writeFile(
    file,
    Object.entries(env)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(""),
    { mode: 0o600 },
  );
  return `env:${file}`;
}

/** `migrate`, and those of the others that are on PATH. */
async function tools(work: string, endpoint: string): Promise<Tool[]> {
  const place = (text: string, bucket: string): string =>
    text === bucket ? `env:${join(work, `${bucket}.env`)}` : text;
  const found: Tool[] = [
    {
      name: "migrate",
      args: (from, to, bucket) => [
        process.execPath,
        ...MIGRATE,
        place(from, bucket),
        place(to, bucket),
        "--yes",
        "--state",
        join(work, "state"),
      ],
      env: {},
    },
  ];
  const aws = await onPath("aws");
  const s3 = (text: string, bucket: string): string => (text === bucket ? `s3://${bucket}` : text);
  if (aws) {
    found.push({
      name: "aws",
      args: (from, to, bucket) => [
        aws,
        "--endpoint-url",
        endpoint,
        "s3",
        "sync",
        "--only-show-errors",
        s3(from, bucket),
        s3(to, bucket),
      ],
      env: {
        AWS_ACCESS_KEY_ID: KEYS.accessKey,
        AWS_SECRET_ACCESS_KEY: KEYS.secretKey,
        AWS_DEFAULT_REGION: "us-east-1",
      },
    });
  }
  const rclone = await onPath("rclone");
  const remote = (text: string, bucket: string): string =>
    text === bucket ? `server:${bucket}` : text;
  if (rclone) {
    const args = (from: string, to: string, bucket: string) => [
      rclone,
      "copy",
      "--quiet",
      "--transfers",
      "32",
      "--checkers",
      "32",
      remote(from, bucket),
      remote(to, bucket),
    ];
    const env = {
      RCLONE_CONFIG: join(work, "no-rclone.conf"),
      RCLONE_CONFIG_SERVER_TYPE: "s3",
      RCLONE_CONFIG_SERVER_PROVIDER: "Other",
      RCLONE_CONFIG_SERVER_ENDPOINT: endpoint,
      RCLONE_CONFIG_SERVER_REGION: "us-east-1",
      RCLONE_CONFIG_SERVER_ACCESS_KEY_ID: KEYS.accessKey,
      RCLONE_CONFIG_SERVER_SECRET_ACCESS_KEY: KEYS.secretKey,
    };
    found.push({ name: "rclone", args, env });
    // It leaves what it writes in the machine's memory; migrate has it on the disk when it ends.
    const synced = (from: string, to: string, bucket: string) => [
      "sh",
      "-c",
      '"$@" && sync -f "$0"',
      work,
      ...args(from, to, bucket),
    ];
    found.push({ name: "rclone, synced", args: synced, env });
  }
  return found;
}

/** Times a tool on a disk that has nothing left to write of what came before. */
async function time(tool: Tool, way: Way, work: string): Promise<Figure> {
  await promisify(execFile)("sync", ["-f", work]);
  const [program = "", ...args] = tool.args(...way);
  return measure(program, args, { env: tool.env });
}

async function listMany(work: string): Promise<Figure> {
  const keyAt = (index: number): string =>
    `media/public/set-${String(Math.floor(index / 1000)).padStart(6, "0")}/file-${String(index % 1000).padStart(6, "0")}.png`;
  const listing = await startListingServer({ count: LISTED_KEYS, keyAt });
  try {
    const empty = join(work, "empty");
    await mkdir(empty);
    const from = await writeEnvFile(work, listing.endpoint, "listed");
    return await measure(
      process.execPath,
      [...MIGRATE, from, empty, "--dry-run", "--json", "--state", join(work, "state")],
      { env: {} },
    );
  } finally {
    await listing.stop();
  }
}
