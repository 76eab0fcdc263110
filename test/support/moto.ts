/**
 * moto: AWS's APIs on this machine, with AWS's semantics of versions, retention and IAM (PyPI
 * `moto[server]`). Tests that need it are skipped by name where `moto_server` is not on PATH.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { onPath } from "../../tools/lib/programs.ts";
import { freePort } from "../../tools/start/versitygw.ts";
import { untilAnswered } from "./azurite.ts";

/** The server's path, if it is there. */
export const moto = await onPath("moto_server");

export interface Moto {
  /** The endpoint of every service. It takes any signature, and its account is 123456789012. */
  url: string;
  stop(): Promise<void>;
}

/**
 * Starts it on a free port of 127.0.0.1, with nothing in it.
 *
 * @param settings moto's own variables, e.g. `MOTO_S3_DEFAULT_MAX_KEYS`
 */
export async function startMoto(settings: Readonly<Record<string, string>> = {}): Promise<Moto> {
  if (moto === undefined) throw new Error("moto_server is not on PATH");
  const port = await freePort();
  const child = spawn(moto, ["-H", "127.0.0.1", "-p", String(port)], {
    stdio: "ignore",
    env: { ...process.env, ...settings },
  });
  const url = `http://127.0.0.1:${port}`;
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill();
    await once(child, "exit");
  };
  try {
    await untilAnswered(() => fetch(`${url}/moto-api/`));
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, stop };
}
