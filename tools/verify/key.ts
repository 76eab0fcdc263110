/** Whether authentik's key opens the bucket, and what the key must not be able to do. */
import { setTimeout as sleep } from "node:timers/promises";
import { bucketUrl, callerIdentityUrl, clientEndpoint } from "../../authentik/url.ts";
import { diagnose, type Symptom } from "./diagnosis.ts";
import { PREFIX } from "./files.ts";
import { failureOf, failureOfAnswer, request } from "./request.ts";
import { CheckFailure, describe, type VerifyRun } from "./run.ts";

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
    if (Number.isNaN(date)) return `${status}; the answer has no date`;
    // The dates of HTTP are whole seconds, so half a second is cut off on average.
    const seconds = Math.round((date + 500 - (sent + Date.now()) / 2) / 1000);
    const got = `${status}; the server's clock is ${difference(seconds)}`;
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

/**
 * What authentik's key must not be allowed: to see other buckets, to change the bucket's CORS or
 * policy.
 */
export async function checkExcessRights(run: VerifyRun): Promise<void> {
  await Promise.all([
    checkOtherBuckets(run),
    checkChange(run, "cors", "PutBucketCors"),
    checkChange(run, "policy", "PutBucketPolicy"),
  ]);
}

/**
 * An administrator's key has these rights. If it is not known whose key it is, they are a warning
 * too.
 */
function excess(run: VerifyRun, got: string): CheckFailure {
  const status = run.target.keyIsAdmin === false ? "failed" : "warning";
  return new CheckFailure("excess-rights", got, { status });
}

async function checkOtherBuckets(run: VerifyRun): Promise<void> {
  const { bucketName } = run.target.settings;
  await run.check({ name: "other buckets", tried: "ListBuckets" }, async () => {
    const names = await run.storage.buckets().catch(refusal);
    if (typeof names === "string") return names;
    const others = names.filter((name) => name !== bucketName);
    if (others.length === 0) return "no other bucket";
    throw excess(run, `the key sees other buckets, e.g. ${others.slice(0, 3).join(", ")}`);
  });
}

/** The server's refusal in words. Throws the error if there was no answer. */
function refusal(error: unknown): string {
  const failure = failureOf(error);
  if (failure.status === undefined) throw error;
  return describe(failure);
}

async function checkChange(
  run: VerifyRun,
  setting: "cors" | "policy",
  operation: string,
): Promise<void> {
  const tried = `${operation} with a body that is not valid`;
  await run.check({ name: `change ${setting}`, tried }, async () => {
    const url = bucketUrl(run.target.settings, run.rules);
    const answer = await run.storage.tryToChange(setting, url);
    const failure = failureOfAnswer(answer);
    const isAllowed = answer.status < 300 || /^(?:Malformed|InvalidPolicy)/.test(failure.code);
    if (isAllowed) throw excess(run, `not denied: ${describe(failure)}`);
    return describe(failure);
  });
}
