/** The provider `r2` on the real engine, with the real Cloudflare plugin and a fake of its API. */
import { expect } from "chai";
import { commonKeys } from "../config/common.ts";
import r2 from "../providers/r2.ts";
import {
  ACCOUNT,
  DEFAULT_RULE,
  OTHER_ACCOUNT,
  startCloudflare,
  type FakeCloudflare,
} from "./support/cloudflare.ts";
import { hasPlugin, pulumi, useCloud, type EngineProject } from "./support/engine.ts";

const isPossible = pulumi !== undefined && (await hasPlugin("cloudflare"));
/** The bucket's place in the names of its resources. */
const PLACE = "media/eu/01234567";
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
  useCloud(startCloudflare, CONFIG, (newFake, newProject) => {
    [fake, project] = [newFake, newProject];
  });

  const up = () => project.expectOk("up", "--yes", "--skip-preview");
  const upFails = () => project.expectFailure("up", "--yes", "--skip-preview");
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

  it("comes up, has no drift, rotates, and is destroyed with its tokens", async () => {
    await up();
    expect(Object.values(rights())).to.deep.equal([`active ${resource("eu_media")}`]);
    expect(bucketOf("eu/media").lifecycle).to.deep.equal({ rules: [DEFAULT_RULE] });
    const url = await project.expectOk("stack", "output", "publicUrl");
    expect(url.trim()).to.equal("https://pub-b.r2.dev");
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
    const [first] = fake.tokens.keys();
    await project.configure({ keyGeneration: 2 });
    await up();
    expect([...fake.tokens.keys()])
      .to.have.length(2)
      .and.include(first);
    const writes = fake.writes.length;
    await project.configure({ keyGeneration: 3 });
    await up();
    expect(fake.writes.slice(writes)).to.deep.equal([
      "POST tokens default",
      `DELETE tokens/${first} default`,
    ]);
    await project.expectOk("destroy", "--yes", "--skip-preview");
    expect([fake.buckets.size, fake.tokens.size]).to.deep.equal([0, 0]);
  });

  const MOVED = ["bucket", "cors", "public-domain", "token-1"];
  const moveTo = (place: string): [name: string, op: string][] => [
    ["", "update"],
    ["-keys", "update"],
    ...MOVED.map((kind): [string, string] => [`-${place}/${kind}`, "create"]),
    ...MOVED.map((kind): [string, string] => [`-${PLACE}/${kind}`, "delete"]),
  ];
  // biome-ignore format: a table of cases
  const changes: [config: Record<string, unknown>, plan: [name: string, op: string][]][] = [
    [{ accountId: OTHER_ACCOUNT }, moveTo("media/eu/fedcba98")],
    [{ jurisdiction: "default" }, moveTo("media/default/01234567")],
    [{ bucketName: "other" }, moveTo("other/eu/01234567")],
    [{ origins: ["https://auth.company"] }, [[`-${PLACE}/cors`, "update"]]],
    [{ corsAllowedHeaders: ["Range"], corsMaxAgeSeconds: 60 }, [[`-${PLACE}/cors`, "update"]]],
    [{ keyGeneration: 2 }, [["", "update"], ["-keys", "update"], [`-${PLACE}/token-0`, "create"]]],
    [{ retirePreviousKey: true, protect: true }, [["", "update"]]],
    [{ location: "eeur", urlExpiry: "minutes=5", authentikVersion: "2026.8", signatureVersion: "s3", checksums: "when_required" }, []],
  ];
  it("has another bucket for the keys that name it, and for no other", async () => {
    const ofOtherTests = ["adopt", "customDomain", "forceDestroy", "secureUrls"];
    const tried = changes.flatMap(([config]) => Object.keys(config));
    expect([...tried, ...ofOtherTests]).to.have.members(Object.keys({ ...commonKeys, ...r2.keys }));
    await up();
    for (const [config, plan] of changes) {
      await project.configure(config);
      const steps = plan.map(([name, op]) => [`authentik${name}`, op]);
      expect(await project.plan(), Object.keys(config).join()).to.deep.equal(
        Object.fromEntries(steps),
      );
      for (const key of Object.keys(config)) await project.configure({ [key]: undefined });
      await project.configure(CONFIG);
    }
  });

  it("another bucket has another token, and the old ones go when it is there", async () => {
    await up();
    await project.configure({ jurisdiction: "default" });
    await up();
    expect([...fake.buckets.keys()]).to.deep.equal(["default/media"]);
    expect(Object.values(rights())).to.deep.equal([`active ${resource("default_media")}`]);
  });

  // biome-ignore format: a table of cases
  const failures: [what: string, isEmpty: boolean, change: Record<string, string>, message: string][] = [
    ["a name that is taken", true, { bucketName: "taken" }, "already exists"],
    ["a jurisdiction with a bucket of that name", true, { jurisdiction: "fedramp" }, "already exists"],
    ["another name, with files", false, { bucketName: "other" }, "is not empty"],
    ["another jurisdiction, with files", false, { jurisdiction: "default" }, "is not empty"],
  ];
  for (const [what, isEmpty, change, message] of failures)
    it(`one update brings everything back after ${what}`, async () => {
      const others = ["eu/taken", "fedramp/media"].map((place) => fake.put(place));
      await up();
      const before = rights();
      bucketOf("eu/media").isEmpty = isEmpty;
      await project.configure(change);
      expect(await upFails()).to.contain(message);
      expect(rights()).to.include(before);
      await project.configure(CONFIG);
      await up();
      expect(fake.buckets).to.have.keys("eu/media", "eu/taken", "fedramp/media");
      expect(others.map(({ cors }) => cors)).to.deep.equal([undefined, undefined]);
      expect(bucketOf("eu/media").cors).not.to.equal(undefined);
      expect(rights()).to.deep.equal(before);
      await project.expectOk("preview", "--refresh", "--expect-no-changes");
    });

  it("keeps bucket, settings and tokens when destroy fails, or when protect forbids a change", async () => {
    await project.configure({ protect: true, keyGeneration: 2 });
    await up();
    const before = rights();
    const writes = fake.writes.length;
    expect(await project.expectFailure("destroy", "--yes", "--skip-preview")).to.contain(
      "protected",
    );
    await project.configure({ bucketName: "other" });
    expect(await upFails()).to.contain("would replace the protected bucket");
    expect(fake.writes).to.have.length(writes);

    await project.configure({ protect: false, bucketName: "media" });
    await up();
    bucketOf("eu/media").isEmpty = false;
    expect(await project.expectFailure("destroy", "--yes", "--skip-preview")).to.contain(
      "is not empty",
    );
    expect(bucketOf("eu/media").cors).not.to.equal(undefined);
    expect(rights()).to.deep.equal(before);
  });

  // biome-ignore format: a table of cases
  const earlier: [what: string, inputs: Record<string, unknown>, names: string][] = [
    ["with all inputs in one component", { protect: true, place: `${ACCOUNT}/media/eu`, adopted: "" }, `-${PLACE}/`],
    ["with names without the place", {}, "-"],
  ];
  for (const [what, inputs, names] of earlier)
    it(`updates a stack of an earlier version ${what}, and guards that update too`, async () => {
      await up();
      await project.configure({ keyGeneration: 2 });
      await up();
      await project.editResources((resource) => {
        if (/:(Adoption|Keys)$/.test(resource.type)) return false;
        const rotation = { keyGeneration: 2, retirePreviousKey: false };
        if (resource.type.endsWith("R2Storage")) resource.inputs = { ...rotation, ...inputs };
        return true;
      });
      await project.editState((text) => text.replaceAll(`-${PLACE}/`, names));
      expect(await project.plan()).to.deep.equal({
        authentik: "update",
        "authentik-adoption": "create",
        "authentik-keys": "create",
      });
      const writes = fake.writes.length;
      for (const [key, value, message] of [
        ["bucketName", "other", "would replace the protected bucket"],
        ["keyGeneration", 4, "would replace the key in use, of generation 2"],
      ] as const) {
        await project.configure({ [key]: value });
        expect(await upFails()).to.contain(message);
        await project.configure({ ...CONFIG, keyGeneration: 2 });
      }
      expect(fake.writes).to.have.length(writes);
      await up();
      expect(fake.writes).to.have.length(writes);
      await project.expectOk("preview", "--refresh", "--expect-no-changes");
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
      expect(await project.expectFailure(command, ...args)).to.contain(
        'this stack already has a bucket, and adopt = "true" would import one again',
      );
    }
    expect(fake.writes).to.have.length(writes);
  });

  it("a failed update of the bucket does not change what rotation and adopt may do", async () => {
    await up();
    await project.configure({ keyGeneration: 2 });
    await up();
    fake.put("eu/taken");
    await project.configure({ bucketName: "taken" });
    expect(await upFails()).to.contain("already exists");
    const writes = fake.writes.length;
    for (const [change, message] of [
      [
        { keyGeneration: 1, retirePreviousKey: true },
        'authentik has "key 2" or "key 1"; keep both',
      ],
      [{ adopt: true }, "would import one again"],
    ] as const) {
      await project.configure({ ...CONFIG, ...change });
      expect(await upFails()).to.contain(message);
      await project.configure({ keyGeneration: 2, retirePreviousKey: undefined, adopt: undefined });
    }
    expect(fake.writes).to.have.length(writes);
    await up();
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
  });

  it("makes a token active again that somebody disabled", async () => {
    await up();
    for (const token of fake.tokens.values()) token.status = "disabled";
    expect(await project.plan("--refresh")).to.include({
      [`authentik-${PLACE}/token-1`]: "update",
    });
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
