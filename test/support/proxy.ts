/** A small real proxy in front of a server. A test changes its answers or requests. */
import {
  createServer as createHttp,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import { createServer as createHttps } from "node:https";
import { listen, type Listening } from "./listen.ts";

/** An answer of the proxy itself. */
export interface ProxyAnswer {
  status: number;
  headers?: Record<string, string>;
  body: string | Buffer;
}

export interface ProxyOptions {
  /** Answers a request itself; undefined passes it on. */
  answer?: (request: IncomingMessage) => ProxyAnswer | undefined;
  /** Changes the headers of the server's answer. */
  changeHeaders?: (headers: IncomingHttpHeaders) => void;
  /** Sends the target's own host to it, as a proxy does unless it is told otherwise. */
  sendsOwnHost?: boolean;
  /** Speaks TLS to clients. */
  tls?: { key: string; cert: string } | undefined;
}

/**
 * Starts a proxy on a free port of 127.0.0.1. The server sees the host that clients name, unless
 * the proxy sends the target's own host.
 */
export async function startProxy(target: string, options: ProxyOptions): Promise<Listening> {
  const { answer, changeHeaders, sendsOwnHost, tls } = options;
  const { hostname, port, host } = new URL(target);
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    const own = answer?.(request);
    if (own) {
      request.resume();
      request.once("end", () => response.writeHead(own.status, own.headers).end(own.body));
      return;
    }
    const { method, url: path } = request;
    const headers = sendsOwnHost === true ? { ...request.headers, host } : request.headers;
    const upstream = httpRequest({ hostname, port, method, path, headers }, (reply) => {
      const changed = { ...reply.headers };
      changeHeaders?.(changed);
      response.writeHead(reply.statusCode ?? 502, changed);
      reply.pipe(response);
    });
    upstream.once("error", () => request.socket.destroy());
    request.pipe(upstream);
  };
  return listen(tls ? createHttps(tls, handle) : createHttp(handle));
}
