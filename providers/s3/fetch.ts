/** `fetch` through the proxy of the environment, with a limit for the answer. */
import { proxyFor } from "../../authentik/proxy.ts";

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
