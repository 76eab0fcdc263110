/** `npm run migrate -- <from> <to>`: copies authentik's files between folders and buckets. */
import { isAbsolute, join, relative, sep } from "node:path";
import { createInterface } from "node:readline/promises";
import { Command, Option } from "commander";
import { ignoreClosedOutput, runCommand, UsageError } from "../lib/command.ts";
import { REPOSITORY } from "../lib/repository.ts";
import { readSource, type Source } from "../lib/source.ts";
import { Bucket } from "./bucket.ts";
import { MemoryBudget } from "./content.ts";
import { Disk } from "./disk.ts";
import { Journal } from "./journal.ts";
import { LAYOUTS, type Layout } from "./layout.ts";
import { migrate, repairLayout } from "./migrate.ts";
import { JsonReporter, printable, summaryText, TextReporter } from "./reporters.ts";
import { reasonOf, type MigrationOptions, type Summary } from "./run.ts";
import { S3Error } from "./s3-answers.ts";
import { BucketClient } from "./s3-client.ts";
import { MigrateError } from "./storage.ts";

interface Flags {
  layout?: Layout;
  delete: boolean;
  repairLayout: boolean;
  deleteOld: boolean;
  dryRun: boolean;
  yes: boolean;
  json: boolean;
  state: string;
}

const STATE_FOLDER = join(REPOSITORY, ".local", "migrate");

const DESCRIPTION = `Copies authentik's files and checks each copy.
<from> and <to> are each a folder (/media or /data), stack:NAME or env:FILE.`;

const AFTER_HELP = `
Examples:
  npm run migrate -- /data stack:prod --dry-run
  npm run migrate -- /data stack:prod
  npm run migrate -- stack:prod stack:next
  npm run migrate -- env:.env /srv/backup --yes
  npm run migrate -- stack:prod --repair-layout

Exit status:
  0  everything was done as planned
  1  files were skipped or failed, or deletions were not carried out
  2  the command could not be carried out, or the plan could not be made`;

const HELP = {
  from: "the source; with --repair-layout, the bucket to repair",
  to: "the destination",
  layout: "what the folder is, if its entries do not show it",
  dryRun: "print the plan and change nothing",
  yes: "do not ask",
  delete: "delete in <to> what <from> does not have, after everything else succeeded",
  repairLayout: "copy public/... at the bucket's root to media/public/..., where authentik looks",
  deleteOld: "with --repair-layout: delete each old object after its copy is checked",
  json: "print JSON, one object a line; the last one is the summary",
  state: "where interrupted runs store what the next run needs",
};

const command = new Command("migrate")
  .description(DESCRIPTION)
  .argument("<from>", HELP.from)
  .argument("[to]", HELP.to)
  .addOption(new Option("--layout <generation>", HELP.layout).choices(LAYOUTS))
  .option("--dry-run", HELP.dryRun, false)
  .option("--yes", HELP.yes, false)
  .option("--delete", HELP.delete, false)
  .option("--repair-layout", HELP.repairLayout, false)
  // The option's earlier name.
  .addOption(new Option("--mend-layout").implies({ repairLayout: true }).hideHelp())
  .option("--delete-old", HELP.deleteOld, false)
  .option("--json", HELP.json, false)
  .option("--state <folder>", HELP.state, STATE_FOLDER)
  .addHelpText("after", AFTER_HELP)
  .action(run);

async function run(from: string, to: string | undefined, flags: Flags): Promise<void> {
  expectMatching(to, flags);
  // A dry run has nothing to do when nobody reads its output any more.
  if (flags.dryRun) ignoreClosedOutput(() => process.exit());
  const memory = new MemoryBudget();
  const source = await openStorage(from, memory, flags, "source");
  const target = to === undefined ? source : await openStorage(to, memory, flags, "destination");
  if (to !== undefined) expectSeparate(source, target);
  const journal = new Journal(flags.state, [source.name, target.name]);
  const reporter = flags.json ? new JsonReporter() : new TextReporter(flags.dryRun);
  const { dryRun } = flags;
  const options: MigrationOptions = {
    journal,
    memory,
    reporter,
    dryRun,
    confirm: (summary) => confirm(summary, flags),
  };
  if (target.kind === "bucket") target.useJournal(journal);
  try {
    const summary = await carryOut(source, target, flags, options);
    const storages = to === undefined ? [source] : [source, target];
    summary.notes.push(...journal.notes, ...storages.flatMap((storage) => notesOn(storage, flags)));
    reporter.end(summary);
    if (isIncomplete(summary)) process.exitCode = 1;
  } finally {
    journal.close();
    await Promise.all([source.close(), target.close()]);
  }
}

function expectMatching(to: string | undefined, { repairLayout, deleteOld }: Flags): void {
  if (repairLayout && to !== undefined) {
    throw new UsageError("--repair-layout takes one argument, the bucket");
  }
  if (!repairLayout && to === undefined) {
    throw new UsageError("write a source and a destination: <from> <to>");
  }
  if (deleteOld && !repairLayout) throw new UsageError("--delete-old requires --repair-layout");
}

function expectSeparate(from: Disk | Bucket, to: Disk | Bucket): void {
  if (from.name === to.name) throw new UsageError(`<from> and <to> are both "${from.name}"`);
  const areDisks = from.kind === "disk" && to.kind === "disk";
  if (!areDisks || !isWithin(to.name, from.name)) return;
  throw new UsageError(
    `"${to.name}" is inside "${from.name}" and would be copied into itself; name another folder`,
  );
}

function isWithin(folder: string, other: string): boolean {
  const path = relative(other, folder);
  return path !== ".." && !path.startsWith(`..${sep}`) && !isAbsolute(path);
}

function isIncomplete({ deletionsSkipped, failed, skipped }: Summary): boolean {
  return deletionsSkipped || failed + skipped > 0;
}

async function carryOut(
  from: Disk | Bucket,
  to: Disk | Bucket,
  flags: Flags,
  options: MigrationOptions,
): Promise<Summary> {
  if (!flags.repairLayout) return migrate(from, to, flags.delete, options);
  if (from.kind === "bucket") return repairLayout(from, flags.deleteOld, options);
  const message = `--repair-layout repairs a bucket, and "${from.name}" is a folder`;
  throw new UsageError(`${message}; write stack:NAME or env:FILE`);
}

async function openStorage(
  text: string,
  memory: MemoryBudget,
  flags: Flags,
  role: "source" | "destination",
): Promise<Disk | Bucket> {
  const isSource = role === "source";
  const source = await readSource(text);
  if (source) {
    for (const warning of source.warnings) console.error(`${source.name}: ${warning}`);
    return openBucket(source, memory, isSource && !flags.repairLayout);
  }
  if (/^[a-z][\w+.-]*:/i.test(text)) {
    throw new UsageError(
      `"${text}" is not supported; write the path of a folder ` +
        `(one with a colon as "./${text}"), stack:NAME or env:FILE`,
    );
  }
  return Disk.open(text, { layout: flags.layout, mustExist: isSource, readOnly: flags.dryRun });
}

async function openBucket(
  { name, settings }: Source,
  memory: MemoryBudget,
  readsMisplaced: boolean,
): Promise<Bucket> {
  const client = await BucketClient.open(settings).catch((error: unknown) => {
    const message = `there are no credentials for the bucket of ${name}`;
    throw new MigrateError(message, { cause: error });
  });
  try {
    return await Bucket.open(client, memory, { readsMisplaced });
  } catch (error) {
    await client.close();
    const message = `the bucket of ${name}, ${client.url}, cannot be listed`;
    throw new MigrateError(message, { cause: error });
  }
}

function notesOn(storage: Disk | Bucket, flags: Flags): string[] {
  if (storage.kind === "disk") return [];
  const { name, root, orphans } = storage;
  const notes = orphans.map(
    (key) =>
      `${name} may still have parts of an earlier upload of ${key}. These keys may not list or ` +
      "end it; the bucket's lifecycle rule does.",
  );
  if (root.misplaced.length > 0 && !flags.repairLayout) {
    const folders = root.misplaced.join(", ");
    notes.push(
      `${name} has ${folders} at its root, where authentik does not look; ` +
        "--repair-layout repairs that.",
    );
  }
  if (root.foreign.length > 0) {
    const folders = root.foreign.join(", ");
    notes.push(`${name} also has ${folders}, which are not authentik's and were not touched.`);
  }
  return notes;
}

async function confirm(summary: Summary, { yes, json }: Flags): Promise<boolean> {
  if (yes) return true;
  if (!process.stdin.isTTY || json) {
    throw new UsageError("there is no terminal to ask; add --yes to start, or --dry-run to look");
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const question = `${summaryText(summary)}\nContinue? (y/N) `;
    const answer = await terminal.question(question).catch((error: unknown) => {
      throw new MigrateError("nothing was changed", { cause: error });
    });
    return /^y(?:es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}

await runCommand(command, [MigrateError, S3Error], (error) => printable(reasonOf(error)));
