/**
 * A real S3 server on this machine: finds or installs versitygw, starts it on 127.0.0.1, and stops
 * it with the process.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { reasonOf } from "../lib/errors.ts";
import { usersFile, VERSITYGW_VERSION, type Keys } from "../../providers/versitygw.ts";
import { executable, installWithGo, onPath, run } from "../lib/programs.ts";

export interface ServerOptions {
  /** Path of the program. */
  versitygw: string;
  /** Folder for the buckets. It is created if it does not exist. */
  dataDir: string;
  /** Folder for the users other than root. It is created if it does not exist. */
  iamDir: string;
  /** The default is a free port. */
  port?: number;
  root: Keys;
  /** Users without root's rights. They may do what a bucket policy allows them. */
  users?: readonly Keys[];
  /** Arguments before the backend, e.g. `["--region", "eu-central-1"]`. */
  flags?: readonly string[];
  /** The backend and its arguments. The default is `posix <dataDir>`. */
  backend?: readonly string[];
  /** Environment variables in addition to the root keys, e.g. a backend's credentials. */
  env?: Readonly<Record<string, string>>;
}

export interface RunningServer {
  /** E.g. `http://127.0.0.1:7070`. */
  endpoint: string;
  pid?: number | undefined;
  stop(): Promise<void>;
}

/** Where versitygw's releases are. A variable names another place, such as a mirror. */
const RELEASES = "https://github.com/versity/versitygw/releases/download";
const RELEASES_VARIABLE = "VERSITYGW_RELEASES";

/** The longest wait for the list of checksums, and for the archive of about 15 MB. */
const CHECKSUMS_MS = 15_000;
const ARCHIVE_MS = 180_000;

/** One way to get versitygw. */
interface Installation {
  /** Its name in messages. */
  name: string;
  /** The text that is shown during the installation. */
  step: string;
  install: (binDir: string, signal?: AbortSignal) => Promise<void>;
}

/** In the order in which they are tried. */
const INSTALLATIONS: readonly Installation[] = [
  {
    name: "download",
    step: `downloading versitygw ${VERSITYGW_VERSION} (once)`,
    install: downloadRelease,
  },
  {
    name: "Go",
    step: `building versitygw ${VERSITYGW_VERSION} with Go (about two minutes, once)`,
    install: async (binDir, signal) => {
      if ((await onPath("go")) === undefined) throw new Error("go is not on PATH");
      const target = `github.com/versity/versitygw/cmd/versitygw@${VERSITYGW_VERSION}`;
      await installWithGo(target, binDir, signal);
    },
  },
];

/**
 * Finds versitygw: on PATH, else in `binDir`, else by an installation: its release for this
 * platform, checked against the published checksum, or a build with Go.
 *
 * @param progress receives the current step, in a few words
 * @throws Error that says why each installation failed, and what to do
 */
export async function findVersitygw(
  binDir: string,
  progress: (step: string) => void = () => undefined,
  signal?: AbortSignal,
): Promise<string> {
  const installed = join(binDir, "versitygw");
  const found = (await onPath("versitygw")) ?? (await executable(installed));
  if (found !== undefined) return found;
  const reasons: string[] = [];
  for (const { name, step, install } of INSTALLATIONS) {
    progress(step);
    try {
      await install(binDir, signal);
      return installed;
    } catch (error) {
      signal?.throwIfAborted();
      reasons.push(`${name}: ${reasonOf(error)}`);
    }
  }
  throw new Error(
    "the local S3 server versitygw cannot be installed. Put versitygw on PATH, or install Go " +
      `(https://go.dev/dl). What was tried:\n  ${reasons.join("\n  ")}`,
  );
}

const RELEASE_SYSTEMS: Partial<Record<NodeJS.Platform, string>> = {
  linux: "Linux",
  darwin: "Darwin",
  freebsd: "Freebsd",
};
const RELEASE_PROCESSORS: Readonly<Record<string, string>> = { x64: "x86_64", arm64: "arm64" };

/** The name of versitygw's release for this platform (its `.goreleaser.yaml`), if there is one. */
export function releaseName(): string | undefined {
  const system = RELEASE_SYSTEMS[process.platform];
  const processor = RELEASE_PROCESSORS[process.arch];
  if (system === undefined || processor === undefined) return undefined;
  return `versitygw_${VERSITYGW_VERSION}_${system}_${processor}`;
}

/** Downloads the release for this platform. */
async function downloadRelease(binDir: string, signal?: AbortSignal): Promise<void> {
  const name = releaseName();
  if (name === undefined) {
    throw new Error(`there is no release for ${process.platform} ${process.arch}`);
  }
  const base = `${process.env[RELEASES_VARIABLE] ?? RELEASES}/${VERSITYGW_VERSION}`;
  const checksums = await download(`${base}/checksums.txt`, CHECKSUMS_MS, signal);
  const archive = await download(`${base}/${name}.tar.gz`, ARCHIVE_MS, signal);
  const sum = createHash("sha256").update(archive).digest("hex");
  const published = checksums.toString().split("\n");
  if (!published.some((line) => line.trim().split(/ +\*?/).join() === `${sum},${name}.tar.gz`)) {
    throw new Error(`${name}.tar.gz does not have the published checksum`);
  }
  await mkdir(binDir, { recursive: true });
  const unpacked = await mkdtemp(join(resolve(binDir), ".release-"));
  try {
    const file = join(unpacked, "archive.tar.gz");
    await writeFile(file, archive);
    await run("tar", ["-xzf", file, "-C", unpacked], { signal });
    await rename(join(unpacked, name, "versitygw"), join(binDir, "versitygw"));
  } finally {
    await rm(unpacked, { recursive: true, force: true });
  }
}

async function download(url: string, limitMs: number, signal?: AbortSignal): Promise<Buffer> {
  const limit = AbortSignal.timeout(limitMs);
  const answer = await fetch(url, { signal: signal ? AbortSignal.any([limit, signal]) : limit });
  if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
  return Buffer.from(await answer.arrayBuffer());
}

/** A TCP port of 127.0.0.1 that is free at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") {
    throw new Error("there is no free port on 127.0.0.1");
  }
  return address.port;
}

/** Whether no program listens on this port of 127.0.0.1. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, "127.0.0.1");
  try {
    await once(server, "listening");
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}

/**
 * Starts versitygw and waits until it answers. It stops with `stop` or when this process exits.
 *
 * @throws Error when another program uses the port, or, with the server's message, when the server
 * does not answer within ten seconds
 */
export async function startVersitygw(options: ServerOptions): Promise<RunningServer> {
  const port = options.port ?? (await freePort());
  if (!(await isFree(port))) {
    throw new Error(
      `port ${port} on 127.0.0.1, which the local S3 server needs, is used by another program; ` +
        "stop that program, or start in another folder: npm start -- --dir <folder>",
    );
  }
  await mkdir(options.dataDir, { recursive: true, mode: 0o700 });
  await mkdir(options.iamDir, { recursive: true, mode: 0o700 });
  await writeUsers(options.iamDir, options.users ?? []);
  const endpoint = `http://127.0.0.1:${port}`;
  // The keys are in the environment: every user of the machine can read arguments.
  const env = {
    ...process.env,
    ...options.env,
    ROOT_ACCESS_KEY: options.root.accessKey,
    ROOT_SECRET_KEY: options.root.secretKey,
  };
  // The server has its own process group: Ctrl-C reaches only this process, which then stops the
  // server in order.
  const child = spawn(options.versitygw, serverArgs(options, port), {
    env,
    stdio: ["ignore", "ignore", "pipe"],
    detached: true,
  });
  const kill = () => {
    child.kill("SIGKILL");
  };
  process.once("exit", kill);
  const stop = async () => {
    process.off("exit", kill);
    await stopChild(child, kill);
  };
  try {
    await waitUntilAnswering(`${endpoint}/health`, child);
  } catch (error) {
    await stop();
    throw error;
  }
  return { endpoint, pid: child.pid, stop };
}

function serverArgs(
  { flags = [], backend, dataDir, iamDir }: ServerOptions,
  port: number,
): string[] {
  const common = ["--health", "/health", "--quiet", "--keep-alive", ...flags];
  const storage = backend ?? ["posix", dataDir];
  return ["--port", `127.0.0.1:${port}`, "--iam-dir", iamDir, ...common, ...storage];
}

async function writeUsers(iamDir: string, users: readonly Keys[]): Promise<void> {
  await writeFile(join(iamDir, "users.json"), usersFile(users), { mode: 0o600 });
}

async function waitUntilAnswering(url: string, child: ChildProcess): Promise<void> {
  let output = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    output = `${output}${chunk.toString()}`.slice(-2000);
  });
  let failure: Error | undefined;
  child.on("error", (error) => (failure = error));
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const ended = failure !== undefined || child.exitCode !== null || child.signalCode !== null;
    if (ended) {
      const reason = failure?.message ?? output.trim();
      throw new Error(`the local S3 server stopped at once: ${reason}`, { cause: failure });
    }
    const response = await fetch(url, { signal: AbortSignal.timeout(1000) }).catch(() => undefined);
    if (response?.ok) return;
    await sleep(30);
  }
  throw new Error(`the local S3 server did not answer on ${url} within 10 s: ${output.trim()}`);
}

async function stopChild(child: ChildProcess, kill: () => void): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = once(child, "exit");
  child.kill("SIGTERM");
  const limit = sleep(3000, "late", { ref: false });
  if ((await Promise.race([ended, limit])) === "late") {
    kill();
    await ended;
  }
}
