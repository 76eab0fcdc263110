import { expect } from "chai";
import fc from "fast-check";
import { parseUrl } from "../authentik/url-parts.ts";
import { commonKeys, parseProvider, type ReportProblem } from "../config/common.ts";
import { ConfigError, parseConfig, type RawConfig } from "../config/index.ts";
import { documentationOf, secretText } from "../config/values.ts";
import type { Chosen } from "../providers/contract.ts";
import { chooseProvider, PROVIDERS, providers, type StorageConfig } from "../providers/index.ts";

const valid = {
  provider: "s3",
  endpoint: "https://s3.provider",
  origins: '["https://authentik.company"]',
  accessKey: "access",
  secretKey: "secret",
};
const secretKeys = ["accessKey", "secretKey", "sessionToken", "adminAccessKey", "adminSecretKey"];

function raw(values: Record<string, string | undefined>): RawConfig {
  const present = Object.entries(values).filter(
    (entry): entry is [string, string] => entry[1] !== undefined,
  );
  return { values: Object.fromEntries(present), secrets: new Set(secretKeys) };
}

async function parse(changes: Record<string, string | undefined> = {}): Promise<StorageConfig> {
  return (await chooseProvider(raw({ ...valid, ...changes }))).config;
}

/** Each problem as "key: what is wrong". */
async function problems(changes: Record<string, string | undefined>): Promise<string[]> {
  try {
    await parse(changes);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems.map(({ key, wrong }) => `${key}: ${wrong}`);
  }
}

describe("config", () => {
  it("has the defaults of docs/config.md", async () => {
    expect(await parse()).to.deep.equal({
      provider: "s3",
      bucketName: "authentik-media",
      endpoint: "https://s3.provider",
      region: undefined,
      addressingStyle: "auto",
      customDomain: "s3.provider/authentik-media",
      origins: ["https://authentik.company"],
      secureUrls: true,
      protect: true,
      forceDestroy: false,
      adopt: false,
      corsAllowedHeaders: ["Authorization"],
      corsMaxAgeSeconds: 3000,
      checksums: "when_supported",
      accessKey: "access",
      secretKey: "secret",
    });
  });

  it("reads a list as YAML or separated by commas", async () => {
    expect(
      (await parse({ origins: "https://a.company, http://10.0.0.1:9000" })).origins,
    ).to.deep.equal(["https://a.company", "http://10.0.0.1:9000"]);
  });

  it("derives the custom domain from the endpoint and the release", async () => {
    expect(
      (await parse({ addressingStyle: "virtual", authentikVersion: "2025.12" })).customDomain,
    ).to.equal("authentik-media.s3.provider");
    expect(
      (await parse({ addressingStyle: "virtual", authentikVersion: "2025.10" })).customDomain,
    ).to.equal("s3.provider/authentik-media");
    expect(
      (await parse({ endpoint: "http://10.0.0.1:9000", secureUrls: "false" })).customDomain,
    ).to.equal("10.0.0.1:9000/authentik-media");
  });

  it("reads the region from the endpoints of known services", async () => {
    const regions = {
      "https://s3.us-west-004.backblazeb2.com": "us-west-004",
      "https://s3.eu-central-1.wasabisys.com": "eu-central-1",
      "https://s3.eu-central-1.amazonaws.com": "eu-central-1",
      "https://storage.googleapis.com": "auto",
      "https://minio.company": undefined,
    };
    for (const [endpoint, region] of Object.entries(regions))
      expect(await parse({ endpoint })).to.have.property("region", region);
  });

  // biome-ignore format: a table of cases
  const bad: [title: string, changes: Record<string, string | undefined>, ...expected: RegExp[]][] = [
    ["an unknown provider", { provider: "s33" }, new RegExp(`^provider: is not a provider; write one of ${PROVIDERS.join(", ")} \\(did you mean s3\\?\\)$`)],
    ["no provider", { provider: undefined }, new RegExp(`^provider: is missing; set it: pulumi config set provider <${PROVIDERS.join("\\|")}>$`)],
    ["a misspelt key", { orgins: "x" }, /^orgins: is not a key.*did you mean origins\?/],
    ["a key that resembles none", { zzzzzzzzz: "x" }, /^zzzzzzzzz: is not a key of this program; remove it$/],
    ["no origins", { origins: undefined }, /^origins: is missing; set it: pulumi config set --path 'origins\[0\]'/],
    ["an empty list of origins", { origins: "[]" }, /^origins: is empty/],
    ["origins that are no list", { origins: '["https://a.company", 3]' }, /^origins: is not a list of strings/],
    ["an origin with a path", { origins: "https://a.company/if" }, /^origins\[0\]: .*path.*write "https:\/\/a.company"/],
    ["an origin with a trailing slash", { origins: "https://a.company/" }, /trailing slash.*write "https:\/\/a.company"/],
    ["an origin with a wildcard", { origins: "https://*.company" }, /wildcard/],
    ["an origin without a scheme", { origins: "a.company:9443" }, /no http.*write "https:\/\/a.company:9443"/],
    ["an origin of another scheme", { origins: "ftp://a.company" }, /no http.*write "https:\/\/a.company"/],
    ["an origin in capitals", { origins: "https://A.company" }, /capital letters.*write "https:\/\/a.company"/],
    ["an internationalised origin", { origins: "https://bücher.company" }, /punycode.*write "https:\/\/xn--bcher-kva.company"/],
    ["an origin with the default port", { origins: "https://a.company:443" }, /default port.*write "https:\/\/a.company"/],
    ["an origin with an address in another form", { origins: "http://0x7f.1" }, /write "http:\/\/127.0.0.1"/],
    ["an origin with a user", { origins: "https://me@a.company" }, /user name/],
    ["an origin twice", { origins: "https://a.company,https://a.company" }, /^origins\[1\]: is listed twice/],
    ["no host in an origin", { origins: "https://" }, /^origins\[0\]: is not an origin/],
    ["a short bucket name", { bucketName: "ab" }, /^bucketName: has 2 characters/],
    ["a bucket name in capitals", { bucketName: "My_Media" }, /write "my-media"/],
    ["a bucket name like an address", { bucketName: "10.0.0.1" }, /looks like an IP address/],
    ["a bucket name with two dots", { bucketName: "a..b" }, /two dots/],
    ["a bucket name that ends in a hyphen", { bucketName: "media-" }, /begin and end.*write "media"/],
    ["a reserved bucket name", { bucketName: "xn--media" }, /reserves/],
    ["an endpoint without a scheme", { endpoint: "s3.provider" }, /^endpoint: has no http.*write "https:\/\/s3.provider"/],
    ["an endpoint with the bucket in its path", { endpoint: "https://s3.provider/authentik-media" }, /^endpoint: has the bucket.*write "https:\/\/s3.provider"/],
    ["an endpoint with the bucket in its host", { endpoint: "https://authentik-media.s3.provider" }, /^endpoint: has the bucket.*write "https:\/\/s3.provider"/],
    ["an endpoint with a trailing slash", { endpoint: "https://s3.provider/" }, /write "https:\/\/s3.provider"/],
    ["an endpoint without a scheme, but with the bucket", { endpoint: "s3.provider/authentik-media" }, /^endpoint: has no http.*write "https:\/\/s3.provider", with a path only if .* without the bucket$/],
    ["an endpoint with a user", { endpoint: "https://u:p@s3.provider" }, /^endpoint: has more than/],
    ["no endpoint", { endpoint: undefined }, /^endpoint: is missing; set it: pulumi config set endpoint/],
    ["a custom domain with a scheme", { customDomain: "https://s3.provider/authentik-media" }, /^customDomain: has a scheme; write "s3.provider\/authentik-media"/],
    ["a custom domain without the bucket", { customDomain: "media.company" }, /^customDomain: does not have the bucket; write "media.company\/authentik-media"/],
    ["https URLs on an http endpoint", { endpoint: "http://s3.provider" }, /^secureUrls: sends browsers to https:\/\/s3.provider/],
    ["useSsl against the endpoint", { useSsl: "false" }, /^useSsl: contradicts/],
    ["no keys", { accessKey: undefined, secretKey: undefined }, /^accessKey: is missing.*--secret accessKey/, /^secretKey: is missing/],
    ["half a pair of keys", { secretKey: undefined }, /^secretKey: is missing, while accessKey is set/],
    ["half a pair of admin keys", { adminAccessKey: "a" }, /^adminSecretKey: is missing/],
    ["a profile beside keys", { sessionProfile: "p" }, /^sessionProfile: is set together with keys/],
    ["a token without keys", { accessKey: undefined, secretKey: undefined, sessionProfile: "p", sessionToken: "t" }, /^sessionToken: is set without/],
    ["a key that authentik would follow", { secretKey: "file:///x" }, /^secretKey: its value begins with "file:"/],
    ["a key with a newline", { secretKey: "x\n" }, /^secretKey: has blanks or a newline/],
    ["a boolean that is none", { protect: "yes" }, /^protect: is not a boolean; write true or false/],
    ["a number that is none", { corsMaxAgeSeconds: "1h" }, /^corsMaxAgeSeconds: is not a whole number from 0 to 86400/],
    ["a header that is none", { corsAllowedHeaders: "Author ization" }, /^corsAllowedHeaders\[0\]: is not a header name/],
    ["a choice that is none", { addressingStyle: "host" }, /^addressingStyle: is not one of the choices; write "auto", "path", "virtual"/],
    ["a style that the oldest release cannot be told", { addressingStyle: "virtual" }, /^addressingStyle: is "virtual".*set authentikVersion/],
    ["a signer that releases to 2026.4 cannot be told", { signatureVersion: "s3" }, /^signatureVersion: is "s3".*set authentikVersion/],
    ["a release that YAML cut", { authentikVersion: "2025.1" }, /write "2025.10", in quotes/],
    ["a release without S3", { authentikVersion: "2023.10" }, /since 2024.2/],
    ["no release", { authentikVersion: "latest" }, /is not an authentik release/],
    ["an expiry in another format", { urlExpiry: "15m" }, /^urlExpiry: is not a duration/],
    ["an expiry with a part that authentik ignores", { urlExpiry: "hours=1; minutes=30" }, /^urlExpiry: is not a duration/],
    ["a region that boto3 refuses", { region: "eu_1" }, /^region: is not a region/],
    ["an expiry past S3's limit", { urlExpiry: "days=8" }, /seven days/],
    ["a principal that is everybody", { policyPrincipal: "*" }, /^policyPrincipal: is not one principal/],
    ["a principal with a wildcard", { policyPrincipal: "arn:aws:iam::*:root" }, /^policyPrincipal: is not one/],
    ["a principal with a control character", { policyPrincipal: "authentik\u001b[2K" }, /^policyPrincipal: is not one/],
    ["a key with a newline inside", { accessKey: "a\nb" }, /^accessKey: has a blank, a control character/],
    ["a profile with a newline", { sessionProfile: "a\nb" }, /^sessionProfile: is not the name/],
    ["a pattern of headers", { corsAllowedHeaders: "X-*" }, /^corsAllowedHeaders\[0\]: is not a header/],
    ["a host with two dots", { endpoint: "https://a..b" }, /^endpoint: has a host that cannot exist/],
    ["a port that no server has", { origins: "https://a.company:0" }, /^origins\[0\]: has port 0/],
    ["a host of 300 letters", { origins: `https://${"a.".repeat(150)}company` }, /^origins\[0\]: has a host/],
    ["a custom domain without a name", { customDomain: "-/authentik-media" }, /^customDomain: has a host/],
    ["50 tags, and that of the program", { provider: "aws", region: "eu-central-1", endpoint: undefined, accessKey: undefined, secretKey: undefined, tags: Array.from({ length: 50 }, (_, index) => `t${index}=x`).join(",") }, /^tags\[49\]: is one tag too many/],
    ["an expiry with blanks, on which authentik fails", { urlExpiry: "minutes = 15" }, /^urlExpiry: is not a duration/],
    ["an expiry with a unit twice", { urlExpiry: "minutes=15;minutes=20" }, /^urlExpiry: is not a duration/],
    ["another tool's name of a key", { bucket: "x", region_name: "y", access_key_id: "z" }, /did you mean bucketName\?/, /did you mean region\?/, /did you mean accessKey\?/],
    ["an empty value", { policyPrincipal: " " }, /^policyPrincipal: is empty/],
  ];
  for (const [title, changes, ...expected] of bad) {
    it(`refuses ${title}`, async () => {
      const found = await problems(changes);
      expect(found).to.have.length(expected.length);
      for (const [index, pattern] of expected.entries()) expect(found[index]).to.match(pattern);
    });
  }

  it("reports all problems at once, for every provider", async () => {
    for (const provider of [...PROVIDERS, "none", undefined]) {
      expect(
        (
          await problems({ provider, origins: "a", bucketName: "A", secureUrls: "1", typo: "" })
        ).map((line) => line.split(":")[0]),
      ).to.include.members(["origins[0]", "bucketName", "secureUrls", "typo"]);
    }
  });

  it("refuses secrets in plain text and shows none, for every provider", async () => {
    for (const provider of [...PROVIDERS, "none"]) {
      const values = {
        ...valid,
        provider,
        secretKey: "hunter2\n",
        secretkey: "hunter2",
        adminSecretKey: "hunter2",
      };
      const error: unknown = await chooseProvider({
        values,
        secrets: new Set(["accessKey"]),
      }).catch((reason: unknown) => reason);
      expect(error, provider)
        .to.be.instanceOf(ConfigError)
        .and.property("message")
        .to.match(/secretKey = \[secret\] is not a secret/)
        .and.to.match(/adminSecretKey = \[secret\] is not a secret/)
        .and.not.to.contain("hunter2");
    }
  });

  it("shows a wrong value of a key that only sounds like a secret", async () => {
    const changes = { provider: "aws", keyGeneration: "x", kmsKeyArn: "y", retirePreviousKey: "z" };
    const values = { origins: "https://a.company", region: "eu-central-1", ...changes };
    const error: unknown = await chooseProvider(raw(values)).catch((reason: unknown) => reason);
    expect(error).to.have.property("message").that.includes('keyGeneration = "x" ');
    expect(error).to.have.property("message").that.includes('kmsKeyArn = "y" ');
    expect(error).to.have.property("message").that.includes('retirePreviousKey = "z" ');
  });

  it("shows a long value cut, invisible characters escaped, and at once", async () => {
    const long = Object.fromEntries(
      [
        "bucketName",
        "origins",
        "endpoint",
        "customDomain",
        "urlExpiry",
        "secretKey",
        "provider",
      ].map((key) => [key, `https://a\u202e\u200b${":,/@".repeat(250_000)}`]),
    );
    const start = performance.now();
    for (const values of [long, { ...long, provider: "s3", ["x".repeat(1_000_000)]: "x" }]) {
      const error: unknown = await chooseProvider(raw(values)).catch((reason: unknown) => reason);
      expect(error).to.be.instanceOf(ConfigError);
      expect(String(error).length).to.be.lessThan(10_000);
    }
    expect(performance.now() - start).to.be.lessThan(2_000);
    const error: unknown = await parse({ bucketName: "a\u202e\u200bb" }).catch(
      (reason: unknown) => reason,
    );
    expect(String(error)).to.include('bucketName = "a\\u{202e}\\u{200b}b"');
  });

  it("shows no password of a URL", async () => {
    for (const [key, value] of Object.entries({
      endpoint: "https://admin:hunter2@s3.provider",
      customDomain: "https://admin:hunter2@s3.provider/authentik-media",
      origins: '["https://admin:hunter2@a.company"]',
    })) {
      for (const given of [value, value.replace("https://", "")]) {
        const error: unknown = await chooseProvider(raw({ ...valid, [key]: given })).catch(
          (reason: unknown) => reason,
        );
        expect(error, given)
          .to.be.instanceOf(ConfigError)
          .and.property("message")
          .to.contain("[secret]@")
          .and.not.to.contain("hunter2");
      }
    }
  });

  it("asks for a missing secret as a secret", () => {
    const found: string[] = [];
    const report: ReportProblem = (key, wrong) => {
      found.push(`${key} ${wrong}`);
    };
    parseProvider(
      { keys: { token: secretText("A token.") }, check: () => undefined, resolve: () => undefined },
      { origins: "https://a.company" },
      report,
    );
    expect(found).to.deep.equal([
      "token is missing; set it: pulumi config set --secret token (A token.)",
    ]);
  });

  it("loads only the chosen provider, and the others to find the owner of an unknown key", async () => {
    const loaded = async (changes: Record<string, string | undefined>): Promise<string[]> => {
      const asked = new Set<string>();
      const counted = Object.fromEntries(
        Object.entries(providers).map(([name, { load }]) => [
          name,
          {
            load: () => {
              asked.add(name);
              return load();
            },
          },
        ]),
      );
      await parseConfig<Chosen<StorageConfig>>(raw({ ...valid, ...changes }), counted).catch(
        (error: unknown) => {
          if (!(error instanceof ConfigError)) throw error;
        },
      );
      return [...asked];
    };
    expect(await loaded({})).to.deep.equal(["s3"]);
    expect(await loaded({ origins: "a", endpoint: undefined })).to.deep.equal(["s3"]);
    expect(await loaded({ jurisdiction: "eu" })).to.have.members(PROVIDERS);
  });

  it("gives each key one meaning: no provider repeats a common key, and a secret key is secret for every provider", async () => {
    const own = (
      await Promise.all(
        PROVIDERS.map(async (provider) =>
          Object.entries((await providers[provider].load()).default.keys),
        ),
      )
    ).flat();
    const secrets = new Set(
      own.filter(([, schema]) => documentationOf(schema).secret).map(([key]) => key),
    );
    expect([...secrets]).to.include.members(secretKeys);
    for (const [key, schema] of own) {
      expect(commonKeys).not.to.have.property(key);
      expect(documentationOf(schema).secret, key).to.equal(secrets.has(key));
    }
  });

  it("reads a URL in the same way however often (Node 20's URL.canParse does not)", () => {
    for (let time = 0; time < 50_000; time += 1) {
      expect(parseUrl("https://b\u00fccher.company")?.host).to.equal("xn--bcher-kva.company");
    }
  });

  it("accepts exactly the origins that browsers send (property)", async () => {
    const host = fc.oneof(
      fc.domain(),
      fc.ipV4(),
      fc.ipV6().map((address) => `[${address}]`),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom("http", "https"),
        host,
        fc.option(fc.integer({ min: 1, max: 65535 })),
        async (scheme, name, port) => {
          const origin = new URL(`${scheme}://${name}${port === null ? "" : `:${port}`}`).origin;
          expect((await parse({ origins: origin })).origins).to.deep.equal([origin]);
          for (const spoilt of [
            `${origin}/`,
            `${origin}/x`,
            origin.toUpperCase(),
            origin.replace("://", "://*."),
            `${origin}?`,
          ]) {
            expect(await problems({ origins: spoilt }), spoilt).to.have.length(1);
          }
        },
      ),
    );
  });

  it("fails only with a ConfigError, for any values (property)", async () => {
    const value = fc.oneof(fc.string(), fc.webUrl(), fc.json());
    const keys = [
      ...Object.keys(valid),
      ...secretKeys,
      "bucketName",
      "customDomain",
      "urlExpiry",
      "region",
      "useSsl",
      "nonsense",
    ];
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.constantFrom(...keys), value), async (changes) => {
        for (const problem of await problems(changes))
          expect(problem).to.match(/^\w+(\[\d+\])?: \S/s);
      }),
      { numRuns: 500 },
    );
  });
});
