/** Checks of the URLs that authentik gives to browsers, and of requests that must be refused. */
import {
  formatRelease,
  parseRelease,
  releaseRules,
  type ReleaseRules,
} from "../../authentik/release.ts";
import { UrlError } from "../../authentik/url-parts.ts";
import { bucketUrl, fileUrl, type SigningKeys } from "../../authentik/url.ts";
import { domainFailure, isDomainReachable } from "./custom-domain.ts";
import { diagnoseUrl, type Symptom } from "./diagnosis.ts";
import { SMALL_FILE, objectKeys } from "./files.ts";
import { failureOf, failureOfAnswer, request, type Answer } from "./request.ts";
import { CheckFailure, describe, grant, refusal, type VerifyRun } from "./run.ts";

/** One release of each generation of URLs, for settings without a release. */
const GENERATIONS = [
  { name: "2025.10", readsGeneralNames: false },
  { name: "2026.4", readsGeneralNames: true },
  { name: "2026.5", readsGeneralNames: true },
] as const;

/** An origin that is never configured: the domain `.invalid` is reserved (RFC 2606). */
const FOREIGN_ORIGIN = "https://foreign.invalid";

const TWO_HOURS_MS = 7_200_000;

/** A release whose URLs are tried. */
interface Variant {
  name: string;
  rules: ReleaseRules;
}

/** The URL of a release, with the keys that signed it. */
interface SignedVariant extends Variant {
  url: string;
  keys: SigningKeys;
}

/** Makes every check of browsers. The small file must be in the bucket. */
export async function checkBrowserAccess(run: VerifyRun): Promise<void> {
  const { origins, publicUrl } = run.target;
  const keys = await run.storage.keys();
  const variants = await signedVariants(run, keys);
  const newest = variants.at(-1);
  if (!newest) return;
  const { url, rules } = newest;
  if (!(await isDomainReachable(run, unsigned(url)))) return;
  await Promise.all([
    ...variants.map((variant) => checkUrl(run, variant)),
    ...origins.map((origin) => checkOrigin(run, origin, url)),
    ...(origins.length === 0 ? [] : [checkForeignOrigin(run, url)]),
    checkUnsigned(run, url),
    ...(publicUrl === undefined ? [] : [checkPublicUrl(run, publicUrl)]),
    checkRefused(run, "expired URL", expiredUrl(run, rules, keys)),
    checkRefused(run, "tampered URL", tampered(url)),
  ]);
  if (origins.length === 0) run.skip("cors", "no origin is known; name authentik's with --origin");
}

function variantsOf(run: VerifyRun): Variant[] {
  const { release, hasGeneralNames } = run.target;
  if (release) return [{ name: formatRelease(release), rules: run.rules }];
  return GENERATIONS.filter(
    ({ readsGeneralNames }) => readsGeneralNames || hasGeneralNames !== true,
  ).map(({ name }) => ({ name, rules: releaseRules(parseRelease(name)) }));
}

/** The releases with their URLs. A release that has none, because it fails, is a failed check. */
async function signedVariants(run: VerifyRun, keys: SigningKeys): Promise<SignedVariant[]> {
  const signed: SignedVariant[] = [];
  for (const variant of variantsOf(run)) {
    try {
      signed.push({ ...variant, url: signedUrl(run, variant.rules, keys), keys });
    } catch (error) {
      if (!(error instanceof UrlError)) throw error;
      const failure = new CheckFailure("no-url", error.message);
      const check = { name: `URL of ${variant.name}`, tried: "authentik's settings" };
      await run.check(check, () => Promise.reject(failure));
    }
  }
  return signed;
}

function signedUrl(run: VerifyRun, rules: ReleaseRules, keys: SigningKeys): string {
  return fileUrl(run.target.settings, rules, keys, objectKeys(run).small, new Date());
}

/** A URL that was valid for a minute, or for the release's fixed time, two hours ago. */
function expiredUrl(run: VerifyRun, rules: ReleaseRules, keys: SigningKeys): string {
  const settings = { ...run.target.settings, urlExpiry: "minutes=1" };
  const date = new Date(Date.now() - TWO_HOURS_MS);
  return fileUrl(settings, rules, keys, objectKeys(run).small, date);
}

/** The URL with another first character in its signature. */
function tampered(url: string): string {
  return url.replace(
    /(Signature=)(.)/,
    (_, name: string, char: string) => `${name}${char === "0" ? "1" : "0"}`,
  );
}

/** The URL for messages, without the signature, with which anyone can read the file. */
function unsigned(url: string): string {
  return url.split("?")[0] ?? url;
}

/** A browser's GET of the URL that the release gives it. */
async function checkUrl(run: VerifyRun, variant: SignedVariant): Promise<void> {
  const { name, url } = variant;
  const tried = `GET ${unsigned(url)}?<signature>`;
  await run.check({ name: `URL of ${name}`, tried }, async () => {
    const answer = await request(url, {}, run.signal);
    if (answer.status !== 200) throw await urlFailure(run, variant, answer);
    const contentType = answer.headers.get("content-type");
    const got = `200; ${contentType ?? "no content type"}, ${answer.body.length} bytes`;
    const isSame = answer.body.equals(SMALL_FILE.body) && contentType === SMALL_FILE.contentType;
    if (!isSame) throw new CheckFailure("content-changed", got);
    return got;
  });
}

async function urlFailure(
  run: VerifyRun,
  { rules, keys, url: text }: SignedVariant,
  answer: Answer,
): Promise<CheckFailure> {
  const failure = failureOfAnswer(answer);
  const url = new URL(text);
  const keyCanRead = await run.storage.head(objectKeys(run).small).then(
    () => true,
    () => false,
  );
  const symptom = diagnoseUrl(failure, url, run.target.settings, keyCanRead);
  const got = describe(failure);
  if (symptom === "missing-permission") {
    return new CheckFailure(symptom, got, { advice: grant("s3:GetObject") });
  }
  const ofDomain = await domainFailure(run, { url, rules, keys, symptom });
  return new CheckFailure(ofDomain?.symptom ?? symptom, got, { advice: ofDomain?.advice });
}

/** The preflight and the GET of a page of authentik. */
async function checkOrigin(run: VerifyRun, origin: string, url: string): Promise<void> {
  const tried = `OPTIONS and GET ${unsigned(url)} as a page of ${origin}`;
  await run.check({ name: `cors ${origin}`, tried }, async () => {
    const [preflight, get] = await Promise.all([
      askFor(run, url, origin, "authorization"),
      request(url, { headers: { origin } }, run.signal),
    ]);
    if (get.status !== 200) return `the GET answers ${get.status}; see the check of the URL`;
    if (!allows(get, origin)) {
      throw new CheckFailure("cors-missing", `200 without ${ALLOW_ORIGIN} for ${origin}`);
    }
    if (isAllowed(preflight, origin)) return `200; ${allowedOrigin(get)}`;
    throw refusedPreflight(preflight, isAllowed(await askFor(run, url, origin), origin));
  });
}

/** A warning if only the header Authorization is refused, which authentik's setup page allows. */
function refusedPreflight(preflight: Answer, isAllowedWithout: boolean): CheckFailure {
  if (!isAllowedWithout) {
    const got = `the preflight is refused: ${describe(failureOfAnswer(preflight))}`;
    return new CheckFailure("cors-missing", got);
  }
  const got = "the preflight is refused only with the header Authorization";
  const advice =
    "Add Authorization to the allowed headers of the CORS policy, as authentik's setup page does.";
  return new CheckFailure("cors-missing", got, { status: "warning", advice });
}

async function askFor(
  run: VerifyRun,
  url: string,
  origin: string,
  requestHeaders?: string,
): Promise<Answer> {
  const headers = new Headers({ origin, "access-control-request-method": "GET" });
  if (requestHeaders !== undefined) headers.set("access-control-request-headers", requestHeaders);
  return request(url, { method: "OPTIONS", headers }, run.signal);
}

const ALLOW_ORIGIN = "Access-Control-Allow-Origin";

function allowedOrigin({ headers }: Answer): string {
  return headers.get(ALLOW_ORIGIN) ?? "";
}

function allows(answer: Answer, origin: string): boolean {
  return ["*", origin].includes(allowedOrigin(answer));
}

function isAllowed(answer: Answer, origin: string): boolean {
  return answer.status < 300 && allows(answer, origin);
}

/** The preflight and the GET of a page of another site, which the bucket must not allow. */
async function checkForeignOrigin(run: VerifyRun, url: string): Promise<void> {
  const tried = `OPTIONS and GET ${unsigned(url)} as a page of ${FOREIGN_ORIGIN}`;
  await run.check({ name: "cors of other origins", tried }, async () => {
    const answers = await Promise.all([
      askFor(run, url, FOREIGN_ORIGIN),
      request(url, { headers: { origin: FOREIGN_ORIGIN } }, run.signal),
    ]);
    const open = answers.find((answer) => isAllowed(answer, FOREIGN_ORIGIN));
    if (!open) return "not allowed";
    throw new CheckFailure("cors-open", `allowed with ${ALLOW_ORIGIN}: ${allowedOrigin(open)}`);
  });
}

/** A GET without a signature, at the endpoint and at the URL that browsers use. */
async function checkUnsigned(run: VerifyRun, url: string): Promise<void> {
  const atEndpoint = `${bucketUrl(run.target.settings, run.rules)}/${objectKeys(run).small}`;
  const urls = [...new Set([atEndpoint, unsigned(url)])];
  const tried = urls.map((plain) => `GET ${plain}`).join(", ");
  await run.check({ name: "unsigned URL", tried }, async () => {
    const answers = await Promise.all(urls.map((plain) => request(plain, {}, run.signal)));
    return answers
      .map((answer) => refusalOf(answer, "public-bucket", "anyone can read the file"))
      .join("; ");
  });
}

/** A GET at the address that the provider gives a bucket for everybody. Pulumi does not see it. */
async function checkPublicUrl(run: VerifyRun, publicUrl: string): Promise<void> {
  const url = `${publicUrl}/${objectKeys(run).small}`;
  await run.check({ name: "public URL", tried: `GET ${url}` }, async () => {
    const answer = await request(url, {}, run.signal).catch((error: unknown) => {
      const failure = failureOf(error);
      const advice = "Try again from another network: public files there cannot be seen from here.";
      const options = { status: "warning", advice } as const;
      throw new CheckFailure(run.symptomOf(failure), describe(failure), options);
    });
    if (answer.status >= 300) return refusal(failureOfAnswer(answer));
    const advice =
      "Turn off public access to the bucket at the provider: pulumi up does not see it.";
    throw new CheckFailure("public-bucket", `${answer.status}; it is open`, { advice });
  });
}

async function checkRefused(run: VerifyRun, name: string, url: string): Promise<void> {
  await run.check({ name, tried: `GET ${unsigned(url)}?<signature>` }, async () => {
    const answer = await request(url, {}, run.signal);
    return refusalOf(answer, "signature-unchecked", "not refused");
  });
}

/** The server's refusal to give the small file. A web page may come with status 200. */
function refusalOf(answer: Answer, symptom: Symptom, meaning: string): string {
  const { status, body } = answer;
  if (status >= 300) return refusal(failureOfAnswer(answer));
  if (body.equals(SMALL_FILE.body)) throw new CheckFailure(symptom, `${status}; ${meaning}`);
  throw new CheckFailure("content-changed", `${status}; ${body.length} bytes of another file`);
}
