/** A small real proxy in front of a server, whose answers or requests a test changes. */
import { once } from "node:events";
import { createServer as createHttp, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createHttps } from "node:https";

export interface ProxyOptions {
  /** Answers a request itself; undefined passes it on. */
  answer?: (request: IncomingMessage) => { status: number; headers?: Record<string, string>; body: string } | undefined;
  /** Changes the headers of the server's answer. */
  changeHeaders?: (headers: IncomingHttpHeaders) => void;
  /** Speaks TLS to clients. */
  tls?: { key: string; cert: string } | undefined;
}

export interface Proxy {
  /** Without scheme: `127.0.0.1:40123`. */
  host: string;
  stop(): Promise<void>;
}

/** Starts a proxy on a free port of 127.0.0.1. The server sees the host that clients name. */
export async function startProxy(target: string, { answer, changeHeaders, tls }: ProxyOptions): Promise<Proxy> {
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
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port could be had on 127.0.0.1");
  return {
    host: `127.0.0.1:${address.port}`,
    async stop() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
