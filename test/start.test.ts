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
/** Whether there is a container engine here, and not only its client. */
const hasEngine = docker !== undefined && spawnSync(docker, ["version"], { stdio: "ignore" }).status === 0;
/** A folder with Docker's client alone, neither versitygw nor Go. */
const PATH_WITH_DOCKER = join(tmpdir(), `authentik-storage-docker-${process.pid}`);

/** Without the folder that has the Pulumi command line tool: the way that a machine without it takes. */
const PATH_WITHOUT_PULUMI = (process.env.PATH ?? "").split(":").filter((folder) => !pulumi?.startsWith(`${folder}/`)).join(":");

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
  beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), "authentik-storage-start-")); });
  afterEach(() => rm(dir, { recursive: true, force: true }));

  const launch = (env: NodeJS.ProcessEnv) => {
    const args = ["--import", "tsx/esm", "tools/start/command.ts", "--dir", dir];
    const child = spawn(process.execPath, args, { cwd: REPOSITORY, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
    const ended = once(child, "close").then(([code]: unknown[]) => code);
    return { child, ended, said: () => text };
  };
  const start = async (env: NodeJS.ProcessEnv = {}) => {
    const { ended, said } = launch(env);
    return { code: await ended, text: said() };
  };
  const isServed = async () => {
    const { port } = await openLocalFolder(dir);
    const socket = connect(port, "127.0.0.1");
    const served = await once(socket, "connect").then(() => true, () => false);
    socket.destroy();
    return served;
  };
  const expectWell = ({ code, text }: { code: unknown; text: string }) => {
    expect(code, text).to.equal(0);
    expect(text).to.contain("AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME=authentik-media");
    expect(text).to.match(/ok +cors http:\/\/localhost:9000/).and.to.match(/ok +unsigned URL/).and.to.match(/ok +delete/);
    expect(text).not.to.match(/FAIL|\u001b\[/);
  };

  const ways: [title: string, env: NodeJS.ProcessEnv, exists: boolean][] = [
    ["in this process", { PATH: PATH_WITHOUT_PULUMI }, true],
    ["with the real Pulumi engine", {}, pulumi !== undefined],
  ];
  if (hasEngine) ways.push(["with the server in a container", { PATH: PATH_WITH_DOCKER }, true]);
  for (const [title, env, exists] of ways) {
    (exists ? describe : describe.skip)(title, () => {
      it("works twice in a row, with the same keys, and leaves nothing running", async () => {
        const first = await start(env);
        expectWell(first);
        const folder = await openLocalFolder(dir);
        expect(((await stat(join(dir, "server.json"))).mode & 0o777).toString(8)).to.equal("600");
        const second = await start(env);
        expectWell(second);
        expect(await openLocalFolder(dir)).to.deep.equal(folder);
        expect(second.text).to.contain(folder.authentik.accessKey).and.not.to.contain(folder.root.secretKey);
        expect(await isServed()).to.equal(false);
      });

      for (const step of ["starting the S3 server", title === "with the real Pulumi engine" ? "pulumi up" : "running the program", "verifying the bucket"]) {
        it(`works again after Ctrl-C at "${step}", which leaves nothing running`, async () => {
          const { child, ended, said } = launch(env);
          while (!said().includes(step)) await sleep(20);
          // On a fast machine authentik's calls take no more than 0.2 s.
          await sleep(step === "verifying the bucket" ? 50 : 200);
          child.kill("SIGINT");
          expect(await ended, said()).not.to.equal(null);
          expect(await isServed()).to.equal(false);
          expectWell(await start(env));
        });
      }
    });
  }

  it("says in one line that the tool is missing, and throws the data away", async () => {
    const { text } = await start({ PATH: PATH_WITHOUT_PULUMI });
    expect(text.split("\n").filter((line) => line.includes("command line tool is not installed"))).to.have.length(1);
    expect(await readdir(join(dir, "data"))).to.deep.equal([]);
  });

  for (const [title, env] of ways.filter(([title]) => !title.includes("engine"))) {
    it(`${title}: stops what a killed run has left behind`, async () => {
      const { child, ended, said } = launch(env);
      while (!said().includes("verifying the bucket")) await sleep(5);
      child.kill("SIGKILL");
      await ended;
      expect(await isServed()).to.equal(true);
      expectWell(await start(env));
      expect(await isServed()).to.equal(false);
    });
  }

  it("says that another program has its port", async () => {
    const { port } = await openLocalFolder(dir);
    const other = createServer().listen(port, "127.0.0.1");
    await once(other, "listening");
    const { code, text } = await start({ PATH: PATH_WITHOUT_PULUMI });
    other.close();
    expect(code).to.equal(1);
    expect(text).to.contain(`port ${port} on 127.0.0.1`);
  });

  it("says what to install where there is nothing to get a server with", async () => {
    const { code, text } = await start({ PATH: "" });
    expect(code).to.equal(1);
    expect(text).to.contain("needs versitygw, Go or Docker");
  });

  it("explains itself", async () => {
    const child = spawn(process.execPath, ["--import", "tsx/esm", "tools/start/command.ts", "--help"], { cwd: REPOSITORY });
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
    await once(child, "close");
    expect(text).to.contain("Examples:").and.to.contain("--dir");
  });
});
