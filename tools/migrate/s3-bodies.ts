/** Receives the bodies of answers: whole, or as a stream. */
import type { IncomingHttpHeaders } from "node:http";
import type { Dispatcher } from "undici";
import type { AnswerHeaders } from "./checksums.ts";
import { errorOf, invalidAnswer, S3Error, slowAnswer, type S3Answer } from "./s3-answers.ts";

/** The slowest answer that is waited for, in bytes a millisecond. */
const SLOWEST_ANSWER = 1;

/** An object's bytes, or some of them, in the pieces in which they arrived. */
export interface ObjectBytes {
  headers: AnswerHeaders;
  chunks: readonly Buffer[];
}

/** Whether bytes arrive so slowly that their answer would take hours. */
function isTooSlow(received: number, ms: number, silenceMs: number): boolean {
  return ms > silenceMs + received / SLOWEST_ANSWER;
}

/**
 * Ends an answer that is too slow since `start`. undici's limits are for silence. They do not end an
 * answer that arrives in small pieces.
 */
function expectPace(
  controller: Dispatcher.DispatchController,
  received: number,
  start: number,
  silenceMs: number,
): void {
  const ms = performance.now() - start;
  if (isTooSlow(received, ms, silenceMs)) controller.abort(slowAnswer(received, ms));
}

/** Limits of a whole answer: its bytes, and for how many milliseconds it may be silent. */
interface CollectorLimit {
  bytes: number;
  ms: number;
}

/** Receives a whole answer. A stream for each would cost more than the request. */
export class Collector implements Dispatcher.DispatchHandler {
  private answer: S3Answer = { status: 0, headers: {} };
  private readonly chunks: Buffer[] = [];
  private length = 0;
  private start = 0;
  private readonly limit: CollectorLimit;
  private readonly resolve: (answer: ObjectBytes & S3Answer) => void;
  private readonly reject: (error: Error) => void;

  constructor(
    limit: CollectorLimit,
    resolve: (answer: ObjectBytes & S3Answer) => void,
    reject: (error: Error) => void,
  ) {
    this.limit = limit;
    this.resolve = resolve;
    this.reject = reject;
  }

  /** undici recognizes handlers of version 7 by this method. */
  onRequestStart(): void {
    this.length = 0;
    this.chunks.length = 0;
    this.start = performance.now();
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    this.answer = { status, headers: single(headers) };
    if (status < 200) expectPace(controller, this.length, this.start, this.limit.ms);
    else this.start = performance.now();
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.length += chunk.length;
    this.chunks.push(chunk);
    const { bytes, ms } = this.limit;
    if (this.length > bytes) controller.abort(invalidAnswer(`it is longer than ${bytes} bytes`));
    else expectPace(controller, this.length, this.start, ms);
  }

  onResponseEnd(): void {
    const { status, headers } = this.answer;
    this.resolve({ status, headers, chunks: this.chunks });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.reject(error);
  }
}

/** A paused answer is continued when fewer bytes wait for its reader. */
const PAUSE_BYTES = 512 * 1024;

interface StreamOptions {
  ahead: number;
  keepsConnections: boolean;
  silenceMs: number;
}

/**
 * An object's bytes while they arrive. It pauses for its reader only if the server keeps the
 * connection: undici 7 crashes when a connection is closed behind a paused answer.
 */
export class ObjectStream implements Dispatcher.DispatchHandler, AsyncIterable<Buffer> {
  private answer: S3Answer = { status: 0, headers: {} };
  private controller: Dispatcher.DispatchController | undefined;
  private mayPause = false;
  private start = 0;
  private readonly waiting: Buffer[] = [];
  /** Bytes in `waiting`. */
  private bytes = 0;
  private end: { error?: Error } | undefined;
  private wake: () => void = () => undefined;
  private readonly options: StreamOptions;
  private readonly resolve: (stream: ObjectStream) => void;
  private readonly reject: (error: Error) => void;

  constructor(
    options: StreamOptions,
    resolve: (stream: ObjectStream) => void,
    reject: (error: Error) => void,
  ) {
    this.options = options;
    this.resolve = resolve;
    this.reject = reject;
  }

  get headers(): AnswerHeaders {
    return this.answer.headers;
  }

  /** Whether it begins with the object's first byte, because the server does not support ranges. */
  get isWhole(): boolean {
    return this.answer.status !== 206;
  }

  onRequestStart(): void {
    this.waiting.length = 0;
    this.start = performance.now();
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    if (status < 200) {
      expectPace(controller, 0, this.start, this.options.silenceMs);
      return;
    }
    this.answer = { status, headers: single(headers) };
    this.controller = controller;
    this.mayPause = this.options.keepsConnections && isKeeping(this.answer.headers);
    if (status < 300) this.resolve(this);
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.waiting.push(chunk);
    this.bytes += chunk.length;
    if (this.mayPause) {
      if (this.bytes >= PAUSE_BYTES) controller.pause();
    } else if (this.bytes > this.options.ahead) {
      controller.abort(new S3Error("SlowReader", 0, "it arrived faster than it could be stored"));
    }
    this.wake();
  }

  onResponseEnd(): void {
    this.finish({});
    const { answer, waiting } = this;
    if (answer.status >= 300) this.reject(errorOf({ ...answer, body: joined(waiting) }));
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.finish({ error });
    this.reject(error);
  }

  private finish(end: { error?: Error }): void {
    this.end = end;
    this.wake();
  }

  /** Gives up the bytes that have not arrived. A paused answer would keep its connection. */
  cancel(): void {
    if (!this.end) this.controller?.abort(new S3Error("Cancelled", 0, "it is no longer read"));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    // Only the time that the reader waits counts.
    let [received, waitedMs] = [0, 0];
    try {
      for (;;) {
        const chunk = this.waiting.shift();
        if (chunk) {
          this.bytes -= chunk.length;
          received += chunk.length;
          yield chunk;
        } else if (this.end) {
          if (this.end.error) throw this.end.error;
          return;
        } else {
          const more = new Promise<void>((wake) => {
            this.wake = wake;
          });
          this.controller?.resume();
          const start = performance.now();
          await more;
          waitedMs += performance.now() - start;
          if (isTooSlow(received, waitedMs, this.options.silenceMs)) {
            throw slowAnswer(received, waitedMs);
          }
        }
      }
    } finally {
      this.cancel();
    }
  }
}

/** Whether the connection stays open after an answer, if the server keeps connections. */
function isKeeping(headers: AnswerHeaders): boolean {
  const isClosing = headers.connection?.toLowerCase().includes("close") === true;
  return headers["content-length"] !== undefined && !isClosing;
}

export function joined(chunks: readonly Buffer[]): Buffer {
  const [first] = chunks;
  return first && chunks.length === 1 ? first : Buffer.concat(chunks);
}

/** The headers with the first value of each. */
function single(headers: IncomingHttpHeaders): AnswerHeaders {
  const found: Record<string, string | undefined> = {};
  for (const [name, value] of Object.entries(headers)) {
    found[name] = Array.isArray(value) ? value[0] : value;
  }
  return found;
}
