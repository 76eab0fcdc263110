/** The URLs of each release, compared with boto3's (`test/fixtures/presigned_urls.py`). */
import { readFileSync } from "node:fs";
import { expect } from "chai";
import * as v from "valibot";
import { ADDRESSING_STYLES, SIGNATURE_VERSIONS, type StorageSettings } from "../authentik/env.ts";
import { parseRelease, releaseRules } from "../authentik/release.ts";
import { callerIdentityUrl, fileUrl } from "../authentik/url.ts";

const RecordedFile = v.object({
  sessionToken: v.nullable(v.string()),
  useSsl: v.boolean(),
  signatureVersion: v.picklist(SIGNATURE_VERSIONS),
  customDomain: v.nullable(v.string()),
  endpoint: v.nullable(v.string()),
  region: v.nullable(v.string()),
  bucket: v.string(),
  key: v.string(),
  style: v.nullable(v.picklist(ADDRESSING_STYLES)),
  asIs: v.string(),
  presigned: v.optional(v.string()),
});
type RecordedFile = v.InferOutput<typeof RecordedFile>;
const Recorded = v.object({
  files: v.array(RecordedFile),
  callerIdentity: v.array(v.object({ region: v.string(), url: v.string() })),
});
const fixture = new URL("fixtures/presigned-urls.json", import.meta.url);
const recorded = v.parse(Recorded, JSON.parse(readFileSync(fixture, "utf8")));

const NOW = new Date("2026-07-01T12:00:00Z");
const KEYS = { accessKeyId: "AKIAEXAMPLE", secretAccessKey: "secret/example" };
const KEY = "media/public/icon.png";

function urlOf(
  release: string,
  settings: StorageSettings,
  { key = KEY, sessionToken }: { key?: string; sessionToken?: string | undefined } = {},
): string {
  const keys = { ...KEYS, sessionToken };
  return fileUrl(settings, releaseRules(parseRelease(release)), keys, key, NOW);
}

/** The URL that this program signs for a recorded one. */
function ownUrl(release: string, recording: RecordedFile): string {
  const settings: StorageSettings = {
    bucketName: recording.bucket,
    region: recording.region ?? undefined,
    endpoint: recording.endpoint ?? undefined,
    useSsl: recording.useSsl,
    customDomain: recording.customDomain ?? undefined,
    secureUrls: true,
    addressingStyle: recording.style ?? undefined,
    signatureVersion: recording.signatureVersion,
  };
  const { key, sessionToken } = recording;
  return urlOf(release, settings, { key, sessionToken: sessionToken ?? undefined });
}

describe("the URL that a release gives to browsers", () => {
  it("is boto3's presigned URL to 2026.4, byte for byte", () => {
    const comparable = recorded.files.filter(
      ({ presigned, signatureVersion }) => presigned !== undefined && signatureVersion === "s3v4",
    );
    expect(comparable.length).to.be.greaterThan(90);
    for (const recording of comparable) {
      const own = ownUrl("2026.4", recording);
      expect(own, JSON.stringify(recording)).to.equal(recording.presigned);
    }
  });

  it("is signed without changes from 2026.5, by either signer", () => {
    for (const recording of recorded.files) {
      expect(ownUrl("2026.5", recording), JSON.stringify(recording)).to.equal(recording.asIs);
    }
  });

  const base: StorageSettings = {
    bucketName: "authentik-media",
    endpoint: "https://s3.provider",
    secureUrls: true,
  };
  const PATH_STYLE = { customDomain: "s3.provider/authentik-media" };
  const VIRTUAL = {
    customDomain: "authentik-media.s3.provider",
    addressingStyle: "virtual",
  } as const;
  // From 2025.12.2 to 2026.4 authentik does not see the bucket behind an endpoint's own path.
  const WITH_PATH = { endpoint: "https://host/s3", customDomain: "host/s3/authentik-media" };
  // biome-ignore format: a table of cases
  const custom: [release: string, settings: Partial<StorageSettings>, expected: string][] = [
    ["2025.10", PATH_STYLE, `https://s3.provider/authentik-media/${KEY}`],
    ["2025.12.1", PATH_STYLE, `https://s3.provider/authentik-media/authentik-media/${KEY}`],
    ["2025.12.2", PATH_STYLE, `https://s3.provider/authentik-media/${KEY}`],
    ["2026.5", PATH_STYLE, `https://s3.provider/authentik-media/${KEY}`],
    ["2026.4", VIRTUAL, `https://authentik-media.s3.provider/${KEY}`],
    ["2025.10", WITH_PATH, `https://host/s3/authentik-media/${KEY}`],
    ["2026.4", WITH_PATH, `https://host/s3/authentik-media/s3/authentik-media/${KEY}`],
    ["2026.5", WITH_PATH, `https://host/s3/authentik-media/${KEY}`],
  ];
  for (const [release, settings, expected] of custom) {
    it(`of ${release} has the custom domain ${settings.customDomain}`, () => {
      const [url] = urlOf(release, { ...base, ...settings }).split("?");
      expect(url).to.equal(expected);
    });
  }

  it("asks AWS whose the keys are as boto3 does, and asks no other server", () => {
    const keys = { ...KEYS, sessionToken: "token/=+" };
    for (const { region, url } of recorded.callerIdentity) {
      const settings = { bucketName: "authentik-media", region, secureUrls: true };
      expect(callerIdentityUrl(settings, keys, NOW)).to.equal(url);
    }
    expect(callerIdentityUrl(base, keys, NOW)).to.equal(undefined);
  });

  it("is valid for an hour to 2025.10, then for URL_EXPIRY", () => {
    const settings = { ...base, urlExpiry: "hours=2;minutes=1" };
    for (const [release, seconds] of [
      ["2025.10", "3600"],
      ["2025.12", "7260"],
    ] as const) {
      const { searchParams } = new URL(urlOf(release, settings));
      expect(searchParams.get("X-Amz-Expires")).to.equal(seconds);
    }
  });
});
