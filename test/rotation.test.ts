import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import { keySlots, rotationFault, type Rotation } from "../providers/rotation.ts";
import { EngineProject, pulumi, REPOSITORY } from "./support/engine.ts";

/** The keys that are valid after an update: the generation in each slot. */
function validKeys(rotation: Rotation): Map<number, number> {
  return new Map(keySlots(rotation).flatMap((key) => (key ? [[key.slot, key.generation]] : [])));
}

describe("rotation of keys", () => {
  it("generation n uses slot n mod 2, and the previous key stays in the other slot", () => {
    expect(keySlots({ keyGeneration: 1, retirePreviousKey: false })).to.deep.equal([
      { slot: 1, generation: 1 },
    ]);
    expect(keySlots({ keyGeneration: 2, retirePreviousKey: false })).to.deep.equal([
      { slot: 0, generation: 2 },
      { slot: 1, generation: 1 },
    ]);
    expect(keySlots({ keyGeneration: 3, retirePreviousKey: false })).to.deep.equal([
      { slot: 1, generation: 3 },
      { slot: 0, generation: 2 },
    ]);
    expect(keySlots({ keyGeneration: 3, retirePreviousKey: true })).to.deep.equal([
      { slot: 1, generation: 3 },
    ]);
  });

  it("never deletes the key in use, for any steps (property)", () => {
    const step = fc.record({
      keyGeneration: fc.integer({ min: 1, max: 9 }),
      retirePreviousKey: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        let before: Rotation = { keyGeneration: 1, retirePreviousKey: false };
        for (const after of steps) {
          if (rotationFault(before, after) !== undefined) continue;
          // authentik still has the key of the update before.
          expect([...validKeys(after).values()]).to.include(before.keyGeneration);
          const slot = before.keyGeneration % 2;
          expect(validKeys(after).get(slot)).to.equal(validKeys(before).get(slot));
          before = after;
        }
      }),
    );
  });

  it("refuses a step of two, a step back, and a rotation that retires the key in use", () => {
    const now = { keyGeneration: 3, retirePreviousKey: false };
    expect(rotationFault(now, { keyGeneration: 5, retirePreviousKey: false })).to.match(
      /raise it by one: pulumi config set keyGeneration 4/,
    );
    expect(rotationFault(now, { keyGeneration: 2, retirePreviousKey: false })).to.match(
      /would replace the key in use, of generation 3/,
    );
    expect(rotationFault(now, { keyGeneration: 4, retirePreviousKey: true })).to.match(
      /retirePreviousKey = "true" would delete the key/,
    );
    expect(rotationFault(now, { keyGeneration: 3, retirePreviousKey: true })).to.equal(undefined);
  });
});

(pulumi ? describe : describe.skip)("rotation of keys on the real Pulumi engine", function () {
  this.timeout(120_000);
  this.slow(20_000);
  let project: EngineProject;

  before(async () => {
    project = await EngineProject.create({
      main: join(REPOSITORY, "test/fixtures/rotation/index.ts"),
    });
  });
  after(() => project.remove());

  it("stops an update that would delete the key in use, already in the preview, and allows the others", async () => {
    await project.configure({ keyGeneration: 1, retirePreviousKey: false });
    await project.expectOk("up", "--yes", "--skip-preview");
    await project.configure({ keyGeneration: 3 });
    for (const command of [["preview"], ["up", "--yes", "--skip-preview"]]) {
      const { ok, text } = await project.run(...command);
      expect(ok).to.equal(false);
      expect(text).to.contain('keyGeneration = "3" would replace the key in use, of generation 1');
    }
    await project.configure({ keyGeneration: 2 });
    await project.expectOk("up", "--yes", "--skip-preview");
    await project.configure({ retirePreviousKey: true });
    await project.expectOk("up", "--yes", "--skip-preview");
    await project.configure({ keyGeneration: 3 });
    expect((await project.run("preview")).text).to.contain(
      'retirePreviousKey = "true" would delete the key in use',
    );
  });
});
