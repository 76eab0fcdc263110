import { expect } from "chai";
import fc from "fast-check";
import { buildEnv, decodeValue, encodeValue, EnvValueError, type StorageSettings } from "../authentik/env.ts";
import { atLeast, parseRelease, type Release } from "../authentik/release.ts";

const settings: StorageSettings = {
  bucketName: "authentik-media",
  endpoint: "https://s3.provider",
  accessKey: "access",
  secretKey: "secret",
  customDomain: "s3.provider/authentik-media",
  secureUrls: true,
};

function release(text: string): Release {
  const parsed = parseRelease(text);
  if (!parsed) throw new Error(`no release: ${text}`);
  return parsed;
}

describe("authentik's environment", () => {
  it("is the setup page's when no release is named", () => {
    expect(buildEnv(settings).env).to.deep.equal({
      AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3",
      AUTHENTIK_STORAGE__MEDIA__S3__ACCESS_KEY: "access",
      AUTHENTIK_STORAGE__MEDIA__S3__SECRET_KEY: "secret",
      AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME: "authentik-media",
      AUTHENTIK_STORAGE__MEDIA__S3__ENDPOINT: "https://s3.provider",
      AUTHENTIK_STORAGE__MEDIA__S3__CUSTOM_DOMAIN: "s3.provider/authentik-media",
      AUTHENTIK_STORAGE__MEDIA__S3__SECURE_URLS: "true",
    });
  });

  it("has the names of a release from 2025.12, and those of one before", () => {
    expect(buildEnv(settings, release("2025.12.2")).env).to.include.keys("AUTHENTIK_STORAGE__BACKEND", "AUTHENTIK_STORAGE__S3__BUCKET_NAME");
    expect(buildEnv(settings, release("2025.10")).env).to.include.keys("AUTHENTIK_STORAGE__MEDIA__BACKEND");
  });

  const optional = { addressingStyle: "path", signatureVersion: "s3", urlExpiry: "hours=1", sessionToken: "token" } as const;
  const read: [version: string, keys: string[]][] = [
    ["2024.2", ["MEDIA__S3__SECURITY_TOKEN"]],
    ["2025.10.3", ["MEDIA__S3__SECURITY_TOKEN"]],
    ["2025.12.2", ["S3__SESSION_TOKEN", "S3__ADDRESSING_STYLE", "S3__URL_EXPIRY"]],
    ["2026.5", ["S3__SESSION_TOKEN", "S3__ADDRESSING_STYLE", "S3__URL_EXPIRY", "S3__SIGNATURE_VERSION"]],
  ];
  for (const [version, keys] of read) {
    it(`of ${version} has, of the optional settings, what that release reads`, () => {
      const plain = Object.keys(buildEnv(settings, release(version)).env);
      const added = Object.keys(buildEnv({ ...settings, ...optional }, release(version)).env).filter((name) => !plain.includes(name));
      expect(added.map((name) => name.replace("AUTHENTIK_STORAGE__", ""))).to.have.members(keys);
    });
  }

  it("of an unknown release has a token's name of both generations", () => {
    expect(buildEnv({ ...settings, sessionToken: "t" }).env).to.include({
      AUTHENTIK_STORAGE__MEDIA__S3__SECURITY_TOKEN: "t",
      AUTHENTIK_STORAGE__MEDIA__S3__SESSION_TOKEN: "t",
    });
  });

  it("repeats no default of authentik", () => {
    const defaults = { addressingStyle: "auto", signatureVersion: "s3v4", urlExpiry: "minutes=15", checksums: "when_supported" } as const;
    expect(buildEnv({ ...settings, ...defaults }, release("2026.5")).env).to.deep.equal(buildEnv(settings, release("2026.5")).env);
  });

  it("has both checksum variables of boto3 for servers that refuse trailers", () => {
    expect(buildEnv({ ...settings, checksums: "when_required" }).env).to.include({
      AWS_REQUEST_CHECKSUM_CALCULATION: "when_required",
      AWS_RESPONSE_CHECKSUM_VALIDATION: "when_required",
    });
  });

  describe("of 2025.12.0 and 2025.12.1, which double the bucket", () => {
    for (const version of ["2025.12.0", "2025.12.1"]) {
      it(`leaves out a custom domain that is the endpoint itself (${version})`, () => {
        const { env, warnings } = buildEnv(settings, release(version));
        expect(env).not.to.have.any.keys("AUTHENTIK_STORAGE__S3__CUSTOM_DOMAIN", "AUTHENTIK_STORAGE__S3__SECURE_URLS");
        expect(warnings.join()).to.contain("19521");
      });
      it(`leaves out the bucket of another host's (${version})`, () => {
        const { env, warnings } = buildEnv({ ...settings, customDomain: "media.company/authentik-media" }, release(version));
        expect(env.AUTHENTIK_STORAGE__S3__CUSTOM_DOMAIN).to.equal("media.company");
        expect(warnings.join()).to.contain("without the bucket");
      });
    }
    it("leaves a virtual-hosted domain as it is, and later releases alone", () => {
      const virtual = { ...settings, customDomain: "authentik-media.s3.provider", addressingStyle: "virtual" } as const;
      expect(buildEnv(virtual, release("2025.12.0"))).to.deep.include({ warnings: [] });
      for (const version of ["2025.12.2", "2025.12", "2025.10"]) {
        expect(buildEnv(settings, release(version)).warnings).to.deep.equal([]);
      }
    });
  });

  it("never has an empty value, and every value comes back unchanged from authentik's decoding (property)", () => {
    const value = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("12e34", "007", "-0", "true", "null", "NaN", "-Infinity", '"q"', "[1]", "{}", " 1 ", "1_0"));
    fc.assert(
      fc.property(value, value, fc.constantFrom(undefined, "2024.2", "2025.10", "2025.12.2", "2026.5"), (accessKey, secretKey, version) => {
        const parsed = version === undefined ? undefined : release(version);
        let env: Record<string, string>;
        try {
          ({ env } = buildEnv({ ...settings, accessKey, secretKey }, parsed));
        } catch (error) {
          expect(error).to.be.instanceOf(EnvValueError);
          return;
        }
        expect(Object.values(env)).not.to.include("");
        for (const [name, given] of [["ACCESS_KEY", accessKey], ["SECRET_KEY", secretKey]] as const) {
          const key = Object.keys(env).find((candidate) => candidate.endsWith(name));
          if (given === "") expect(key).to.equal(undefined);
          else expect(decodeValue(env[key ?? ""] ?? "")).to.equal(given);
        }
      }),
      { numRuns: 2000 },
    );
  });

  for (const value of ["file:///etc/passwd", "FILE:x", " env://HOME", "e\nnv:x", "//[x", "a://b]c", "a\0b"]) {
    it(`refuses ${JSON.stringify(value)} without showing it`, () => {
      expect(() => encodeValue("NAME", value)).to.throw(EnvValueError, /^NAME cannot be handed/).and.satisfy((error: Error) => !error.message.includes(value));
    });
  }
});

describe("releases", () => {
  it("are ordered; without a patch they are the newest of their series", () => {
    expect(atLeast(release("2025.12"), "2025.12.2")).to.equal(true);
    expect(atLeast(release("2025.12.1"), "2025.12.2")).to.equal(false);
    expect(atLeast(release("2026.2"), "2025.12.2")).to.equal(true);
    expect(atLeast(release("2024.2.0"), "2024.2")).to.equal(true);
  });
  it("are not read from what is none", () => {
    for (const text of ["", "latest", "2025", "2025.13", "25.12", "2025.12.x", "2025.012"]) expect(parseRelease(text)).to.equal(undefined);
  });
});
