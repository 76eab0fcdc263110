/** The provider `r2` on the real engine, with the real Cloudflare plugin and a fake of its API. */
import { expect } from "chai";
import {
  ACCOUNT,
  hasCloudflarePlugin,
  startCloudflare,
  type FakeCloudflare,
} from "./support/cloudflare.ts";
import { EngineProject, pulumi } from "./support/engine.ts";

const isPossible = pulumi !== undefined && (await hasCloudflarePlugin());
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

  const up = (...args: string[]) => project.expectOk("up", "--yes", "--skip-preview", ...args);
  const bucketOf = (place: string) => {
    const bucket = fake.buckets.get(place);
    if (!bucket) throw new Error(`there is no bucket ${place}`);
    return bucket;
  };

  it("comes up, has no drift, rotates, and is destroyed", async () => {
    await up();
    expect([...fake.tokens.values()].map(({ status }) => status)).to.deep.equal(["active"]);
    await project.expectOk("preview", "--refresh", "--expect-no-changes");
    const [key] = fake.tokens.keys();
    await project.configure({ keyGeneration: 2 });
    await up();
    expect([...fake.tokens.keys()])
      .to.have.length(2)
      .and.include(key);
    console.log(await project.expectOk("destroy", "--yes", "--skip-preview"));
    expect(fake.buckets.size).to.equal(0);
    console.log(fake.writes, fake.tokens);
  });
});
