/** authentik's variables as `buildEnv` writes them, and releases. */
import { expect } from "chai";
import fc from "fast-check";
import {
  EnvValueError,
  buildEnv,
  decodeValue,
  encodeValue,
  type StorageSettings,
} from "../authentik/env.ts";
import { cacheAdvice, urlCacheSeconds } from "../authentik/url-cache.ts";
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

function envOf(changes: Partial<StorageSettings>, version?: string): Record<string, string> {
  const parsed = version === undefined ? undefined : release(version);
  return buildEnv({ ...settings, ...changes }, parsed).env;
}

describe("authentik's environment", () => {
  it("is the setup page's if no release is named", () => {
    expect(envOf({})).to.deep.equal({
      AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3",
      AUTHENTIK_STORAGE__MEDIA__S3__ACCESS_KEY: "access",
      AUTHENTIK_STORAGE__MEDIA__S3__SECRET_KEY: "secret",
      AUTHENTIK_STORAGE__MEDIA__S3__BUCKET_NAME: "authentik-media",
      AUTHENTIK_STORAGE__MEDIA__S3__ENDPOINT: "https://s3.provider",
      AUTHENTIK_STORAGE__MEDIA__S3__CUSTOM_DOMAIN: "s3.provider/authentik-media",
      AUTHENTIK_STORAGE__MEDIA__S3__SECURE_URLS: "true",
    });
  });

  it("has the names of a release from 2025.12, and those of a release before", () => {
    expect(envOf({}, "2025.12.2")).to.include({
      AUTHENTIK_STORAGE__BACKEND: "s3",
      AUTHENTIK_STORAGE__S3__BUCKET_NAME: "authentik-media",
    });
    expect(envOf({}, "2025.10")).to.include({ AUTHENTIK_STORAGE__MEDIA__BACKEND: "s3" });
  });

  it("turns TLS off only for AWS, whose endpoint has no scheme of its own", () => {
    const name = "AUTHENTIK_STORAGE__MEDIA__S3__USE_SSL";
    expect(envOf({ useSsl: false, endpoint: undefined })).to.include({ [name]: "false" });
    expect(envOf({ useSsl: false })).not.to.have.any.keys(name);
  });

  const optional = {
    addressingStyle: "path",
    signatureVersion: "s3",
    urlExpiry: "hours=1",
    sessionToken: "token",
  } as const;
  // biome-ignore format: a table of cases
  const read: [version: string, names: string[]][] = [
    ["2024.2", ["MEDIA__S3__SECURITY_TOKEN"]],
    ["2025.10.3", ["MEDIA__S3__SECURITY_TOKEN"]],
    ["2025.12.2", ["S3__SESSION_TOKEN", "S3__ADDRESSING_STYLE", "S3__URL_EXPIRY"]],
    ["2026.5", ["S3__SESSION_TOKEN", "S3__ADDRESSING_STYLE", "S3__URL_EXPIRY", "S3__SIGNATURE_VERSION"]],
  ];
  for (const [version, names] of read) {
    it(`of ${version} has the optional settings that the release reads`, () => {
      const required = envOf({}, version);
      const added = Object.keys(envOf(optional, version)).filter((name) => !(name in required));
      expect(added).to.have.members(names.map((name) => `AUTHENTIK_STORAGE__${name}`));
    });
  }

  // biome-ignore format: a table of cases
  const unread: [version: string | undefined, warned: RegExp[]][] = [
    [undefined, [/^authentik to 2025\.10 does not read urlExpiry "hours=1"/]],
    ["2025.10.3", [/^authentik 2025\.10\.3 does not read urlExpiry/, /"virtual"/, /signatureVersion "s3"/]],
    ["2026.4", [/^authentik 2026\.4 does not read signatureVersion "s3": it signs with s3v4/]],
    ["2026.5", []],
  ];
  for (const [version, warned] of unread) {
    it(`of ${version ?? "an unknown release"} comes with a warning for each unread setting`, () => {
      const chosen = { ...settings, ...optional, addressingStyle: "virtual" } as const;
      const { warnings } = buildEnv(chosen, version === undefined ? undefined : release(version));
      expect(warnings).to.have.length(warned.length);
      for (const [index, wording] of warned.entries()) expect(warnings[index]).to.match(wording);
    });
  }

  it("of an unknown release has the token under the names of both generations", () => {
    expect(envOf({ sessionToken: "t" })).to.include({
      AUTHENTIK_STORAGE__MEDIA__S3__SECURITY_TOKEN: "t",
      AUTHENTIK_STORAGE__MEDIA__S3__SESSION_TOKEN: "t",
    });
  });

  it("repeats no default of authentik", () => {
    const defaults = {
      addressingStyle: "auto",
      signatureVersion: "s3v4",
      urlExpiry: "minutes=15",
      checksums: "when_supported",
    } as const;
    expect(envOf(defaults, "2026.5")).to.deep.equal(envOf({}, "2026.5"));
  });

  it("has both checksum variables of boto3 for servers that refuse checksums", () => {
    expect(envOf({ checksums: "when_required" })).to.include({
      AWS_REQUEST_CHECKSUM_CALCULATION: "when_required",
      AWS_RESPONSE_CHECKSUM_VALIDATION: "when_required",
    });
  });

  describe("of 2025.12.0 and 2025.12.1, which put the bucket twice into URLs", () => {
    it("leaves out a custom domain that is the endpoint but for a slash", () => {
      const customDomain = `${settings.customDomain}/`;
      const slashes = { ...settings, endpoint: `${settings.endpoint}/`, customDomain };
      const { env } = buildEnv(slashes, release("2025.12.0"));
      expect(env).not.to.have.any.keys("AUTHENTIK_STORAGE__S3__CUSTOM_DOMAIN");
    });
    for (const version of ["2025.12.0", "2025.12.1"]) {
      it(`leaves out a custom domain that is the endpoint itself (${version})`, () => {
        const { env, warnings } = buildEnv(settings, release(version));
        expect(env).not.to.have.any.keys(
          "AUTHENTIK_STORAGE__S3__CUSTOM_DOMAIN",
          "AUTHENTIK_STORAGE__S3__SECURE_URLS",
        );
        expect(warnings.join()).to.contain("19521");
      });
      it(`leaves out the bucket of a custom domain on another host (${version})`, () => {
        const customDomain = "media.company/authentik-media";
        const { env, warnings } = buildEnv({ ...settings, customDomain }, release(version));
        expect(env.AUTHENTIK_STORAGE__S3__CUSTOM_DOMAIN).to.equal("media.company");
        expect(warnings.join()).to.contain("without the bucket");
      });
    }
    it("does not change a virtual-hosted domain, nor other releases", () => {
      const customDomain = "authentik-media.s3.provider";
      const virtual = { ...settings, customDomain, addressingStyle: "virtual" } as const;
      expect(buildEnv(virtual, release("2025.12.0"))).to.deep.include({ warnings: [] });
      for (const version of ["2025.12.2", "2025.12", "2025.10"]) {
        expect(buildEnv(settings, release(version)).warnings).to.deep.equal([]);
      }
    });
  });

  describe("of 2024.8.0, which raises an error for every URL of a custom domain", () => {
    // biome-ignore format: a table of cases
    const domains: [customDomain: string, effect: string][] = [
      ["s3.provider/authentik-media", "the URLs of the endpoint are the same"],
      ["s3.provider/authentik-media/", "the URLs of the endpoint are the same"],
      ["media.company/authentik-media", "browsers get the URLs of the endpoint"],
      ["authentik-media.s3.provider", "browsers get the URLs of the endpoint"],
    ];
    for (const [customDomain, effect] of domains) {
      it(`leaves out ${customDomain}`, () => {
        const { env, warnings } = buildEnv({ ...settings, customDomain }, release("2024.8.0"));
        expect(env).not.to.have.any.keys(
          "AUTHENTIK_STORAGE__MEDIA__S3__CUSTOM_DOMAIN",
          "AUTHENTIK_STORAGE__MEDIA__S3__SECURE_URLS",
        );
        expect(warnings).to.have.length(1);
        expect(warnings[0]).to.match(/^authentik 2024\.8\.0 .*11180/);
        expect(warnings[0]).to.contain(effect);
      });
    }
    it("does not change the releases before and after it", () => {
      for (const version of ["2024.6.5", "2024.8.1", "2024.8"]) {
        expect(buildEnv(settings, release(version)).warnings).to.deep.equal([]);
        expect(envOf({}, version)).to.include.keys("AUTHENTIK_STORAGE__MEDIA__S3__CUSTOM_DOMAIN");
      }
    });
    it("has no warning without a custom domain", () => {
      const { warnings } = buildEnv({ ...settings, customDomain: undefined }, release("2024.8.0"));
      expect(warnings).to.deep.equal([]);
    });
  });

  // biome-ignore format: a table of cases
  const likeJson = ["12e34", "007", "-0", "true", "null", "NaN", "-Infinity", '"q"', "[1]", "{}", " 1 ", "1_0"];
  const value = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom(...likeJson));
  const version = fc.constantFrom(undefined, "2024.2", "2025.10", "2025.12.2", "2026.5");

  it("has no empty value, and authentik decodes each to the value that was given", () => {
    const isKept = (accessKey: string, secretKey: string, version: string | undefined) => {
      let env: Record<string, string>;
      try {
        env = envOf({ accessKey, secretKey }, version);
      } catch (error) {
        expect(error).to.be.instanceOf(EnvValueError);
        return;
      }
      expect(Object.values(env)).not.to.include("");
      const keys = { ACCESS_KEY: accessKey, SECRET_KEY: secretKey };
      for (const [name, given] of Object.entries(keys)) {
        const [, text] = Object.entries(env).find(([key]) => key.endsWith(name)) ?? [];
        if (given === "") expect(text).to.equal(undefined);
        else expect(decodeValue(text ?? "")).to.equal(given);
      }
    };
    fc.assert(fc.property(value, value, version, isKept), { numRuns: 2000 });
  });

  // biome-ignore format: a table of cases
  const refused = ["file:///etc/passwd", "FILE:x", " env://HOME", "e\nnv:x", "//[x", "a://b]c", "a\0b"];
  for (const value of refused) {
    it(`refuses ${JSON.stringify(value)} without showing it`, () => {
      expect(() => encodeValue("NAME", value))
        .to.throw(EnvValueError, /^NAME cannot be passed to authentik/)
        .and.satisfy((error: Error) => !error.message.includes(value));
    });
  }
});

describe("authentik's cache of URLs", () => {
  // biome-ignore format: a table of cases
  const cases: [version: string | undefined, urlExpiry: string | undefined, seconds: number][] = [
    ["2025.10", undefined, 0], ["2025.12", undefined, 603], ["2026.5", "hours=2", 4824], [undefined, "minutes=30", 1206],
    // authentik caches nothing for less than a minute.
    ["2026.5", "seconds=89", 0], ["2026.5", "seconds=90", 60],
  ];
  for (const [version, urlExpiry, seconds] of cases) {
    it(`of ${version ?? "any release"} hands out URLs of ${urlExpiry ?? "the default"} for ${seconds} s`, () => {
      const parsed = version === undefined ? undefined : release(version);
      expect(urlCacheSeconds({ urlExpiry }, parsed)).to.equal(seconds);
      const advice = cacheAdvice({ urlExpiry }, parsed);
      if (seconds === 0) expect(advice).to.equal(undefined);
      else expect(advice).to.include(`${Math.ceil(seconds / 60)} min`);
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

  it("are not read from other texts", () => {
    for (const text of ["", "latest", "2025", "2025.13", "25.12", "2025.12.x", "2025.012"]) {
      expect(parseRelease(text)).to.equal(undefined);
    }
  });
});
