/** From nothing to a bucket on this machine that authentik could use, and back to nothing running. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { Inputs } from "@pulumi/pulumi/output.js";
import { openLocalHome, type LocalHome } from "./folder.ts";
import { findPulumi, upInProcess, upWithEngine } from "./stack.ts";
import { findVersitygw, isFree, removeContainer, startVersitygw } from "./versitygw.ts";

export interface LocalStart {
  /** Folder of the server's data, keys and state; `.local` in this repository by default. */
  dir?: string | undefined;
  /** Told in a few words what is being done. */
  progress: (step: string) => void;
  /** Told what the user should know. */
  notice: (text: string) => void;
  signal: AbortSignal;
}

/**
 * Starts the local server, brings the stack `dev` up on it, and hands its outputs to `use`. The server is stopped when `use`
 * ends, whatever its end.
 *
 * @throws Error that says what to do; the signal's reason when it is aborted
 */
export async function withLocalStack<T>({ dir, progress, notice, signal }: LocalStart, use: (outputs: Inputs) => Promise<T>): Promise<T> {
  const home = await openLocalHome(dir);
  progress("looking for versitygw");
  const versitygw = await findVersitygw(home.binDir, progress, signal);
  progress("looking for the Pulumi command line tool");
  const pulumi = await findPulumi(home, progress, signal);
  signal.throwIfAborted();
  if (!pulumi) {
    notice("The Pulumi command line tool is not here and cannot be installed: the program runs in this process, which keeps no state, on data that is thrown away.");
  }
  // Without a state, a bucket of the last run would be in the way.
  const dataDir = pulumi ? home.dataDir : await throwawayDir(home.dataDir);
  try {
    progress("starting the S3 server");
    await stopLeftover(home);
    if (versitygw.kind === "docker") removeContainer(home.port);
    const server = await startVersitygw({
      versitygw, dataDir, iamDir: home.iamDir, port: home.port, root: home.root, users: [home.authentik],
    });
    try {
      await writeFile(pidFile(home), String(server.pid));
      signal.throwIfAborted();
      progress(pulumi ? "pulumi up" : "running the program");
      const outputs = await (pulumi ? upWithEngine(pulumi, home, server.endpoint, signal) : upInProcess(home, server.endpoint));
      signal.throwIfAborted();
      return await use(outputs);
    } finally {
      await server.stop();
      await rm(pidFile(home), { force: true });
    }
  } finally {
    if (dataDir !== home.dataDir) await rm(dataDir, { recursive: true, force: true });
  }
}

async function throwawayDir(dataDir: string): Promise<string> {
  await mkdir(dataDir, { recursive: true });
  return mkdtemp(join(dataDir, ".throwaway-"));
}

function pidFile({ dir }: LocalHome): string {
  return join(dir, "server.pid");
}

/** Stops the server of a run that was killed, if its process is still the one that was started on this folder. */
async function stopLeftover(home: LocalHome): Promise<void> {
  const pid = Number(await readFile(pidFile(home), "utf8").catch(() => ""));
  if (!Number.isInteger(pid) || pid <= 0) return;
  const { stdout } = await promisify(execFile)("ps", ["-p", String(pid), "-o", "args="]).catch(() => ({ stdout: "" }));
  if (!stdout.includes(home.iamDir)) return;
  process.kill(pid, "SIGKILL");
  for (let wait = 0; wait < 100 && !(await isFree(home.port)); wait += 1) await sleep(30);
}
