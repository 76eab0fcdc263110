/**
 * URLs as Python's `urllib.parse` reads them, because authentik and boto3 do. JavaScript's `URL`
 * changes the text: the case of the host, default ports, dots in the path, and more.
 */

/** Settings with which authentik fails instead of giving a URL. The message says why. */
export class UrlError extends Error {
  override name = "UrlError";
}

/** The parts of a URL, each as it is written. */
export interface UrlParts {
  /** In lower case, without the colon. */
  scheme: string;
  /** User, host and port: `user@host:9000`. */
  authority: string;
  path: string;
  /** Without the question mark. */
  query: string;
  /** Without the hash. */
  fragment: string;
}

const URL_PARTS = /^(?:([a-z][a-z\d+.-]*):)?(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$/is;
const AUTHORITY = /^(?:.*@)?(?:\[([\da-f:.]+)\]|([^[\]:]*))(?::(.*))?$/is;
const DEFAULT_PORTS = new Map([
  ["http", 80],
  ["https", 443],
]);

/**
 * The text that Python's `urlsplit` sees: without control characters and spaces at the beginning,
 * and without tabs and newlines.
 */
export function stripped(text: string): string {
  return text.replace(/^[\0-\x20]+/, "").replace(/[\t\r\n]/g, "");
}

/** Python's `urlsplit`. Any text has parts, which may be empty. */
export function splitUrl(text: string): UrlParts {
  const parts = URL_PARTS.exec(stripped(text)) ?? [];
  const [, scheme = "", authority = "", path = "", query = "", fragment = ""] = parts;
  return { scheme: scheme.toLowerCase(), authority, path, query, fragment };
}

/** Python's `urlunsplit`, for a URL with a host. */
export function joinUrl({ scheme, authority, path, query, fragment }: UrlParts): string {
  const start = scheme === "" ? "" : `${scheme}:`;
  return `${start}//${authority}${path}?${query}${fragment === "" ? "" : `#${fragment}`}`;
}

/**
 * The host, in lower case and without brackets.
 *
 * @throws UrlError if the URL has no host
 */
export function hostOf(parts: UrlParts): string {
  const [, ipv6, name = ""] = AUTHORITY.exec(parts.authority) ?? [];
  const host = ipv6 ?? name;
  if (host === "") throw new UrlError(`"${withoutQuery(parts)}" has no host`);
  return host.toLowerCase();
}

/**
 * The port, if there is one.
 *
 * @throws UrlError if it is not a number up to 65535
 */
export function portOf(parts: UrlParts): number | undefined {
  const [, , , port = ""] = AUTHORITY.exec(parts.authority) ?? [];
  if (port === "") return undefined;
  if (/^\d+$/.test(port) && Number(port) < 65_536) return Number(port);
  throw new UrlError(`"${withoutQuery(parts)}" has the port "${port}", which is not a port`);
}

function withoutQuery({ scheme, authority, path }: UrlParts): string {
  return `${scheme}://${authority}${path}`;
}

/** The header `host` of a request, as botocore writes it (`_host_from_url` in `auth.py`). */
export function hostHeader(parts: UrlParts): string {
  const host = hostOf(parts);
  const name = host.includes(":") ? `[${host}]` : host.trim();
  const port = portOf(parts);
  return port === undefined || port === DEFAULT_PORTS.get(parts.scheme) ? name : `${name}:${port}`;
}

/**
 * A text as the URL standard reads it, or undefined. `URL.canParse` would be shorter, but on Node 20
 * it is wrong about non-ASCII texts once it is optimized (20.20.2: most of 200,000 calls).
 */
export function parseUrl(text: string): URL | undefined {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
}

/** A text without slashes at its end. A pattern would take quadratic time. */
export function withoutSlashes(text: string): string {
  let end = text.length;
  while (text[end - 1] === "/") end -= 1;
  return text.slice(0, end);
}
