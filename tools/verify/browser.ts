/** What browsers do with the URLs that authentik hands them, and what they must be refused. */
import { releaseRules, parseRelease, type ReleaseRules } from "../../authentik/release.ts";
import { bucketUrl, fileUrl, type SigningKeys } from "../../authentik/url.ts";
import { diagnoseUrl } from "./diagnosis.ts";
import { SMALL, objectKeys } from "./key.ts";
import { Finding, describe, lacks, type Run } from "./run.ts";
import { failureOfAnswer, request, type Answer } from "./storage.ts";

/** One release of each generation of URLs, for settings that do not name theirs. */
const GENERATIONS = [
  { name: "2025.10", readsGeneralNames: false },
  { name: "2026.4", readsGeneralNames: true },
  { name: "2026.5", readsGeneralNames: true },
] as const;
/** An origin that nobody has configured: `.invalid` is reserved (RFC 2606). */
const FOREIGN = "https://foreign.invalid";
const TWO_HOURS_MS = 7_200_000;

/** All that browsers do. The small file must be there. */
export async function browse(run: Run): Promise<void> {
  const { release, hasGeneralNames, origins } = run.target;
  const keys = await run.storage.keys();
  const variants = release
    ? [{ name: `${release.year}.${release.month}`, rules: run.rules }]
    : GENERATIONS.filter(({ readsGeneralNames }) => readsGeneralNames || hasGeneralNames !== true)
      .map(({ name }) => ({ name, rules: releaseRules(parseRelease(name)) }));
  const newest = variants.at(-1)?.rules ?? run.rules;
  const url = signedUrl(run, newest, keys);
  await Promise.all([
    ...variants.map(({ name, rules }) => get(run, name, signedUrl(run, rules, keys))),
    ...origins.map((origin) => letsIn(run, origin, url)),
    ...(origins.length === 0 ? [] : [keepsOut(run, url)]),
    anonymous(run, url),
    refused(run, "expired URL", signedUrl(run, newest, keys, new Date(Date.now() - TWO_HOURS_MS), "minutes=1")),
    refused(run, "tampered URL", url.replace(/(Signature=)(.)/, (_, name: string, char: string) => `${name}${char === "0" ? "1" : "0"}`)),
  ]);
  if (origins.length === 0) run.skip("cors", "no origin is known; name those of authentik with --origin");
}

function signedUrl(run: Run, rules: ReleaseRules, keys: SigningKeys, date = new Date(), urlExpiry = run.target.settings.urlExpiry): string {
  return fileUrl({ ...run.target.settings, urlExpiry }, rules, keys, objectKeys(run).small, date);
}

/** The URL as messages show it: the signature lets whoever has it read the file. */
function shown(url: string): string {
  return url.split("?")[0] ?? url;
}

async function get(run: Run, release: string, url: string): Promise<void> {
  await run.check(`url of ${release}`, `GET ${shown(url)}?<signature>`, async () => {
    const answer = await request(url, {}, run.signal);
    if (answer.status !== 200) throw await urlFinding(run, url, answer);
    const contentType = answer.headers.get("content-type");
    const got = `200; ${contentType ?? "no content type"}, ${answer.body.length} bytes`;
    if (!answer.body.equals(SMALL.body) || contentType !== SMALL.contentType) throw new Finding("content-changed", got);
    return got;
  });
}

async function urlFinding(run: Run, url: string, answer: Answer): Promise<Finding> {
  const failure = failureOfAnswer(answer);
  const keyReads = await run.storage.head(objectKeys(run).small).then(() => true, () => false);
  const symptom = diagnoseUrl(failure, new URL(url), run.target.settings, keyReads);
  return new Finding(symptom, describe(failure), { advice: symptom === "missing-permission" ? lacks("s3:GetObject on the bucket's objects") : undefined });
}

/** The preflight of a page's request, and the request itself. */
async function letsIn(run: Run, origin: string, url: string): Promise<void> {
  await run.check(`cors ${origin}`, `OPTIONS and GET ${shown(url)} as a page of ${origin}`, async () => {
    const [preflight, get] = await Promise.all([askFor(run, url, origin, true), request(url, { headers: { origin } }, run.signal)]);
    if (get.status !== 200) return `the GET answers ${get.status}, see the URL's own check`;
    if (!allows(get, origin)) throw new Finding("cors-missing", `200 without Access-Control-Allow-Origin for ${origin}`);
    if (preflight.status < 300 && allows(preflight, origin)) return `200; ${allowed(get)}`;
    const bare = await askFor(run, url, origin, false);
    if (bare.status >= 300 || !allows(bare, origin)) throw new Finding("cors-missing", `the preflight is refused: ${describe(failureOfAnswer(preflight))}`);
    throw new Finding("cors-missing", "the preflight is refused only with the header Authorization", {
      status: "warning", advice: "Add Authorization to the CORS policy's allowed headers, as authentik's setup page does.",
    });
  });
}

async function askFor(run: Run, url: string, origin: string, authorization: boolean): Promise<Answer> {
  const headers = { origin, "access-control-request-method": "GET", ...(authorization ? { "access-control-request-headers": "authorization" } : {}) };
  return request(url, { method: "OPTIONS", headers }, run.signal);
}

function allowed({ headers }: Answer): string {
  return headers.get("access-control-allow-origin") ?? "";
}

function allows(answer: Answer, origin: string): boolean {
  return ["*", origin].includes(allowed(answer));
}

async function keepsOut(run: Run, url: string): Promise<void> {
  await run.check("cors of others", `OPTIONS and GET ${shown(url)} as a page of ${FOREIGN}`, async () => {
    const [preflight, get] = await Promise.all([askFor(run, url, FOREIGN, false), request(url, { headers: { origin: FOREIGN } }, run.signal)]);
    const open = [preflight, get].find((answer) => answer.status < 300 && allows(answer, FOREIGN));
    if (open) throw new Finding("cors-open", `let in with Access-Control-Allow-Origin: ${allowed(open)}`);
    return "not let in";
  });
}

/** Without a signature, at the endpoint and where browsers come from. */
async function anonymous(run: Run, url: string): Promise<void> {
  const urls = new Set([`${bucketUrl(run.target.settings, run.rules)}/${objectKeys(run).small}`, shown(url)]);
  await run.check("anonymous", [...urls].map((plain) => `GET ${plain}`).join(", "), async () => {
    const answers = await Promise.all([...urls].map((plain) => request(plain, {}, run.signal)));
    const open = answers.find(({ status }) => status < 300);
    if (open) throw new Finding("public-bucket", `${open.status}; anyone may read the file`);
    return answers.map((answer) => describe(failureOfAnswer(answer))).join("; ");
  });
}

async function refused(run: Run, check: string, url: string): Promise<void> {
  await run.check(check, `GET ${shown(url)}?<signature>`, async () => {
    const answer = await request(url, {}, run.signal);
    if (answer.status < 300) throw new Finding("signature-unchecked", `${answer.status}; not refused`);
    return describe(failureOfAnswer(answer));
  });
}
