/** A strict S3 server for tests: versitygw on a free port and throwaway folders. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { S3Client } from "@aws-sdk/client-s3";
import type { Keys } from "../../providers/versitygw.ts";
import {
  findVersitygw,
  startVersitygw,
  type RunningServer,
  type ServerOptions,
} from "../../tools/start/versitygw.ts";
import { BIN_DIR } from "./setup.ts";

export const ROOT: Keys = { accessKey: "root-access", secretKey: "root-secret-0123456789" };
/** A user who has no rights but those of bucket policies. */
export const AUTHENTIK: Keys = {
  accessKey: "authentik-access",
  secretKey: "authentik-secret-0123456789",
};

/** Starts it; `stop` removes its folders too. */
export async function startTestServer(
  options: Partial<ServerOptions> = {},
): Promise<RunningServer> {
  const dir = await mkdtemp(join(tmpdir(), "authentik-storage-"));
  const server = await startVersitygw({
    versitygw: await findVersitygw(BIN_DIR),
    dataDir: join(dir, "data"),
    iamDir: join(dir, "iam"),
    root: ROOT,
    users: [AUTHENTIK],
    ...options,
  });
  return {
    ...server,
    stop: async () => {
      await server.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** Root's client of a server. Who asks for it destroys it. */
export function rootClient(
  { endpoint }: Pick<RunningServer, "endpoint">,
  { accessKey, secretKey }: Keys = ROOT,
): S3Client {
  const credentials = { accessKeyId: accessKey, secretAccessKey: secretKey };
  return new S3Client({ endpoint, region: "us-east-1", forcePathStyle: true, credentials });
}
