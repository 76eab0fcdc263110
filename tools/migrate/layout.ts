/** Which object belongs to which file. It reads nothing. */
import { isSchemaName, SCHEMA_VARIABLE, USAGES, type Usage } from "../../authentik/objects.ts";

/**
 * The two generations of authentik's local storage. `data` is the folder `/data` with
 * `media/public/` and `reports/public/` in it (from 2025.12). `media` is the folder `/media` with
 * `public/` in it (to 2025.10).
 */
export const LAYOUTS = ["data", "media"] as const;
export type Layout = (typeof LAYOUTS)[number];

/** The usages that a layout can hold. */
export function usagesOf(layout: Layout): readonly Usage[] {
  return layout === "data" ? USAGES : ["media"];
}

/**
 * The layout of a folder with these entries; undefined when they show none.
 *
 * @param schemas names of schemas other than `public`
 * @throws Error when they show both
 */
export function recognizeLayout(
  names: readonly string[],
  schemas: readonly string[] = [],
): Layout | undefined {
  const data = names.some((name) => USAGES.some((usage) => usage === name));
  const media = ["public", ...schemas].find((schema) => names.includes(schema));
  if (data && media !== undefined) {
    throw new Error(
      `contains both "${media}" and "media" or "reports", so it could be a /media or ` +
        "a /data folder; say which with --layout",
    );
  }
  return data ? "data" : media === undefined ? undefined : "media";
}

/** Why the files below a folder that is not a schema's are not copied. */
export function noSchemaReason(name: string): string {
  return (
    `it is not the folder of a schema; if it is that of ${SCHEMA_VARIABLE}, ` +
    `add --schema ${name}, and if authentik's schema is public, add --schema public`
  );
}

/** The key of a file, from its path below the root with `/` between the parts. */
export function keyOfPath(path: string, layout: Layout): string {
  return layout === "data" ? path : `media/${path}`;
}

/** The path below the root for a valid key whose usage the layout can hold. */
export function pathOfKey(key: string, layout: Layout): string {
  return layout === "data" ? key : key.slice("media/".length);
}

/** S3's limit for a key, in bytes of UTF-8 (AWS, "Naming Amazon S3 objects"). */
const MAX_KEY_BYTES = 1024;
/** The limit of Linux and macOS for a file's name, in bytes. */
const MAX_NAME_BYTES = 255;

/** What XML 1.0 cannot express ("Characters"), except NUL. */
const NOT_XML = /[\u0001-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;

/**
 * Why nothing is copied under this key; undefined for a valid key. authentik itself accepts none of
 * these names (its `admin/files/validation.py`). On a disk some of them would lead out of the root.
 */
export function invalidKeyReason(key: string): string | undefined {
  if (key.includes("\0")) return "its name has a NUL character";
  if (key.startsWith("/")) return "it is an absolute path";
  const parts = key.split("/");
  if (parts.includes("..") || parts.includes(".")) return 'its path contains "." or ".."';
  if (parts.includes("")) return "its path has an empty part";
  if (parts.length < 3 || !USAGES.some((usage) => usage === parts[0])) {
    return "authentik reads files only below media/<schema>/ and reports/<schema>/";
  }
  const bytes = Buffer.byteLength(key);
  if (bytes > MAX_KEY_BYTES) return `it is longer than ${MAX_KEY_BYTES} bytes`;
  if (bytes > MAX_NAME_BYTES && parts.some(isTooLong))
    return `a part of its path is longer than ${MAX_NAME_BYTES} bytes`;
  if (/\p{Surrogate}/u.test(key)) return "its name is not valid Unicode";
  if (NOT_XML.test(key))
    return "its name has a character that XML does not allow; S3 listings are XML";
  const isTemporary = TEMPORARY_NAME.test(parts.at(-1) ?? "");
  return isTemporary ? "its name is that of a partly written file" : undefined;
}

function isTooLong(name: string): boolean {
  // UTF-8 has at most three bytes for each of JavaScript's characters.
  return name.length * 3 > MAX_NAME_BYTES && Buffer.byteLength(name) > MAX_NAME_BYTES;
}

/** Names of files while they are written, in the folder of their target. */
export const TEMPORARY_NAME = /^\.migrate-[0-9a-f-]+\.part$/;

/**
 * Whether a folder at the bucket's root was made by the setup page's
 * `aws s3 sync /media s3://bucket/`.
 *
 * @param schemas names of schemas other than `public`
 */
export function isMisplaced(folder: string, schemas: readonly string[]): boolean {
  return isSchemaName(folder.replace(/\/$/, ""), schemas);
}
