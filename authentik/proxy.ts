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
