/** A small real proxy in front of a server. A test changes its answers or requests. */
import {
  createServer as createHttp,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import { createServer as createHttps } from "node:https";
import { connect } from "node:net";
import type { Duplex } from "node:stream";
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

export interface ForwardProxy extends Listening {
  /** What clients asked for: `CONNECT host:port`, or `GET http://host:port/path`. */
  readonly asked: string[];
}

/**
 * Starts a proxy of a network, which clients are told about by `HTTP_PROXY` and `HTTPS_PROXY`. It
 * opens tunnels, and forwards requests with a whole URL.
 *
 * @param authorization the `Proxy-Authorization` that it requires
 */
export async function startForwardProxy(authorization?: string): Promise<ForwardProxy> {
  const asked: string[] = [];
  const isAllowed = ({ method = "", url = "", headers }: IncomingMessage): boolean => {
    asked.push(`${method} ${url}`);
    return authorization === undefined || headers["proxy-authorization"] === authorization;
  };
  const server = createHttp((request, response) => {
    if (!isAllowed(request)) {
      response.writeHead(407).end();
      return;
    }
    const headers = { ...request.headers };
    delete headers["proxy-authorization"];
    const upstream = httpRequest(
      request.url ?? "",
      { method: request.method, headers },
      (reply) => {
        response.writeHead(reply.statusCode ?? 502, reply.headers);
        reply.pipe(response);
      },
    );
    upstream.once("error", () => request.socket.destroy());
    request.pipe(upstream);
  });
  server.on("connect", (request: IncomingMessage, socket: Duplex) => {
    if (!isAllowed(request)) {
      socket.end("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
      return;
    }
    const { hostname, port } = new URL(`http://${request.url ?? ""}`);
    const upstream = connect(Number(port), hostname, () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      upstream.pipe(socket).pipe(upstream);
    });
    for (const end of [socket, upstream]) {
      end.once("error", () => {
        socket.destroy();
        upstream.destroy();
      });
    }
    socket.once("close", () => upstream.destroy());
  });
  return { ...(await listen(server)), asked };
}
