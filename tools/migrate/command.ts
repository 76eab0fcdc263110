/** `npm run migrate -- <from> <to>`: moves authentik's files between folders and buckets. */
import { isAbsolute, join, relative, sep } from "node:path";
import { createInterface } from "node:readline/promises";
import { Command, Option } from "commander";
import { Bucket } from "./bucket.ts";
import { MemoryBudget } from "./content.ts";
import { Disk } from "./disk.ts";
import { Journal } from "./journal.ts";
import { LAYOUTS, type Layout } from "./layout.ts";
import { mendLayout, migrate, reasonOf, type Options, type Summary } from "./migrate.ts";
import { MigrateError } from "./place.ts";
import { JsonReport, printable, TextReport, summaryText } from "./report.ts";
import { S3Bucket, S3Error } from "./s3.ts";
import { ignoreClosedOutput } from "../lib/command.ts";
import { UsageError, runCommand } from "../lib/command.ts";
import { REPOSITORY } from "../lib/repository.ts";
import { readSource, type Source } from "../lib/source.ts";

interface Flags {
  layout?: Layout;
  delete: boolean;
  mendLayout: boolean;
  deleteOld: boolean;
  dryRun: boolean;
  yes: boolean;
  json: boolean;
  state: string;
}

const STATE = join(REPOSITORY, ".local", "migrate");

const EXAMPLES = `
Examples:
  npm run migrate -- /data stack:prod --dry-run
  npm run migrate -- /data stack:prod
  npm run migrate -- stack:prod stack:next
  npm run migrate -- env:.env /srv/backup --yes
  npm run migrate -- stack:prod --mend-layout`;

const command = new Command("migrate")
  .description("Copies authentik's files, and checks every one. A place is a folder (/media or /data), stack:NAME or env:FILE.")
  .argument("<from>", "where the files are; with --mend-layout the bucket to mend")
  .argument("[to]", "where they shall be")
  .addOption(new Option("--layout <generation>", "what the folder is, where it does not show").choices(LAYOUTS))
  .option("--dry-run", "print the plan, and do nothing", false)
  .option("--yes", "do not ask", false)
  .option("--delete", "delete in <to> what <from> has not, after all else went well", false)
  .option("--mend-layout", "copy what is at the bucket's root (public/...) to where authentik looks (media/public/...)", false)
  .option("--delete-old", "with --mend-layout: delete each old object once its copy is checked", false)
  .option("--json", "print JSON, one object a line; the last is the summary", false)
  .option("--state <folder>", "where runs that were cut short leave what the next one needs", STATE)
  .addHelpText("after", EXAMPLES)
  .addHelpText("after", "\nExit status: 0 when all is as planned, 1 when a file was refused or failed or deletions were left undone, 2 when it cannot be tried or told.")
  .action(run);

async function run(from: string, to: string | undefined, flags: Flags): Promise<void> {
  if ((to === undefined) !== flags.mendLayout) {
    throw new UsageError(flags.mendLayout ? "--mend-layout takes one place, the bucket" : "write two places: <from> <to>");
  }
  if (flags.deleteOld && !flags.mendLayout) throw new UsageError("--delete-old goes with --mend-layout");
  // A dry run has nothing left to do.
  if (flags.dryRun) ignoreClosedOutput(() => process.exit());
  const memory = new MemoryBudget();
  const first = await openPlace(from, memory, flags, "from");
  const second = to === undefined ? first : await openPlace(to, memory, flags, "to");
  if (to !== undefined && first.name === second.name) throw new UsageError(`<from> and <to> are both "${first.name}"`);
  if (to !== undefined && first.kind === "disk" && second.kind === "disk" && isWithin(second.name, first.name)) {
    throw new UsageError(`"${second.name}" is in "${first.name}", and would be copied into itself; name a folder elsewhere`);
  }
  const journal = new Journal(flags.state, [first.name, second.name]);
  const reporter = flags.json ? new JsonReport() : new TextReport(flags.dryRun);
  const options: Options = { journal, memory, reporter, dryRun: flags.dryRun, confirm: (summary) => confirm(summary, flags) };
  if (second.kind === "bucket") second.useJournal(journal);
  try {
    const summary = await carryOut(first, second, flags, options);
    summary.notes.push(...journal.notes, ...notesOn(first, flags), ...(to === undefined ? [] : notesOn(second, flags)));
    reporter.end(summary);
    if (summary.withheld || summary.failed + summary.refused > 0) process.exitCode = 1;
  } finally {
    journal.close();
    await Promise.all([first.close(), second.close()]);
  }
}

function isWithin(folder: string, other: string): boolean {
  const path = relative(other, folder);
  return path !== ".." && !path.startsWith(`..${sep}`) && !isAbsolute(path);
}

async function carryOut(from: Disk | Bucket, to: Disk | Bucket, flags: Flags, options: Options): Promise<Summary> {
  if (!flags.mendLayout) return migrate(from, to, flags.delete, options);
  if (from.kind === "disk") throw new UsageError(`--mend-layout mends buckets, and "${from.name}" is a folder; write stack:NAME or env:FILE`);
  return mendLayout(from, flags.deleteOld, options);
}

async function openPlace(text: string, memory: MemoryBudget, flags: Flags, role: "from" | "to"): Promise<Disk | Bucket> {
  const source = await readSource(text);
  if (!source && /^[a-z][\w+.-]*:/i.test(text)) {
    throw new UsageError(`"${text}" is no place; write the path of a folder (one with a colon as "./${text}"), stack:NAME or env:FILE`);
  }
  if (!source) return Disk.open(text, { layout: flags.layout, mustExist: role === "from", readOnly: flags.dryRun });
  for (const warning of source.warnings) console.error(`${source.name}: ${warning}`);
  return openBucket(source, memory, role === "from" && !flags.mendLayout);
}

async function openBucket({ name, settings }: Source, memory: MemoryBudget, readsMisplaced: boolean): Promise<Bucket> {
  const s3 = await S3Bucket.open(settings).catch((error: unknown) => {
    throw new MigrateError(`nothing signs the requests to the bucket of ${name}`, { cause: error });
  });
  try {
    return await Bucket.open(s3, memory, { readsMisplaced });
  } catch (error) {
    await s3.close();
    throw new MigrateError(`the bucket of ${name}, ${s3.url}, cannot be listed`, { cause: error });
  }
}

function notesOn(place: Disk | Bucket, flags: Flags): string[] {
  if (place.kind === "disk") return [];
  const { misplaced, foreign } = place.root;
  const notes = place.orphans.map((key) => `An earlier run may have left parts of ${key} on ${place.name}, which this key may not list or end; the bucket's lifecycle rule removes them.`);
  if (misplaced.length > 0 && !flags.mendLayout) {
    notes.push(`${place.name} has ${misplaced.join(", ")} at its root, where authentik does not look; mend that with --mend-layout.`);
  }
  if (foreign.length > 0) notes.push(`${place.name} has also ${foreign.join(", ")}, which are not authentik's and were left alone.`);
  return notes;
}

async function confirm(summary: Summary, { yes, json }: Flags): Promise<boolean> {
  if (yes) return true;
  if (!process.stdin.isTTY || json) throw new UsageError("there is no terminal to ask; add --yes to do it, or --dry-run to see it");
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question(`${summaryText(summary)}\nGo on? (y/N) `).catch((error: unknown) => {
      throw new MigrateError("nothing was changed", { cause: error });
    });
    return /^y(?:es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}

await runCommand(command, [MigrateError, S3Error], (error) => printable(reasonOf(error)));
