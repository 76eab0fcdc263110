import { join } from "node:path";
import { expect } from "chai";
import fc from "fast-check";
import {
  keySlots,
  rotationFault,
  signersOf,
  type LastUpdate,
  type RotationInputs,
} from "../providers/rotation.ts";
import { EngineProject, pulumi, REPOSITORY } from "./support/engine.ts";

interface Step extends RotationInputs {
  ends: boolean;
  changesAnother: boolean;
}
type Failed = Exclude<LastUpdate, "complete">;

function at(keyGeneration: number, retirePreviousKey = false, signers?: string[]): RotationInputs {
  return { keyGeneration, retirePreviousKey, signers };
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

  it("never deletes what authentik has, for any steps, failed ones too (property)", () => {
    const keys = ["key 1", "key 2", "key 3"];
    const signers = fc.constantFrom("irsa a", "irsa b", "role/c", "", ...keys);
    const step = fc.record({
      keyGeneration: fc.integer({ min: 1, max: 5 }),
      retirePreviousKey: fc.boolean(),
      signers: fc.option(fc.array(signers, { minLength: 1, maxLength: 2 }), { nil: undefined }),
      ends: fc.boolean(),
      changesAnother: fc.boolean(),
    });
    const run = (steps: Step[], failed: Failed) => {
      let before: RotationInputs = { keyGeneration: 1, retirePreviousKey: false };
      let [used, last]: [string, LastUpdate] = ["key 1", "complete"];
      for (const { ends, changesAnother, ...after } of steps) {
        const [from, to] = [signersOf(before), signersOf(after)];
        // What one failed update of one signer leaves is also what a failed first update leaves.
        const isFirst = from.length === 1 && !before.retirePreviousKey;
        if (isFirst && last === "failed to change the signers") continue;
        if (rotationFault(before, after, last) !== undefined) continue;
        // Without another input, two signers that stay as they are have the same inputs: there is no update.
        const hasOther = failed === "failed" && changesAnother;
        if (to.length === 2 && to.join() === from.join() && !hasOther) continue;
        if (used !== "") expect(to).to.include(used);
        last = ends ? "complete" : failed;
        if (ends) used = to[0] ?? "";
        before = after;
      }
    };
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        run(steps, "failed to change the signers");
        run(steps, "failed");
      }),
      { numRuns: 5000 },
    );
  });

  // biome-ignore format: a table of cases
  const refused: [what: string, before: RotationInputs, after: RotationInputs, message: RegExp][] = [
    ["a step of two", at(3), at(5), /raise it by one: pulumi config set keyGeneration 4/],
    ["a step back", at(3), at(2), /would replace the key in use, of generation 3/],
    ["a rotation that retires the key in use", at(3), at(4, true), /retirePreviousKey = "true" would delete "key 3"/],
    ["the key before the one in use, made again", at(3, true), at(3), /would create "key 2" again, and authentik has "key 3"/],
    ["a role in place of the key", at(3), at(1, false, ["irsa a"]), /would delete "key 3".*keep keyGeneration = "3"/],
    ["a role in place of the key, with an old retirePreviousKey", at(3, true), at(3, true, ["irsa a"]), /retirePreviousKey = "true" would delete "key 3"/],
    ["a key in place of the role", at(1, false, ["irsa a"]), at(1), /would delete "irsa a".*set retirePreviousKey = "false"/],
    ["another role", at(1, false, ["irsa a"]), at(1, false, ["irsa b"]), /would delete "irsa a".*set credentials = "user" first/],
    ["an end without its key", at(3, false, ["irsa a", "key 3"]), at(1, false, ["irsa a"]), /set retirePreviousKey = "true" to delete them/],
  ];
  for (const [what, before, after, message] of refused)
    it(`refuses ${what}`, () => {
      expect(rotationFault(before, after)).to.match(message);
    });

  it("after a rotation that failed, allows the same again and the way back", () => {
    const failed = "failed to change the signers";
    for (const after of [at(5), at(3), at(4, true), at(4, false, ["irsa a", "key 4"])])
      expect(rotationFault(at(4), after, failed)).to.match(
        /the update to "key 4" failed, so authentik still has "key 3"; complete it/,
      );
    for (const after of [at(4), at(3, true)])
      expect(rotationFault(at(4), after, failed)).to.equal(undefined);
    // Either nothing was there before, or the previous key could not be deleted.
    expect(rotationFault(at(1), at(1, false, ["irsa a"]), failed)).to.equal(undefined);
    expect(rotationFault(at(3, true), at(1, false, ["irsa a"]), failed)).to.match(/would delete/);
  });

  it("after an update that failed and may not have been a rotation, keeps both keys", () => {
    for (const after of [at(5), at(3), at(3, true), at(4, true)])
      expect(rotationFault(at(4), after, "failed")).to.match(
        /authentik has "key 4" or "key 3"; keep both keys until an update succeeds: set keyGeneration = "4"/,
      );
    expect(rotationFault(at(4), at(4), "failed")).to.equal(undefined);
    for (const after of [at(2), at(1)])
      expect(rotationFault(at(1), after, "failed")).to.equal(undefined);
    expect(rotationFault(at(1), at(3), "failed")).to.match(/raise it by one/);
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

  const up = () => project.expectOk("up", "--yes", "--skip-preview");
  /** A preview and an update with these values say this, and nothing changes. */
  const expectRefused = async (values: Record<string, unknown>, message: string) => {
    await project.configure(values);
    for (const command of [["preview"], ["up", "--yes", "--skip-preview"]]) {
      expect(await project.expectFailure(...command)).to.contain(message);
    }
  };

  it("stops an update that would delete the key in use, already in the preview, and allows the others", async () => {
    await project.configure({ keyGeneration: 1, retirePreviousKey: false });
    await up();
    await expectRefused(
      { keyGeneration: 3 },
      'keyGeneration = "3" would replace the key in use, of generation 1',
    );
    await project.configure({ keyGeneration: 2 });
    await up();
    await project.configure({ retirePreviousKey: true });
    await up();
    await expectRefused({ keyGeneration: 3 }, 'retirePreviousKey = "true" would delete "key 2"');
  });

  it("after an update that failed, allows the same again and the way back", async () => {
    await project.configure({ keyGeneration: 3, retirePreviousKey: false, fail: true });
    await project.expectFailure("up", "--yes", "--skip-preview");
    await project.configure({ fail: false });
    for (const values of [{ keyGeneration: 4 }, { keyGeneration: 3, retirePreviousKey: true }])
      await expectRefused(values, 'so authentik still has "key 2"');
    await project.configure({ keyGeneration: 2, retirePreviousKey: true });
    await up();
    for (const keyGeneration of [3, 4]) {
      await project.configure({ keyGeneration, retirePreviousKey: false });
      await up();
    }
  });
});
