/** Makes requests as a browser does, and describes failed ones. */
import * as v from "valibot";
import { fetchByProxy, type FetchedAnswer, type FetchOptions } from "../../providers/s3/fetch.ts";
import type { Failure } from "./diagnosis.ts";

/** The limit of a request, in milliseconds: for connecting, and for the answer. */
export const REQUEST_TIMEOUT_MS = 5_000;

/** A successful answer without what every S3 server puts into it, such as a web page. */
export class NotS3Error extends Error {
  override name = "NotS3Error";
  /** @param missing what the answer does not have */
  constructor(missing: string) {
    super(`200 without ${missing}`);
  }
}

/** The answer to a request that any browser could have made. */
export type Answer = FetchedAnswer;

/**
 * Makes a request as a browser does, and follows redirects. It throws what `fetch` throws, which
 * `failureOf` reads.
 *
 * It does not use `AbortSignal.any` with `AbortSignal.timeout`: Node may collect a timeout that
 * only `any` refers to, and then the timeout never comes (nodejs/node issue 57736).
 */
export async function request(
  url: string | URL,
  options: FetchOptions,
  signal: AbortSignal,
): Promise<Answer> {
  const controller = new AbortController();
  const abort = () => {
    controller.abort();
  };
  const limit = setTimeout(() => {
    controller.abort(new DOMException("no answer in time", "TimeoutError"));
  }, REQUEST_TIMEOUT_MS);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    return await fetchByProxy(url, { ...options, signal: controller.signal });
  } finally {
    clearTimeout(limit);
    signal.removeEventListener("abort", abort);
  }
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&#39;": "'",
  "&apos;": "'",
  "&#34;": '"',
  "&quot;": '"',
  "&lt;": "<",
  "&gt;": ">",
  "&amp;": "&",
};

/** The S3 error in an answer. */
export function failureOfAnswer({ status, body }: Answer): Failure {
  const text = body.subarray(0, 4096).toString();
  const code = /<Code>([^<]+)<\/Code>/.exec(text)?.[1] ?? `HTTP ${status}`;
  const message = /<Message>([^<]*)<\/Message>/.exec(text)?.[1] ?? "";
  return { status, code, message: message.replace(/&[\w#]+;/g, (text) => ENTITIES[text] ?? text) };
}

/** Whether a successful answer is the XML of an S3 server, and not a web page. */
export function isS3Xml({ body }: Answer): boolean {
  const [, root] = /^\s*(?:<\?xml[^>]*>\s*)?<(\w+)/.exec(body.subarray(0, 4096).toString()) ?? [];
  return root !== undefined && root.toLowerCase() !== "html";
}

const Thrown = v.object({
  name: v.optional(v.string(), "Error"),
  code: v.optional(v.unknown()),
  message: v.optional(v.string(), ""),
  cause: v.optional(v.unknown()),
  $metadata: v.optional(v.object({ httpStatusCode: v.optional(v.number()) })),
  $response: v.optional(v.object({ headers: v.optional(v.record(v.string(), v.string()), {}) })),
  Region: v.optional(v.string()),
});

/**
 * Describes an error of the AWS SDK or of `fetch`. The outermost error says most about S3, the
 * innermost cause most about the network.
 */
export function failureOf(error: unknown): Failure {
  const thrown = v.safeParse(Thrown, error);
  if (!thrown.success) return { code: "Error", message: String(error) };
  const { name, code, message, cause, $metadata, $response, Region } = thrown.output;
  const status = $metadata?.httpStatusCode;
  // The SDK's message if it cannot read a successful answer as S3's XML.
  if (message.includes("Deserialization error")) {
    return { status, code: "NotS3Error", message: "the answer is not S3's XML" };
  }
  // The SDK's message for an answer without a body, as every answer to HEAD is.
  const hasNoBody = message === "UnknownError";
  if (status !== undefined && hasNoBody) return { status, code: `HTTP ${status}`, message: "" };
  const region = $response?.headers["x-amz-bucket-region"] ?? Region;
  const place = region === undefined ? "" : ` The bucket's region is ${region}.`;
  if (status !== undefined) return { status, code: name, message: message + place };
  if (cause !== undefined) return failureOf(cause);
  return { code: typeof code === "string" ? code : name, message };
}
