import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rm, stat, symlink } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import { openLocalFolder } from "../tools/start/folder.ts";
import { onPath } from "../tools/lib/programs.ts";
import { pulumi, REPOSITORY } from "./support/engine.ts";

const docker = await onPath("docker");
/** Whether this machine has a container engine, and not only the client. */
const hasEngine =
  docker !== undefined && spawnSync(docker, ["version"], { stdio: "ignore" }).status === 0;
/** A folder with only Docker's client, without versitygw and Go. */
const PATH_WITH_DOCKER = join(tmpdir(), `authentik-storage-docker-${process.pid}`);

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
  before(async () => {
    if (docker === undefined) return;
    await mkdir(PATH_WITH_DOCKER);
    await symlink(docker, join(PATH_WITH_DOCKER, "docker"));
  });
  after(() => rm(PATH_WITH_DOCKER, { recursive: true, force: true }));
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
  const withoutEngine: Setup[] = [{ title: "in this process", env: { PATH: PATH_WITHOUT_PULUMI } }];
  if (hasEngine) {
    const env = { PATH: PATH_WITH_DOCKER };
    withoutEngine.push({ title: "with the server in a container", env });
  }
  for (const setup of [...withoutEngine, withEngine]) {
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

      const program = setup === withEngine ? "pulumi up" : "running the program";
      for (const step of ["starting the S3 server", program, "verifying the bucket"]) {
        it(`works again after Ctrl-C at "${step}", which leaves nothing running`, async () => {
          const { child, ended, output } = launch(env);
          while (!output().includes(step)) await sleep(20);
          // On a fast machine the calls of this step take less than 0.2 s.
          await sleep(step === "verifying the bucket" ? 50 : 200);
          child.kill("SIGINT");
          expect(await ended, output()).not.to.equal(null);
          expect(await isServed()).to.equal(false);
          expectSuccess(await start(env));
        });
      }
    });
  }

  it("reports in one line that the tool is missing, and deletes the data", async () => {
    const { text } = await start({ PATH: PATH_WITHOUT_PULUMI });
    const notices = text.split("\n").filter((line) => line.includes("tool is not installed"));
    expect(notices).to.have.length(1);
    expect(await readdir(join(dir, "data"))).to.deep.equal([]);
  });

  for (const { title, env } of withoutEngine) {
    it(`${title}: stops the server of a killed run`, async () => {
      const { child, ended, output } = launch(env);
      while (!output().includes("verifying the bucket")) await sleep(5);
      child.kill("SIGKILL");
      await ended;
      expect(await isServed()).to.equal(true);
      expectSuccess(await start(env));
      expect(await isServed()).to.equal(false);
    });
  }

  it("fails when another program uses its port", async () => {
    const { port } = await openLocalFolder(dir);
    const other = createServer().listen(port, "127.0.0.1");
    await once(other, "listening");
    const { code, text } = await start({ PATH: PATH_WITHOUT_PULUMI });
    other.close();
    expect(code).to.equal(1);
    expect(text).to.contain(`port ${port} on 127.0.0.1`);
  });

  it("lists what to install when it cannot get a server", async () => {
    const { code, text } = await start({ PATH: "" });
    expect(code).to.equal(1);
    expect(text).to.contain("needs versitygw, Go or Docker");
  });
});
