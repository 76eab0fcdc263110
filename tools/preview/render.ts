/**
 * A report as Markdown for a pull request, and as text for a terminal or a job's log. Its values
 * come from config and servers and cannot be trusted.
 */
import { createColors } from "picocolors";
import { INVISIBLE, visible } from "../../config/visible.ts";
import type { Change } from "./diff.ts";
import { DELETION_LABEL, type BucketAtRisk } from "./guard.ts";
import { nameOf, type Violation } from "./plan.ts";
import type { Group, Operation, PlanReport, ResourceChange } from "./report.ts";

/**
 * GitHub refuses a body of more than 65,536 characters. Bytes are counted here, which are never
 * fewer.
 */
const MAX_BODY_BYTES = 64_000;
/**
 * Lines of one block of a comment. A block is never cut in another way, so that its fence stays
 * closed.
 */
const MAX_BLOCK_LINES = 300;
const MAX_FAILURE_LENGTH = 2000;
/** A key and its value are in one line up to this length. */
const MAX_LINE_LENGTH = 100;

const HEADINGS = {
  preview: "Preview",
  drift: "Drift",
  deploy: "Deploy",
  update: "Deploy",
} as const;
const CUT = "**GitHub limits the length of comments. The job's log has the rest.**";

/** The comment of a pull request, without the marker by which it is found. */
export function renderMarkdown(report: PlanReport): string {
  const components = report.groups.filter(({ component }) => component !== "").length;
  const blocks = [
    heading(report),
    ...alerts(report),
    ...failures(report),
    ...report.groups.flatMap((group) => groupBlocks(group, components, report.operation)),
    ...messages(report),
  ];
  return fit(blocks, CUT);
}

function heading(report: PlanReport): string {
  const commit = report.commit === undefined ? "" : `Commit ${code(report.commit.slice(0, 12))}.`;
  const below = [md(tail(report)), commit].filter((sentence) => sentence !== "").join(" ");
  const sign = report.ok ? "" : "❌ ";
  const title = `${HEADINGS[report.operation]} of ${code(report.stack)}: ${summary(report)}`;
  return `### ${sign}${title}${below === "" ? "" : `\n\n${below}`}`;
}

/** `2 to be updated, 1 to be created`. */
function summary({ groups, failure, violations }: PlanReport): string {
  if (failure !== undefined) return "failed";
  const resources = groups.flatMap(({ resources }) => resources).filter(({ name }) => name !== "");
  const actions = resources.map(({ action }) =>
    action.replace(/^operation .*/, "handled otherwise"),
  );
  const counts = [...new Set(actions)].map((action) => {
    return `${actions.filter((other) => other === action).length} to be ${action}`;
  });
  const outputs = groups.length > 0 ? "only outputs change" : "no changes";
  const isViolated = violations.some(({ isMandatory }) => isMandatory);
  const violated = isViolated ? ["a policy is violated"] : [];
  return [counts.length > 0 ? counts.join(", ") : outputs, ...violated].join(", ");
}

function tail({ groups, unchanged, failure }: PlanReport): string {
  if (failure !== undefined) return failure.slice(0, MAX_FAILURE_LENGTH);
  const same =
    unchanged === 0
      ? ""
      : `${unchanged} ${unchanged === 1 ? "resource stays" : "resources stay"} unchanged.`;
  // The engine hides secrets, so that a new key looks like the old one.
  return groups.length > 0 ? same : `${same} The values of secrets are not compared.`.trim();
}

function alerts({ atRisk, deletionAllowed, unprotected }: PlanReport): string[] {
  const permission = deletionAllowed
    ? `The label ${code(DELETION_LABEL)} allows it.`
    : `**This is refused until someone who may set labels adds the label ${code(DELETION_LABEL)} ` +
      "to the pull request.**";
  const risks = atRisk.map((resource) => `**${md(riskText(resource))}**`);
  return [
    ...alert("CAUTION", risks.length === 0 ? [] : [...risks, permission]),
    ...alert(
      "WARNING",
      unprotected.map((name) => md(unprotectedText(name))),
    ),
  ];
}

function alert(kind: "CAUTION" | "WARNING", paragraphs: readonly string[]): string[] {
  return paragraphs.length === 0 ? [] : [`> [!${kind}]\n> ${paragraphs.join("\n>\n> ")}`];
}

function unprotectedText(name: string): string {
  return `"${name}" loses its protection: a later change may delete or replace it.`;
}

const RETAINED =
  "would be removed from the state: it stays on the server with its files, " +
  "and Pulumi no longer manages it.";
const DELETED = "would be deleted, with every file in it.";
const UNKNOWN =
  "would go through an operation that this check does not know, and that may delete it.";
const NEW_BUCKET = "would be replaced: authentik gets a new, empty bucket,";

/** What would happen to a bucket: when it is deleted from the server, and when it stays there. */
const RISKS: Readonly<
  Record<Exclude<BucketAtRisk["risk"], "emptied">, { deleted: string; retained: string }>
> = {
  deleted: { deleted: DELETED, retained: RETAINED },
  replaced: {
    deleted: `${NEW_BUCKET} and the old one is deleted with every file in it.`,
    retained: `${NEW_BUCKET} and the files stay in the old one.`,
  },
  "left over": {
    deleted: `is left over from an earlier replacement, and ${DELETED}`,
    retained: `is left over from an earlier replacement, and ${RETAINED}`,
  },
  unknown: { deleted: UNKNOWN, retained: UNKNOWN },
};

/** What would happen to a bucket and its files. */
function riskText(resource: BucketAtRisk): string {
  const { name, bucket, risk, settings, isProtected, isRetained } = resource;
  if (risk === "emptied") {
    return (
      `"${name}" would delete files, or keep deleted files for a shorter time: ` +
      `${settings.join("; ")}.`
    );
  }
  const which = bucket === undefined ? `"${name}"` : `"${bucket}" (${name})`;
  const what = RISKS[risk][isRetained ? "retained" : "deleted"];
  const refusal = isProtected
    ? " It is protected, so Pulumi refuses: set protect to false in an earlier update."
    : "";
  return `The bucket ${which} ${what}${refusal}`;
}

function failures({ violations, diagnostics, failure }: PlanReport): string[] {
  const errors = diagnostics.filter(({ severity }) => severity === "error");
  const texts = errors.map(({ message }) => message);
  return [
    ...section("Policies", violations.map(violationText)),
    ...section("Pulumi's messages", failure === undefined ? [] : texts),
  ];
}

function section(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [`**${title}**\n\n${fence(lines, "text")}`];
}

function violationText({ policy, urn, message, isMandatory }: Violation): string {
  const subject = urn === "" ? "the stack" : nameOf(urn);
  const severity = isMandatory ? "error" : "warning";
  return `${severity}: ${subject} violates the policy ${policy}: ${message}`;
}

function messages({ diagnostics, failure }: PlanReport): string[] {
  const texts = diagnostics
    .filter(({ severity }) => severity !== "error" || failure === undefined)
    .map(({ severity, message }) => `${severity}: ${message}`);
  if (texts.length === 0) return [];
  return [`<details><summary>Messages</summary>\n\n${fence(texts, "text")}\n\n</details>`];
}

function groupBlocks(
  { component, resources }: Group,
  count: number,
  operation: Operation,
): string[] {
  const heading = component === "" || count === 1 ? [] : [`#### ${code(component)}`];
  return [...heading, ...resources.map((resource) => resourceBlock(resource, operation))];
}

function resourceBlock(resource: ResourceChange, operation: Operation): string {
  const lines = changeLines(resource);
  const text = title(resource, operation, { name: code, words: md });
  return lines.length === 0 ? `- ${text}` : `**${text}**\n\n${fence(lines, "diff")}`;
}

/**
 * `CORS policy authentik-cors will be updated`. The steps of a failed update do not show how far it
 * came.
 */
function title(
  { label, name, action }: ResourceChange,
  operation: Operation,
  escape: { name: (text: string) => string; words: (text: string) => string },
): string {
  const what = action.startsWith("operation ")
    ? `${escape.name(action.slice("operation ".length))} (an operation that is not known here)`
    : action;
  const cause = action === "recreated" ? " (it is no longer on the server)" : "";
  const words = escape.words(label);
  const subject = name === "" ? words : `${words} ${escape.name(name)}`;
  return `${subject} ${operation === "update" ? "was to be" : "will be"} ${what}${cause}`;
}

const HIDDEN_CHANGE =
  "! The change does not show here: it is a secret, or an internal value of the provider.";

function changeLines({ action, changes }: ResourceChange): string[] {
  if (changes.length === 0 && action === "updated") return [HIDDEN_CHANGE];
  return changes.flatMap(linesOf);
}

/** Key and value in one line each, or below the key if there are more values, or long ones. */
function linesOf({ property, removed, added, note }: Change): string[] {
  const values = [
    ...removed.map((value) => ({ sign: "-", value })),
    ...added.map((value) => ({ sign: "+", value })),
  ];
  const short = values.map(({ sign, value }) => `${sign} ${property}: ${value}`);
  const fits = short.every((line) => line.length <= MAX_LINE_LENGTH);
  if (note === undefined && removed.length <= 1 && added.length <= 1 && fits) return short;
  const lines = values.map(({ sign, value }) => `${sign} ${value}`);
  return [`  ${property}${note === undefined ? "" : `: ${note}`}`, ...lines];
}

/** As many of the blocks as fit. */
function fit(blocks: readonly string[], rest: string): string {
  const kept: string[] = [];
  let size = Buffer.byteLength(rest) + 2;
  for (const block of blocks) {
    size += Buffer.byteLength(block) + 2;
    if (size > MAX_BODY_BYTES) return [...kept, rest].join("\n\n");
    kept.push(block);
  }
  return kept.join("\n\n");
}

const WORD_JOINER = "\u2060";

/**
 * A block without Markdown, HTML or mentions. Its fence is longer than any run of backticks in it.
 */
function fence(lines: readonly string[], language: "diff" | "text"): string {
  const all = lines.flatMap((line) => printable(line).split("\n"));
  const cut = all.length - MAX_BLOCK_LINES;
  const shown = cut <= 0 ? all : [...all.slice(0, MAX_BLOCK_LINES), `  (${cut} more lines)`];
  const marks = "`".repeat(Math.max(2, longestRun(shown.join("\n"))) + 1);
  return [`${marks}${language}`, ...shown, marks].join("\n");
}

/** The length of the longest run of backticks. */
function longestRun(text: string): number {
  return Math.max(0, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
}

/** A text as code within a line. */
function code(text: string): string {
  const line = printable(text).replaceAll(/\s+/g, " ");
  const marks = "`".repeat(longestRun(line) + 1);
  const pad = /^`|`$/.test(line) ? " " : "";
  return `${marks}${pad}${line}${pad}${marks}`;
}

/**
 * A sentence with names in it, escaped for Markdown, HTML and mentions. GitHub looks for mentions,
 * references and addresses after it has rendered the Markdown, when an entity is a character again.
 * An invisible character breaks them up.
 */
function md(text: string): string {
  return printable(text)
    .replaceAll(/\s+/g, " ")
    .replaceAll(/[@#]|:(?=\/)|w(?=ww\.)|G(?=H-)/gi, `$&${WORD_JOINER}`)
    .replaceAll(/[\\`*_{}[\]<>()#+!|~@&:]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** The lines of a text, with an escape for each invisible character. */
function printable(text: string): string {
  return text.replaceAll("\t", "  ").split(/\r?\n/).map(visible).join("\n");
}

/** The report for a terminal or a job's log. */
export function renderText(report: PlanReport, { color }: { color: boolean }): string {
  const { bold, red, green, yellow, dim } = createColors(color);
  const { stack, operation, atRisk, deletionAllowed, unprotected, violations, diagnostics } =
    report;
  const plain = (text: string) => text;
  const permission = deletionAllowed
    ? "It is allowed."
    : `This is not allowed. To allow it, add the label ${DELETION_LABEL} to the pull request, ` +
      "or use --allow-bucket-deletion here.";
  const paintOf: Readonly<Record<string, Line["paint"]>> = { "+": green, "-": red };
  const lines: Line[] = [
    { paint: bold, text: `${HEADINGS[operation]} of ${stack}: ${summary(report)}` },
    { paint: plain, text: tail(report) },
    ...atRisk.map((resource) => ({ paint: red, text: riskText(resource) })),
    ...(atRisk.length === 0 ? [] : [{ paint: red, text: permission }]),
    ...unprotected.map((name) => ({ paint: yellow, text: unprotectedText(name) })),
    ...violations.map((violation) => ({
      paint: violation.isMandatory ? red : yellow,
      text: violationText(violation),
    })),
    ...diagnostics.map(({ severity, message }) => ({
      paint: severity === "error" ? red : plain,
      text: `${severity}: ${message}`,
    })),
    ...report.groups
      .flatMap(({ resources }) => resources)
      .flatMap((resource) => [
        { paint: bold, text: title(resource, operation, { name: plain, words: plain }) },
        ...changeLines(resource).map((line) => ({
          paint: paintOf[line.slice(0, 1)] ?? dim,
          text: `  ${line}`,
        })),
      ]),
  ];
  return lines
    .filter(({ text }) => text !== "")
    .map(({ paint, text }) => paint(logSafe(text)))
    .join("\n");
}

interface Line {
  paint: (text: string) => string;
  text: string;
}

/** The report as JSON, without commands to GitHub's runner in its texts. */
export function renderJson(report: PlanReport): string {
  const lines = JSON.stringify(report, undefined, 2).replaceAll("##[", "#\\u0023[").split("\n");
  const escaped = (character: string) =>
    character
      .split("")
      .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
      .join("");
  return lines.map((line) => line.replaceAll(INVISIBLE, escaped)).join("\n");
}

/** A text in one line of a terminal or a job's log, without commands to GitHub's runner. */
export function logLine(text: string): string {
  return logSafe(text.replaceAll(/[\r\n\t]+/g, " "));
}

/**
 * Escapes commands to GitHub's runner: lines that begin with `::` or have `##[` (actions/runner,
 * `ActionCommand.cs`).
 */
function logSafe(text: string): string {
  return printable(text)
    .replaceAll(/^(\s*):(?=:)/gm, "$1: ")
    .replaceAll("##[", "## [");
}
