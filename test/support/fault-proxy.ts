/**
 * An HTTP proxy that causes faults in chosen requests. Nothing in it depends on time or chance: the
 * caller says what happens to which request.
 */
import {
  createServer,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { listen } from "./listen.ts";

/** What may happen to a request, or to its answer. */
export type Fault =
  /** The connection is reset before the server sees the request. */
  | "reset"
  /** The server does what is requested, but the connection is reset instead of its answer. */
  | "lost"
  /** The server does what is requested, but its answer never arrives. */
  | "lost-silently"
  /** S3's 503 SlowDown. */
  | "slow-down"
  /** No answer ever arrives. */
  | "stall"
  /** Interim answers arrive (status 103), and never another one. */
  | "hints"
  /** The answer's body arrives a byte at a time, so slowly that it takes hours. */
  | "drip"
  /** Half of the answer's body arrives, and then nothing. */
  | "stall-body"
  /** The answer ends after half of its body, although its Content-Length is larger. */
  | "truncate"
  /** One byte of the answer's body is changed. */
  | "corrupt"
  /** One byte of the request's body is changed. */
  | "corrupt-request"
  /** An S3 error. */
  | { status: number; code: string };

export interface ProxiedRequest {
  method: string;
  /** With the query. */
  path: string;
  headers: IncomingHttpHeaders;
  /** 0 for the first request of the proxy, and so on. */
  index: number;
}

/** Chooses the fault for a request; undefined passes it on. */
export type FaultChooser = (request: ProxiedRequest) => Fault | undefined;

export interface FaultProxy {
  /** E.g. `http://127.0.0.1:40123`. The server sees this host too, so that signatures are valid. */
  endpoint: string;
  /** How often each fault was caused. */
  done: Map<Fault, number>;
  /** How many requests arrived. */
  readonly requests: number;
  stop(): Promise<void>;
}

const SLOW_DOWN = { status: 503, code: "SlowDown" };

/**
 * Starts a proxy on a free port of 127.0.0.1.
 *
 * @param target `http://host:port` of the server behind it
 */
export async function startFaultProxy(target: string, choose: FaultChooser): Promise<FaultProxy> {
  const done = new Map<Fault, number>();
  let requests = 0;
  const server = createServer((request, response) => {
    const { method = "", url: path = "", headers } = request;
    const fault = choose({ method, path, headers, index: requests++ });
    if (fault) done.set(fault, (done.get(fault) ?? 0) + 1);
    if (fault === "reset") request.socket.resetAndDestroy();
    else if (typeof fault === "object") reject(fault, request, response);
    else if (fault === "slow-down") reject(SLOW_DOWN, request, response);
    else if (fault === "hints") sendHints(response);
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

interface ErrorAnswer {
  status: number;
  code: string;
}

function reject(
  { status, code }: ErrorAnswer,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  request.resume();
  request.once("end", () => {
    response.writeHead(status, { "content-type": "application/xml" });
    response.end(`<Error><Code>${code}</Code><Message>by the proxy</Message></Error>`);
  });
}

function forward(
  target: string,
  request: IncomingMessage,
  response: ServerResponse,
  fault: Exclude<Fault, object> | undefined,
): void {
  const { hostname, port } = new URL(target);
  const { method, url: path, headers } = request;
  const upstream = httpRequest({ hostname, port, method, path, headers });
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
    if (fault === "drip") void drip(answer, response);
    else if (fault === "truncate" || fault === "stall-body") void cut(answer, response, fault);
    else void pipe(answer, response, fault === "corrupt");
  });
  upstream.once("error", () => request.socket.destroy());
  request.once("close", () => {
    if (!request.complete) upstream.destroy();
  });
  void pipe(request, upstream, fault === "corrupt-request");
}

interface Sink {
  write(chunk: Buffer): boolean;
  end(): unknown;
  on(event: "drain" | "close", listener: () => void): unknown;
  off(event: "drain" | "close", listener: () => void): unknown;
  readonly destroyed: boolean;
}

async function pipe(source: IncomingMessage, sink: Sink, isCorrupt: boolean): Promise<void> {
  let corrupt = isCorrupt;
  try {
    for await (const chunk of buffers(source)) {
      if (sink.destroyed) return;
      if (corrupt && chunk.length > 0) chunk.writeUInt8((chunk[0] ?? 0) ^ 0xff, 0);
      corrupt = false;
      if (!sink.write(chunk)) await drained(sink);
    }
    sink.end();
  } catch {
    // One side is closed. The other notices it by its own connection.
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

async function cut(
  source: IncomingMessage,
  response: ServerResponse,
  fault: "truncate" | "stall-body",
): Promise<void> {
  const half = Math.floor(Number(source.headers["content-length"] ?? 0) / 2);
  let sent = 0;
  for await (const chunk of buffers(source)) {
    const part = chunk.subarray(0, Math.max(0, half - sent));
    sent += part.length;
    if (part.length > 0) response.write(part);
  }
  if (fault === "truncate") response.socket?.end();
}

const DRIP_MS = 100;

async function drip(source: IncomingMessage, response: ServerResponse): Promise<void> {
  for await (const chunk of buffers(source)) {
    for (const byte of chunk) {
      if (response.destroyed) return;
      response.write(Buffer.of(byte));
      await sleep(DRIP_MS);
    }
  }
  response.end();
}

function sendHints(response: ServerResponse): void {
  const timer = setInterval(() => {
    response.writeEarlyHints({ link: "</x>; rel=preload" });
  }, DRIP_MS);
  response.once("close", () => {
    clearInterval(timer);
  });
}

async function* buffers(source: IncomingMessage): AsyncGenerator<Buffer> {
  for await (const chunk of source) if (Buffer.isBuffer(chunk)) yield chunk;
}
