/** The config of every S3 client of the project. It loads no client, so that previews start fast. */
import { Readable } from "node:stream";
import type { S3ClientConfig } from "@aws-sdk/client-s3";
import { NodeHttpHandler, type NodeHttpHandlerOptions } from "@smithy/node-http-handler";
import { proxyFor } from "../../authentik/proxy.ts";
import { limited } from "./fetch.ts";

/** Keys, or the name of an AWS profile; with neither, the SDK's default chain looks for credentials. */
export interface ClientKeys {
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  sessionToken?: string | undefined;
  sessionProfile?: string | undefined;
}

export interface ClientOptions
  extends Omit<S3ClientConfig, "credentials" | "endpoint" | "profile" | "requestHandler"> {
  keys: ClientKeys;
  /** URL of the S3 API; AWS's own by default. */
  endpoint?: string;
  /** The limit for connecting, in milliseconds. */
  connectionTimeout: number;
  /** The limit for a whole answer, in milliseconds. */
  requestTimeout: number;
}

/**
 * The config of a client that uses the proxy of the environment as boto3 does, and prints nothing. On Node 20
 * the SDK would warn at every start that later versions need a newer Node. The lock file keeps this
 * version.
 *
 * @throws Error where the environment's proxy is not a URL
 */
export function s3ClientConfig(options: ClientOptions): S3ClientConfig {
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = "true";
  const { keys, connectionTimeout, requestTimeout, ...config } = options;
  // As in boto3, the endpoint decides, and not the host that a request goes to.
  const proxy = proxyFor(config.endpoint ?? "https://s3.amazonaws.com");
  const timeouts = { connectionTimeout, requestTimeout, throwOnRequestTimeout: true };
  return {
    ...config,
    ...credentialsOf(keys),
    requestHandler: new LimitedHandler(requestTimeout, async () => ({
      ...timeouts,
      ...(await agents(proxy)),
    })),
  };
}

/** The SDK's own limit ends with an answer's headers, and it would read a body without end. */
class LimitedHandler extends NodeHttpHandler {
  private readonly requestTimeout: number;

  constructor(requestTimeout: number, options: () => Promise<NodeHttpHandlerOptions>) {
    super(options);
    this.requestTimeout = requestTimeout;
  }

  override async handle(...args: Parameters<NodeHttpHandler["handle"]>) {
    const end = performance.now() + this.requestTimeout;
    const answer = await super.handle(...args);
    const body: unknown = answer.response.body;
    if (body instanceof Readable) {
      answer.response.body = Readable.from(this.readBefore(end, body), { objectMode: false });
    }
    return answer;
  }

  private async *readBefore(end: number, body: Readable): AsyncGenerator<Uint8Array> {
    const timer = setTimeout(() => {
      const error = new Error(`the answer did not end within ${this.requestTimeout} ms`);
      body.destroy(Object.assign(error, { name: "TimeoutError" }));
    }, end - performance.now());
    try {
      yield* limited(body);
    } finally {
      clearTimeout(timer);
    }
  }
}

function credentialsOf(keys: ClientKeys): Pick<S3ClientConfig, "credentials" | "profile"> {
  const { accessKey, secretKey, sessionToken, sessionProfile } = keys;
  if (sessionProfile !== undefined) return { profile: sessionProfile };
  if (accessKey === undefined || secretKey === undefined) return {};
  const pair = { accessKeyId: accessKey, secretAccessKey: secretKey };
  return { credentials: sessionToken === undefined ? pair : { ...pair, sessionToken } };
}

/** The agents for requests through a proxy. Their packages are loaded only for one. */
async function agents(
  proxy: URL | undefined,
): Promise<Pick<NodeHttpHandlerOptions, "httpAgent" | "httpsAgent">> {
  if (proxy === undefined) return {};
  const [{ HttpProxyAgent }, { HttpsProxyAgent }] = await Promise.all([
    import("http-proxy-agent"),
    import("https-proxy-agent"),
  ]);
  const options = { keepAlive: true, maxSockets: 50 };
  return {
    httpAgent: new HttpProxyAgent(proxy, options),
    httpsAgent: new HttpsProxyAgent(proxy, options),
  };
}
