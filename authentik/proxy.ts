/** The HTTP proxy of the environment, chosen as boto3 chooses it, so that tools and authentik agree. */

import { parseUrl } from "./url-parts.ts";

/** A process's environment variables. */
type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The proxy for requests to a URL, by `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`. The name in lower
 * case comes first, and an empty value there means none. Source: botocore's `get_environ_proxies`,
 * which is Python's `getproxies_environment` and `proxy_bypass_environment`.
 *
 * @returns the proxy's URL, or undefined for a direct connection
 * @throws Error for a variable that is not a URL; the message does not show its value
 */
export function proxyFor(
  url: string | URL,
  environment: Environment = process.env,
): URL | undefined {
  const { protocol, hostname, host } = new URL(url);
  const name = `${protocol.replace(":", "")}_proxy`;
  const proxy = read(name, environment);
  if (proxy === undefined || isDirect(read("no_proxy", environment), hostname, host)) {
    return undefined;
  }
  const text = /^https?:/i.test(proxy) ? proxy : `http://${proxy.replace(/^\/\//, "")}`;
  const parsed = parseUrl(text);
  if (parsed !== undefined) return parsed;
  throw new Error(
    `the environment variable ${name.toUpperCase()} is not a URL; write e.g. "http://proxy.company:3128"`,
  );
}

function read(name: string, environment: Environment): string | undefined {
  const value = environment[name] ?? environment[name.toUpperCase()];
  return value === "" ? undefined : value;
}

/** `NO_PROXY` is `*`, or a list of hosts. Each includes its subdomains, and may have a port. */
function isDirect(noProxy: string | undefined, hostname: string, host: string): boolean {
  if (noProxy === undefined) return false;
  if (noProxy === "*") return true;
  return noProxy
    .split(",")
    .map((entry) => entry.trim().toLowerCase().replace(/^\.+/, ""))
    .filter((entry) => entry !== "")
    .some((entry) => [hostname, host].some((own) => own === entry || own.endsWith(`.${entry}`)));
}

/** What a request may have. */
export interface FetchOptions {
  method?: string;
  headers?: Headers | Record<string, string>;
  body?: string;
  signal?: AbortSignal;
}

/** An answer, whose body is whole. */
export interface FetchedAnswer {
  status: number;
  headers: Headers;
  body: Buffer;
}

/** A request by `fetch`, through the proxy of the environment if there is one. It throws as `fetch` does. */
export async function fetchByProxy(
  url: string | URL,
  options: FetchOptions = {},
): Promise<FetchedAnswer> {
  const proxy = proxyFor(url);
  if (proxy === undefined) return whole(await fetch(url, options));
  // Node's own `fetch` does not read the variables before Node 24, and there only on request.
  const undici = await import("undici");
  const dispatcher = new undici.ProxyAgent({
    uri: proxy.href,
    // Proxies refuse tunnels to other ports than that of https.
    proxyTunnel: new URL(url).protocol === "https:",
  });
  try {
    const headers = Object.fromEntries(new Headers(options.headers ?? {}));
    return await whole(await undici.fetch(url, { ...options, headers, dispatcher }));
  } finally {
    await dispatcher.destroy();
  }
}

async function whole(response: {
  status: number;
  headers: Iterable<[string, string]>;
  body: AsyncIterable<unknown> | null;
}): Promise<FetchedAnswer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of limited(response.body ?? [])) chunks.push(chunk);
  const { status, headers } = response;
  return { status, headers: new Headers([...headers]), body: Buffer.concat(chunks) };
}

/** The limit of an answer, in MiB. S3's answers, and the files that tools read, are smaller. */
const MAX_ANSWER_MIB = 16;

/**
 * The bytes of an answer's body.
 *
 * @throws Error when there are too many
 */
export async function* limited(
  body: AsyncIterable<unknown> | Iterable<unknown>,
): AsyncGenerator<Uint8Array> {
  let length = 0;
  for await (const chunk of body) {
    if (!(chunk instanceof Uint8Array)) continue;
    length += chunk.length;
    if (length > MAX_ANSWER_MIB * 1024 * 1024) {
      throw new Error(`the answer is longer than ${MAX_ANSWER_MIB} MiB`);
    }
    yield chunk;
  }
}
