/** Which object belongs to which file. Pure: nothing is read here. */
import { isSchemaName, USAGES, type Usage } from "../../authentik/objects.ts";

/**
 * The two generations of authentik's local storage: `data` is `/data` with `media/public/` and `reports/public/` in it (from
 * 2025.12), `media` is `/media` with `public/` in it (to 2025.10).
 */
export const LAYOUTS = ["data", "media"] as const;
export type Layout = (typeof LAYOUTS)[number];

/** The usages that a layout has room for. */
export function usagesOf(layout: Layout): readonly Usage[] {
  return layout === "data" ? USAGES : ["media"];
}

/**
 * The layout of a folder with these entries; undefined where they show none.
 *
 * @throws Error where they show both
 */
export function recogniseLayout(names: readonly string[]): Layout | undefined {
  const data = names.some((name) => USAGES.some((usage) => usage === name));
  const media = names.includes("public");
  if (data && media) {
    throw new Error('has both "public" and "media" or "reports" in it, so that it could be a /media or a /data folder; say which with --layout');
  }
  return data ? "data" : media ? "media" : undefined;
}

/** The key of a file, from its path below the root with `/` between the parts. */
export function keyOfPath(path: string, layout: Layout): string {
  return layout === "data" ? path : `media/${path}`;
}

/** The path below the root for a key that has no flaw and whose usage the layout has. */
export function pathOfKey(key: string, layout: Layout): string {
  return layout === "data" ? key : key.slice("media/".length);
}

/** S3's limit for a key, in bytes of UTF-8 (AWS, "Naming Amazon S3 objects"). */
const MAX_KEY_BYTES = 1024;
/** What Linux and macOS allow for a file's name, in bytes. */
const MAX_NAME_BYTES = 255;

/** What XML 1.0 has no way to write ("Characters"), but for NUL. */
const NOT_XML = /[\u0001-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;

/**
 * Why nothing is copied under this key, or undefined. authentik itself accepts none of these names (its
 * `admin/files/validation.py`); on disk some would lead out of the root.
 */
export function keyFlaw(key: string): string | undefined {
  if (key.includes("\0")) return "it has a NUL character";
  if (key.startsWith("/")) return "it is an absolute path";
  const parts = key.split("/");
  if (parts.includes("..") || parts.includes(".")) return 'it has "." or ".." in its path';
  if (parts.includes("")) return "it has an empty part in its path";
  if (parts.length < 3 || !USAGES.some((usage) => usage === parts[0])) {
    return "authentik looks for files only below media/<schema>/ and reports/<schema>/";
  }
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) return `it is longer than ${MAX_KEY_BYTES} bytes`;
  if (parts.some((part) => part.length * 3 > MAX_NAME_BYTES && Buffer.byteLength(part) > MAX_NAME_BYTES)) {
    return `it has a part longer than ${MAX_NAME_BYTES} bytes`;
  }
  if (/\p{Surrogate}/u.test(key)) return "it is not valid Unicode";
  if (NOT_XML.test(key)) return "it has a character that XML, in which buckets are listed, cannot have";
  return TEMPORARY_NAME.test(parts.at(-1) ?? "") ? "it is the name of a half-written file" : undefined;
}

/** Names of the files that are being written beside their place; the first number is the process, the second one its run. */
export const TEMPORARY_NAME = /^\.migrate-(\d+)-(?:[0-9a-f]+-)?\d+\.part$/;

/** Whether a folder at the bucket's root is one that the setup page's `aws s3 sync /media s3://bucket/` has made. */
export function isMisplaced(folder: string): boolean {
  return isSchemaName(folder.replace(/\/$/, ""));
}
