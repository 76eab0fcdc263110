/** Every difference between authentik's releases. */

/**
 * An authentik release, e.g. `{year: 2025, month: 12, patch: 2}`. Without a patch it is the newest
 * release of its series.
 */
export interface Release {
  year: number;
  month: number;
  patch?: number;
}

/** The first series that reads S3 settings (its release notes). */
export const FIRST_WITH_S3 = "2024.2";

/**
 * What the names of storage variables begin with: settings for media alone, and general settings.
 */
export const PREFIXES = {
  media: "AUTHENTIK_STORAGE__MEDIA",
  general: "AUTHENTIK_STORAGE",
} as const;

/** The names of the setting for the token of temporary credentials, behind a prefix and `__S3__`. */
export const TOKEN_NAMES = ["SECURITY_TOKEN", "SESSION_TOKEN"] as const;

/** Reads "2025.12" or "2025.12.2". Gives undefined for a text that cannot be a release. */
export function parseRelease(text: string): Release | undefined {
  const match = /^(20\d\d)\.([1-9]|1[0-2])(?:\.(\d{1,3}))?$/.exec(text);
  if (!match) return undefined;
  const [, year, month, patch] = match;
  const series = { year: Number(year), month: Number(month) };
  return patch === undefined ? series : { ...series, patch: Number(patch) };
}

/** The release as authentik writes it: `2025.12.2`, or `2025.12` for the newest of its series. */
export function formatRelease({ year, month, patch }: Release): string {
  return `${year}.${month}${patch === undefined ? "" : `.${patch}`}`;
}

/** Whether `release` is `since` or later. `since` is written "2025.12" or "2025.12.2". */
export function atLeast(release: Release, since: string): boolean {
  const wanted = parseRelease(since);
  if (!wanted) throw new TypeError(`not an authentik release: "${since}"`);
  if (release.year !== wanted.year) return release.year > wanted.year;
  if (release.month !== wanted.month) return release.month > wanted.month;
  return (release.patch ?? Number.POSITIVE_INFINITY) >= (wanted.patch ?? 0);
}

/**
 * How a release reads its storage settings. Source: authentik's `lib/config.py`, `root/storages.py`
 * (to 2025.10) and `admin/files/backends/s3.py` (from 2025.12).
 */
export interface ReleaseRules {
  /**
   * What the names of its S3 settings begin with. Every release understands the prefix for media,
   * for media alone.
   */
  prefix: (typeof PREFIXES)[keyof typeof PREFIXES];
  /**
   * The settings for the token of temporary credentials. There are several if the release is
   * unknown.
   */
  tokenNames: readonly (typeof TOKEN_NAMES)[number][];
  readsAddressingStyle: boolean;
  readsUrlExpiry: boolean;
  readsSignatureVersion: boolean;
  /**
   * Replaces the whole root of a URL by the custom domain. Later releases look at the path alone.
   */
  swapsRoot: boolean;
  /**
   * Puts the bucket a second time into path-style URLs of a custom domain (goauthentik/authentik
   * issue 19521).
   */
  doublesBucket: boolean;
  /** Strips slashes at the end of a custom domain. */
  stripsSlashes: boolean;
  /** Raises an error for every URL of a custom domain (goauthentik/authentik issue 11180). */
  failsOnCustomDomain: boolean;
  /**
   * `USE_SSL` false makes http of an endpoint's https. botocore reads it only without an endpoint
   * from a release between 1.40.2 (in authentik 2025.8) and 1.40.51 (in 2025.10).
   */
  useSslOverridesEndpoint: boolean;
  /**
   * Signs the URL of a custom domain for the custom domain. Older releases sign it for the
   * endpoint's host.
   */
  signsCustomDomain: boolean;
}

/** The rules that hold on every release that may be running. */
const UNKNOWN_RELEASE: ReleaseRules = {
  prefix: PREFIXES.media,
  tokenNames: TOKEN_NAMES,
  readsAddressingStyle: true,
  readsUrlExpiry: true,
  readsSignatureVersion: true,
  swapsRoot: false,
  doublesBucket: false,
  stripsSlashes: true,
  failsOnCustomDomain: false,
  useSslOverridesEndpoint: false,
  signsCustomDomain: false,
};

/** The rules of a release. Without a release they are those that hold on every release. */
export function releaseRules(release?: Release): ReleaseRules {
  if (!release) return UNKNOWN_RELEASE;
  const isRewritten = atLeast(release, "2025.12");
  return {
    prefix: isRewritten ? PREFIXES.general : PREFIXES.media,
    tokenNames: [isRewritten ? "SESSION_TOKEN" : "SECURITY_TOKEN"],
    readsAddressingStyle: isRewritten,
    readsUrlExpiry: isRewritten,
    readsSignatureVersion: atLeast(release, "2026.5"),
    swapsRoot: !isRewritten,
    doublesBucket: isRewritten && !atLeast(release, "2025.12.2"),
    stripsSlashes: atLeast(release, "2025.12.2"),
    failsOnCustomDomain: atLeast(release, "2024.8.0") && !atLeast(release, "2024.8.1"),
    useSslOverridesEndpoint: !atLeast(release, "2025.10"),
    signsCustomDomain: atLeast(release, "2026.5"),
  };
}
