/** Finds out why URLs do not work at a custom domain. */
import { parseRelease, releaseRules, type ReleaseRules } from "../../authentik/release.ts";
import { fileUrl, type SigningKeys } from "../../authentik/url.ts";
import { SYMPTOMS, type Symptom } from "./diagnosis.ts";
import { SMALL_FILE, objectKeys } from "./files.ts";
import { failureOf, request } from "./request.ts";
import { CheckFailure, describe, type VerifyRun } from "./run.ts";

/**
 * Whether something answers at the custom domain. If not, no URL can work, and one failed check is
 * recorded.
 *
 * @param plainUrl a URL at the custom domain, without a signature
 */
export async function isDomainReachable(run: VerifyRun, plainUrl: string): Promise<boolean> {
  const { customDomain } = run.target.settings;
  if (customDomain === undefined) return true;
  const error = await request(plainUrl, {}, run.signal).then(
    () => undefined,
    (thrown: unknown) => failureOf(thrown),
  );
  if (error === undefined) return true;
  const symptom = run.symptomOf(error);
  const advice = `CUSTOM_DOMAIN is "${customDomain}". ${SYMPTOMS[symptom]}`;
  const failure = new CheckFailure(symptom, describe(error), { advice });
  const check = { name: "custom domain", tried: `GET ${plainUrl}` };
  await run.check(check, () => Promise.reject(failure));
  return false;
}

/** A signed URL that a release gives, and that the server refuses at the custom domain. */
export interface RefusedUrl {
  url: URL;
  rules: ReleaseRules;
  keys: SigningKeys;
  /** The diagnosis of the answer. */
  symptom: Symptom;
}

/**
 * Why the custom domain refuses a URL, if the key can read the file at the endpoint. Releases sign
 * for different hosts, so a URL of the other releases shows which host the server sees.
 *
 * @returns undefined if the answer has another cause
 */
export async function domainFailure(
  run: VerifyRun,
  { url, rules, keys, symptom }: RefusedUrl,
): Promise<{ symptom: Symptom; advice: string } | undefined> {
  if (symptom !== "host-refused" && symptom !== "wrong-custom-domain") return undefined;
  const key = objectKeys(run).small;
  const { customDomain, ...atEndpoint } = run.target.settings;
  const endpoint = new URL(fileUrl(atEndpoint, rules, keys, key, new Date()));
  if (url.host === endpoint.host) {
    return { symptom: "wrong-custom-domain", advice: wrongPath(customDomain, endpoint, key) };
  }
  const others = releaseRules(parseRelease(rules.signsCustomDomain ? "2026.4" : "2026.5"));
  const works = await isServed(run, others, keys);
  if (!works && symptom === "wrong-custom-domain") return undefined;
  const hosts = { browser: url.host, endpoint: endpoint.host };
  return { symptom: "host-refused", advice: wrongHost(hosts, rules.signsCustomDomain, works) };
}

/** Whether the URL that other releases give works. */
async function isServed(run: VerifyRun, rules: ReleaseRules, keys: SigningKeys): Promise<boolean> {
  try {
    const url = fileUrl(run.target.settings, rules, keys, objectKeys(run).small, new Date());
    const { body } = await request(url, {}, run.signal);
    return body.equals(SMALL_FILE.body);
  } catch {
    return false;
  }
}

/** The custom domain is on the endpoint's host, so that no proxy is in between. */
function wrongPath(customDomain = "", endpoint: URL, key: string): string {
  const right = `${endpoint.host}${endpoint.pathname.slice(0, -key.length - 1)}`;
  return (
    `CUSTOM_DOMAIN "${customDomain}" is on the endpoint's own host, so this is its path: the ` +
    "bucket is missing, is there twice or has another name, or there is a slash too many. " +
    `Write "${right}".`
  );
}

/**
 * Which host the release signs, which one the server sees, and what to change in between.
 *
 * @param works whether the server accepts what the other releases sign
 */
function wrongHost(
  hosts: { browser: string; endpoint: string },
  signsCustomDomain: boolean,
  works: boolean,
): string {
  const { browser, endpoint } = hosts;
  const proxy = `the proxy or CDN at ${browser}`;
  const elsewhere = "The server sees another host, or a changed path.";
  if (signsCustomDomain) {
    const seen = works ? `The server sees ${endpoint}, which was right to 2026.4.` : elsewhere;
    return (
      `From 2026.5 authentik signs this URL for ${browser}, the host that browsers use. ${seen} ` +
      `Let ${proxy} pass on the Host header and the path as browsers send them.`
    );
  }
  const seen = works ? `The server sees ${browser}, the host that browsers use.` : elsewhere;
  return (
    `To 2026.4 authentik signs this URL for the endpoint's host, ${endpoint}. ${seen} ` +
    `Let ${proxy} send "Host: ${endpoint}", or remove CUSTOM_DOMAIN. From 2026.5 authentik signs ` +
    `for ${browser} instead, and the proxy must pass that on.`
  );
}
