/** The provider `aws` on the real engine, with the real plugin's code and a fake of AWS. */
import { expect } from "chai";
import { canFakeAws, startAws, type FakeAws } from "./support/aws.ts";
import { pulumi, useCloud, type EngineProject } from "./support/engine.ts";

const isPossible = pulumi !== undefined && canFakeAws;
const Bucket = "company-media";
const CONFIG = {
  provider: "aws",
  region: "eu-central-1",
  bucketName: Bucket,
  origins: ["https://authentik.company"],
};
(isPossible ? describe : describe.skip)("AWS on the real engine and plugin", function () {
  this.timeout(600_000);
  this.slow(60_000);
  let aws: FakeAws;
  let project: EngineProject;
  useCloud(startAws, CONFIG, (newFake, newProject) => {
    [aws, project] = [newFake, newProject];
  });

  const up = (...args: string[]) => project.expectOk("up", "--yes", "--skip-preview", ...args);
  const upFails = () => project.expectFailure("up", "--yes", "--skip-preview");
  const destroyFails = () => project.expectFailure("destroy", "--yes", "--skip-preview");
  const ids = async () => [...(await aws.keys()).keys()];
  const exported = async () => await project.expectOk("stack", "output", "env", "--show-secrets");

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
    expect(await project.expectFailure("preview")).to.contain('so authentik still has "key 1"');
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
    await project.editResources((resource) => delete resource.replacementTrigger);
    await project.configure({ keyGeneration: 3 });
    expect(await project.expectFailure("preview")).to.contain("the engine did not replace it");
    await upFails();
    const [, urn = ""] = /--replace '([^']+)'/.exec(await upFails()) ?? [];
    await up("--replace", urn);
    const after = await ids();
    expect(after.filter((id) => before.includes(id))).to.have.length(1);

    // What an earlier version and an engine before 3.208 leave.
    await project.editResources((resource) => {
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

  it("with a name from Pulumi, keeps the same, but for the policy of a bucket that is not protected", async () => {
    await project.configure({ bucketName: undefined });
    await up();
    const bucket = (await project.expectOk("stack", "output", "bucket")).trim();
    const [keys, rights] = [await ids(), await aws.rights()];
    expect(await destroyFails()).to.contain("protected");
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
    expect([await ids(), await aws.rights()]).to.deep.equal([keys, rights]);
    await project.configure({ protect: false });
    await up();
    await aws.putFile(bucket);
    expect(await destroyFails()).to.contain("BucketNotEmpty");
    expect(await ids()).to.deep.equal(keys);
    await up();
    expect(await ids()).to.deep.equal(keys);
    expect(await aws.rights()).to.have.length(rights.length);
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
    await project.configure({ bucketName: "another" });
    expect(await upFails()).to.contain("BucketNotEmpty");
    await project.configure({ bucketName: undefined });
    await up();
    expect(await project.expectOk("stack", "output", "bucket")).to.contain(bucket);
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
  });

  it("a role by Pod Identity goes last, too, and keeps its service accounts after an upgrade", async () => {
    const serviceAccounts = ["authentik/a-b", "authentik-a/b"];
    const trust = { roleTrust: "podIdentity", clusterName: "prod" };
    await project.configure({ credentials: "role", ...trust, serviceAccounts, protect: false });
    await up();
    expect(aws.pods()).to.have.members(serviceAccounts);
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
    await aws.putFile(Bucket);
    const [pods, rights] = [aws.pods(), await aws.rights()];
    expect(await destroyFails()).to.contain("BucketNotEmpty");
    expect([aws.pods(), await aws.rights()]).to.deep.equal([pods, rights]);
    await up();
    // The name that earlier versions gave it. They could not have the second one beside it.
    await project.configure({ serviceAccounts: ["authentik/a-b"] });
    await up();
    await project.editState((state) =>
      state.replaceAll("pods-authentik/a-b", "pods-authentik-a-b"),
    );
    await project.expectOk("preview", "--expect-no-changes");
    await project.configure({ serviceAccounts });
    await up();
    expect(aws.pods()).to.have.members(serviceAccounts);
    expect(await aws.rights()).to.deep.equal(rights);
  });

  it("a bucket that could not be renamed keeps authentik's rights, and all its settings when its name is back", async () => {
    await project.configure({ protect: false });
    await up();
    await aws.putFile(Bucket);
    const key = await ids();
    const [UserName = ""] = await aws.iam("ListUsers", {}, "UserName");
    const buckets = async () => {
      const names = await aws.iam("ListUserPolicies", { UserName });
      const documents = names.map((PolicyName) =>
        aws.iam("GetUserPolicy", { UserName, PolicyName }, "PolicyDocument"),
      );
      return (await Promise.all(documents)).map(([document = ""]) => {
        return /arn:aws:s3:::([\w-]+)/.exec(decodeURIComponent(document))?.[1];
      });
    };
    await project.configure({ bucketName: "another" });
    expect(await upFails()).to.contain("BucketNotEmpty");
    expect(await buckets()).to.include(Bucket);
    await project.configure({ bucketName: Bucket });
    await up();
    expect(await buckets()).to.deep.equal([Bucket]);
    expect(await ids()).to.deep.equal(key);
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
  });

  it("refuses another region, where the stack would not have its files", async () => {
    await project.configure({ protect: false });
    await up();
    const before = await exported();
    await project.configure({ region: "us-east-1" });
    for (const command of [["preview"], ["up", "--yes", "--skip-preview"]])
      expect(await project.expectFailure(...command)).to.contain(
        'write region = "eu-central-1" back',
      );
    await project.configure({ region: CONFIG.region });
    await up();
    expect(await exported()).to.equal(before);
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
  });

  describe("a change of credentials", () => {
    const NONE = {
      credentials: undefined,
      roleTrust: undefined,
      oidcProviderArn: undefined,
      serviceAccounts: undefined,
      sessionProfile: undefined,
      attachTo: undefined,
      keyGeneration: undefined,
      retirePreviousKey: undefined,
    };
    const ROLE = {
      roleTrust: "irsa",
      oidcProviderArn: "arn:aws:iam::123456789012:oidc-provider/oidc.eks/id/ABC",
      serviceAccounts: ["authentik/authentik"],
    };
    const KINDS: Record<string, Record<string, unknown>> = {
      user: {},
      role: { credentials: "role", ...ROLE },
      "a profile": { credentials: "profile", sessionProfile: "a", attachTo: "role/instance" },
      "an external user": { credentials: "external", attachTo: "user/bob" },
      "an external role": { credentials: "external", attachTo: "role/task" },
    };
    /** What stays in the config beside a user's credentials. */
    const beside = (values: object) => ({
      ...values,
      credentials: undefined,
      sessionProfile: undefined,
    });
    const set = (values: object) => project.configure({ ...NONE, ...values });
    const validNow = async () => [
      ...(await aws.rights()).filter((entry) => !entry.endsWith(": ")),
      ...(await ids()),
    ];

    beforeEach(async () => {
      await aws.iam("CreateUser", { UserName: "bob" });
      for (const RoleName of ["instance", "task"])
        await aws.iam("CreateRole", { RoleName, AssumeRolePolicyDocument: "{}" });
    });

    /** Another kind in one step is refused, already by the preview. */
    const expectNoDirectWay = async (from: string) => {
      for (const [to, values] of Object.entries(KINDS)) {
        if (to === from) continue;
        await set(values);
        expect(await project.expectFailure("preview"), `${from} to ${to}`).to.match(
          /would delete "[^"]+", which authentik has until it gets "[^"]+"; (keep|set) /,
        );
      }
    };
    /** What authentik had stays until it is retired, and the rest of the config may go then. */
    const expectTwoSteps = async (values: Record<string, unknown>, last: object) => {
      const before = await validNow();
      await set(values);
      await up();
      expect(await validNow()).to.include.members(before);
      await set({ ...values, retirePreviousKey: true });
      await up();
      const after = await validNow();
      await set(last);
      expect(await project.plan()).to.deep.equal({ authentik: "update" });
      await up();
      expect(await validNow()).to.deep.equal(after);
      return after;
    };

    for (const kind of ["role", "a profile", "an external user"]) {
      const values = KINDS[kind] ?? {};
      it(`from a user to ${kind} and back, in two steps each`, async () => {
        await up();
        if (kind === "role") await expectNoDirectWay("user");
        await set({ ...values, keyGeneration: 1, retirePreviousKey: true });
        expect(await project.expectFailure("preview")).to.contain(
          'retirePreviousKey = "true" would delete "key 1"',
        );
        const after = await expectTwoSteps({ ...values, keyGeneration: 1 }, values);
        expect(after.filter((entry) => !entry.includes(":"))).to.deep.equal([]);
        await expectNoDirectWay(kind);
        const back = await expectTwoSteps({ ...beside(values), retirePreviousKey: false }, {});
        expect(back.filter((entry) => !entry.includes(":"))).to.have.length(1);
        expect(await exported()).to.contain(back.at(-1));
      });
    }

    it("to and from a profile that the stack knows nothing of needs no second step", async () => {
      const profile = { credentials: "profile", sessionProfile: "a" };
      await set(profile);
      await up();
      for (const values of Object.values(KINDS)) {
        await set(values);
        await project.expectOk("preview");
      }
      await expectTwoSteps({}, {});
    });
  });
});
