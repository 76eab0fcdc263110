/** Receives whole answers. */
import type { IncomingHttpHeaders } from "node:http";
import type { Dispatcher } from "undici";
import type { AnswerHeaders } from "./checksums.ts";
import { invalidAnswer, slowAnswer, type S3Answer } from "./s3-answers.ts";

/** The slowest answer that is waited for, in bytes a millisecond. */
const SLOWEST_ANSWER = 1;

/** An object's bytes, or some of them, in the pieces in which they arrived. */
export interface ObjectBytes {
  headers: AnswerHeaders;
  chunks: readonly Buffer[];
}

/** Whether bytes arrive so slowly that their answer would take hours. */
export function isTooSlow(received: number, ms: number, silenceMs: number): boolean {
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

export function joined(chunks: readonly Buffer[]): Buffer {
  const [first] = chunks;
  return first && chunks.length === 1 ? first : Buffer.concat(chunks);
}

/** The headers with the first value of each. */
export function single(headers: IncomingHttpHeaders): AnswerHeaders {
  const found: Record<string, string | undefined> = {};
  for (const [name, value] of Object.entries(headers)) {
    found[name] = Array.isArray(value) ? value[0] : value;
  }
  return found;
}
