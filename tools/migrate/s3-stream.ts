/** Receives large objects as streams. */
import type { IncomingHttpHeaders } from "node:http";
import type { Socket } from "node:net";
import { Readable } from "node:stream";
import type { Dispatcher } from "undici";
import type { AnswerHeaders } from "./checksums.ts";
import { invalidAnswer, slowAnswer, type S3Answer, type WholeAnswer } from "./s3-answers.ts";
import { isTooSlow, joined, single } from "./s3-bodies.ts";
import type { Route } from "./s3-route.ts";
import type { SignedRequest } from "./s3-signing.ts";

/** How many chunks of up to 64 KiB wait for their reader before the connection is paused. */
const WAITING_CHUNKS = 4;

/**
 * The answer to a GET request, on a connection of its own. Its body arrives only as fast as it is
 * read. Call `open`, and `close` at the end.
 */
export class StreamedAnswer implements Dispatcher.DispatchHandler, S3Answer {
  status = 0;
  headers: AnswerHeaders = {};
  private readonly route: Route;
  private readonly pool: Dispatcher;
  private readonly silenceMs: number;
  private readonly body: Readable;
  private socket: Socket | undefined;
  private isPaused = false;
  private onStart: () => void = () => undefined;

  constructor(route: Route, silenceMs: number) {
    this.route = route;
    this.silenceMs = silenceMs;
    const options = { connections: 1, headersTimeout: 0, bodyTimeout: 0 };
    this.pool = route.open(options, silenceMs, (socket) => {
      this.makePausable(socket);
    });
    this.body = new Readable({
      objectMode: true,
      highWaterMark: WAITING_CHUNKS,
      read: () => {
        this.resume();
      },
      destroy: (error, done) => {
        void this.pool.destroy();
        done(error);
      },
    });
    // The reader gets it, also if it comes before the first read.
    this.body.on("error", () => undefined);
  }

  /**
   * A paused connection has nothing to read. undici 7 has a pause too, but crashes if the connection
   * ends during it (nodejs/undici, issue 5360).
   */
  private makePausable(socket: Socket): void {
    const read: (size?: number) => unknown = socket.read.bind(socket);
    socket.read = (size) => (this.isPaused ? null : read(size));
    this.socket = socket;
  }

  private resume(): void {
    if (!this.isPaused) return;
    this.isPaused = false;
    this.socket?.emit("readable");
  }

  /**
   * Sends the request, and waits for the headers of its answer.
   *
   * @throws S3Error when they do not arrive in `silenceMs`; errors of the connection as they are
   */
  async open({ path, headers }: SignedRequest): Promise<void> {
    const { body, silenceMs } = this;
    const timer = setTimeout(() => body.destroy(slowAnswer(0, silenceMs)), silenceMs);
    try {
      await new Promise<void>((resolve, reject) => {
        this.onStart = resolve;
        body.once("error", reject);
        this.pool.dispatch({ origin: this.route.origin, method: "GET", path, headers }, this);
      });
    } finally {
      clearTimeout(timer);
    }
  }

  /** undici recognizes handlers of version 7 by this method. */
  onRequestStart(): void {
    this.status = 0;
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    if (status < 200) return;
    this.status = status;
    this.headers = single(headers);
    this.onStart();
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.isPaused = !this.body.push(chunk);
  }

  onResponseEnd(): void {
    this.body.push(null);
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.body.destroy(error);
  }

  /**
   * The body's bytes.
   *
   * @throws S3Error when the reader waits too long for them
   */
  async *chunks(): AsyncGenerator<Buffer> {
    const { body, silenceMs } = this;
    let [received, waitedMs] = [0, 0];
    let waitsSince: number | undefined = performance.now();
    const timer = setInterval(() => {
      const ms = performance.now() - (waitsSince ?? Infinity);
      const isSlow = ms > silenceMs || isTooSlow(received, waitedMs + ms, silenceMs);
      if (isSlow) body.destroy(slowAnswer(received, waitedMs + ms));
    }, silenceMs / 4);
    try {
      const chunks: AsyncIterable<Buffer> = body;
      for await (const chunk of chunks) {
        waitedMs += performance.now() - waitsSince;
        received += chunk.length;
        waitsSince = undefined;
        yield chunk;
        waitsSince = performance.now();
      }
    } finally {
      clearInterval(timer);
    }
  }

  /**
   * The whole body.
   *
   * @throws S3Error when it is larger than the limit, in bytes
   */
  async whole(limit: number): Promise<WholeAnswer> {
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of this.chunks()) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > limit) throw invalidAnswer(`it is longer than ${limit} bytes`);
    }
    return { status: this.status, headers: this.headers, body: joined(chunks) };
  }

  /** Closes the connection. A reader that still waits gets an error that is not retryable. */
  close(): void {
    this.body.destroy(new Error("the answer is no longer read"));
  }
}
