import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { expect } from "chai";
import { REPOSITORY } from "../tools/lib/repository.ts";

const COMPILED = "node_modules/.cache/compiled";
const LOADER = "program/typescript.js";

describe("tools/run.js", function () {
  this.timeout(30_000);
  let dir: string;
  const inDir = (path: string, text: string) => writeFile(join(dir, path), text);
  const run = async () => {
    const args = ["tools/run.js", "tools/command.ts", "a", "b"];
    return (await promisify(execFile)(process.execPath, args, { cwd: dir })).stdout;
  };

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "run-test-"));
    for (const folder of ["tools", "program", "node_modules"]) await mkdir(join(dir, folder));
    for (const name of ["esbuild", "tsx"]) {
      await symlink(join(REPOSITORY, "node_modules", name), join(dir, "node_modules", name));
    }
    for (const file of ["tools/run.js", LOADER]) await cp(join(REPOSITORY, file), join(dir, file));
    await inDir("package.json", '{"type":"module"}');
    await inDir("node_modules/.package-lock.json", "{}");
    await inDir("tools/text.ts", 'export const text: string = "one " + import.meta.url;');
    await inDir(
      "tools/command.ts",
      'import { text } from "./text.ts"; console.log(text, ...process.argv.slice(2));',
    );
  });
  afterEach(() => rm(dir, { recursive: true }));

  it("runs the sources as they are now", async () => {
    const url = pathToFileURL(join(dir, "tools/text.ts")).href;
    expect(await run()).to.equal(`one ${url} a b\n`);
    expect(await readdir(join(dir, COMPILED))).to.have.lengthOf(1);
    expect(await run()).to.equal(`one ${url} a b\n`);
    await inDir("tools/text.ts", 'export const text: string = "two";');
    expect(await run()).to.equal("two a b\n");
    const own = await readFile(join(REPOSITORY, LOADER), "utf8");
    await inDir(LOADER, own.replace("js: REQUIRE", 'js: REQUIRE + "console.log(3);"'));
    expect(await run()).to.equal("3\ntwo a b\n");
  });

  it("compiles again if a compiled file is not there", async () => {
    await inDir("tools/command.ts", 'console.log((await import("./text.ts")).text);');
    const output = await run();
    const files = await readdir(join(dir, COMPILED));
    expect(files).to.have.length.above(1);
    for (const file of files) {
      await rm(join(dir, COMPILED, file));
      expect(await run(), file).to.equal(output);
      expect(await readdir(join(dir, COMPILED))).to.have.members(files);
    }
  });

  it("runs the sources themselves if nothing can be written", async () => {
    await inDir("node_modules/.cache", "a file in the place of the folder");
    expect(await run()).to.match(/^one .* a b\n$/);
  });
});
