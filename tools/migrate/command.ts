/** `npm run migrate -- <from> <to>`: copies authentik's files between folders and buckets. */
import { isAbsolute, join, relative, sep } from "node:path";
import { createInterface } from "node:readline/promises";
import { Command, InvalidArgumentError, Option } from "commander";
import { reasonOf } from "../lib/errors.ts";
import { invalidSchemaReason, SCHEMA_VARIABLE } from "../../authentik/objects.ts";
import { defaultSchemaOf, EnvReadError } from "../../authentik/read-env.ts";
import { visible } from "../../config/visible.ts";
import { ignoreClosedOutput, interruptible, runCommand, UsageError } from "../lib/command.ts";
import { REPOSITORY, userPath } from "../lib/repository.ts";
import { readSource, type Source } from "../lib/source.ts";
import { Bucket, type BucketOptions } from "./bucket.ts";
import { MemoryBudget } from "./content.ts";
import { Disk } from "./disk.ts";
import { Journal } from "./journal.ts";
import { LAYOUTS, type Layout } from "./layout.ts";
import { migrate, repairLayout, repairTypes } from "./migrate.ts";
import { JsonReporter, noteText, summaryText, TextReporter } from "./reporters.ts";
import type { MigrationOptions, Summary } from "./run.ts";
import { S3Error } from "./s3-answers.ts";
import { BucketClient } from "./s3-client.ts";
import { MigrateError } from "./storage.ts";

interface Flags {
  layout?: Layout;
  schema?: string;
  delete: boolean;
  repairLayout: boolean;
  repairTypes: boolean;
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
  npm run migrate -- stack:prod --repair-types

Exit status:
  0  everything was done as planned
  1  files were skipped or failed, deletions were not carried out, or the run was stopped
  2  the command could not be carried out, or the plan could not be made`;

const HELP = {
  from: "the source; with --repair-layout or --repair-types, the bucket to repair",
  to: "the destination",
  layout: "what the folder is, if its entries do not show it",
  schema: `the schema of authentik's default tenant, if it is not public: ${SCHEMA_VARIABLE}`,
  dryRun: "print the plan and change nothing",
  yes: "do not ask",
  delete: "delete in <to> what <from> does not have, after everything else succeeded",
  repairLayout: "copy public/... at the bucket's root to media/public/..., where authentik looks",
  repairTypes: "give objects in place the content types that authentik gives them",
  deleteOld: "with --repair-layout: delete each old object after its copy is checked",
  json: "print JSON, one object a line; the last one is the summary",
  state: "where interrupted runs store what the next run needs",
};

const command = new Command("migrate")
  .description(DESCRIPTION)
  .argument("<from>", HELP.from)
  .argument("[to]", HELP.to)
  .addOption(new Option("--layout <generation>", HELP.layout).choices(LAYOUTS))
  .option("--schema <name>", HELP.schema, readSchema)
  .option("--dry-run", HELP.dryRun, false)
  .option("--yes", HELP.yes, false)
  .option("--delete", HELP.delete, false)
  .option("--repair-layout", HELP.repairLayout, false)
  // The option's earlier name.
  .addOption(new Option("--mend-layout").implies({ repairLayout: true }).hideHelp())
  .option("--repair-types", HELP.repairTypes, false)
  .option("--delete-old", HELP.deleteOld, false)
  .option("--json", HELP.json, false)
  .option("--state <folder>", HELP.state, userPath, STATE_FOLDER)
  .addHelpText("after", AFTER_HELP)
  .action((from: string, to: string | undefined, flags: Flags) =>
    interruptible((signal) => run(from, to, flags, signal)),
  );

function readSchema(name: string): string {
  const reason = invalidSchemaReason(name);
  if (reason !== undefined) throw new InvalidArgumentError(`It ${reason}.`);
  return name;
}

async function run(
  from: string,
  to: string | undefined,
  flags: Flags,
  signal: AbortSignal,
): Promise<void> {
  expectMatching(to, flags);
  // A dry run has nothing to do after the reader of its output has gone.
  if (flags.dryRun) ignoreClosedOutput(() => process.exit());
  const memory = new MemoryBudget();
  const reporter = flags.json ? new JsonReporter() : new TextReporter(flags.dryRun);
  const shared = { memory, reporter };
  const first = await readLocation(from);
  const second = to === undefined ? undefined : await readLocation(to);
  const schemas = schemasOf([first, second], flags);
  const source = await openStorage(first, shared, flags, schemas, "source");
  const target = second ? await openStorage(second, shared, flags, schemas, "destination") : source;
  if (second) expectSeparate(source, target);
  const journal = new Journal(flags.state, [source.name, target.name]);
  const { dryRun } = flags;
  const storages = new Set([source, target]);
  const notes = () => [...storages].flatMap((storage) => notesOn(storage, flags));
  const answer = { isYes: true };
  const options: MigrationOptions = {
    journal,
    memory,
    reporter,
    dryRun,
    signal,
    confirm: async (summary) => {
      answer.isYes = await confirm(summary, notes(), flags);
      return answer.isYes;
    },
  };
  if (source.kind === "disk") source.useJournal(journal);
  target.useJournal(journal);
  try {
    const summary = await carryOut(source, target, flags, options);
    if (!answer.isYes) {
      process.stdout.write("Nothing was changed.\n");
      return;
    }
    summary.notes.push(...journal.notes, ...notes());
    reporter.end(summary);
    if (isIncomplete(summary)) process.exitCode = 1;
  } finally {
    journal.close();
    const closed = Promise.all([source.close(), target.close()]);
    // Requests to a server that does not answer would keep the process alive.
    if (signal.aborted) process.exit(1);
    await closed;
  }
}

function expectMatching(
  to: string | undefined,
  { repairLayout, repairTypes, deleteOld }: Flags,
): void {
  if (repairLayout && repairTypes) {
    throw new UsageError("run --repair-layout first, and then --repair-types");
  }
  const repairs = repairLayout || repairTypes;
  if (repairs && to !== undefined) {
    throw new UsageError(`${repairOption(repairLayout)} takes one argument, the bucket`);
  }
  if (!repairs && to === undefined) {
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

function isIncomplete({ deletionsSkipped, failed, skipped, stopped }: Summary): boolean {
  return stopped !== undefined || deletionsSkipped || failed + skipped > 0;
}

async function carryOut(
  from: Disk | Bucket,
  to: Disk | Bucket,
  flags: Flags,
  options: MigrationOptions,
): Promise<Summary> {
  const { deleteOld } = flags;
  if (!flags.repairLayout && !flags.repairTypes) return migrate(from, to, flags.delete, options);
  if (from.kind === "bucket") {
    return flags.repairTypes ? repairTypes(from, options) : repairLayout(from, deleteOld, options);
  }
  const option = repairOption(flags.repairLayout);
  const message = `${option} repairs a bucket, and "${from.name}" is a folder`;
  throw new UsageError(`${message}; write stack:NAME or env:FILE`);
}

function repairOption(repairsLayout: boolean): string {
  return repairsLayout ? "--repair-layout" : "--repair-types";
}

/** A bucket's settings, or the path of a folder. */
type Location = Source | string;

async function readLocation(text: string): Promise<Location> {
  const source = await readSource(text);
  if (source) {
    for (const warning of source.warnings) console.error(`${source.name}: ${warning}`);
    return source;
  }
  if (/^[a-z][\w+.-]*:/i.test(text)) {
    throw new UsageError(
      `"${text}" is not supported; write the path of a folder ` +
        `(one with a colon as "./${text}"), stack:NAME or env:FILE`,
    );
  }
  return userPath(text);
}

/** The schemas that the option and the env files name. */
function schemasOf(locations: readonly (Location | undefined)[], { schema }: Flags): string[] {
  if (schema !== undefined) return [schema];
  const named = locations.flatMap((location) => {
    const name = typeof location === "object" ? defaultSchemaOf(location.env) : undefined;
    return name === undefined || invalidSchemaReason(name) !== undefined ? [] : [name];
  });
  const [first, second] = new Set(named);
  if (second === undefined) return first === undefined ? [] : [first];
  throw new UsageError(
    `${SCHEMA_VARIABLE} is "${first}" in one env file and "${second}" in the other, and a copy ` +
      "keeps the names of folders; to copy anyway, choose one with --schema",
  );
}

type Shared = Pick<MigrationOptions, "memory" | "reporter">;

async function openStorage(
  location: Location,
  shared: Shared,
  flags: Flags,
  schemas: readonly string[],
  role: "source" | "destination",
): Promise<Disk | Bucket> {
  const isSource = role === "source";
  if (typeof location === "object") {
    const readsMisplaced = isSource && !flags.repairLayout && !flags.repairTypes;
    return openBucket(location, shared, { readsMisplaced, schemas });
  }
  const { layout, dryRun: readOnly } = flags;
  return Disk.open(location, { layout, schemas, mustExist: isSource, readOnly });
}

async function openBucket(
  { name, settings }: Source,
  { memory, reporter }: Shared,
  options: BucketOptions,
): Promise<Bucket> {
  const client = await BucketClient.open(settings).catch((error: unknown) => {
    const message = `there are no credentials for the bucket of ${name}`;
    throw new MigrateError(message, { cause: error });
  });
  client.onRetry = (reason) => {
    reporter.retry(reason);
  };
  try {
    return await Bucket.open(client, memory, options);
  } catch (error) {
    await client.close();
    const message = `the bucket of ${name}, ${client.url}, cannot be listed`;
    throw new MigrateError(message, { cause: error });
  }
}

/** How many names a note has. */
const MAX_NAMES = 20;

function namesOf(names: readonly string[]): string {
  const more = names.length > MAX_NAMES ? ` and ${names.length - MAX_NAMES} more` : "";
  return names.slice(0, MAX_NAMES).join(", ") + more;
}

function notesOn(storage: Disk | Bucket, flags: Flags): string[] {
  const { name, otherFolders } = storage;
  const notes: string[] = [];
  if (otherFolders.size > 0) {
    notes.push(
      `${name} also has other folders: ${namesOf([...otherFolders])}. ` +
        "They are neither copied nor changed nor deleted.",
    );
  }
  if (storage.kind === "disk") return notes;
  const { root, orphans } = storage;
  for (const key of orphans) {
    notes.push(
      `${name} may still have parts of an earlier upload of ${key}. These keys may not list or ` +
        "abort it; the bucket's lifecycle rule does.",
    );
  }
  if (root.misplaced.length > 0 && !flags.repairLayout) {
    notes.push(
      `${name} has ${namesOf(root.misplaced)} at its root, where authentik does not look; ` +
        "--repair-layout repairs that.",
    );
  }
  if (root.foreign.length > 0) {
    const folders = namesOf(root.foreign);
    notes.push(`${name} also has ${folders}, which are not authentik's and were not touched.`);
  }
  return notes;
}

async function confirm(
  summary: Summary,
  notes: readonly string[],
  { yes, json }: Flags,
): Promise<boolean> {
  if (yes) return true;
  if (!process.stdin.isTTY || json) {
    throw new UsageError("there is no terminal to ask; add --yes to start, or --dry-run to look");
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const lines = [summaryText(summary), ...notes.map(noteText), "Continue? (y/N) "];
    const question = lines.join("\n");
    const answer = await terminal.question(question).catch((error: unknown) => {
      throw new MigrateError("nothing was changed", { cause: error });
    });
    return /^y(?:es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}

/** Each problem of an env file has its own line. */
function errorLines(error: Error): string {
  const lines = error instanceof EnvReadError ? error.message.split("\n") : [reasonOf(error)];
  return lines.map(visible).join("\n");
}

await runCommand(command, [MigrateError, S3Error], errorLines);
