/** Whether the server answers, and whether authentik's key opens the bucket. */
import { setTimeout as sleep } from "node:timers/promises";
import { callerIdentityUrl, clientEndpoint } from "../../authentik/url.ts";
import { diagnose, type Symptom } from "./diagnosis.ts";
import { PREFIX } from "./files.ts";
import { failureOf, request } from "./request.ts";
import { CheckFailure, type VerifyRun } from "./run.ts";

/**
 * S3 refuses requests whose time differs by 15 minutes from its own. Clocks that NTP sets differ by
 * less than a minute.
 */
const CLOCK = { refusedSeconds: 900, suspectSeconds: 60 } as const;

/**
 * Whether the server answers at all, and how much its clock differs from this machine's.
 *
 * @returns whether other checks can pass
 */
export async function checkEndpoint(run: VerifyRun): Promise<boolean> {
  const url = clientEndpoint(run.target.settings);
  const symptom = await run.check({ name: "endpoint", tried: `GET ${url}` }, async () => {
    const sent = Date.now();
    const { status, headers } = await request(url, {}, run.signal);
    const date = Date.parse(headers.get("date") ?? "");
    if (Number.isNaN(date)) return `answers ${status}; the answer has no date`;
    // The dates of HTTP are whole seconds, so half a second is cut off on average.
    const seconds = Math.round((date + 500 - (sent + Date.now()) / 2) / 1000);
    const got = `answers ${status}; the server's clock is ${difference(seconds)}`;
    if (Math.abs(seconds) >= CLOCK.refusedSeconds) throw new CheckFailure("clock", got);
    if (Math.abs(seconds) >= CLOCK.suspectSeconds) {
      throw new CheckFailure("clock", got, { status: "warning" });
    }
    return got;
  });
  return symptom === "clock" || !run.isOver(symptom);
}

function difference(seconds: number): string {
  if (seconds === 0) return "the same";
  return `${Math.abs(seconds)} s ${seconds > 0 ? "ahead" : "behind"}`;
}

/**
 * Whether the key gives access to the bucket.
 *
 * @returns whether other checks can pass
 */
export async function checkBucketAccess(run: VerifyRun): Promise<boolean> {
  const { bucketName } = run.target.settings;
  const tried = `ListObjectsV2 ${bucketName} ${PREFIX}`;
  const check = { name: "bucket access", tried, action: "s3:ListBucket" } as const;
  const symptom = await run.check(check, async () => {
    // The first request looks for credentials, and may wait for a program or service without end.
    const keys = await Promise.race([listWithNewKey(run), abortOf(run.signal)]);
    return `200; ${keys.length === 1000 ? "1000 or more" : keys.length} files`;
  });
  return !run.isOver(symptom);
}

/**
 * Symptoms of a key, or of rights, that the server does not know yet: AWS's IAM is eventually
 * consistent.
 */
const MAY_BE_NEW: ReadonlySet<Symptom> = new Set<Symptom>([
  "wrong-access-key",
  "wrong-secret-key",
  "wrong-token",
  "missing-permission",
]);
const NEW_KEY_INTERVAL_MS = 2_000;

/** Lists objects. If the key is refused, tries again as long as the run allows for a new key. */
async function listWithNewKey(run: VerifyRun): Promise<string[]> {
  const end = performance.now() + run.newKeyMs;
  for (;;) {
    try {
      return await run.storage.list(PREFIX);
    } catch (error) {
      const isOver = performance.now() + NEW_KEY_INTERVAL_MS > end;
      if (isOver || !MAY_BE_NEW.has(diagnose(failureOf(error)))) throw error;
    }
    await sleep(NEW_KEY_INTERVAL_MS, undefined, { signal: run.signal });
  }
}

/** Rejects when the signal is aborted. */
async function abortOf(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const abort = () => {
      reject(new DOMException("the run is over", "AbortError"));
    };
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
  });
}

/** Whose credentials authentik finds, if it has no keys of its own. */
export async function checkIdentity(run: VerifyRun): Promise<void> {
  const { settings } = run.target;
  if (settings.accessKey !== undefined && settings.sessionProfile === undefined) return;
  const tried = "the credentials that the AWS SDK finds";
  await run.check({ name: "identity", tried }, async () => {
    const keys = await run.storage.keys();
    const url = callerIdentityUrl(settings, keys, new Date());
    const answer = url === undefined ? undefined : await request(url, {}, run.signal);
    const arn = /<Arn>([^<]+)<\/Arn>/.exec(answer?.body.toString() ?? "")?.[1];
    return arn ?? `the access key ${keys.accessKeyId}`;
  });
}
