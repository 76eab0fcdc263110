import { expect } from "chai";
import { groupId, JURISDICTIONS, LOCATIONS, s3Keys } from "../providers/r2.ts";
import { configProblems, PERMISSION_GROUPS, record } from "./support/recorder.ts";

const ACCOUNT = "0123456789abcdef0123456789abcdef";
const valid = { provider: "r2", accountId: ACCOUNT, origins: "https://authentik.company" };
const problems = async (changes: Record<string, string>) =>
  (await configProblems({ ...valid, ...changes })).join("\n");

describe("R2: keys", () => {
  // The one-block message of FIPS 180-2, appendix B.1: Cloudflare's rule is plain SHA-256 of the token's value, in hex.
  it("the access key is the token's id, the secret key the SHA-256 of its value (published vector)", () => {
    expect(s3Keys("f2b1c0", "abc")).to.deep.equal({
      accessKey: "f2b1c0",
      secretKey: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    });
  });

  it("a token with the two item rights on this bucket, looked up by name, and no others", async () => {
    const recording = await record({ ...valid, jurisdiction: "eu", bucketName: "media" });
    expect(recording.calls).to.deep.equal([
      {
        token:
          "cloudflare:index/getAccountApiTokenPermissionGroupsList:getAccountApiTokenPermissionGroupsList",
        inputs: { accountId: ACCOUNT },
      },
    ]);
    const { inputs } = recording.one("cloudflare:index/accountToken:AccountToken");
    expect(inputs.accountId).to.equal(ACCOUNT);
    expect(inputs.policies).to.deep.equal([
      {
        effect: "allow",
        permissionGroups: [{ id: PERMISSION_GROUPS[0].id }, { id: PERMISSION_GROUPS[1].id }],
        resources: JSON.stringify({ [`com.cloudflare.edge.r2.bucket.${ACCOUNT}_eu_media`]: "*" }),
      },
    ]);
    const token = "authentik-media/eu/01234567/token-1";
    expect(recording.credentials).to.deep.equal(s3Keys(`id-of-${token}`, `value of ${token}`));
  });
});

describe("R2: jurisdictions", () => {
  for (const jurisdiction of JURISDICTIONS) {
    const host = `${ACCOUNT}${jurisdiction === "default" ? "" : `.${jurisdiction}`}.r2.cloudflarestorage.com`;

    it(`${jurisdiction}: its endpoint and domain, on every resource`, async () => {
      const recording = await record({ ...valid, jurisdiction, adopt: "true" });
      expect(recording.endpoint).to.equal(`https://${host}`);
      expect(recording.customDomain).to.equal(`${host}/authentik-media`);
      expect(recording.region).to.equal("auto");
      for (const type of [
        "r2Bucket:R2Bucket",
        "r2BucketCors:R2BucketCors",
        "r2BucketLifecycle:R2BucketLifecycle",
        "r2ManagedDomain:R2ManagedDomain",
      ]) {
        expect(recording.one(`cloudflare:index/${type}`).inputs.jurisdiction, type).to.equal(
          jurisdiction,
        );
      }
    });

    it(`${jurisdiction}: no custom domain but the S3 API's with the bucket`, async () => {
      expect(await problems({ jurisdiction, customDomain: `${host}/authentik-media` })).to.equal(
        "",
      );
      for (const customDomain of [
        "pub-0123.r2.dev",
        "media.company",
        `authentik-media.${host}`,
        `${host}/another`,
      ]) {
        expect(await problems({ jurisdiction, customDomain }))
          .to.match(/^customDomain: is not R2's S3 API. Presigned URLs work only there/)
          .and.to.contain(`write "${host}/authentik-media"`);
      }
    });

    it(`${jurisdiction}: adopts by account, bucket and jurisdiction`, async () => {
      const recording = await record({ ...valid, jurisdiction, adopt: "true" });
      expect(recording.one("cloudflare:index/r2Bucket:R2Bucket").options.import).to.equal(
        `${ACCOUNT}/authentik-media/${jurisdiction}`,
      );
    });
  }

  for (const location of LOCATIONS) {
    it(`hints at ${location}`, async () => {
      expect(
        (await record({ ...valid, location })).one("cloudflare:index/r2Bucket:R2Bucket").inputs
          .location,
      ).to.equal(location);
    });
  }
});

describe("R2: config", () => {
  // biome-ignore format: a table of cases
  const wrong: [what: string, changes: Record<string, string>, message: RegExp][] = [
    ["an account that is none", { accountId: "company" }, /^accountId: is not a Cloudflare account id/],
    ["a jurisdiction that is none", { jurisdiction: "ch" }, /^jurisdiction: is not one of the choices/],
    ["a location that is none", { location: "mars" }, /^location: is not one of the choices/],
    ["a location outside the jurisdiction", { jurisdiction: "eu", location: "wnam" }, /^location: is not in the jurisdiction "eu"; write "weur" or "eeur"/],
    ["a bucket with a dot", { bucketName: "a.bucket" }, /^bucketName: has a dot/],
    ["forceDestroy", { forceDestroy: "true" }, /^forceDestroy: is not possible: R2 never deletes a bucket that is not empty/],
    ["http", { secureUrls: "false" }, /^secureUrls: sends browsers to http/],
  ];
  for (const [what, changes, message] of wrong)
    it(`refuses ${what}`, async () => {
      expect(await problems(changes)).to.match(message);
    });

  it("reports the permission group that the account does not have", () => {
    expect(
      groupId(
        [
          { id: "1", name: "Other" },
          { id: "2", name: "Wanted" },
        ],
        "Wanted",
      ),
    ).to.equal("2");
    expect(() => groupId([], "Wanted")).to.throw(
      'has no permission group "Wanted"; enable R2 for the account',
    );
  });
});
