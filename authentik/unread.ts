/** Storage variables that a release does not read, and the names that it reads instead. */
import { BACKEND_NAME, S3_NAMES } from "./env.ts";
import {
  formatRelease,
  PREFIXES,
  releaseRules,
  type Release,
  type ReleaseRules,
} from "./release.ts";

/** The releases that may read the variables, each with its own names. */
const GENERATIONS = {
  media: releaseRules({ year: 2025, month: 10 }),
  general: releaseRules({ year: 2026, month: 5 }),
};

/** Settings of the local folder, beside those of S3. */
const FILE_NAMES = ["FILE__PATH", "FILE__URL_EXPIRY"];

/** Which releases may read the variables. */
export interface Readers {
  /** Undefined if it is not known. */
  release?: Release | undefined;
  /** Whether the bucket is set by its general name, which no release before 2025.12 reads. */
  hasGeneralNames: boolean;
}

/**
 * A warning for each variable that looks like a storage variable and is not read, with the name
 * that is read.
 */
export function unreadVariables(names: readonly string[], readers: Readers): string[] {
  const { release, hasGeneralNames } = readers;
  const { media, general } = GENERATIONS;
  const unknown = hasGeneralNames ? [general] : [media, general];
  const rules = release ? [releaseRules(release)] : unknown;
  const read = rules.flatMap(readNames);
  const rightNames = new Map(read.map((name) => [plainName(name, rules), name]));
  return names
    .filter((name) => /^AUTHENTIK_STORAGE/i.test(name) && !isRead(name, read))
    .map((name) => {
      const right = rightNames.get(plainName(name, rules));
      const advice = right === undefined ? "remove it" : `write ${right}`;
      return `${name} is not read by ${inWords(readers)}; ${advice}`;
    });
}

/** authentik reads its prefix in upper case alone, and what follows in any case. */
function isRead(name: string, read: readonly string[]): boolean {
  return name.startsWith("AUTHENTIK_") && read.includes(name.toUpperCase());
}

function inWords({ release, hasGeneralNames }: Readers): string {
  if (release === undefined) return hasGeneralNames ? "authentik from 2025.12" : "any release";
  return `authentik ${formatRelease(release)}`;
}

/** The names of all storage variables that a release reads. */
function readNames(rules: ReleaseRules): string[] {
  const unread = new Set<string>([
    ...(rules.readsAddressingStyle ? [] : [S3_NAMES.addressingStyle]),
    ...(rules.readsSignatureVersion ? [] : [S3_NAMES.signatureVersion]),
    ...(rules.readsUrlExpiry ? [] : [S3_NAMES.urlExpiry]),
  ]);
  const settings = Object.values(S3_NAMES).filter((name) => !unread.has(name));
  const s3 = [...settings, ...rules.tokenNames].map((name) => `S3__${name}`);
  return prefixesOf(rules).flatMap((prefix) =>
    [BACKEND_NAME, ...FILE_NAMES, ...s3].map((name) => `${prefix}__${name}`),
  );
}

function prefixesOf({ prefix }: ReleaseRules): string[] {
  const { general, media } = PREFIXES;
  return prefix === media ? [media] : [general, media, `${general}__REPORTS`];
}

/**
 * A name by which a wrong one and the right one are the same: without underscores, with one name
 * for both tokens, and with `MEDIA` if only that is read.
 */
function plainName(name: string, rules: readonly ReleaseRules[]): string {
  const plain = name.toUpperCase().replaceAll("_", "").replace("SECURITYTOKEN", "SESSIONTOKEN");
  const isMediaAlone = rules.every(({ prefix }) => prefix === PREFIXES.media);
  return isMediaAlone ? plain.replace(/^(AUTHENTIKSTORAGE)(?!MEDIA|REPORTS)/, "$1MEDIA") : plain;
}
