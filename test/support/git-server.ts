/** A git server that speaks https, as those that people have their repositories on. */
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:https";
import { join } from "node:path";
import { selfSigned } from "./certificate.ts";
import { listen } from "./listen.ts";

export interface GitServer {
  /** E.g. `https://127.0.0.1:40123`. */
  url: string;
  /** Its certificate, which vouches for itself. */
  certFile: string;
  stop: () => Promise<void>;
}

/**
 * Serves a repository to those who clone it. Needs `git` on PATH.
 *
 * @param repository its folder
 * @param path where it is on the server, e.g. `/company/name.git`
 * @param certDir a folder for the server's certificate
 */
export async function startGitServer(repository: string, path: string, certDir: string): Promise<GitServer> {
  const tls = await selfSigned();
  const certFile = join(certDir, "git-cert.pem");
  await writeFile(certFile, tls.cert);
  // git's "smart HTTP" (its gitprotocol-http): what there is, and then what the client lacks of it.
  const server = createServer(tls, (request, response) => {
    const asked = `${request.method ?? ""} ${request.url ?? ""}`;
    const isList = asked === `GET ${path}/info/refs?service=git-upload-pack`;
    if (!isList && asked !== `POST ${path}/git-upload-pack`) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { "content-type": `application/x-git-upload-pack-${isList ? "advertisement" : "result"}` });
    if (isList) response.write("001e# service=git-upload-pack\n0000");
    const git = spawn("git", ["upload-pack", "--stateless-rpc", ...(isList ? ["--advertise-refs"] : []), repository], { stdio: ["pipe", "pipe", "inherit"] });
    request.pipe(git.stdin);
    git.stdout.pipe(response);
  });
  const { host, stop } = await listen(server);
  return { url: `https://${host}`, certFile, stop };
}
