/** The stacks that the workflows find, and their names: each is the name of a GitHub environment too. */
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { checkStackName, findStacks, StackError } from "../tools/preview/stacks.ts";

describe("stacks: names", () => {
  for (const name of ["prod", "prod.eu_1", "preview", "prod-previews", "company/storage/prod", "..prod", "a".repeat(100)]) {
    it(`takes ${name.slice(0, 30)}`, () => { expect(checkStackName(name)).to.equal(name); });
  }
  for (const name of ["", "-x", "--help", "a b", "a;b", "$(id)", "é", "a\nb", "a/b/c/d", "a".repeat(101), ".", "..", "../prod", "company/../prod", "company/storage/."]) {
    it(`refuses ${JSON.stringify(name.slice(0, 30))}`, () => { expect(() => checkStackName(name)).to.throw(StackError, "is not a valid stack name"); });
  }
  for (const other of ["prod", "company/storage/prod"]) {
    for (const suffix of ["-preview", "-Preview"]) {
      it(`refuses ${other}${suffix}, which is another stack's environment`, () => { expect(() => checkStackName(`${other}${suffix}`)).to.throw(StackError, `for previews of "${other}"`); });
    }
  }
});

describe("stacks: files", () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-stacks-"));
    await writeFile(join(dir, "Pulumi.yaml"), "name: company-storage\n");
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));

  async function found(...names: string[]): Promise<unknown> {
    for (const name of names) await writeFile(join(dir, `Pulumi.${name}.yaml`), "config:\n  company-storage:provider: s3\n");
    return findStacks(dir).catch((error: unknown) => error);
  }

  it("are found in order, but for dev", async () => {
    expect(await found("prod", "dev", "eu.prod")).to.deep.equal([{ stack: "eu.prod", provider: "s3" }, { stack: "prod", provider: "s3" }]);
  });
  it("are not found beside the one whose environment for previews they would deploy in", async () => {
    expect(await found("prod", "prod-preview")).to.be.instanceOf(StackError).with.property("message").that.contains("not end in -preview");
  });
  it("are told apart by more than case", async function () {
    const result = await found("prod", "other", "Prod");
    // A disk that knows no case has one file of the two.
    if ((await readdir(dir)).length < 4) this.skip();
    expect(result).to.be.instanceOf(StackError).with.property("message").that.contains('"Prod" and "prod" would share one GitHub environment');
  });
  for (const name of [".", ".."]) {
    it(`are not named ${name}`, async () => { expect(await found("prod", name)).to.be.instanceOf(StackError).with.property("message").that.contains(`"${name}" is not a valid`); });
  }
});
