/** An HTTP proxy that spoils chosen requests. It has no clock and no chance of its own: the caller says what happens to which request. */
import { createServer, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import { listen } from "./listen.ts";

/** What may happen to a request, or to its answer. */
export type Fault =
  /** The connection is reset before the server sees the request. */
  | "reset"
  /** The server does what is asked, but the connection is reset instead of its answer. */
  | "lost"
  /** The server does what is asked, but its answer never comes. */
  | "lost-silently"
  /** S3's 503 SlowDown. */
  | "slow-down"
  /** No answer ever comes. */
  | "stall"
  /** The answer's body stops half-way, and nothing more comes. */
  | "stall-body"
  /** The answer's body ends half-way, though its Content-Length says more. */
  | "truncate"
  /** One byte of the answer's body is another. */
  | "corrupt"
  /** One byte of the request's body is another. */
  | "corrupt-request"
  /** An S3 error of the server's own. */
  | { status: number; code: string };

export interface ProxiedRequest {
  method: string;
  /** With the query. */
  path: string;
  headers: IncomingHttpHeaders;
  /** 0 for the first request that the proxy gets, and so on. */
  index: number;
}

export interface FaultProxy {
  /** E.g. `http://127.0.0.1:40123`. The server sees this host too, so that signatures hold. */
  endpoint: string;
  /** How often each fault has been done. */
  done: Map<Fault, number>;
  /** How many requests came. */
  readonly requests: number;
  stop(): Promise<void>;
}

/**
 * Starts a proxy on a free port of 127.0.0.1.
 *
 * @param target `http://host:port` of the server behind it
 * @param choose the fault for a request; undefined passes it on
 */
export async function startFaultProxy(target: string, choose: (request: ProxiedRequest) => Fault | undefined): Promise<FaultProxy> {
  const done = new Map<Fault, number>();
  let requests = 0;
  const server = createServer((request, response) => {
    const fault = choose({ method: request.method ?? "", path: request.url ?? "", headers: request.headers, index: requests++ });
    if (fault) done.set(fault, (done.get(fault) ?? 0) + 1);
    if (fault === "reset") request.socket.resetAndDestroy();
    else if (typeof fault === "object") refuse(fault, request, response);
    else if (fault === "slow-down") refuse({ status: 503, code: "SlowDown" }, request, response);
    else if (fault !== "stall") forward(target, request, response, fault);
  });
  server.keepAliveTimeout = 60_000;
  const { host, stop } = await listen(server);
  return {
    endpoint: `http://${host}`,
    done,
    get requests() {
      return requests;
    },
    stop,
  };
}

function refuse({ status, code }: { status: number; code: string }, request: IncomingMessage, response: ServerResponse): void {
  request.resume();
  request.once("end", () => {
    response.writeHead(status, { "content-type": "application/xml" });
    response.end(`<Error><Code>${code}</Code><Message>by the proxy</Message></Error>`);
  });
}

function forward(target: string, request: IncomingMessage, response: ServerResponse, fault: Exclude<Fault, object> | undefined): void {
  const { hostname, port } = new URL(target);
  const upstream = httpRequest({ hostname, port, method: request.method, path: request.url, headers: request.headers });
  upstream.once("response", (answer) => {
    if (fault === "lost") {
      answer.resume();
      answer.once("end", () => request.socket.resetAndDestroy());
      return;
    }
    if (fault === "lost-silently") {
      answer.resume();
      return;
    }
    response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
    if (fault === "truncate" || fault === "stall-body") void cut(answer, response, fault);
    else void pipe(answer, response, fault === "corrupt");
  });
  upstream.once("error", () => request.socket.destroy());
  request.once("close", () => { if (!request.complete) upstream.destroy(); });
  void pipe(request, upstream, fault === "corrupt-request");
}

interface Sink {
  write(chunk: Buffer): boolean;
  end(): unknown;
  on(event: "drain" | "close", listener: () => void): unknown;
  off(event: "drain" | "close", listener: () => void): unknown;
  readonly destroyed: boolean;
}

async function pipe(source: IncomingMessage, sink: Sink, corrupt: boolean): Promise<void> {
  let spoil = corrupt;
  try {
    for await (const chunk of buffers(source)) {
      if (sink.destroyed) return;
      if (spoil && chunk.length > 0) chunk.writeUInt8((chunk[0] ?? 0) ^ 0xff, 0);
      spoil = false;
      if (!sink.write(chunk)) await drained(sink);
    }
    sink.end();
  } catch {
    // One side has gone; the other learns it from its own connection.
  }
}

function drained(sink: Sink): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      sink.off("drain", done);
      sink.off("close", done);
      resolve();
    };
    sink.on("drain", done);
    sink.on("close", done);
  });
}

async function cut(source: IncomingMessage, response: ServerResponse, fault: "truncate" | "stall-body"): Promise<void> {
  const half = Math.floor(Number(source.headers["content-length"] ?? 0) / 2);
  let sent = 0;
  for await (const chunk of buffers(source)) {
    const part = chunk.subarray(0, Math.max(0, half - sent));
    sent += part.length;
    if (part.length > 0) response.write(part);
  }
  if (fault === "truncate") response.socket?.end();
}

async function* buffers(source: IncomingMessage): AsyncGenerator<Buffer> {
  for await (const chunk of source) if (Buffer.isBuffer(chunk)) yield chunk;
}
