/** The URLs of each release, compared with authentik's own (`test/fixtures/presigned_urls.py`). */
import { readFileSync } from "node:fs";
import { expect } from "chai";
import * as v from "valibot";
import { ADDRESSING_STYLES, SIGNATURE_VERSIONS, type StorageSettings } from "../authentik/env.ts";
import { parseRelease, releaseRules } from "../authentik/release.ts";
import { UrlError } from "../authentik/url-parts.ts";
import { callerIdentityUrl, fileUrl } from "../authentik/url.ts";

const RecordedFile = v.object({
  settings: v.object({
    bucketName: v.string(),
    region: v.optional(v.string()),
    endpoint: v.optional(v.string()),
    useSsl: v.optional(v.boolean()),
    customDomain: v.optional(v.string()),
    secureUrls: v.optional(v.boolean(), true),
    addressingStyle: v.optional(v.picklist(ADDRESSING_STYLES)),
    signatureVersion: v.optional(v.picklist(SIGNATURE_VERSIONS)),
    urlExpiry: v.optional(v.string()),
    sessionToken: v.optional(v.string()),
    name: v.string(),
  }),
  /** Releases, joined by a space, and the URL of each, or `!` and the error's name. */
  urls: v.record(v.string(), v.string()),
});
const Recorded = v.object({
  short: v.record(v.string(), v.string()),
  files: v.array(RecordedFile),
  callerIdentity: v.array(v.object({ region: v.string(), url: v.string() })),
});
const fixture = new URL("fixtures/presigned-urls.json", import.meta.url);
const recorded = v.parse(Recorded, JSON.parse(readFileSync(fixture, "utf8")));

/** The settings of each file with what `release` gave for them. */
function recordedBy(release: string): { file: v.InferOutput<typeof RecordedFile>; url: string }[] {
  return recorded.files.flatMap((file) =>
    Object.entries(file.urls)
      .filter(([releases]) => releases.split(" ").includes(release))
      .map(([, url]) => ({ file, url: expanded(url) })),
  );
}

function expanded(url: string): string {
  let text = url;
  for (const [short, long] of Object.entries(recorded.short)) text = text.replaceAll(short, long);
  return text;
}

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

describe("the URL that a release gives to browsers", () => {
  for (const release of ["2024.8.0", "2025.8", "2025.10", "2025.12.0", "2025.12.2", "2026.5"]) {
    it(`is authentik's own of ${release}, byte for byte, or an error as authentik's`, () => {
      const rows = recordedBy(release);
      expect(rows).to.have.length(300);
      for (const { file, url } of rows) {
        const { name, sessionToken, ...settings } = file.settings;
        const own = () => urlOf(release, settings, { key: `media/public/${name}`, sessionToken });
        const message = JSON.stringify(file);
        if (url.startsWith("!")) expect(own, message).to.throw(UrlError);
        else expect(own(), message).to.equal(url);
      }
    });
  }

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
});
