/** A small real proxy in front of a server, whose answers or requests a test changes. */
import { createServer as createHttp, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createHttps } from "node:https";
import { listen, type Listening } from "./listen.ts";

export interface ProxyOptions {
  /** Answers a request itself; undefined passes it on. */
  answer?: (request: IncomingMessage) => { status: number; headers?: Record<string, string>; body: string } | undefined;
  /** Changes the headers of the server's answer. */
  changeHeaders?: (headers: IncomingHttpHeaders) => void;
  /** Speaks TLS to clients. */
  tls?: { key: string; cert: string } | undefined;
}

/** Starts a proxy on a free port of 127.0.0.1. The server sees the host that clients name. */
export async function startProxy(target: string, { answer, changeHeaders, tls }: ProxyOptions): Promise<Listening> {
  const { hostname, port } = new URL(target);
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    const own = answer?.(request);
    if (own) {
      request.resume();
      request.once("end", () => { response.writeHead(own.status, own.headers).end(own.body); });
      return;
    }
    const upstream = httpRequest({ hostname, port, method: request.method, path: request.url, headers: request.headers }, (reply) => {
      const headers = { ...reply.headers };
      changeHeaders?.(headers);
      response.writeHead(reply.statusCode ?? 502, headers);
      reply.pipe(response);
    });
    upstream.once("error", () => { request.socket.destroy(); });
    request.pipe(upstream);
  };
  const server = tls ? createHttps(tls, handle) : createHttp(handle);
  return listen(server);
}
