/** How often a failed call is repeated, and after which pause. */
import { setTimeout as sleep } from "node:timers/promises";
import { S3Error } from "./s3-answers.ts";

export interface RetryPolicy {
  /** How often a call is tried in all. */
  attempts: number;
  /** The first pause, in milliseconds. It doubles up to `MAX_PAUSE_MS`. */
  pauseMs: number;
  /** How long a server may be silent, in milliseconds. */
  silenceMs: number;
  /** The slowest upload that is waited for, in bytes a millisecond; it adds to `silenceMs`. */
  slowestRate: number;
}

export const DEFAULT_RETRY_POLICY: RetryPolicy = {
  attempts: 8,
  pauseMs: 200,
  silenceMs: 30_000,
  slowestRate: 32,
};
const MAX_PAUSE_MS = 10_000;

/** Decides which failed calls are tried again, and reports them. */
export interface Retrier {
  readonly retryPolicy: RetryPolicy;
  mayRetry(error: unknown): boolean;
  /** @param attempt the number of the one that has failed */
  reportRetry(error: unknown, attempt: number): void;
}

/**
 * Repeats a call while its failure is retryable.
 *
 * @throws the last failure; one of the connection as S3Error
 */
export async function withRetry<T>(retrier: Retrier, call: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      await pauseAfter(retrier, error, attempt);
    }
  }
}

/**
 * Waits before the next attempt. The pause doubles with each, and half of it is random.
 *
 * @throws the failure if no attempt is left, or another one would not help
 */
export async function pauseAfter(
  retrier: Retrier,
  failure: unknown,
  attempt: number,
): Promise<void> {
  const { attempts, pauseMs } = retrier.retryPolicy;
  const error = asS3Error(failure);
  if (attempt >= attempts || !retrier.mayRetry(error)) throw error;
  retrier.reportRetry(error, attempt);
  const longest = Math.min(MAX_PAUSE_MS, pauseMs * 2 ** (attempt - 1));
  await sleep(longest * (0.5 + Math.random() / 2));
}

/** S3's codes for temporary failures ("Error responses", AWS), in addition to 5xx, 408, 425 and 429. */
const RETRYABLE_CODES: ReadonlySet<string> = new Set([
  "RequestTimeout",
  "BadDigest",
  "XAmzContentSHA256Mismatch",
  "InvalidDigest",
  "IncompleteBody",
  "OperationAborted",
  "SlowDown",
  "ConditionalRequestConflict",
]);

/**
 * Whether a failed call may succeed when it is repeated: resets, timeouts, 5xx, corrupted bytes.
 */
export function isRetryable(error: unknown): boolean {
  if (!(error instanceof S3Error)) return false;
  const { status, code } = error;
  const isTemporary = [0, 408, 425, 429].includes(status) || (status >= 500 && status !== 501);
  return isTemporary || RETRYABLE_CODES.has(code);
}

/** Beginnings of the codes of a wrong host, port or scheme, or of a proxy that refuses. */
const UNREACHABLE_CODES = [
  ...["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "ENETUNREACH", "EHOSTUNREACH"],
  ...["EPROTO", "ERR_SSL_", "HPE_"],
  ...["UND_ERR_CONNECT_TIMEOUT", "UND_ERR_ABORTED", "UND_ERR_INVALID_ARG"],
];
/** Beginnings of the codes of all failures of a connection. */
const CONNECTION_CODES = [...UNREACHABLE_CODES, "UND_ERR_", "ECONN", "ETIMEDOUT", "EPIPE"];

function isOneOf(beginnings: readonly string[], code: string): boolean {
  return beginnings.some((beginning) => code.startsWith(beginning));
}

/** Whether there may be no S3 server at this address. After an earlier answer, a retry may help. */
export function isUnreachable(error: unknown): boolean {
  return error instanceof S3Error && isOneOf(UNREACHABLE_CODES, error.code);
}

/** What undici and Node throw for a connection, as S3Error. Other errors stay as they are. */
export function asS3Error(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof S3Error || !("code" in error)) return error;
  // undici's parser has no code for most of its errors.
  const code = error.name === "HTTPParserError" ? "HPE_INVALID" : error.code;
  if (typeof code !== "string" || !isOneOf(CONNECTION_CODES, code)) return error;
  // A name with several addresses fails once for each.
  const causes = error instanceof AggregateError ? error.errors : [error];
  const reason = causes.map((cause) => (cause instanceof Error ? cause.message : code)).join(", ");
  const text = `no complete answer arrived (${code}: ${reason})`;
  return new S3Error(code, 0, text, { cause: error });
}
