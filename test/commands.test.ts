import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { expect } from "chai";
import * as v from "valibot";

const { scripts } = v.parse(v.object({ scripts: v.record(v.string(), v.string()) }), JSON.parse(readFileSync("package.json", "utf8")));
const commands = Object.entries(scripts).flatMap(([name, line]) => (line.startsWith("node ") ? [{ name, args: line.split(" ").slice(1) }] : []));

/** Runs a command; its output goes nowhere if it is not read. */
async function run(args: readonly string[], isRead: boolean): Promise<{ code: unknown; out: string; errors: string }> {
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  if (!isRead) child.stdout.destroy();
  const ended: Promise<unknown[]> = once(child, "close");
  const [[code], out, errors] = await Promise.all([ended, isRead ? text(child.stdout) : "", text(child.stderr)]);
  return { code, out, errors };
}

describe("commands", function () {
  this.timeout(30_000);

  it("are found", () => {
    expect(commands.map(({ name }) => name)).to.include.members(["start", "verify", "env", "migrate", "preview", "deploy", "drift"]);
  });

  for (const { name, args } of commands) {
    it(`${name} has help, with an example, for whoever reads it or does not`, async () => {
      const { code, out } = await run([...args, "--help"], true);
      expect(code).to.equal(0);
      expect(out).to.match(/Example|This command is for workflows/);
      const unread = await run([...args, "--help"], false);
      expect(unread).to.deep.equal({ code: 0, out: "", errors: "" });
    });
  }
});
