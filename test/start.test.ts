import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import { openLocalFolder } from "../tools/start/folder.ts";
import { findVersitygw, releaseName } from "../tools/start/versitygw.ts";
import { onPath } from "../tools/lib/programs.ts";
import { pulumi, REPOSITORY } from "./support/engine.ts";
import { listen } from "./support/listen.ts";
import { BIN_DIR } from "./support/setup.ts";
import { onTerminal } from "./support/terminal.ts";

const npm = (await onPath("npm")) ?? "npm";

/** PATH of a machine without the Pulumi command line tool. */
const PATH_WITHOUT_PULUMI = (process.env.PATH ?? "")
  .split(":")
  .filter((folder) => !pulumi?.startsWith(`${folder}/`))
  .join(":");

/** A machine on which the command runs. */
interface Setup {
  title: string;
  env: NodeJS.ProcessEnv;
}

describe("npm start", function () {
  this.timeout(180_000);
  this.slow(20_000);
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-start-"));
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));

  const launch = (env: NodeJS.ProcessEnv) => {
    const args = ["--import", "tsx/esm", "tools/start/command.ts", "--dir", dir];
    const options = { cwd: REPOSITORY, env: { ...process.env, ...env } };
    const child = spawn(process.execPath, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
    }
    const ended = once(child, "close").then(([code]: unknown[]) => code);
    return { child, ended, output: () => text };
  };
  const start = async (env: NodeJS.ProcessEnv = {}) => {
    const { ended, output } = launch(env);
    return { code: await ended, text: output() };
  };
  const isServed = async () => {
    const { port } = await openLocalFolder(dir);
    const socket = connect(port, "127.0.0.1");
    try {
      await once(socket, "connect");
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  };
  const expectSuccess = ({ code, text }: { code: unknown; text: string }) => {
    expect(code, text).to.equal(0);
    expect(text).to.contain("AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME=authentik-media");
    for (const check of ["cors http://localhost:9000", "unsigned URL", "delete"]) {
      expect(text).to.match(new RegExp(`ok +${check}`));
    }
    expect(text).not.to.match(/FAIL|\u001b\[/);
  };

  const withEngine: Setup = { title: "with the real Pulumi engine", env: {} };
  const withoutEngine: Setup = { title: "in this process", env: { PATH: PATH_WITHOUT_PULUMI } };
  for (const setup of [withoutEngine, withEngine]) {
    const { title, env } = setup;
    const isSkipped = setup === withEngine && pulumi === undefined;
    (isSkipped ? describe.skip : describe)(title, () => {
      it("works twice, with the same keys, and leaves nothing running", async () => {
        const first = await start(env);
        expectSuccess(first);
        const folder = await openLocalFolder(dir);
        expect(((await stat(join(dir, "server.json"))).mode & 0o777).toString(8)).to.equal("600");
        const second = await start(env);
        expectSuccess(second);
        expect(await openLocalFolder(dir)).to.deep.equal(folder);
        expect(second.text).to.contain(folder.authentik.accessKey);
        expect(second.text).not.to.contain(folder.root.secretKey);
        expect(await isServed()).to.equal(false);
      });

      it("stops in order within 5 s of Ctrl-C in a terminal, at ten moments of its run", async function () {
        this.timeout(300_000);
        const begun = Date.now();
        expectSuccess(await start(env));
        const length = Date.now() - begun;
        for (let moment = 0; moment < 10; moment += 1) {
          const keys = [[((moment + 0.5) / 10) * length, "\u0003"]] as const;
          const options = { cwd: REPOSITORY, env: { ...process.env, ...env }, keys };
          const args = ["start", "--", "--dir", dir];
          const { status, text, afterKeysMs } = await onTerminal(npm, args, [], options);
          const where = `at ${Math.round(keys[0][0])} of ${length} ms: ${text}`;
          expect(afterKeysMs, where).to.be.below(5000);
          expect(await processesOf(dir), where).to.deep.equal([]);
          // After the last result, the server may have stopped before the signal.
          const mustTell = text.includes("stopping the S3 server") || !text.includes("Next, bring");
          if (status !== 0 && text.includes("S3 server") && mustTell) {
            expect(text, where).to.contain(
              "stopped by SIGINT: the S3 server and pulumi were stopped",
            );
          }
        }
        expectSuccess(await start(env));
      });
    });
  }

  it("ends when Ctrl-C comes after its last result", async () => {
    const env = { ...process.env, PATH: PATH_WITHOUT_PULUMI };
    const options = { cwd: REPOSITORY, env, thinkingMs: 0, limitMs: 20_000 };
    const args = ["--import", "tsx/esm", "tools/start/command.ts", "--dir", dir];
    const replies = [["Next, bring", "\u0003"]] as const;
    const { status, text } = await onTerminal(process.execPath, args, replies, options);
    expect(status, text).to.equal(1);
    expect(text).to.match(/stopped by SIGINT: the S3 server and pulumi were stopped\s*$/);
  });

  // biome-ignore format: a table of cases
  const unusable: [title: string, file: string | undefined, reason: RegExp][] = [
    ["is missing", undefined, /cannot be used: it is not on PATH, and its installation failed: \S/],
    ["is of another processor", "\u007fELF\u0002\u0001\u0001\0", /cannot be used: ".*pulumi" fails: .*(?:ENOEXEC|format|syntax|not found)/],
    ["fails", "#!/bin/sh\necho library missing >&2; exit 9\n", /cannot be used: ".*pulumi" fails: library missing/],
  ];
  for (const [title, file, reason] of unusable) {
    it(`says why a Pulumi tool that ${title} cannot be used, and deletes the data`, async () => {
      const bin = join(dir, "path");
      await mkdir(bin);
      if (file !== undefined) await writeFile(join(bin, "pulumi"), file, { mode: 0o755 });
      const { code, text } = await start({ PATH: `${bin}:${PATH_WITHOUT_PULUMI}` });
      expect(code, text).to.equal(0);
      expect(text).to.match(reason).and.contain("there is no state");
      expect(await readdir(join(dir, "data"))).to.deep.equal([]);
    });
  }

  it("stops the server of a killed run", async () => {
    const { child, ended, output } = launch(withoutEngine.env);
    while (!output().includes("verifying the bucket")) await sleep(5);
    child.kill("SIGKILL");
    await ended;
    expect(await isServed()).to.equal(true);
    expectSuccess(await start(withoutEngine.env));
    expect(await isServed()).to.equal(false);
  });

  it("fails when another program uses its port", async () => {
    const { port } = await openLocalFolder(dir);
    const other = createServer().listen(port, "127.0.0.1");
    await once(other, "listening");
    const { code, text } = await start({ PATH: PATH_WITHOUT_PULUMI });
    other.close();
    expect(code).to.equal(2);
    expect(text).to.contain(`port ${port} on 127.0.0.1`);
  });

  it("says why each installation of the server failed", async () => {
    const server = createHttpServer((_request, response) => response.writeHead(404).end());
    const { host, stop } = await listen(server);
    const { code, text } = await start({ PATH: "", VERSITYGW_RELEASES: `http://${host}` });
    await stop();
    expect(code).to.equal(2);
    expect(text).to.match(/versitygw cannot be installed.*or install Go/);
    expect(text).to.match(/download: \S+checksums.txt answers 404/);
    expect(text).to.contain("Go: go is not on PATH");
  });

  for (const isChanged of [false, true]) {
    const title = isChanged
      ? "refuses a release with another checksum"
      : "runs versitygw's release";
    it(title, async function () {
      const versitygw = await findVersitygw(BIN_DIR);
      const name = releaseName() ?? this.skip();
      await mkdir(join(dir, name));
      await cp(versitygw, join(dir, name, "versitygw"));
      const archive = `${name}.tar.gz`;
      spawnSync("tar", ["-czf", archive, name], { cwd: dir });
      const bytes = await readFile(join(dir, archive));
      const sum = createHash("sha256")
        .update(isChanged ? "other" : bytes)
        .digest("hex");
      const server = createHttpServer(({ url = "" }, response) => {
        response.end(url.endsWith("/checksums.txt") ? `${sum}  ${archive}\n` : bytes);
      });
      const { host, stop } = await listen(server);
      const bin = join(dir, "path");
      await mkdir(bin);
      for (const tool of ["tar", "gzip", "ps"]) {
        await symlink((await onPath(tool)) ?? tool, join(bin, tool));
      }
      const result = await start({ PATH: bin, VERSITYGW_RELEASES: `http://${host}` });
      await stop();
      if (isChanged)
        expect(result.text).to.contain(`${archive} does not have the published checksum`);
      else expectSuccess(result);
    });
  }

  it("works with a home folder that cannot be written, and writes nothing there", async function () {
    if (pulumi === undefined) this.skip();
    const home = join(dir, "home");
    await mkdir(home, { mode: 0o500 });
    expectSuccess(await start({ HOME: home, XDG_CACHE_HOME: undefined, PULUMI_HOME: undefined }));
    expect(await readdir(home)).to.deep.equal([]);
    await chmod(home, 0o700);
  });
});

/** The processes with this folder in their command line. */
async function processesOf(folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const line = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    if (line.includes(folder)) found.push(line.replaceAll("\0", " "));
  }
  return found;
}
