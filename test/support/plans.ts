/**
 * Plans of the real engine: its output for each of these changes of a stack of the provider `s3` on
 * a local server. `UPDATE_PLANS=1 npx mocha test/preview-engine.test.ts` records them, if `pulumi`
 * is on PATH.
 */
import { readFile, writeFile } from "node:fs/promises";
import { expect } from "chai";
import { parseEvent } from "../../tools/preview/plan.ts";
import type { BucketAtRisk } from "../../tools/preview/guard.ts";
import { completePlan, reportOnRun } from "../../tools/preview/preview.ts";
import { renderMarkdown, renderText } from "../../tools/preview/render.ts";
import type { PlanReport, ResourceChange } from "../../tools/preview/report.ts";
import { REPOSITORY, type RunResult } from "./engine.ts";

const CORS = { label: "CORS policy", name: "authentik-cors" };
const BUCKET = { label: "Bucket", name: "authentik-bucket" };

/** What has to come out of each plan, whether it is made now or was recorded. */
export const EXPECTED = {
  created: (report) => {
    expect(actions(report)).to.deep.equal({
      "Storage authentik": "created",
      "Bucket authentik-bucket": "created",
      "CORS policy authentik-cors": "created",
    });
    expectHarmless(report);
  },
  unchanged: (report) => {
    expect(report).to.deep.include({ ok: true, groups: [], atRisk: [], unchanged: 3 });
  },
  origin: (report) => {
    const added = ["https://new.company", "https://auth.company"];
    const changes = [{ property: "origins", removed: ["https://authentik.company"], added }];
    expect(resources(report)).to.deep.equal([{ ...CORS, action: "updated", changes }]);
    expectHarmless(report);
  },
  "secret key": (report) => {
    expectHarmless(report);
    expect(resources(report)).to.deep.equal([]);
  },
  "bad config": (report) => {
    expect(report).to.deep.include({ ok: false, groups: [] });
    expect(report.failure).to.contain("messages are below");
    expect(words(report)).to.match(/origins\[0\] = "https:\/\/a\.company\/".*trailing slash/);
  },
  "policy violated": (report) => {
    expect(report).to.deep.include({ ok: false, failure: undefined, atRisk: [] });
    expect(report.violations).to.have.length(1);
    expect(report.violations[0]).to.deep.include({
      policy: "no-such-origin",
      isMandatory: true,
      message: "No origin is allowed.\n@everyone: https://authentik.company",
    });
  },
  "protection off": (report) => {
    expectHarmless(report);
    expect(report.unprotected).to.deep.equal(["authentik-bucket"]);
  },
  "protected, renamed": (report) => {
    expectRefused(report, { risk: "replaced", isProtected: true });
    expect(report.failure).to.contain("is protected");
  },
  "protected, removed": (report) => {
    expectRefused(report, { risk: "deleted", isProtected: true });
    expect(report.failure).to.contain("is protected");
  },
  "unprotected and renamed": (report) => {
    expectRefused(report, { risk: "replaced", isProtected: false });
    expect(report.failure).to.equal(undefined);
    expect(renderMarkdown(report)).not.to.contain("is protected");
  },
  "left over": (report) => {
    expectRefused(report, { risk: "left over", isProtected: false });
    expect(report.atRisk.map(({ bucket }) => bucket)).to.deep.equal(["old-media"]);
    expect(actions(report)).to.deep.equal({ "Bucket authentik-bucket": "deleted" });
    expect(report.unchanged).to.equal(3);
    const leftOver = "is left over from an earlier replacement, and would be deleted";
    const text = renderText(report, { color: false });
    expect(text).to.contain(`"old-media" (authentik-bucket) ${leftOver}`);
    expect(text).not.to.contain("new, empty bucket");
  },
  "left over, and renamed": (report) => {
    expect(report.ok).to.equal(false);
    const left = report.atRisk.map(({ bucket, risk }) => [bucket, risk]);
    expect(left).to.have.deep.members([
      ["old-media", "left over"],
      ["new-media", "replaced"],
    ]);
    const buckets = resources(report).filter(({ name }) => name === BUCKET.name);
    expect(buckets.map(({ action }) => action)).to.have.members(["replaced", "deleted"]);
  },
  "target replaced": (report) => {
    expectRefused(report, { risk: "replaced", isProtected: false });
  },
  "forceDestroy on": (report) => {
    expectRefused(report, { risk: "emptied", isProtected: false });
    expect(report.atRisk[0]?.settings).to.deep.equal(["forceDestroy: not kept, before: kept"]);
  },
  renamed: (report) => {
    expectRefused(report, { risk: "replaced", isProtected: false });
    const bucket = resources(report).find(({ name }) => name === BUCKET.name);
    const changes = [{ property: "bucket", removed: ["open-media"], added: ["other-media"] }];
    expect(bucket).to.deep.equal({ ...BUCKET, action: "replaced", changes });
  },
  "other endpoint": (report) => {
    expectRefused(report, { risk: "replaced", isProtected: false });
  },
  removed: (report) => {
    expectRefused(report, { risk: "deleted", isProtected: false });
  },
  "component renamed": (report) => {
    expectRefused(report, { risk: "deleted", isProtected: false });
    expect(actions(report)).to.include({
      "Bucket authentik-bucket": "deleted",
      "Bucket other-bucket": "created",
    });
  },
  "CORS policy changed by hand": (report) => {
    const changes = [
      { property: "origins", removed: ["*"], added: ["https://authentik.company"] },
      { property: "request headers", removed: [], added: ["Authorization"] },
      { property: "seconds that browsers cache it", removed: [], added: ["3000"] },
    ];
    expect(resources(report)).to.deep.equal([{ ...CORS, action: "updated", changes }]);
  },
  "bucket deleted by hand": (report) => {
    expect(actions(report)).to.deep.equal({
      "Bucket authentik-bucket": "recreated",
      "CORS policy authentik-cors": "recreated",
    });
    expect(report.atRisk).to.deep.equal([]);
  },
} as const satisfies Record<string, (report: PlanReport) => void>;

export type PlanName = keyof typeof EXPECTED;

function isPlanName(name: string): name is PlanName {
  return name in EXPECTED;
}

/** Names of the plans. */
export const PLAN_NAMES = Object.keys(EXPECTED).filter(isPlanName);

function actions(report: PlanReport): Record<string, string> {
  return Object.fromEntries(
    resources(report).map(({ label, name, action }) => [`${label} ${name}`, action]),
  );
}

/** Without the stack's outputs. */
function resources({ groups }: PlanReport): ResourceChange[] {
  return groups.filter(({ component }) => component !== "").flatMap((group) => group.resources);
}

function words({ diagnostics }: PlanReport): string {
  return diagnostics.map(({ message }) => message).join("\n");
}

function expectHarmless(report: PlanReport): void {
  expect(report).to.deep.include({ ok: true, atRisk: [], failure: undefined, violations: [] });
}

function expectRefused(
  report: PlanReport,
  expected: { risk: BucketAtRisk["risk"]; isProtected: boolean },
): void {
  expect(report.ok).to.equal(false);
  const found = report.atRisk.map(({ name, risk, isProtected }) => ({ name, risk, isProtected }));
  expect(found, words(report)).to.deep.equal([{ name: "authentik-bucket", ...expected }]);
}

function fileOf(name: string): URL {
  return new URL(`../fixtures/plans/${name.replaceAll(/\W+/g, "-")}.jsonl`, import.meta.url);
}

/** The report on a recorded plan. */
export async function recordedReport(
  name: string,
  { deletionAllowed = false } = {},
): Promise<PlanReport> {
  const lines = (await readFile(fileOf(name), "utf8")).trim().split("\n");
  const events = lines.map((line) => parseEvent(line));
  // The tool's exit status follows from the last result. Only --expect-no-changes fails after it.
  const results = events.flatMap(({ summaryEvent }) => summaryEvent?.result ?? []);
  const code = results.every((result) => result === "succeeded") ? 0 : 1;
  const run = { events, code, output: "", redact: (text: string) => text };
  const about = { deletionAllowed, commit: "0123456789abcdef", operation: "preview" } as const;
  return reportOnRun("prod", run, completePlan(run), about);
}

/**
 * Records the output of the tool, without values of this machine and this moment. Debug messages
 * have paths, so they are left out.
 */
export async function recordPlan(
  name: string,
  { text }: Pick<RunResult, "text">,
  endpoint = "http://127.0.0.1:7070",
): Promise<void> {
  const isEvent = (line: string) => line.startsWith("{") && !line.includes('"severity":"debug"');
  const plain = text
    .split("\n")
    .filter(isEvent)
    .join("\n")
    .replaceAll(endpoint.slice("http://".length), "127.0.0.1:7070")
    .replaceAll(endpoint.replace("http://127.0.0.1", "localhost"), "localhost:7070")
    .replaceAll(REPOSITORY, "/project/")
    .replaceAll(/\/tmp\/[\w./-]+/g, "/tmp/folder")
    .replaceAll(/"timestamp":\d+/g, '"timestamp":0');
  await writeFile(fileOf(name), `${plain}\n`);
}
