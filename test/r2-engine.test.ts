/** The provider `r2` on the real engine, with the real Cloudflare plugin and a fake of its API. */
import { expect } from "chai";
import {
  ACCOUNT,
  DEFAULT_RULE,
  OTHER_ACCOUNT,
  startCloudflare,
  type FakeCloudflare,
} from "./support/cloudflare.ts";
import { EngineProject, hasPlugin, pulumi } from "./support/engine.ts";

const isPossible = pulumi !== undefined && (await hasPlugin("cloudflare"));
const CONFIG = {
  provider: "r2",
  accountId: ACCOUNT,
  jurisdiction: "eu",
  bucketName: "media",
  protect: false,
  origins: ["https://authentik.company"],
};

(isPossible ? describe : describe.skip)("R2 on the real engine and plugin", function () {
  this.timeout(300_000);
  this.slow(20_000);
  let fake: FakeCloudflare;
  let project: EngineProject;

  beforeEach(async () => {
    fake = await startCloudflare();
    project = await EngineProject.create();
    Object.assign(project.env, fake.env);
    await project.configure(CONFIG);
  });
  afterEach(async () => {
    await project.remove();
    await fake.stop();
  });

  const up = () => project.expectOk("up", "--yes", "--skip-preview");
  const upFails = () => fails("up", "--yes", "--skip-preview");
  const fails = async (...args: string[]) => {
    const { ok, text } = await project.run(...args);
    expect(ok, text).to.equal(false);
    return text;
  };
  const bucketOf = (place: string) => {
    const bucket = fake.buckets.get(place);
    if (!bucket) throw new Error(`there is no bucket ${place}`);
    return bucket;
  };
  /** What authentik's keys may use, by token. */
  const rights = () =>
    Object.fromEntries(
      [...fake.tokens].map(([id, { policies, status }]) => [
        id,
        `${status} ${policies.flatMap(({ resources }) => Object.keys(resources)).join()}`,
      ]),
    );
  const resource = (place: string) => `com.cloudflare.edge.r2.bucket.${ACCOUNT}_${place}`;

  it("comes up, has no drift, rotates, and is destroyed but for the current token", async () => {
    await up();
    expect(Object.values(rights())).to.deep.equal([`active ${resource("eu_media")}`]);
    expect(bucketOf("eu/media").lifecycle).to.deep.equal({ rules: [DEFAULT_RULE] });
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
    const [first] = fake.tokens.keys();
    await project.configure({ keyGeneration: 2 });
    await up();
    expect([...fake.tokens.keys()])
      .to.have.length(2)
      .and.include(first);
    await project.configure({ keyGeneration: 3 });
    await up();
    expect([...fake.tokens.keys()])
      .to.have.length(2)
      .and.not.include(first);
    await project.expectOk("destroy", "--yes", "--skip-preview");
    expect(fake.buckets.size).to.equal(0);
    expect([...fake.tokens.values()].map(({ name }) => name)).to.deep.equal([
      "authentik media key 3",
    ]);
  });

  // biome-ignore format: a table of cases
  const changes: [key: string, value: unknown, plan: Record<string, string>][] = [
    ["accountId", OTHER_ACCOUNT, { bucket: "replace", cors: "replace", "public-domain": "replace", "token-1": "replace" }],
    ["jurisdiction", "default", { bucket: "replace", cors: "replace", "public-domain": "replace", "token-1": "update" }],
    ["bucketName", "other", { bucket: "replace", cors: "replace", "public-domain": "replace", "token-1": "update" }],
    ["location", "eeur", {}],
    ["origins", ["https://auth.company"], { cors: "update" }],
    ["corsAllowedHeaders", ["Authorization", "Range"], { cors: "update" }],
    ["corsMaxAgeSeconds", 60, { cors: "update" }],
    ["keyGeneration", 2, { "": "update", "token-0": "create" }],
    ["retirePreviousKey", true, { "": "update" }],
    ["urlExpiry", "minutes=5", {}],
  ];
  it("replaces the bucket for the keys that name it, and for no other", async () => {
    await up();
    for (const [key, value, expected] of changes) {
      await project.configure({ [key]: value });
      const steps = Object.entries(expected).map(([name, op]) => [
        name === "" ? "authentik" : `authentik-${name}`,
        op,
      ]);
      expect(await project.plan(), key).to.deep.equal(Object.fromEntries(steps));
      await project.configure({ [key]: undefined, ...CONFIG });
    }
  });

  it("a bucket with files stays as it is under another name, and so does its token", async () => {
    await up();
    const before = rights();
    bucketOf("eu/media").isEmpty = false;
    for (const change of [{ bucketName: "other" }, { jurisdiction: "default" }]) {
      await project.configure(change);
      expect(await upFails()).to.contain("The bucket you tried to delete is not empty");
      await project.configure(CONFIG);
      await up();
      expect([...fake.buckets.keys()]).to.deep.equal(["eu/media"]);
      expect(bucketOf("eu/media").cors).not.to.equal(undefined);
      expect(rights()).to.deep.equal(before);
    }
  });

  it("keeps authentik's token while the bucket cannot be deleted", async () => {
    await project.configure({ protect: true, keyGeneration: 2 });
    await up();
    const before = rights();
    const writes = fake.writes.length;
    expect(await fails("destroy", "--yes", "--skip-preview")).to.contain("protected");
    await project.expectOk("preview", "--expect-no-changes");
    expect(fake.writes).to.have.length(writes);

    await project.configure({ protect: false });
    await up();
    bucketOf("eu/media").isEmpty = false;
    expect(await fails("destroy", "--yes", "--skip-preview")).to.contain("is not empty");
    expect(before).to.include(rights());
    expect([...fake.tokens.values()].map(({ name }) => name)).to.deep.equal([
      "authentik media key 2",
    ]);
    expect(bucketOf("eu/media").cors).not.to.equal(undefined);
  });

  it("adopts a bucket with its rules and storage class, in its jurisdiction only", async () => {
    const bucket = Object.assign(fake.put("eu/media"), {
      isEmpty: false,
      storageClass: "InfrequentAccess",
      lifecycle: { rules: [{ id: "delete-all", enabled: true, conditions: {} }] },
      isPublic: true,
    });
    expect(await upFails()).to.contain("already exists");
    await project.configure({ adopt: true, jurisdiction: "default" });
    expect(await upFails()).to.contain("does not exist");
    await project.configure({ jurisdiction: "eu" });
    await up();
    expect(bucket.storageClass).to.equal("Standard");
    expect(bucket.isPublic).to.equal(false);
    expect(JSON.stringify(bucket.lifecycle)).not.to.contain("delete-all");
    const writes = fake.writes.length;
    await project.configure({ adopt: undefined });
    await up();
    expect(fake.writes).to.have.length(writes);
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
  });

  it("refuses adopt for a bucket that the stack has, which would delete it", async () => {
    await up();
    const writes = fake.writes.length;
    await project.configure({ adopt: true });
    for (const command of ["preview", "up"]) {
      const args = command === "up" ? ["--yes", "--skip-preview"] : [];
      expect(await fails(command, ...args)).to.contain(
        'adopt = "true" would import a bucket again that this stack has',
      );
    }
    expect(fake.writes).to.have.length(writes);
  });

  it("makes a token active again that somebody disabled", async () => {
    await up();
    for (const token of fake.tokens.values()) token.status = "disabled";
    expect(await project.plan("--refresh")).to.include({ "authentik-token-1": "update" });
    await project.expectOk("up", "--yes", "--skip-preview", "--refresh");
    expect(Object.values(rights())).to.deep.equal([`active ${resource("eu_media")}`]);
  });

  describe("says in one sentence what is wrong with the API token", () => {
    const cases: [what: string, env: Record<string, string>, mayManageTokens: boolean][] = [
      ["none", { CLOUDFLARE_API_TOKEN: "" }, true],
      ["of another form", { CLOUDFLARE_API_TOKEN: "abc" }, true],
      ["not valid", { CLOUDFLARE_API_TOKEN: "x".repeat(40) }, true],
      ["without the right to tokens", {}, false],
    ];
    for (const [what, env, mayManageTokens] of cases) {
      it(what, async () => {
        Object.assign(project.env, env);
        fake.mayManageTokens = mayManageTokens;
        const text = await upFails();
        expect(text).to.contain("set cloudflare:apiToken to a token of the account");
        expect(text).not.to.match(/\n\s+at /);
      });
    }
  });
});
