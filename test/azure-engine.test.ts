/** The provider `azure` on the real engine, with the azure-native plugin and a fake of Azure's API. */
import { expect } from "chai";
import { checkDrift } from "../tools/preview/preview.ts";
import { renderText } from "../tools/preview/render.ts";
import { FakeArm, GROUP, SUBSCRIPTION } from "./support/arm.ts";
import { hasPlugin, pulumi, STACK, useCloud, type EngineProject } from "./support/engine.ts";

/** Only on Linux does the plugin trust the fake's certificate by SSL_CERT_FILE. */
const isPossible =
  process.platform === "linux" &&
  pulumi !== undefined &&
  (await hasPlugin("azure-native")) &&
  (await hasPlugin("random"));
const ACCOUNT = `${GROUP}/providers/Microsoft.Storage/storageAccounts/companymedia`;
const CONTAINER = `${ACCOUNT}/blobServices/default/containers/media`;
const CONFIG = {
  provider: "azure",
  location: "westeurope",
  resourceGroupName: "authentik",
  storageAccountName: "companymedia",
  bucketName: "media",
  origins: ["https://authentik.company"],
};

(isPossible ? describe : describe.skip)("Azure on the real engine and plugin", function () {
  this.timeout(300_000);
  this.slow(20_000);
  let fake: FakeArm;
  let project: EngineProject;
  useCloud(
    () => FakeArm.start(),
    CONFIG,
    (newFake, newProject) => {
      [fake, project] = [newFake, newProject];
    },
  );

  /** What `npm run drift` finds. */
  const drift = async () => {
    const options = { workDir: project.dir, envVars: project.env, timeoutMs: 120_000 };
    const found = await checkDrift(STACK, options);
    return found.kind === "none" ? "" : renderText(found.report, { color: false });
  };
  /** What an update changes on the server. */
  const up = async (...args: string[]) => {
    const before = fake.writes.length;
    await project.expectOk("up", "--yes", "--skip-preview", ...args);
    return fake.writes.slice(before);
  };
  const upFails = () => project.expectFailure("up", "--yes", "--skip-preview");
  const metadata = () => fake.resources.get(CONTAINER)?.properties.metadata;

  it("comes up, has no drift, rotates, and is destroyed", async () => {
    const created = await up();
    expect(created).to.have.members([
      ...fake.types.map((type) => `PUT ${type}`),
      "PUT ?cors",
      "PUT ?policy",
    ]);
    expect(await drift()).to.equal("");
    expect(await project.expectOk("stack", "output", "endpoint")).to.match(/^https:/);
    const before = metadata();
    await project.configure({ keyGeneration: 2 });
    expect(await up("--refresh")).to.deep.equal(["PUT ContainerApp"]);
    expect(metadata()).to.deep.equal(before);
    expect(await drift()).to.equal("");
    await project.configure({ protect: false, forceDestroy: true });
    expect(await up()).to.deep.equal([]);
    await project.expectOk("destroy", "--yes", "--skip-preview");
    expect(fake.resources.size).to.equal(0);
  });

  it("keeps the gateway and all settings when Azure refuses to delete the container", async () => {
    await project.configure({ protect: false, forceDestroy: true });
    await up();
    const before = fake.writes.length;
    fake.lockedType = "BlobContainer";
    expect(await project.expectFailure("destroy", "--yes", "--skip-preview")).to.contain("Locked");
    expect(fake.writes).to.have.length(before);
    fake.lockedType = undefined;
    await up();
    expect(fake.writes.slice(before)).to.have.members(["PUT ?cors", "PUT ?policy"]);
    expect(await drift()).to.equal("");
  });

  it("changes no container for other origins, and keeps its metadata when it is made private again", async () => {
    await up();
    await project.expectOk("refresh", "--yes", "--skip-preview");
    await project.configure({ origins: ["https://auth.company"] });
    expect(await up()).to.deep.equal(["PUT ?cors"]);
    const before = metadata();
    expect(before).to.have.keys("cors", "policy");
    const container = fake.resources.get(CONTAINER)?.properties ?? {};
    container.publicAccess = "Blob";
    expect(await up("--refresh")).to.deep.equal(["PUT BlobContainer"]);
    expect(fake.resources.get(CONTAINER)?.properties).to.include({ publicAccess: "None" });
    expect(metadata()).to.deep.equal(before);
    expect(await drift()).to.equal("");
  });

  it("shows drift: what was changed, and what was added", async () => {
    await up();
    const account = fake.resources.get(ACCOUNT)?.properties ?? {};
    account.allowBlobPublicAccess = true;
    const [policy] = [...fake.resources].filter(([id]) => id.includes("managementPolicies"));
    const text = JSON.stringify(policy?.[1].properties);
    const added = text.replace(/"rules":\[(.*)\]/, (_, rules: string) => {
      return `"rules":[${rules},${rules.replace("abort-incomplete-uploads", "delete-all")}]`;
    });
    Object.assign(policy?.[1].properties ?? {}, JSON.parse(added));
    const found = await drift();
    expect(found).to.contain("allow blob public access").and.to.contain("delete-all");
  });

  for (const lockedType of ["BlobContainer", "?cors"])
    it(`one update brings everything back after another name failed at ${lockedType}`, async () => {
      await project.configure({ protect: false });
      await up();
      const before = metadata();
      await project.configure({ bucketName: "other" });
      fake.lockedType = lockedType;
      await upFails();
      fake.lockedType = undefined;
      await project.configure({ bucketName: "media" });
      await up();
      expect(metadata()).to.deep.equal(before);
      expect(await drift()).to.equal("");
    });

  it("creates another container before the old one leaves the stack, unless that is protected", async () => {
    await up();
    await project.configure({ bucketName: "other" });
    expect(await upFails()).to.contain("would replace the protected bucket media by other");
    await project.configure({ bucketName: "media", protect: false });
    await up();
    await project.configure({ bucketName: "other" });
    expect(await up()).to.have.members([
      ...["PUT ManagementPolicy", "PUT BlobContainer", "PUT ?cors", "PUT ?policy"],
    ]);
    expect(fake.resources).to.include.keys(CONTAINER, CONTAINER.replace(/media$/, "other"));
    expect(await drift()).to.equal("");
  });

  it("refuses another account in place of the stack's, which has the files", async () => {
    await project.configure({ protect: false });
    await up();
    const writes = fake.writes.length;
    // biome-ignore format: a table of cases
    const moves: [change: Record<string, string | undefined>, message: string][] = [
      [{ location: "northeurope" }, 'write location = "westeurope" back'],
      [{ resourceGroupName: "other" }, 'write resourceGroupName = "authentik" back'],
      [{ storageAccountName: "another" }, 'write storageAccountName = "companymedia" back'],
      [{ storageAccountName: undefined }, 'write storageAccountName = "companymedia" back'],
    ];
    for (const [change, message] of moves) {
      await project.configure(change);
      expect(await upFails()).to.contain(message);
      await project.configure(CONFIG);
    }
    const external = { gateway: "external", endpoint: "https://s3.company" };
    const keys = { accessKey: "authentik", secretKey: "its-secret" };
    const admin = { adminAccessKey: "root", adminSecretKey: "root-secret" };
    await project.configure(external, { ...keys, ...admin });
    expect(await upFails()).to.contain('write gateway = "containerApp" back');
    const all = Object.keys({ ...external, ...keys, ...admin });
    await project.configure(Object.fromEntries(all.map((key) => [key, undefined])));
    expect(fake.writes).to.have.length(writes);
    await project.expectOk("preview", "--expect-no-changes");
  });

  it("updates a stack of an earlier version, and does not move it in the same update", async () => {
    await up();
    await project.editResources((resource) => {
      if (/:(Adoption|Place)$/.test(resource.type)) return false;
      if (resource.type.endsWith("AzureStorage"))
        resource.inputs = { keyGeneration: 1, retirePreviousKey: false, adopted: "" };
      return true;
    });
    await project.editState((state) => state.replaceAll("authentik-media/", "authentik-"));
    await project.configure({ bucketName: "other" });
    expect(await upFails()).to.contain("would replace the protected bucket");
    await project.configure({ bucketName: "media" });
    expect(await up()).to.deep.equal([]);
    expect(await drift()).to.equal("");
  });

  it("adopts an account and a container, and keeps the container's metadata", async () => {
    fake.resources.set(ACCOUNT, {
      location: "westeurope",
      kind: "StorageV2",
      sku: { name: "Standard_LRS" },
      properties: { allowBlobPublicAccess: true },
    });
    const mine = { mine: "1" };
    fake.resources.set(CONTAINER, { properties: { publicAccess: "Blob", metadata: mine } });
    await project.configure({ adopt: true, subscriptionId: SUBSCRIPTION });
    await up();
    expect(fake.resources.get(ACCOUNT)?.properties).to.include({ allowBlobPublicAccess: false });
    expect(fake.resources.get(CONTAINER)?.properties).to.include({ publicAccess: "None" });
    expect(metadata()).to.include(mine).and.have.keys("mine", "cors", "policy");
    await project.configure({ adopt: undefined });
    expect(await up()).to.deep.equal([]);
    expect(await drift()).to.equal("");
  });

  it("keeps both keys after a failed update that may not have been a rotation", async () => {
    fake.resources.set(ACCOUNT, { location: "westeurope", properties: {} });
    fake.resources.set(CONTAINER, { properties: {} });
    await project.configure({ adopt: true, subscriptionId: SUBSCRIPTION });
    await up();
    await project.configure({ keyGeneration: 2 });
    await up();
    fake.lockedType = "BlobServiceProperties";
    await project.configure({ adopt: undefined, softDeleteDays: 9 });
    expect(await upFails()).to.contain("Locked");
    fake.lockedType = undefined;
    await project.configure({ keyGeneration: 1, retirePreviousKey: true });
    expect(await project.expectFailure("preview")).to.contain(
      'authentik has "key 2" or "key 1"; keep both',
    );
    await project.configure({ keyGeneration: 2, retirePreviousKey: undefined });
    expect(await up()).to.deep.equal(["PUT BlobServiceProperties"]);
  });
});
