/** A real S3 server on this machine: versitygw, found or installed, started on 127.0.0.1 and stopped with the process. */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { usersFile, VERSITYGW_VERSION, type Keys } from "../../providers/versitygw.ts";
import { executable, installWithGo, onPath, run } from "../lib/programs.ts";

/** How to run versitygw: the path of the binary, or the image for a container. */
export type Versitygw = { kind: "binary"; path: string } | { kind: "docker"; image: string };

export interface ServerOptions {
  versitygw: Versitygw;
  /** Folder for the buckets; made if it is not there. */
  dataDir: string;
  /** Folder for the users beside root; made if it is not there. */
  iamDir: string;
  /** A free port is drawn without one. */
  port?: number;
  root: Keys;
  /** Users without root's rights: they may do what a bucket policy gives them. */
  users?: readonly Keys[];
  /** Arguments before the backend, e.g. `["--region", "eu-central-1"]`. */
  flags?: readonly string[];
  /** The backend and its arguments; `posix <dataDir>` by default. */
  backend?: readonly string[];
  /** Environment beside the root keys, e.g. a backend's credentials. */
  env?: Readonly<Record<string, string>>;
}

export interface RunningServer {
  /** E.g. `http://127.0.0.1:7070`. */
  endpoint: string;
  pid?: number | undefined;
  stop(): Promise<void>;
}

/**
 * The versitygw on PATH, else the one in `binDir`, else one installed there with Go, else Docker's.
 *
 * @param progress told in a few words what takes long
 * @throws Error that says what to install, when none can be had
 */
export async function findVersitygw(
  binDir: string,
  progress: (step: string) => void = () => undefined,
  signal?: AbortSignal,
): Promise<Versitygw> {
  const binary = (await onPath("versitygw")) ?? (await executable(join(binDir, "versitygw")));
  if (binary) return { kind: "binary", path: binary };
  if (await onPath("go")) {
    progress(`installing versitygw ${VERSITYGW_VERSION} with Go (about two minutes, once)`);
    await installWithGo(`github.com/versity/versitygw/cmd/versitygw@${VERSITYGW_VERSION}`, binDir, signal);
    return { kind: "binary", path: join(binDir, "versitygw") };
  }
  if (await onPath("docker")) {
    const image = `versity/versitygw:${VERSITYGW_VERSION}`;
    const isHere = await run("docker", ["image", "inspect", image], { signal }).then(() => true, () => false);
    if (!isHere) {
      progress(`fetching the image ${image}`);
      await run("docker", ["pull", "--quiet", image], { signal });
    }
    return { kind: "docker", image };
  }
  throw new Error("a local S3 server needs versitygw, Go or Docker, and none of them is on PATH; install one, e.g. Go from https://go.dev/dl");
}

/** A TCP port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port could be had on 127.0.0.1");
  return address.port;
}

/** Whether nobody listens on this port of 127.0.0.1. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, "127.0.0.1");
  const isFree = await once(server, "listening").then(() => true, () => false);
  server.close();
  return isFree;
}

/**
 * Starts versitygw and waits until it answers. It ends when `stop` is called or this process exits.
 *
 * @throws Error when another program has the port, or with the server's own words when it does not answer within ten seconds
 */
export async function startVersitygw(options: ServerOptions): Promise<RunningServer> {
  const port = options.port ?? (await freePort());
  if (!(await isFree(port))) throw new Error(`port ${port} on 127.0.0.1, which was drawn for the local S3 server, is taken by another program; stop that`);
  await mkdir(options.dataDir, { recursive: true, mode: 0o700 });
  await mkdir(options.iamDir, { recursive: true, mode: 0o700 });
  await writeUsers(options.iamDir, options.users ?? []);
  const endpoint = `http://127.0.0.1:${port}`;
  const { command, args } = await commandLine(options, port);
  // The keys go through the environment: arguments can be read by every user of the machine.
  const env = {
    ...process.env,
    ...options.env,
    ROOT_ACCESS_KEY: options.root.accessKey,
    ROOT_SECRET_KEY: options.root.secretKey,
  };
  // A group of its own: Ctrl-C in the terminal reaches this process alone, which then stops the server in order.
  const child = spawn(command, args, { env, stdio: ["ignore", "ignore", "pipe"], detached: true });
  const kill = () => {
    child.kill("SIGKILL");
    if (options.versitygw.kind === "docker") removeContainer(port);
  };
  process.once("exit", kill);
  const stop = async () => {
    process.off("exit", kill);
    await stopChild(child, kill);
  };
  try {
    await answering(`${endpoint}/health`, child);
  } catch (error) {
    await stop();
    throw error;
  }
  return { endpoint, pid: child.pid, stop };
}

/** Ends the container of the server on this port, if there is one: it outlives the docker that was killed. */
export function removeContainer(port: number): void {
  spawnSync("docker", ["rm", "--force", containerName(port)], { stdio: "ignore", timeout: 10_000 });
}

function containerName(port: number): string {
  return `authentik-storage-${port}`;
}

async function commandLine({ versitygw, dataDir, iamDir, flags = [], backend }: ServerOptions, port: number): Promise<{ command: string; args: string[] }> {
  const common = ["--health", "/health", "--quiet", "--keep-alive", ...flags];
  if (versitygw.kind === "binary") {
    return {
      command: versitygw.path,
      args: ["--port", `127.0.0.1:${port}`, "--iam-dir", iamDir, ...common, ...(backend ?? ["posix", dataDir])],
    };
  }
  const docker = ["run", "--rm", "--init", "--name", containerName(port), "-e", "ROOT_ACCESS_KEY", "-e", "ROOT_SECRET_KEY", "-p", `127.0.0.1:${port}:7070`];
  const volumes = ["-v", `${resolve(dataDir)}:/data`, "-v", `${resolve(iamDir)}:/iam`];
  return {
    command: "docker",
    args: [...docker, ...(await containerUser()), ...volumes, versitygw.image, "--port", ":7070", "--iam-dir", "/iam", ...common, ...(backend ?? ["posix", "/data"])],
  };
}

/** The files are to be this user's, not root's. Where Docker itself runs without root, its root is this user. */
async function containerUser(): Promise<string[]> {
  const { getuid, getgid } = process;
  if (!getuid || !getgid) return [];
  const security = await run("docker", ["info", "--format", "{{.SecurityOptions}}"], {});
  return security.includes("rootless") ? [] : ["--user", `${getuid()}:${getgid()}`];
}

async function writeUsers(iamDir: string, users: readonly Keys[]): Promise<void> {
  await writeFile(join(iamDir, "users.json"), usersFile(users), { mode: 0o600 });
}

async function answering(url: string, child: ChildProcess): Promise<void> {
  let words = "";
  child.stderr?.on("data", (chunk: Buffer) => (words = `${words}${chunk.toString()}`.slice(-2000)));
  let failure: Error | undefined;
  child.on("error", (error) => (failure = error));
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const ended = failure !== undefined || child.exitCode !== null || child.signalCode !== null;
    if (ended) throw new Error(`the local S3 server ended at once: ${failure?.message ?? words.trim()}`, { cause: failure });
    const response = await fetch(url, { signal: AbortSignal.timeout(1000) }).catch(() => undefined);
    if (response?.ok) return;
    await sleep(30);
  }
  throw new Error(`the local S3 server did not answer on ${url} within 10 s: ${words.trim()}`);
}

async function stopChild(child: ChildProcess, kill: () => void): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = once(child, "exit");
  child.kill("SIGTERM");
  const hasEnded: unknown = await Promise.race([ended.then(() => true), sleep(3000, false, { ref: false })]);
  if (!hasEnded) {
    kill();
    await ended;
  }
}
