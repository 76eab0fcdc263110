import { spawnSync } from "node:child_process";
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { REPOSITORY } from "../tools/lib/repository.ts";

const SOURCE = `AUTHENTIK_STORAGE__BACKEND=s3
AUTHENTIK_STORAGE__S3__BUCKET_NAME=media
AUTHENTIK_STORAGE__S3__ACCESS_KEY=key
AUTHENTIK_STORAGE__S3__SECRET_KEY='new secret'
`;

describe("env --output", function () {
  this.timeout(20_000);
  let dir: string;
  let file: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "authentik-storage-write-"));
    file = join(dir, ".env");
    writeFileSync(join(dir, "source.env"), SOURCE);
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  const bash = (script: string, args: readonly string[]) => {
    const options = { cwd: dir, encoding: "utf8" } as const;
    const { status, stderr } = spawnSync("bash", ["-c", script, "bash", ...args], options);
    return { status, stderr };
  };
  const env = (args: readonly string[], before = "") => {
    const loader = join(REPOSITORY, "node_modules/tsx/dist/esm/index.mjs");
    const command = ["--import", loader, join(REPOSITORY, "tools/env/command.ts")];
    const source = ["--env-file", "source.env"];
    return bash(`${before} exec "$@"`, [process.execPath, ...command, ...source, ...args]);
  };
  const entries = () => readdirSync(dir).filter((name) => name !== "source.env");

  it("is a path from the user's folder, also when npm changes the folder", () => {
    const npm = ["--prefix", REPOSITORY, "run", "-s", "env", "--", "--env-file", "source.env"];
    const { status, stderr } = bash('exec npm "$@"', [...npm, "--output", "new.env"]);
    expect(status, stderr).to.equal(0);
    expect(stderr).to.include(`wrote ${join(dir, "new.env")}`);
    expect(readFileSync(join(dir, "new.env"), "utf8")).to.equal(SOURCE);
    expect(statSync(join(dir, "new.env")).mode & 0o777).to.equal(0o600);
  });

  // biome-ignore format: a table of cases
  const refused: [title: string, path: string, message: RegExp][] = [
    ["into a folder that does not exist", "missing/.env", /its folder does not exist; create/],
    ["to a folder", "folder", /"\/.*folder" is a folder; write the path of a file/],
    ["to what is no regular file", "pipe", /"\/.*pipe" is not a regular file/],
    ["below a file", "source.env/x", /a part of its path is not a folder/],
  ];
  for (const [title, path, message] of refused) {
    for (const option of ["--merge", "--overwrite"]) {
      it(`${title} is refused with ${option}`, () => {
        mkdirSync(join(dir, "folder"));
        bash("mkfifo pipe", []);
        const { status, stderr } = env(["--output", path, option]);
        expect(status, stderr).to.equal(2);
        expect(stderr).to.match(message);
        expect(stderr.split("\n"), stderr).to.have.length(2);
        expect(entries()).to.have.members(["folder", "pipe"]);
        expect(lstatSync(join(dir, "pipe")).isFIFO()).to.equal(true);
      });
    }
  }

  it("keeps the old file when the new one does not fit on the disk", () => {
    const old = `# ${"x".repeat(100_000)}\n`;
    writeFileSync(file, old);
    const { status, stderr } = env(["--output", ".env", "--merge"], "ulimit -f 64;");
    expect(status, stderr).to.equal(2);
    expect(stderr).to.match(/cannot be written: .*(?:limit|full)/);
    expect(readFileSync(file, "utf8")).to.equal(old);
    expect(entries()).to.deep.equal([".env"]);
  });

  it("--merge keeps mode, line ends, link and the bytes of other lines", () => {
    const [latin1, crlf] = [Buffer.from("# f\xfcr Gr\xfc\xdfe\r\n", "latin1"), "A=1\r\n"];
    const old = Buffer.concat([latin1, Buffer.from(`AUTHENTIK_STORAGE__BACKEND=file\r\n${crlf}`)]);
    writeFileSync(join(dir, "real.env"), old, { mode: 0o640 });
    symlinkSync("real.env", file);
    const { status, stderr } = env(["--output", ".env", "--merge"]);
    expect(status, stderr).to.equal(0);
    expect(stderr).to.include(`chmod 600 "${file}"`);
    expect(lstatSync(file).isSymbolicLink()).to.equal(true);
    expect(statSync(file).mode & 0o777).to.equal(0o640);
    const added = SOURCE.split("\n").slice(1, 4).join("\r\n");
    const expected = `AUTHENTIK_STORAGE__BACKEND=s3\r\n${crlf}${added}\r\n`;
    const expectedBytes = Buffer.concat([latin1, Buffer.from(expected)]);
    expect(readFileSync(file).toString("latin1")).to.equal(expectedBytes.toString("latin1"));
  });
});
