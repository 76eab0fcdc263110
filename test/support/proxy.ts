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
  body: string;
}

export interface ProxyOptions {
  /** Answers a request itself; undefined passes it on. */
  answer?: (request: IncomingMessage) => ProxyAnswer | undefined;
  /** Changes the headers of the server's answer. */
  changeHeaders?: (headers: IncomingHttpHeaders) => void;
  /** Speaks TLS to clients. */
  tls?: { key: string; cert: string } | undefined;
}

/** Starts a proxy on a free port of 127.0.0.1. The server sees the host that clients name. */
export async function startProxy(target: string, options: ProxyOptions): Promise<Listening> {
  const { answer, changeHeaders, tls } = options;
  const { hostname, port } = new URL(target);
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    const own = answer?.(request);
    if (own) {
      request.resume();
      request.once("end", () => response.writeHead(own.status, own.headers).end(own.body));
      return;
    }
    const { method, url: path, headers } = request;
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
