/** Where authentik keeps its files in the bucket, and which content type it gives them. */
import { readFileSync } from "node:fs";

/**
 * What authentik stores files for: the first part of every object's key. Reports exist from
 * 2025.12. Source: authentik's `admin/files/usage.py`.
 */
export const USAGES = ["media", "reports"] as const;
export type Usage = (typeof USAGES)[number];

/** The variable with the default tenant's schema. It can be any name. */
export const SCHEMA_VARIABLE = "AUTHENTIK_POSTGRESQL__DEFAULT_SCHEMA";

/**
 * Whether a folder's name is the name of a tenant's database schema: `public`, or a name that
 * authentik allows for a tenant (`VALID_SCHEMA_NAME` in its `tenants/models.py`).
 *
 * @param named other schemas, e.g. that of `SCHEMA_VARIABLE`
 */
export function isSchemaName(name: string, named: readonly string[] = []): boolean {
  return name === "public" || /^t_[a-z0-9]{1,61}$/.test(name) || named.includes(name);
}

/**
 * Why a text cannot be a schema whose files authentik keeps in a folder; undefined if it can.
 * PostgreSQL's names have at most 63 bytes ("Identifiers and Key Words").
 */
export function invalidSchemaReason(name: string): string | undefined {
  if (name === "") return "is empty";
  if (name === "." || name === ".." || /[/\0]/.test(name)) return "cannot be a folder's name";
  return Buffer.byteLength(name) > 63 ? "is longer than 63 bytes" : undefined;
}

const UNKNOWN_TYPE = "application/octet-stream";

/** Endings that stand for two endings (Python's `suffix_map`). */
const DOUBLE_ENDINGS: Readonly<Record<string, string>> = {
  ".svgz": ".svg.gz",
  ".tgz": ".tar.gz",
  ".taz": ".tar.gz",
  ".tz": ".tar.gz",
  ".tbz2": ".tar.bz2",
  ".txz": ".tar.xz",
};
/** Endings of compressed files (Python's `encodings_map`), in their exact case. */
const COMPRESSIONS: ReadonlySet<string> = new Set([".gz", ".Z", ".bz2", ".xz", ".br"]);

let types: Map<string, string> | undefined;

/**
 * The content type that authentik gives to an object of this name (`get_content_type` in its
 * `admin/files/backends/base.py`): the type that Python's `mimetypes.guess_type` finds, without the
 * compression, else `application/octet-stream`. authentik's container has no `/etc/mime.types`,
 * which would change that.
 */
export function contentType(name: string): string {
  types ??= readTypes();
  let [base, ending] = splitEnding(name);
  const double = DOUBLE_ENDINGS[ending.toLowerCase()];
  if (double !== undefined) [base, ending] = splitEnding(base + double);
  if (COMPRESSIONS.has(ending)) [, ending] = splitEnding(base);
  return types.get(ending.toLowerCase()) ?? UNKNOWN_TYPE;
}

/**
 * Whether a browser treats an object of this name and stored type as it would treat authentik's. A
 * name that shows no type fits any. Parameters such as `charset` make no difference.
 */
export function hasRightType(name: string, stored: string | undefined): boolean {
  const type = contentType(name);
  const [essence = ""] = (stored ?? "").split(";");
  return type === UNKNOWN_TYPE || essence.trim().toLowerCase() === type;
}

/** Python's `posixpath.splitext`: dots at the beginning of the last part belong to its name. */
function splitEnding(name: string): [string, string] {
  const [, base = name, ending = ""] = /^((?:.*\/)?\.*[^./][^/]*)(\.[^./]*)$/s.exec(name) ?? [];
  return [base, ending];
}

function readTypes(): Map<string, string> {
  const types = new Map<string, string>();
  for (const line of readFileSync(new URL("mime.types", import.meta.url), "utf8").split("\n")) {
    const [type = "", ...endings] = line.startsWith("#") ? [] : line.split(" ");
    for (const ending of endings) types.set(`.${ending}`, type);
  }
  return types;
}
