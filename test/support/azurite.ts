/** Azurite: Azure Blob Storage on this machine, with one well-known account. */
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "../../tools/start/versitygw.ts";

/** Azurite's account. */
export const ACCOUNT = {
  name: "devstoreaccount1",
  key: "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
};

export interface Azurite {
  /** `127.0.0.1:<port>`. */
  host: string;
  /** URL of the account's blobs. */
  blobs: string;
  stop(): Promise<void>;
}

/** Starts it on a free port and a throwaway folder. */
export async function startAzurite(): Promise<Azurite> {
  const [port, dir] = [
    await freePort(),
    await mkdtemp(join(tmpdir(), "authentik-storage-azurite-")),
  ];
  const program = createRequire(import.meta.url).resolve("azurite/dist/src/blob/main.js");
  const args = [
    "--blobHost",
    "127.0.0.1",
    "--blobPort",
    String(port),
    "--location",
    dir,
    "--silent",
    "--skipApiVersionCheck",
    "--disableTelemetry",
  ];
  const child = spawn(process.execPath, [program, ...args], { stdio: "ignore" });
  const host = `127.0.0.1:${port}`;
  const stop = async () => {
    child.kill();
    await once(child, "exit");
    await rm(dir, { recursive: true, force: true });
  };
  return { host, blobs: `http://${host}/${ACCOUNT.name}`, stop };
}

/** Makes a container as Azure Resource Manager would: without any metadata. */
export async function createContainer(blobs: string, container: string): Promise<void> {
  const answer = await untilAnswered(() => containerRequest("PUT", blobs, container));
  if (answer.status !== 201)
    throw new Error(`Azurite answered ${answer.status}: ${await answer.text()}`);
}

/** How long all metadata of a container is, names and values. */
export async function metadataBytes(blobs: string, container: string): Promise<number> {
  const { headers } = await containerRequest("GET", blobs, container);
  const prefix = "x-ms-meta-";
  return [...headers]
    .filter(([name]) => name.startsWith(prefix))
    .reduce((sum, [name, value]) => sum + name.length - prefix.length + value.length, 0);
}

async function containerRequest(
  method: "GET" | "PUT",
  blobs: string,
  container: string,
): Promise<Response> {
  const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-12-02" };
  const resource = `/${ACCOUNT.name}/${ACCOUNT.name}/${container}\nrestype:container`;
  const toSign = `${method}${"\n".repeat(12)}x-ms-date:${headers["x-ms-date"]}\nx-ms-version:${headers["x-ms-version"]}\n${resource}`;
  const signature = createHmac("sha256", Buffer.from(ACCOUNT.key, "base64"))
    .update(toSign)
    .digest("base64");
  return fetch(`${blobs}/${container}?restype=container`, {
    method,
    headers: { ...headers, Authorization: `SharedKey ${ACCOUNT.name}:${signature}` },
  });
}

/** Repeats a request until a server that is starting answers it, for 20 s. */
export async function untilAnswered(request: () => Promise<Response>): Promise<Response> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const answer = await request().catch((error: unknown) => {
      if (Date.now() > deadline) throw error;
    });
    if (answer) return answer;
    await sleep(100);
  }
}
