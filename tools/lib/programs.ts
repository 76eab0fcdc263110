/** Finds, runs and installs other programs. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:fs";
import { access, mkdir, mkdtemp, rm, stat } from "node:fs/promises";
import { delimiter, join, resolve } from "node:path";

/** Path of a program on PATH; undefined when it is not on PATH. */
export async function onPath(program: string): Promise<string | undefined> {
  for (const directory of (process.env.PATH ?? "").split(delimiter)) {
    const found = directory && (await executable(join(directory, program)));
    if (found) return found;
  }
  return undefined;
}

/** The path itself if it is an executable file; otherwise undefined. */
export async function executable(file: string): Promise<string | undefined> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile() ? file : undefined;
  } catch {
    return undefined;
  }
}

export interface RunOptions {
  cwd?: string;
  /** Environment variables in addition to those of this process. */
  env?: Readonly<Record<string, string>>;
  /** Written to standard input. Secrets go here: every user of the machine can read arguments. */
  input?: string;
  signal?: AbortSignal | undefined;
}

/**
 * Runs a program to its end.
 *
 * @returns its standard output
 * @throws Error with its standard error
 */
export async function run(
  program: string,
  args: readonly string[],
  { cwd, env, input = "", signal }: RunOptions,
): Promise<string> {
  const options = { cwd, env: { ...process.env, ...env }, signal };
  const child = spawn(program, args, { ...options, stdio: ["pipe", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => {
    stderr = `${stderr}${chunk.toString()}`.slice(-4000);
  });
  // A program that ends before it has read everything says why on standard error.
  child.stdin.on("error", () => undefined).end(input);
  const closed: Promise<unknown[]> = once(child, "close");
  const [code] = await closed;
  if (code !== 0) throw new Error(`"${program} ${args.join(" ")}" failed: ${stderr.trim()}`);
  return stdout;
}

/**
 * Builds a Go program, e.g. `example.com/cmd/tool@v1.0.0`, into this folder. During the build Go's
 * caches are in it too, because the home folder may be read-only.
 *
 * @throws Error with Go's message
 */
export async function installWithGo(
  target: string,
  binDir: string,
  signal?: AbortSignal,
): Promise<void> {
  await mkdir(binDir, { recursive: true });
  const caches = await mkdtemp(join(resolve(binDir), ".go-"));
  const env = {
    GOBIN: resolve(binDir),
    GOPATH: caches,
    GOMODCACHE: join(caches, "mod"),
    GOCACHE: join(caches, "build"),
    // Otherwise the modules cannot be deleted.
    GOFLAGS: "-modcacherw",
  };
  try {
    await run("go", ["install", target], { env, signal });
  } finally {
    await rm(caches, { recursive: true, force: true });
  }
}
