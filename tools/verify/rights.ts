/** What authentik's key must not be able to do. No check changes what the bucket's settings mean. */
import { bucketUrl } from "../../authentik/url.ts";
import { failureOf, failureOfAnswer, isS3Xml, type Answer } from "./request.ts";
import { CheckFailure, describe, refusal, type VerifyRun } from "./run.ts";

/**
 * What authentik's key must not be allowed: to see other buckets, to change the bucket's CORS or
 * policy.
 */
export async function checkExcessRights(run: VerifyRun): Promise<void> {
  await Promise.all([checkOtherBuckets(run), checkChange(run, "cors"), checkChange(run, "policy")]);
}

/**
 * Excess rights are a failure. They are a warning for an administrator's key, and for a key that may
 * be one.
 */
function excess(run: VerifyRun, got: string): CheckFailure {
  const status = run.target.keyIsAdmin === false ? "failed" : "warning";
  return new CheckFailure("excess-rights", got, { status });
}

async function checkOtherBuckets(run: VerifyRun): Promise<void> {
  const { bucketName } = run.target.settings;
  await run.check({ name: "other buckets", tried: "ListBuckets" }, async () => {
    const names = await run.storage.buckets().catch((error: unknown) => {
      const failure = failureOf(error);
      if (failure.status === undefined) throw error;
      return refusal(failure);
    });
    if (typeof names === "string") return names;
    const others = names.filter((name) => name !== bucketName);
    if (others.length === 0) return "no other bucket";
    throw excess(run, `the key sees other buckets, e.g. ${others.slice(0, 3).join(", ")}`);
  });
}

const MARKER = "AuthentikVerify";

/**
 * The settings, and where an element without a meaning is added to the text of each. AWS checks
 * permissions first, and then refuses an element that it does not know. Other servers ignore it.
 */
const SETTINGS = {
  cors: {
    operation: "PutBucketCors",
    end: /(?=<\/CORSConfiguration>\s*$)/,
    added: `<${MARKER}></${MARKER}>`,
  },
  policy: {
    operation: "PutBucketPolicy",
    end: /(?<="Statement"[^]*[\]"}])(?=\s*\}\s*$)/,
    added: `,"${MARKER}":""`,
  },
} as const;

/**
 * Tries to change a setting without changing what it means on any server, because some servers
 * store any text. This needs the present text, so no change is tried with a key that cannot read it.
 * The present text is restored on a server that may have stored the change.
 */
async function checkChange(run: VerifyRun, setting: keyof typeof SETTINGS): Promise<void> {
  const { operation, end, added } = SETTINGS[setting];
  const url = bucketUrl(run.target.settings, run.rules);
  const tried = `${operation} of the present setting, with an addition that means nothing`;
  await run.check({ name: `change ${setting}`, tried }, async () => {
    const read = await run.storage.setting(setting, url);
    if (read.status >= 300) return `${refusal(failureOfAnswer(read))}; no change was tried`;
    const text = read.body.toString();
    if (!end.test(text)) return withoutSetting(read, setting);
    const body = text.replace(end, added);
    const answer = await run.storage
      .setting(setting, url, { body })
      .catch(async (error: unknown) => {
        await restore(run, setting, url, text);
        throw error;
      });
    const failure = failureOfAnswer(answer);
    const { status } = answer;
    if (status < 300 || status >= 500) await restore(run, setting, url, text);
    if (status < 300)
      throw excess(run, "the server accepted the change; verify restored the setting");
    const isAllowed = /^(?:Malformed|InvalidPolicy)/.test(failure.code);
    if (isAllowed) throw excess(run, `not denied: ${describe(failure)}`);
    return refusal(failure);
  });
}

function withoutSetting(read: Answer, setting: string): string {
  if (isS3Xml(read)) return `200; the server has no ${setting} of a bucket`;
  throw new CheckFailure("not-s3", `200 without a ${setting}`);
}

/** Writes the original text and reads it again, also after the run's time. */
async function restore(
  run: VerifyRun,
  setting: keyof typeof SETTINGS,
  url: string,
  text: string,
): Promise<void> {
  const { signal } = new AbortController();
  await run.storage.setting(setting, url, { body: text, signal });
  const { body } = await run.storage.setting(setting, url, { signal });
  if (!body.toString().includes(MARKER)) return;
  const got = "the server stored the change and did not accept the original setting again";
  const advice = `Remove ${MARKER} from the bucket's ${setting}.`;
  throw new CheckFailure("excess-rights", got, { advice });
}
