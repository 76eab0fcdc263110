import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { chmod, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "chai";
import { pulumi } from "./support/engine.ts";
import { temporaryFolder } from "./support/migration.ts";
import { onPath } from "../tools/lib/programs.ts";

const versitygw = await onPath("versitygw");

/** Starts `npm run compat` with variables of its own, which its children inherit. */
function start(args: readonly string[], env: NodeJS.ProcessEnv) {
  const command = ["--import", "tsx/esm", "bench/compat.ts", ...args];
  return spawn(process.execPath, command, { env: { ...process.env, ...env } });
}

/** The ids of the processes that have this text in their environment. */
async function processesWith(text: string): Promise<string[]> {
  const ids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const environments = await Promise.all(
    ids.map((id) => readFile(`/proc/${id}/environ`, "utf8").catch(() => "")),
  );
  return ids.filter((_, index) => environments[index]?.includes(text));
}

describe("compat", function () {
  this.timeout(90_000);

  it("prints JSON alone to standard output, also for a server that does not start", async () => {
    const folder = temporaryFolder();
    await writeFile(join(folder, "minio"), "#!/bin/sh\nexit 3\n");
    await chmod(join(folder, "minio"), 0o755);
    const child = start(["minio", "weed", "--json"], { PATH: folder });
    let out = "";
    child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
    await once(child, "close");
    expect(JSON.parse(out)).to.deep.equal([
      { server: "minio", results: { start: "it did not answer: exit 3" } },
      { server: "weed", results: { start: "not found" } },
    ]);
  });

  const isPossible = process.platform === "linux" && pulumi && versitygw;
  (isPossible ? it : it.skip)("Ctrl-C leaves no process and no folder", async () => {
    const [id, folder] = [randomUUID(), temporaryFolder()];
    const child = start(["versitygw"], { COMPAT_TEST: id, TMPDIR: folder });
    const ended = once(child, "exit");
    // In the middle of `up`. A language host that pulumi is just starting would not end with it.
    const isUp = async () => {
      const names = (await readdir(folder)).filter((name) => name.startsWith("compat-server-"));
      const buckets = await Promise.all(names.map((name) => readdir(join(folder, name))));
      return buckets.flat().includes("compat-media");
    };
    while (!(await isUp())) await sleep(20);
    child.kill("SIGINT");
    expect(await ended).to.deep.equal([130, null]);
    const deadline = Date.now() + 10_000;
    while ((await processesWith(id)).length > 0 && Date.now() < deadline) await sleep(100);
    expect(await processesWith(id)).to.deep.equal([]);
    expect((await readdir(folder)).filter((name) => !name.startsWith("tsx-"))).to.deep.equal([]);
  });
});
