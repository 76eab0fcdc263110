/** A report as Markdown for a pull request, and as text for a terminal or a job's log. Values come from config and servers: no one of them can be trusted. */
import { createColors } from "picocolors";
import { DELETION_LABEL, type Endangered } from "./guard.ts";
import type { Change } from "./diff.ts";
import { nameOf, type Violation } from "./plan.ts";
import type { Action, Group, Report, ResourceChange } from "./report.ts";

/** GitHub refuses bodies of more than 65,536 characters. Bytes are counted here, so that it does not matter what it counts. */
const MAX_BODY_BYTES = 64_000;
/** Lines of one block of a comment; a block is never cut otherwise, so that its fence stays closed. */
const MAX_BLOCK_LINES = 300;

const MAX_FAILURE_LENGTH = 2000;

const HEADINGS = { preview: "Preview", update: "Update" } as const;

/** The comment of a pull request, without what it is found by. */
export function renderMarkdown(report: Report): string {
  const blocks = [
    heading(report),
    ...alarms(report),
    ...failures(report),
    ...report.groups.flatMap((group) => groupBlocks(group, report.groups.filter(({ component }) => component !== "").length, report.action)),
    ...notices(report),
  ];
  return fit(blocks, `**More is left out here, as GitHub limits the length of comments; the job's log has all of it.**`);
}

function heading(report: Report): string {
  const commit = report.commit === undefined ? "" : `Commit ${code(report.commit.slice(0, 12))}.`;
  const below = [md(tail(report)), commit].filter((sentence) => sentence !== "").join(" ");
  return `### ${report.ok ? "" : "❌ "}${HEADINGS[report.action]} of ${code(report.stack)}: ${summary(report)}${below === "" ? "" : `\n\n${below}`}`;
}

/** `2 to be changed, 1 to be created`. */
function summary({ groups, failure, violations }: Report): string {
  if (failure !== undefined) return "it failed";
  const fates = groups.flatMap(({ resources }) => resources.filter(({ name }) => name !== "").map(({ fate }) => fate.replace(/^operation .*/, "handled otherwise")));
  const counts = [...new Set(fates)].map((fate) => `${fates.filter((other) => other === fate).length} to be ${fate}`);
  const outputs = groups.length > 0 ? "only outputs change" : "no changes";
  const broken = violations.some(({ isMandatory }) => isMandatory) ? ["a policy is violated"] : [];
  return [counts.length > 0 ? counts.join(", ") : outputs, ...broken].join(", ");
}

function tail({ groups, unchanged, failure }: Report): string {
  if (failure !== undefined) return failure.slice(0, MAX_FAILURE_LENGTH);
  const same = unchanged === 0 ? "" : `${unchanged} ${unchanged === 1 ? "resource stays as it is" : "resources stay as they are"}.`;
  // The engine hides what is secret, so a new key looks like the old one.
  return groups.length > 0 ? same : `${same} Whether a secret has another value is not compared.`.trim();
}

function alarms({ endangered, deletionAllowed, unprotected }: Report): string[] {
  const leave = deletionAllowed
    ? `The label ${code(DELETION_LABEL)} allows it.`
    : `**This is refused until someone who may set labels puts the label ${code(DELETION_LABEL)} on the pull request.**`;
  return [
    ...alert("CAUTION", endangered.length === 0 ? [] : [...endangered.map((resource) => `**${md(alarm(resource))}**`), leave]),
    ...alert("WARNING", unprotected.map((name) => md(lossOf(name)))),
  ];
}

function alert(kind: "CAUTION" | "WARNING", paragraphs: readonly string[]): string[] {
  return paragraphs.length === 0 ? [] : [`> [!${kind}]\n> ${paragraphs.join("\n>\n> ")}`];
}

function lossOf(name: string): string {
  return `"${name}" loses its protection: a later change may delete or replace it.`;
}

/** What would happen to a bucket and the files in it, in one sentence or two. */
function alarm({ name, bucket, fate, isProtected, isRetained }: Endangered): string {
  const which = `The bucket ${bucket === undefined ? `"${name}"` : `"${bucket}" (${name})`}`;
  const what = {
    deleted: isRetained ? "would be let go of: it stays on the server with its files, but out of Pulumi's hands." : "would be deleted, with every file in it.",
    replaced: isRetained
      ? "would be replaced: authentik gets a new, empty one, and the files stay behind in the old one."
      : "would be replaced: authentik gets a new, empty one, and the old one is deleted with every file in it.",
    "left over": isRetained
      ? "is left over from an earlier replacement, and would be let go of: it stays on the server with its files, but out of Pulumi's hands."
      : "is left over from an earlier replacement, and would be deleted, with every file in it.",
    unknown: "would undergo an operation that this check does not know, which may delete it.",
  }[fate];
  const first = fate === "replaced" ? "set protect to false as well." : "set protect to false in a change of its own first.";
  const refusal = isProtected ? ` It is protected, so Pulumi refuses: ${first}` : "";
  return `${which} ${what}${refusal}`;
}

function failures({ violations, diagnostics, failure }: Report): string[] {
  const broken = violations.map(violationText);
  const words = diagnostics.filter(({ severity }) => severity === "error").map(({ message }) => message);
  return [
    ...(broken.length === 0 ? [] : [`**Policies**\n\n${fence(broken, "text")}`]),
    ...(failure === undefined || words.length === 0 ? [] : [`**Pulumi's own words**\n\n${fence(words, "text")}`]),
  ];
}

function violationText({ policy, urn, message, isMandatory }: Violation): string {
  return `${isMandatory ? "error" : "warning"}: ${urn === "" ? "the stack" : nameOf(urn)} against the policy ${policy}: ${message}`;
}

function notices({ diagnostics, failure }: Report): string[] {
  const words = diagnostics.filter(({ severity }) => severity !== "error" || failure === undefined).map(({ severity, message }) => `${severity}: ${message}`);
  return words.length === 0 ? [] : [`<details><summary>Messages</summary>\n\n${fence(words, "text")}\n\n</details>`];
}

function groupBlocks({ component, resources }: Group, count: number, action: Action): string[] {
  const title = component === "" || count === 1 ? [] : [`#### ${code(component)}`];
  return [...title, ...resources.map((resource) => resourceBlock(resource, action))];
}

function resourceBlock(resource: ResourceChange, action: Action): string {
  const lines = changeLines(resource);
  return lines.length === 0 ? `**${title(resource, action, code)}**` : `**${title(resource, action, code)}**\n\n${fence(lines, "diff")}`;
}

/** `CORS policy authentik-cors will be changed`. How far an update has come that failed, its steps do not say. */
function title({ purpose, name, fate }: ResourceChange, action: Action, quote: (text: string) => string): string {
  const what = fate.startsWith("operation ") ? `${quote(fate.slice("operation ".length))} (an operation that is not known here)` : fate;
  const cause = fate === "made anew" ? " (it is no longer on the server)" : "";
  return `${purpose}${name === "" ? "" : ` ${quote(name)}`} ${action === "update" ? "was to be" : "will be"} ${what}${cause}`;
}

function changeLines({ fate, changes }: ResourceChange): string[] {
  if (changes.length === 0 && fate === "changed") return ["! in a way that does not show here: a secret, or something of the provider's own"];
  return changes.flatMap(({ property, removed, added, note }: Change) => [
    `  ${property}${note === undefined ? "" : `: ${note}`}`,
    ...removed.map((value) => `- ${value}`),
    ...added.map((value) => `+ ${value}`),
  ]);
}

/** The blocks, as many of them as fit. */
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

/** A block in which nothing is Markdown, HTML or a mention: its fence is longer than any run of backticks in it. */
function fence(lines: readonly string[], language: "diff" | "text"): string {
  const all = lines.flatMap((line) => printable(line).split("\n"));
  const shown = all.length <= MAX_BLOCK_LINES ? all : [...all.slice(0, MAX_BLOCK_LINES), `  (${all.length - MAX_BLOCK_LINES} more lines)`];
  const longest = Math.max(2, ...[...shown.join("\n").matchAll(/`+/g)].map(([run]) => run.length));
  const marks = "`".repeat(longest + 1);
  return [`${marks}${language}`, ...shown, marks].join("\n");
}

/** A text as code within a line. */
function code(text: string): string {
  const line = printable(text).replaceAll(/\s+/g, " ");
  const marks = "`".repeat(Math.max(0, ...[...line.matchAll(/`+/g)].map(([run]) => run.length)) + 1);
  const pad = /^`|`$/.test(line) ? " " : "";
  return `${marks}${pad}${line}${pad}${marks}`;
}

/**
 * A sentence with names in it, without a meaning to Markdown, HTML or mentions. GitHub looks for mentions, references and addresses in
 * what Markdown has become, where an entity is a character again: an invisible one breaks them up.
 */
function md(text: string): string {
  const broken = printable(text).replaceAll(/\s+/g, " ").replaceAll(/[@#]|:(?=\/)|w(?=ww\.)|G(?=H-)/gi, `$&${WORD_JOINER}`);
  return broken.replaceAll(/[\\`*_{}[\]<>()#+!|~@&:]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * The text without what a terminal or an editor would act on: control characters, and those that turn the direction of
 * writing or are invisible (Unicode's categories Cc, Cf, Zl, Zp). Lines stay lines.
 */
function printable(text: string): string {
  return text.replaceAll("\r\n", "\n").replaceAll(/(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`);
}

/** The same for a terminal or a job's log. */
export function renderText(report: Report, { color }: { color: boolean }): string {
  const { bold, red, green, yellow, dim } = createColors(color);
  const { stack, action, endangered, deletionAllowed, unprotected, violations, diagnostics, groups } = report;
  const plain = (text: string) => text;
  const leave = deletionAllowed ? "It is allowed." : `Refused without leave: the label ${DELETION_LABEL} on the pull request, or --allow-bucket-deletion here.`;
  const lines: Line[] = [
    { paint: bold, text: `${HEADINGS[report.action]} of ${stack}: ${summary(report)}` },
    { paint: plain, text: tail(report) },
    ...endangered.map((resource): Line => ({ paint: red, text: alarm(resource) })),
    ...(endangered.length === 0 ? [] : [{ paint: red, text: leave }]),
    ...unprotected.map((name): Line => ({ paint: yellow, text: lossOf(name) })),
    ...violations.map((violation): Line => ({ paint: violation.isMandatory ? red : yellow, text: violationText(violation) })),
    ...diagnostics.map(({ severity, message }): Line => ({ paint: severity === "error" ? red : plain, text: `${severity}: ${message}` })),
    ...groups.flatMap(({ resources }) => resources).flatMap((resource): Line[] => [
      { paint: bold, text: title(resource, action, plain) },
      ...changeLines(resource).map((line) => ({ paint: { "+": green, "-": red }[line.slice(0, 1)] ?? dim, text: `  ${line}` })),
    ]),
  ];
  return lines.filter(({ text }) => text !== "").map(({ paint, text }) => paint(logSafe(text))).join("\n");
}

interface Line {
  paint: (text: string) => string;
  text: string;
}

/** A line that begins with `::`, or has `##[`, is a command to GitHub's runner (actions/runner, `ActionCommand.cs`). */
function logSafe(text: string): string {
  return printable(text).replaceAll(/^(\s*):(?=:)/gm, "$1: ").replaceAll("##[", "## [");
}
