/** How a server is reached: directly, or through a proxy of the environment. */
import type { Socket } from "node:net";
import type { buildConnector, Dispatcher, ProxyAgent } from "undici";
import newConnector from "undici/lib/core/connect.js";
import Pool from "undici/lib/dispatcher/pool.js";
import { proxyFor } from "../../authentik/proxy.ts";

/** In milliseconds. */
const CONNECT_TIMEOUT = 10_000;

/** The way to one server. */
export class Route {
  readonly origin: string;
  private readonly proxy: URL | undefined;
  /** Loaded only if there is a proxy. */
  private readonly Agent: typeof ProxyAgent | undefined;

  private constructor(origin: string, proxy?: URL, Agent?: typeof ProxyAgent) {
    this.origin = origin;
    this.proxy = proxy;
    this.Agent = Agent;
  }

  /** @throws Error when a variable of the environment names a proxy that is not a URL */
  static async to(origin: string): Promise<Route> {
    const proxy = proxyFor(origin);
    return new Route(origin, proxy, proxy && (await import("undici")).ProxyAgent);
  }

  /** For messages, without credentials. */
  get name(): string {
    const { origin, proxy } = this;
    return proxy ? `${origin}, through the proxy ${proxy.host},` : origin;
  }

  /**
   * Opens a pool of connections.
   *
   * @param silenceMs how long a connection may take to open, up to ten seconds
   * @param onSocket gets each connection before it is used
   */
  open(
    options: Pool.Options,
    silenceMs: number,
    onSocket: (socket: Socket) => void = () => undefined,
  ): Dispatcher {
    const timeout = Math.min(silenceMs, CONNECT_TIMEOUT);
    const factory = (origin: string | URL, ofProxy: Pool.Options = {}) => {
      const { connect } = ofProxy;
      const connector = typeof connect === "function" ? connect : newConnector({ timeout });
      return new Pool(origin, { ...options, connect: announced(connector, onSocket) });
    };
    const { origin, proxy, Agent } = this;
    // Like boto3, it requires a tunnel only for https.
    const proxyTunnel = origin.startsWith("https:");
    return proxy && Agent ? new Agent({ uri: proxy.href, proxyTunnel, factory }) : factory(origin);
  }
}

function announced(
  connect: buildConnector.connector,
  onSocket: (socket: Socket) => void,
): buildConnector.connector {
  return (options, callback) => {
    connect(options, (...result) => {
      const [, socket] = result;
      if (socket) onSocket(socket);
      callback(...result);
    });
  };
}
