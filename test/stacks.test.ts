/** The stacks that the workflows find. A stack's name is also the name of a GitHub environment. */
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { checkStackName, findStacks, StackError } from "../tools/preview/stacks.ts";

const VALID = "prod prod.eu_1 preview prod-previews company/storage/prod ..prod".split(" ");
// biome-ignore format: a table of cases
const INVALID = [
  "", "-x", "--help", "a b", "a;b", "$(id)", "é", "a\nb", "a/b/c/d", "a".repeat(101),
  ".", "..", "../prod", "company/../prod", "company/storage/.",
];

describe("stacks: names", () => {
  it("are letters, digits and signs, at most 100", () => {
    for (const name of [...VALID, "a".repeat(100)]) expect(checkStackName(name)).to.equal(name);
  });

  for (const name of INVALID) {
    it(`are not ${JSON.stringify(name.slice(0, 30))}`, () => {
      expect(() => checkStackName(name)).to.throw(StackError, "is not a valid stack name");
    });
  }

  for (const stack of ["prod", "company/storage/prod"]) {
    for (const name of [`${stack}-preview`, `${stack}-Preview`]) {
      it(`are not ${name}, which is another stack's environment`, () => {
        expect(() => checkStackName(name)).to.throw(StackError, `for previews of "${stack}"`);
      });
    }
  }
});

describe("stacks: files", () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-stacks-"));
    // Pulumi allows `plugins` without providers.
    await writeFile(join(dir, "Pulumi.yaml"), "name: company-storage\nplugins:\n  analyzers: []\n");
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));

  async function found(...names: string[]): Promise<unknown> {
    for (const name of names) {
      const file = join(dir, `Pulumi.${name}.yaml`);
      await writeFile(file, "config:\n  company-storage:provider: s3\n");
    }
    return findStacks(dir).catch((error: unknown) => error);
  }
  function expectStackError(error: unknown, message: string): void {
    expect(error).to.be.instanceOf(StackError);
    expect(error).to.have.property("message").that.contains(message);
  }

  it("are found in order, except dev", async () => {
    expect(await found("prod", "dev", "eu.prod")).to.deep.equal([
      { stack: "eu.prod", provider: "s3" },
      { stack: "prod", provider: "s3" },
    ]);
  });

  it("must not share the environment for previews of another stack", async () => {
    expectStackError(await found("prod", "prod-preview"), "not end in -preview");
  });

  it("must not differ by case only", async function () {
    const result = await found("prod", "other", "Prod");
    // A disk that ignores case has one file of the two.
    if ((await readdir(dir)).length < 4) this.skip();
    expectStackError(result, '"Prod" and "prod" would share one GitHub environment');
  });

  for (const name of [".", ".."]) {
    it(`are not named ${name}`, async () => {
      expectStackError(await found("prod", name), `"${name}" is not a valid`);
    });
  }
});
