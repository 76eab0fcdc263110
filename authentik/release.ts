/** What differs between authentik's releases, in one place. */

/** An authentik release, e.g. `{year: 2025, month: 12, patch: 2}`; without a patch it is the newest one of its series. */
export interface Release {
  year: number;
  month: number;
  patch?: number;
}

/** authentik reads S3 settings since this series (its 2024.2 release notes). */
export const FIRST_WITH_S3 = "2024.2";

/** Reads "2025.12" or "2025.12.2"; undefined when the text is no release that could exist. */
export function parseRelease(text: string): Release | undefined {
  const match = /^(20\d\d)\.([1-9]|1[0-2])(?:\.(\d{1,3}))?$/.exec(text);
  if (!match) return undefined;
  const [, year, month, patch] = match;
  return { year: Number(year), month: Number(month), ...(patch === undefined ? {} : { patch: Number(patch) }) };
}

/** True when `release` is `since` or later; `since` is written "2025.12" or "2025.12.2". */
export function atLeast(release: Release, since: string): boolean {
  const wanted = parseRelease(since);
  if (!wanted) throw new TypeError(`not an authentik release: "${since}"`);
  const newest = Number.POSITIVE_INFINITY;
  return compare(
    [release.year, release.month, release.patch ?? newest],
    [wanted.year, wanted.month, wanted.patch ?? 0],
  ) >= 0;
}

function compare(a: number[], b: number[]): number {
  for (const [index, left] of a.entries()) {
    const right = b[index] ?? 0;
    if (left !== right) return left - right;
  }
  return 0;
}

/**
 * How a release reads its storage settings. Source: authentik's `lib/config.py`, `root/storages.py` (to 2025.10) and
 * `admin/files/backends/s3.py` (from 2025.12).
 */
export interface ReleaseRules {
  /** What the names of its S3 settings begin with. The first form is understood by every release, for media alone. */
  prefix: "AUTHENTIK_STORAGE__MEDIA" | "AUTHENTIK_STORAGE";
  /** The settings that it takes a temporary credential's token from; several while the release is unknown. */
  tokenNames: readonly ("SECURITY_TOKEN" | "SESSION_TOKEN")[];
  readsAddressingStyle: boolean;
  readsUrlExpiry: boolean;
  readsSignatureVersion: boolean;
  /** Swaps the URL's root, whatever path it has, for the custom domain; later releases look at the path alone. */
  swapsRoot: boolean;
  /** Puts the bucket a second time into path-style URLs of a custom domain (goauthentik/authentik issue 19521). */
  doublesBucket: boolean;
  /** Signs a custom domain's URL for the custom domain itself; older releases sign for the endpoint's host. */
  signsCustomDomain: boolean;
}

/** The rules of a release; without one, those that hold on every release that may be running. */
export function releaseRules(release?: Release): ReleaseRules {
  if (!release) {
    return {
      prefix: "AUTHENTIK_STORAGE__MEDIA",
      tokenNames: ["SECURITY_TOKEN", "SESSION_TOKEN"],
      readsAddressingStyle: true,
      readsUrlExpiry: true,
      readsSignatureVersion: true,
      swapsRoot: false,
      doublesBucket: false,
      signsCustomDomain: false,
    };
  }
  const rewritten = atLeast(release, "2025.12");
  return {
    prefix: rewritten ? "AUTHENTIK_STORAGE" : "AUTHENTIK_STORAGE__MEDIA",
    tokenNames: [rewritten ? "SESSION_TOKEN" : "SECURITY_TOKEN"],
    readsAddressingStyle: rewritten,
    readsUrlExpiry: rewritten,
    readsSignatureVersion: atLeast(release, "2026.5"),
    swapsRoot: !rewritten,
    doublesBucket: rewritten && !atLeast(release, "2025.12.2"),
    signsCustomDomain: atLeast(release, "2026.5"),
  };
}
