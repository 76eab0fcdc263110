/** Other programs: where they are, and how they are run to their end. */
import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access, mkdir } from "node:fs/promises";
import { delimiter, join, resolve } from "node:path";

/** Path of a program on PATH; undefined where it is not there. */
export async function onPath(program: string): Promise<string | undefined> {
  for (const directory of (process.env.PATH ?? "").split(delimiter)) {
    const found = directory && (await executable(join(directory, program)));
    if (found) return found;
  }
  return undefined;
}

/** The file itself if it can be run. */
export async function executable(file: string): Promise<string | undefined> {
  return access(file, constants.X_OK).then(() => file, () => undefined);
}

export interface RunOptions {
  cwd?: string;
  /** Beside this process's own. */
  env?: Readonly<Record<string, string>>;
  /**
   * Written to the program's standard input. Secrets go there, never into the arguments, which
   * every user can read.
   */
  input?: string;
  signal?: AbortSignal | undefined;
}

/**
 * Runs a program to its end, and gives its standard output.
 *
 * @throws Error with what it wrote to its standard error
 */
export async function run(program: string, args: readonly string[], { cwd, env, input = "", signal }: RunOptions): Promise<string> {
  const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"], signal });
  let [output, words] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (words = `${words}${chunk.toString()}`.slice(-4000)));
  // A program that ends before it has read everything says why in its own words.
  child.stdin.on("error", () => undefined).end(input);
  const code = await new Promise<number | null>((resolve, reject) => child.once("close", resolve).once("error", reject));
  if (code !== 0) throw new Error(`"${program} ${args.join(" ")}" failed: ${words.trim()}`);
  return output;
}

/**
 * Builds a Go program, e.g. `example.com/cmd/tool@v1.0.0`, into this folder.
 *
 * @throws Error with Go's own words
 */
export async function installWithGo(target: string, binDir: string, signal?: AbortSignal): Promise<void> {
  await mkdir(binDir, { recursive: true });
  await run("go", ["install", target], { env: { GOBIN: resolve(binDir), GOFLAGS: "" }, signal });
}
