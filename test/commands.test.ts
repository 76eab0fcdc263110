import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { expect } from "chai";
import * as v from "valibot";

const Package = v.object({ scripts: v.record(v.string(), v.string()) });
const { scripts } = v.parse(Package, JSON.parse(readFileSync("package.json", "utf8")));
const commands = Object.entries(scripts)
  .filter(([, line]) => line.startsWith("node "))
  .map(([name, line]) => ({ name, args: line.split(" ").slice(1) }));

interface Result {
  code: unknown;
  output: string;
  errors: string;
}

/** @param isRead whether somebody reads the output; if not, the pipe is closed */
async function run(args: readonly string[], isRead: boolean): Promise<Result> {
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  if (!isRead) child.stdout.destroy();
  const ended: Promise<unknown[]> = once(child, "close");
  const output = isRead ? text(child.stdout) : "";
  const [[code], ...texts] = await Promise.all([ended, output, text(child.stderr)]);
  return { code, output: texts[0], errors: texts[1] };
}

describe("commands", function () {
  this.timeout(30_000);

  it("are found", () => {
    const names = ["start", "verify", "env", "migrate", "preview", "deploy", "drift"];
    expect(commands.map(({ name }) => name)).to.include.members(names);
  });

  for (const { name, args } of commands) {
    it(`${name} has help with an example, within 100 columns`, async () => {
      const { code, output } = await run([...args, "--help"], true);
      expect(code).to.equal(0);
      expect(output).to.match(/Example|This command is for workflows/);
      // An example may be longer: it has to be one line, so that people can copy it.
      const prose = output.split("\n").filter((line) => !line.startsWith("  npm "));
      expect(prose.filter((line) => line.length > 100)).to.deep.equal([]);
    });

    it(`${name} succeeds when nobody reads its help`, async () => {
      const unread = await run([...args, "--help"], false);
      expect(unread).to.deep.equal({ code: 0, output: "", errors: "" });
    });
  }
});
