/** The URLs that releases hand out, against those that boto3 signs (`test/fixtures/presigned_urls.py`). */
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
const Recorded = v.object({ files: v.array(RecordedFile), callerIdentity: v.array(v.object({ region: v.string(), url: v.string() })) });
const { files: recorded, callerIdentity } = v.parse(Recorded, JSON.parse(readFileSync(new URL("fixtures/presigned-urls.json", import.meta.url), "utf8")));
const NOW = new Date("2026-07-01T12:00:00Z");

function url(release: string, settings: StorageSettings, key = "media/public/icon.png", sessionToken?: string): string {
  const keys = { accessKeyId: "AKIAEXAMPLE", secretAccessKey: "secret/example", sessionToken };
  return fileUrl(settings, releaseRules(parseRelease(release)), keys, key, NOW);
}

function settingsOf(recording: (typeof recorded)[number]): StorageSettings {
  return {
    bucketName: recording.bucket,
    region: recording.region ?? undefined,
    endpoint: recording.endpoint ?? undefined,
    useSsl: recording.useSsl,
    customDomain: recording.customDomain ?? undefined,
    secureUrls: true,
    addressingStyle: recording.style ?? undefined,
    signatureVersion: recording.signatureVersion,
  };
}

describe("the URL that a release hands out", () => {
  it("is boto3's presigned one to 2026.4, byte for byte", () => {
    const comparable = recorded.filter(({ presigned, signatureVersion }) => presigned !== undefined && signatureVersion === "s3v4");
    expect(comparable.length).to.be.greaterThan(90);
    for (const recording of comparable) {
      const own = url("2026.4", settingsOf(recording), recording.key, recording.sessionToken ?? undefined);
      expect(own, JSON.stringify(recording)).to.equal(recording.presigned);
    }
  });

  it("is signed as it stands from 2026.5, by either signer", () => {
    for (const recording of recorded) {
      const own = url("2026.5", settingsOf(recording), recording.key, recording.sessionToken ?? undefined);
      expect(own, JSON.stringify(recording)).to.equal(recording.asIs);
    }
  });

  const base: StorageSettings = { bucketName: "authentik-media", endpoint: "https://s3.provider", secureUrls: true };
  const key = "media/public/icon.png";
  const withDomain = (release: string, more: Partial<StorageSettings>) => url(release, { ...base, ...more }).split("?")[0];

  it("has the custom domain in the form of its generation", () => {
    const customDomain = "s3.provider/authentik-media";
    const right = `https://${customDomain}/${key}`;
    expect(withDomain("2025.10", { customDomain })).to.equal(right);
    expect(withDomain("2025.12.1", { customDomain })).to.equal(`https://${customDomain}/authentik-media/${key}`);
    expect(withDomain("2025.12.2", { customDomain })).to.equal(right);
    expect(withDomain("2026.5", { customDomain })).to.equal(right);
    expect(withDomain("2026.4", { customDomain: "authentik-media.s3.provider", addressingStyle: "virtual" }))
      .to.equal(`https://authentik-media.s3.provider/${key}`);
  });

  it("keeps an endpoint's own path from 2025.12.2 to 2026.4, where authentik does not see the bucket behind it", () => {
    const more = { endpoint: "https://host/s3", customDomain: "host/s3/authentik-media" };
    expect(withDomain("2025.10", more)).to.equal(`https://host/s3/authentik-media/${key}`);
    expect(withDomain("2026.4", more)).to.equal(`https://host/s3/authentik-media/s3/authentik-media/${key}`);
    expect(withDomain("2026.5", more)).to.equal(`https://host/s3/authentik-media/${key}`);
  });

  it("asks AWS whose the keys are as boto3 does, and other servers not at all", () => {
    const keys = { accessKeyId: "AKIAEXAMPLE", secretAccessKey: "secret/example", sessionToken: "token/=+" };
    for (const { region, url: expected } of callerIdentity) {
      expect(callerIdentityUrl({ bucketName: "authentik-media", region, secureUrls: true }, keys, NOW)).to.equal(expected);
    }
    expect(callerIdentityUrl(base, keys, NOW)).to.equal(undefined);
  });

  it("holds for an hour to 2025.10, then for URL_EXPIRY", () => {
    const expiry = (release: string) => new URL(url(release, { ...base, urlExpiry: "hours=2;minutes=1" })).searchParams.get("X-Amz-Expires");
    expect(expiry("2025.10")).to.equal("3600");
    expect(expiry("2025.12")).to.equal("7260");
  });
});
