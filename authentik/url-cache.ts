/** How long authentik hands out signed URLs from its cache. */
import { durationSeconds } from "./duration.ts";
import { DEFAULTS, type StorageSettings } from "./env.ts";
import { releaseRules, type Release } from "./release.ts";

/** authentik caches no URL for less than this. */
const SHORTEST_SECONDS = 60;

/**
 * How long authentik hands out a URL after it has signed it, in seconds. The cache is in its
 * database, so a restart does not clear it, and its keys have neither the access key nor the bucket
 * nor the endpoint: after a change of these the old URLs go on for so long. Source: `file_url` of
 * authentik's `admin/files/backends/base.py` (from 2025.12); older releases have no cache.
 */
export function urlCacheSeconds(
  { urlExpiry = DEFAULTS.urlExpiry }: Pick<StorageSettings, "urlExpiry">,
  release: Release | undefined,
): number {
  if (!releaseRules(release).readsUrlExpiry) return 0;
  const seconds = Math.trunc((durationSeconds(urlExpiry) ?? 0) * 0.67);
  return seconds < SHORTEST_SECONDS ? 0 : seconds;
}

/** What to know after a change of key, bucket or domain; undefined if authentik caches no URL. */
export function cacheAdvice(
  settings: Pick<StorageSettings, "urlExpiry">,
  release: Release | undefined,
): string | undefined {
  const minutes = Math.ceil(urlCacheSeconds(settings, release) / 60);
  if (minutes === 0) return undefined;
  return (
    `From 2025.12 authentik hands out URLs that it signed before for up to ${minutes} min, also ` +
    "after a restart. Keep the old key, bucket and domain for that long, or clear authentik's " +
    "cache (docs/upgrade.md#old-urls-in-authentiks-cache)."
  );
}
