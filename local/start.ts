/** From nothing to a bucket on this machine that authentik could use, and back to nothing running. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Inputs } from "@pulumi/pulumi/output.js";
import { openLocalHome } from "./home.ts";
import { findPulumi, upInProcess, upWithEngine } from "./stack.ts";
import { findVersitygw, startVersitygw } from "./versitygw.ts";

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
    const server = await startVersitygw({
      versitygw, dataDir, iamDir: home.iamDir, port: home.port, root: home.root, users: [home.authentik],
    });
    try {
      signal.throwIfAborted();
      progress(pulumi ? "pulumi up" : "running the program");
      const outputs = await (pulumi ? upWithEngine(pulumi, home, server.endpoint, signal) : upInProcess(home, server.endpoint));
      signal.throwIfAborted();
      return await use(outputs);
    } finally {
      await server.stop();
    }
  } finally {
    if (dataDir !== home.dataDir) await rm(dataDir, { recursive: true, force: true });
  }
}

async function throwawayDir(dataDir: string): Promise<string> {
  await mkdir(dataDir, { recursive: true });
  return mkdtemp(join(dataDir, ".throwaway-"));
}
