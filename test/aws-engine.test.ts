/** The provider `aws` on the real engine, with the real plugin's code and a fake of AWS. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import * as v from "valibot";
import { canFakeAws, startAws, type FakeAws } from "./support/aws.ts";
import { EngineProject, pulumi } from "./support/engine.ts";

const Bucket = "company-media";
const CONFIG = {
  provider: "aws",
  region: "eu-central-1",
  bucketName: Bucket,
  origins: ["https://authentik.company"],
};
const State = v.looseObject({
  deployment: v.looseObject({
    resources: v.array(
      v.looseObject({
        urn: v.string(),
        outputs: v.optional(v.record(v.string(), v.unknown())),
        replacementTrigger: v.optional(v.unknown()),
      }),
    ),
  }),
});
type Resource = v.InferOutput<typeof State>["deployment"]["resources"][number];

(pulumi !== undefined && canFakeAws ? describe : describe.skip)(
  "AWS on the real engine",
  function () {
    this.timeout(600_000);
    this.slow(60_000);
    let aws: FakeAws;
    let project: EngineProject;

    beforeEach(async () => {
      aws = await startAws();
      project = await EngineProject.create();
      Object.assign(project.env, aws.env);
      await project.configure(CONFIG);
    });
    afterEach(async () => {
      await project.remove();
      await aws.stop();
    });

    const up = (...args: string[]) => project.expectOk("up", "--yes", "--skip-preview", ...args);
    const fails = async (...args: string[]) => {
      const { ok, text } = await project.run(...args);
      expect(ok, text).to.equal(false);
      return text;
    };
    const upFails = () => fails("up", "--yes", "--skip-preview");
    const destroyFails = () => fails("destroy", "--yes", "--skip-preview");
    const ids = async () => [...(await aws.keys()).keys()];
    const exported = async () => await project.expectOk("stack", "output", "env", "--show-secrets");
    /** Changes what the stack has stored about each resource. */
    const editState = async (change: (resource: Resource) => void) => {
      const state = v.parse(State, JSON.parse(await project.expectOk("stack", "export")));
      state.deployment.resources.forEach(change);
      const file = join(project.dir, "edited.json");
      await writeFile(file, JSON.stringify(state));
      await project.expectOk("stack", "import", "--file", file);
    };

    it("rotates keys, sees what was changed by hand, and completes or takes back a rotation that failed", async () => {
      await up();
      await project.expectOk("preview", "--refresh", "--expect-no-changes");
      const [first = ""] = await ids();
      const [user = ""] = await aws.iam("ListUsers", {}, "UserName");
      await aws.iam("UpdateAccessKey", { UserName: user, AccessKeyId: first, Status: "Inactive" });
      expect(await project.plan("--refresh")).to.include({ "authentik-key-1": "update" });
      await up("--refresh");
      expect(Object.fromEntries(await aws.keys())).to.deep.equal({ [first]: "Active" });

      // IAM allows two keys, and somebody has made the second one.
      const [foreign = ""] = await aws.iam("CreateAccessKey", { UserName: user }, "AccessKeyId");
      await project.configure({ keyGeneration: 2 });
      expect(await upFails()).to.contain("LimitExceeded");
      await project.configure({ keyGeneration: 3 });
      expect(await fails("preview")).to.contain('so authentik still has "key 1"');
      await project.configure({ keyGeneration: 1, retirePreviousKey: true });
      await up();
      expect(await exported()).to.contain(first);
      await project.configure({ keyGeneration: 2, retirePreviousKey: false });
      expect(await upFails()).to.contain("LimitExceeded");
      await aws.iam("DeleteAccessKey", { UserName: user, AccessKeyId: foreign });
      await up();
      expect(await ids())
        .to.have.length(2)
        .and.include(first);
      await project.configure({ keyGeneration: 3 });
      await up();
      expect(await ids())
        .to.have.length(2)
        .and.not.include(first);
    });

    it("never hands out an old key as a new one, whatever engine has made the keys", async () => {
      await project.configure({ keyGeneration: 2 });
      await up();
      const before = await ids();
      await editState((resource) => delete resource.replacementTrigger);
      await project.configure({ keyGeneration: 3 });
      expect(await fails("preview")).to.contain("the engine did not replace it");
      const [, urn = ""] = /--replace '([^']+)'/.exec(await upFails()) ?? [];
      await up("--replace", urn);
      const after = await ids();
      expect(after.filter((id) => before.includes(id))).to.have.length(1);

      // What an earlier version and an engine before 3.208 leave.
      await editState((resource) => {
        delete resource.replacementTrigger;
        delete resource.outputs?.keys;
      });
      await project.expectOk("preview", "--expect-no-changes");
      await project.configure({ keyGeneration: 4 });
      expect(await upFails()).to.contain('run pulumi up with keyGeneration = "3" first');
      await project.configure({ keyGeneration: 3 });
      await up();
      expect(await ids()).to.deep.equal(after);
      await project.configure({ keyGeneration: 4 });
      await up();
      expect((await ids()).filter((id) => after.includes(id))).to.have.length(1);
    });

    it("keeps what authentik needs while the bucket cannot be deleted", async () => {
      await project.configure({ keyGeneration: 2 });
      await up();
      await aws.putFile(Bucket);
      const [keys, rights] = [await ids(), await aws.rights()];
      expect(await destroyFails()).to.contain("protected");
      await project.expectOk("preview", "--refresh", "--expect-no-changes");
      await project.configure({ protect: false });
      await up();
      expect(await destroyFails()).to.contain("BucketNotEmpty");
      expect([await ids(), await aws.rights()]).to.deep.equal([keys, rights]);
      await up();
      await project.expectOk("preview", "--refresh", "--expect-no-changes");
      expect([await ids(), await aws.rights()]).to.deep.equal([keys, rights]);
    });
  },
);
