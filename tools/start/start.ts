/**
 * Starts a local S3 server with a bucket that authentik could use, and stops the server at the end.
 */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { Inputs } from "@pulumi/pulumi/output.js";
import { openLocalFolder, type LocalFolder } from "./folder.ts";
import { findPulumi, upInProcess, upWithEngine } from "./stack.ts";
import { findVersitygw, isFree, startVersitygw } from "./versitygw.ts";

export interface LocalStart {
  /** Folder of the server's data, keys and state. The default is `.local` in this repository. */
  dir?: string | undefined;
  /** Receives the current step, in a few words. */
  progress: (step: string) => void;
  /** Receives messages for the user. */
  notice: (text: string) => void;
  signal: AbortSignal;
}

/**
 * Starts the local server, brings the stack `dev` up on it, and passes the outputs to `use`. The
 * server is stopped when `use` ends or fails.
 *
 * @throws Error that says what to do; the signal's reason when it is aborted
 */
export async function withLocalStack<T>(
  { dir, progress, notice, signal }: LocalStart,
  use: (outputs: Inputs) => Promise<T>,
): Promise<T> {
  const folder = await openLocalFolder(dir);
  progress("looking for versitygw");
  const versitygw = await findVersitygw(folder.binDir, progress, signal);
  progress("looking for the Pulumi command line tool");
  const pulumi = await findPulumi(folder, progress, signal);
  signal.throwIfAborted();
  if (pulumi.program === undefined) {
    notice(
      `The Pulumi command line tool cannot be used: ${pulumi.reason}\nThe program runs without ` +
        "it: there is no state, and the data is deleted at the end.",
    );
  }
  // There is no state in this process, so the bucket of the last run would already exist.
  const dataDir = pulumi.program ? folder.dataDir : await throwawayDir(folder.dataDir);
  try {
    progress("starting the S3 server");
    await stopLeftover(folder);
    const { iamDir, port, root, authentik } = folder;
    const users = [authentik];
    const server = await startVersitygw({ versitygw, dataDir, iamDir, port, root, users });
    try {
      await writeFile(pidFile(folder), String(server.pid));
      signal.throwIfAborted();
      progress(pulumi.program ? "pulumi up" : "running the program");
      const outputs = await (pulumi.program
        ? upWithEngine(pulumi.program, folder, server.endpoint, signal)
        : upInProcess(folder, server.endpoint, signal));
      signal.throwIfAborted();
      return await use(outputs);
    } finally {
      await server.stop();
      await rm(pidFile(folder), { force: true });
    }
  } finally {
    if (dataDir !== folder.dataDir) await rm(dataDir, { recursive: true, force: true });
  }
}

async function throwawayDir(dataDir: string): Promise<string> {
  await mkdir(dataDir, { recursive: true });
  return mkdtemp(join(dataDir, ".throwaway-"));
}

function pidFile({ dir }: LocalFolder): string {
  return join(dir, "server.pid");
}

/**
 * Stops the server of a run that was killed, if the process with its number is still that server.
 */
async function stopLeftover(folder: LocalFolder): Promise<void> {
  const pid = Number(await readFile(pidFile(folder), "utf8").catch(() => ""));
  if (!Number.isInteger(pid) || pid <= 0) return;
  const ps = promisify(execFile)("ps", ["-p", String(pid), "-o", "args="]);
  const { stdout } = await ps.catch(() => ({ stdout: "" }));
  if (!stdout.includes(folder.iamDir)) return;
  process.kill(pid, "SIGKILL");
  for (let wait = 0; wait < 100 && !(await isFree(folder.port)); wait += 1) await sleep(30);
}
