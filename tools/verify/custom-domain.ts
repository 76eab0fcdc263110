/** What is wrong with a custom domain: nothing answers there, or another host is signed than seen. */
import { parseRelease, releaseRules, type ReleaseRules } from "../../authentik/release.ts";
import { fileUrl, type SigningKeys } from "../../authentik/url.ts";
import { SYMPTOMS, diagnose, type Symptom } from "./diagnosis.ts";
import { objectKeys } from "./files.ts";
import { failureOf, request } from "./request.ts";
import { CheckFailure, describe, type VerifyRun } from "./run.ts";

/**
 * Whether browsers reach the custom domain. If not, it is recorded once: no URL can work.
 *
 * @param url a URL at the custom domain
 */
export async function reachesCustomDomain(run: VerifyRun, url: string): Promise<boolean> {
  const { customDomain } = run.target.settings;
  if (customDomain === undefined) return true;
  const error = await request(url, {}, run.signal).then(
    () => undefined,
    (thrown: unknown) => ({ thrown }),
  );
  if (!error) return true;
  const tried = `GET ${url}`;
  await run.check({ name: "custom domain", tried }, () => {
    const failure = failureOf(error.thrown);
    const symptom = run.symptomOf(failure);
    const advice = `CUSTOM_DOMAIN is "${customDomain}". ${SYMPTOMS[symptom]}`;
    return Promise.reject(new CheckFailure(symptom, describe(failure), { advice }));
  });
  return false;
}

/** A signed URL that a server refuses at the custom domain. */
export interface RefusedUrl {
  rules: ReleaseRules;
  keys: SigningKeys;
  url: URL;
  symptom: Symptom;
}

/** The symptom of a refused URL at the custom domain, and what to do about it. */
export interface DomainDiagnosis {
  symptom: Symptom;
  advice: string;
}

/**
 * Why the custom domain refuses a URL, if the key can read the file at the endpoint. Releases sign
 * for different hosts, so a URL that is signed for the other host shows which one the server sees.
 */
export async function diagnoseCustomDomain(
  run: VerifyRun,
  refused: RefusedUrl,
): Promise<DomainDiagnosis | undefined> {
  const { settings } = run.target;
  const { rules, url, symptom } = refused;
  if (symptom !== "host-refused" && symptom !== "wrong-custom-domain") return undefined;
  const atEndpoint = new URL(signedAs(run, refused, { isAtDomain: false, signsDomain: false }));
  const { host } = new URL(atEndpoint);
  if (url.host === host)
    return { symptom: "wrong-custom-domain", advice: wrongPath(refused, atEndpoint) };
  const other = signedAs(run, refused, { isAtDomain: true, signsDomain: !rules.signsCustomDomain });
}
