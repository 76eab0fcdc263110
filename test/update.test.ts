/** docs/update.md: a project that is a copy of the previous commit gets what this one has. */
import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { REPOSITORY } from "./support/engine.ts";

const git = (cwd: string, args: readonly string[]) => {
  const user = ["-c", "user.name=test", "-c", "user.email=test@authentik.company"];
  return execFileSync("git", [...user, ...args], { cwd, encoding: "utf8", stdio: "pipe" });
};

/** The commit before this one. A shallow clone has none, and a new project neither. */
function previousCommit(): string | undefined {
  try {
    return git(REPOSITORY, ["rev-parse", "--verify", "HEAD~1"]).trim();
  } catch {
    return undefined;
  }
}

describe("a project of the previous commit", function () {
  this.timeout(60_000);
  const previous = previousCommit();
  let project: string;
  before(() => {
    project = mkdtempSync(join(tmpdir(), "authentik-storage-update-"));
  });
  after(() => {
    rmSync(project, { recursive: true });
  });

  (previous === undefined ? it.skip : it)("gets this one by the commands of the docs", () => {
    const page = readFileSync(join(REPOSITORY, "docs/update.md"), "utf8");
    const commands = /```sh\n(.*?)npm install/s.exec(page)?.[1] ?? "";
    const archive = execFileSync("git", ["archive", previous ?? ""], {
      cwd: REPOSITORY,
      maxBuffer: 100_000_000,
    });
    execFileSync("tar", ["-x"], { cwd: project, input: archive });
    git(project, ["init", "--quiet"]);
    appendFileSync(join(project, "Pulumi.prod.yaml"), "config: {}\n");
    appendFileSync(join(project, ".gitignore"), "# our own line\n");
    git(project, ["add", "--all"]);
    git(project, ["commit", "--quiet", "--message", "our project"]);
    const here = commands
      .replace(/https:\S+/, REPOSITORY)
      .replace("OLD", previous ?? "")
      .replace("NEW", git(REPOSITORY, ["rev-parse", "HEAD"]).trim());
    execFileSync("bash", ["-euc", here], { cwd: project, stdio: "pipe" });
    const released = git(REPOSITORY, ["ls-tree", "-r", "HEAD"]).split("\n");
    git(project, ["add", "--all"]);
    const own = git(project, ["ls-files", "--stage"]).replaceAll(" 0\t", "\t").split("\n");
    const withoutType = released.map((line) => line.replace(" blob ", " "));
    const differing = withoutType.filter((line) => !own.includes(line));
    expect(differing.map((line) => line.split("\t")[1])).to.deep.equal([".gitignore"]);
    expect(existsSync(join(project, "Pulumi.prod.yaml"))).to.equal(true);
    expect(readFileSync(join(project, ".gitignore"), "utf8")).to.include("# our own line");
  });
});
