/**
 * Every command in the docs: taken from the pages and run, page by page, in a throwaway copy of this repository, against a
 * local S3 server, with the state in a folder. What cannot be run here is listed below with the reason, and nothing else is left out.
 */
import { execFile, execFileSync, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { expect } from "chai";
import * as v from "valibot";
import { parse } from "yaml";
import type { RawConfig } from "../config/index.ts";
import type { RunningServer } from "../local/versitygw.ts";
import { chooseProvider } from "../providers/index.ts";
import { pulumi, REPOSITORY } from "./support/engine.ts";
import { AUTHENTIK, ROOT, startTestServer } from "./support/server.ts";

/** Programs that the tests never start: they need an account, a cluster or an engine, and what they did would be real. What stands before them in a pipe is run. */
const NEVER_STARTED: Readonly<Record<string, string>> = {
  aws: "needs an AWS account",
  az: "needs an Azure subscription",
  docker: "needs a container engine and authentik's own compose file",
  helm: "needs a cluster",
  kubectl: "needs a cluster",
};

/** Commands that are not run here, and where they are, or why they cannot be. */
const NOT_RUN: Readonly<Record<string, string>> = {
  "npm ci": "by .ci/run, before all tests",
  "npm start": "by test/start.test.ts, in every way",
  "mkdir company-storage": "by test/template.test.ts, with what follows",
  "cd company-storage": "by test/template.test.ts",
  "pulumi new https://github.com/company/authentik-storage --name company-storage --stack prod": "by test/template.test.ts, from a folder",
  "pulumi new https://github.com/company/authentik-storage --yes --name company-storage --stack prod -c provider=s3 -c endpoint=https://s3.provider -c origins=https://authentik.company":
    "by test/template.test.ts, from a folder",
};

/** What stands for something else in the docs, and what it is here. */
const PLACEHOLDERS: readonly [written: RegExp, here: (world: World) => string][] = [
  [/(s3:\/\/[\w-]+)\?region=eu-central-1/g, ({ server }) => `$1?endpoint=${server.endpoint}&s3ForcePathStyle=true&region=us-east-1`],
  // The server here speaks http, and the program wants to be told.
  [/^(pulumi config set endpoint) https:\/\/s3\.(?:provider|elsewhere)(.*)$/g, ({ server }) => `$1 ${server.endpoint}$2 && pulumi config set secureUrls false$2`],
  [/https:\/\/s3\.provider/g, ({ server }) => server.endpoint],
  [/(?<= )(\/data|\/media)(?= |$)/g, ({ dir }) => `${dir}/authentik$1`],
  [/file:\/\/\/srv\/pulumi-state/g, ({ dir }) => `file://${dir}/state`],
  [/(?<=< )([\w-]+)\.txt/g, ({ dir }) => `${dir}/authentik/$1.txt`],
  // The server here names principals by their access keys.
  [/arn:aws:iam:::user\/authentik/g, () => AUTHENTIK.accessKey],
  // It asks, and there is no terminal here.
  [/^(npm run migrate -- .*)$/g, () => "$1 --yes"],
];

const COMMAND_TIMEOUT_MS = 120_000;
const PASSPHRASE = "test";

/** What a command that asks is told; the page stands before it. */
const ANSWERS: readonly [command: RegExp, answer: string][] = [
  // The page gives authentik a user of its own.
  [/^docs\/s3\.md: .* --secret accessKey/, AUTHENTIK.accessKey],
  [/^docs\/s3\.md: .* --secret secretKey/, AUTHENTIK.secretKey],
  [/config set --secret (?:admin)?[aA]ccessKey/, ROOT.accessKey],
  [/config set --secret (?:admin)?[sS]ecretKey/, ROOT.secretKey],
  [/config set --secret cloudflare:apiToken/, "a-token"],
  [/change-secrets-provider passphrase/, PASSPHRASE],
];

/** Files that the docs read keys from. */
const KEY_FILES: Readonly<Record<string, string>> = {
  "access-key.txt": AUTHENTIK.accessKey, "secret-key.txt": AUTHENTIK.secretKey, "admin-access-key.txt": ROOT.accessKey, "admin-secret-key.txt": ROOT.secretKey,
};

/** What a page takes for granted beside the stack `prod` of the README, as commands. */
const GIVEN: Readonly<Record<string, readonly string[]>> = {
  "docs/adopt.md": ["npm run state -- create 's3://company-media?region=eu-central-1'"],
  "docs/migrate.md": ["pulumi stack init next --copy-config-from prod", "pulumi config set bucketName company-media", "pulumi up"],
};

/** Pages whose sections are alternatives: each begins anew. */
const ALTERNATIVES: readonly string[] = ["docs/undo.md"];


interface Command {
  page: string;
  line: number;
  /** Line of the heading above it. */
  section: number;
  /** One command line of the shell, continued lines joined, without its comment. */
  text: string;
}

/** The commands in a page's `sh` blocks. */
function commandsOf(page: string, markdown: string): Command[] {
  const commands: Command[] = [];
  let inBlock = false;
  let section = 0;
  let begun: Command | undefined;
  for (const [index, line] of markdown.split("\n").entries()) {
    if (/^\s*```/.test(line)) {
      inBlock = !inBlock && /^\s*```(?:sh|bash|shell|console)\s*$/.test(line);
      continue;
    }
    if (!inBlock && line.startsWith("#")) section = index + 1;
    const text = line.replace(/(?:^|\s+)#(?=\s|$).*$/, "").trim();
    if (!inBlock || text === "") continue;
    begun = begun ? { ...begun, text: `${begun.text} ${text}` } : { page, line: index + 1, section, text };
    if (text.endsWith("\\")) begun = { ...begun, text: begun.text.slice(0, -1).trimEnd() };
    else {
      commands.push(begun);
      begun = undefined;
    }
  }
  return commands;
}

const PAGES = ["README.md", "CONTRIBUTING.md", ...readdirSync(join(REPOSITORY, "docs")).sort().map((name) => `docs/${name}`)]
  .filter((page) => page.endsWith(".md"))
  .map((page) => ({ page, markdown: readFileSync(join(REPOSITORY, page), "utf8") }))
  .map(({ page, markdown }) => ({ page, markdown, commands: commandsOf(page, markdown) }));

/** The programs of a command line: the first word of each command in it that sets no variable. */
function programsOf(text: string): string[] {
  return text.split(/\s*(?:\|\||\||&&|;)\s*/).map((part) => part.split(/\s+/).find((word) => !/^\w+=/.test(word)) ?? "");
}

/** What of a command line is run: all of it, or what stands before a program that is never started. */
function runnablePart({ text }: Command): string {
  if (text in NOT_RUN) return "";
  const parts = text.split(/\s+\|\s+/);
  const end = parts.findIndex((part) => programsOf(part).some((program) => program in NEVER_STARTED));
  return (end === -1 ? parts : parts.slice(0, end)).join(" | ");
}

describe("docs: the commands", () => {
  const all = PAGES.flatMap(({ commands }) => commands);

  it("are found", () => {
    expect(commandsOf("x", "```sh\nnpm ci # why\n# all\na \\\n  b\n```\n```json\nno\n```\n")).to.deep.equal([
      { page: "x", line: 2, section: 0, text: "npm ci" }, { page: "x", line: 4, section: 0, text: "a b" },
    ]);
    expect(all.length).to.be.greaterThan(30);
    expect(PAGES.flatMap(({ page, markdown }) => /^\s*```\s*$(?=\n(?:npm|pulumi) )/m.test(markdown) ? [page] : []), "blocks without a language").to.deep.equal([]);
  });

  it("are of programs that are run here, or that are listed as never started", () => {
    const known = ["npm", "npx", "pulumi", "git", "export", "cd", "cp", "mkdir", "cat", "echo", "node", ...Object.keys(NEVER_STARTED)];
    const others = all.filter(({ text }) => programsOf(text).some((program) => !known.includes(program)));
    expect(others.map(({ page, line, text }) => `${page}:${line}: ${text}`), "neither run nor listed").to.deep.equal([]);
  });

  it("have everything that is listed", () => {
    const programs = new Set(all.flatMap(({ text }) => programsOf(text)));
    expect(Object.keys(NEVER_STARTED).filter((program) => !programs.has(program)), "programs that are not in the docs").to.deep.equal([]);
    expect(Object.keys(NOT_RUN).filter((text) => !all.some((command) => command.text === text)), "commands that are not in the docs").to.deep.equal([]);
    expect([...Object.keys(GIVEN), ...ALTERNATIVES].filter((page) => !PAGES.some((known) => known.page === page)), "pages that are not there").to.deep.equal([]);
  });
});

describe("docs: what the commands name is there", function () {
  this.timeout(60_000);
  const Manifest = v.object({ scripts: v.record(v.string(), v.string()) });
  const { scripts } = v.parse(Manifest, JSON.parse(readFileSync(join(REPOSITORY, "package.json"), "utf8")));
  const helps = new Map<string, Promise<string>>();

  /** What a script says of itself; the help of a command below it where it has such commands. */
  async function help(script: string, words: readonly string[]): Promise<string> {
    const text = await ask(script, []);
    const [first = ""] = words;
    return new RegExp(`^  ${first} `, "m").test(text.split("Commands:")[1] ?? "") ? ask(script, [first]) : text;
  }
  async function ask(script: string, words: readonly string[]): Promise<string> {
    const key = [script, ...words].join(" ");
    // As npm would, without npm, which takes as long as the script.
    const known = helps.get(key) ?? promisify(execFile)("bash", ["-c", [scripts[script], ...words, "--help"].join(" ")], { cwd: REPOSITORY }).then(({ stdout }) => stdout);
    helps.set(key, known);
    return known;
  }

  for (const { page, markdown } of PAGES) {
    const inline = [...markdown.matchAll(/`((?:npm run|npm (?:start|test)|npx) [^`]*)`/g)].map(([, text = ""]) => text);
    const texts = [...new Set([...inline, ...commandsOf(page, markdown).map(({ text }) => text)])];
    const used = texts.flatMap((text) => text.split(/\s+\|\s+|\s+&&\s+/)).flatMap((part) => {
      const [, script, rest = ""] = /^(?:\w+=\S+ )*npm run (?:-s |--silent )?([\w:-]+)(?: -- (.*))?$/.exec(part) ?? [];
      return script === undefined ? [] : [{ script, words: rest.split(/\s+/).filter((word) => word !== "") }];
    });
    if (used.length > 0) {
      it(`scripts and options of ${page}`, async () => {
        for (const { script, words } of used) {
          expect(scripts, page).to.have.property(script);
          const options = words.filter((word) => word.startsWith("--")).map((word) => word.split("=")[0] ?? word);
          if (options.length === 0) continue;
          const text = await help(script, words);
          for (const option of options) expect(text, `${script} ${words.join(" ")}`).to.match(new RegExp(`${option}\\b`));
        }
      });
    }
  }
});

/** Everything that the commands of a page see and change. */
interface World {
  dir: string;
  server: RunningServer;
}

(pulumi ? describe : describe.skip)("docs: run", function () {
  this.timeout(COMMAND_TIMEOUT_MS + 10_000);
  this.slow(30_000);
  let world: World;

  before(async () => {
    const dir = await mkdtemp(join(tmpdir(), "authentik-storage-docs-"));
    await copyRepository(join(dir, "clone"));
    for (const folder of ["state", "home", "authentik/data/media/public"]) await mkdir(join(dir, folder), { recursive: true });
    await writeFile(join(dir, "authentik/data/media/public/icon.svg"), "<svg/>");
    for (const [name, key] of Object.entries(KEY_FILES)) await writeFile(join(dir, "authentik", name), key);
    world = { dir, server: await startTestServer({ dataDir: join(dir, "data"), iamDir: join(dir, "iam") }) };
    await keep("empty");
  });
  after(async () => {
    await world.server.stop();
    await rm(world.dir, { recursive: true, force: true });
  });

  const CHANGED = ["clone", "state", "home", "data", "authentik"] as const;

  /** Keeps the world as it is. By cp, since the server keeps what it knows of a file in its extended attributes. */
  async function keep(name: string): Promise<void> {
    await mkdir(join(world.dir, "kept", name), { recursive: true });
    await promisify(execFile)("cp", ["-a", ...CHANGED.map((folder) => join(world.dir, folder)), join(world.dir, "kept", name)]);
  }
  /** Makes the world what it was. The folders stay, as the server is in one of them. */
  async function restore(name: string): Promise<void> {
    for (const folder of CHANGED) {
      for (const entry of await readdir(join(world.dir, folder))) await rm(join(world.dir, folder, entry), { recursive: true, force: true });
      await promisify(execFile)("cp", ["-a", `${join(world.dir, "kept", name, folder)}/.`, join(world.dir, folder)]);
    }
  }

  for (const { page, commands } of PAGES) {
    const runnable = commands.filter((command) => runnablePart(command) !== "");
    if (runnable.length === 0) continue;
    describe(page, () => {
      const exported: string[] = [];
      const makesProd = commands.some(({ text }) => /stack init prod$|state -- start prod /.test(text));

      const begin = () => restore(makesProd ? "empty" : "prod");
      let section = runnable[0]?.section;

      before(async () => {
        await begin();
        for (const text of GIVEN[page] ?? []) await run(world, page, text, exported);
      });

      for (const command of runnable) {
        it(command.text, async () => {
          if (ALTERNATIVES.includes(page) && command.section !== section) await begin();
          section = command.section;
          await run(world, page, runnablePart(command), exported);
        });
      }

      it("leaves stack files that the program takes", async () => {
        const files = (await readdir(join(world.dir, "clone"))).filter((name) => /^Pulumi\.(?!dev\.).+\.yaml$/.test(name));
        for (const file of files) await chooseProvider(await configIn(join(world.dir, "clone", file)));
      });

      if (page === "README.md") after(() => keep("prod"));
    });
  }
});

/** The files that git knows, or would take, and a link to the packages. */
async function copyRepository(to: string): Promise<void> {
  const files = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: REPOSITORY, encoding: "utf8" }).split("\0");
  for (const file of files.filter((name) => name !== "")) {
    await mkdir(join(to, dirname(file)), { recursive: true });
    await cp(join(REPOSITORY, file), join(to, file)).catch((error: unknown) => {
      // Deleted here, and git has not been told yet.
      if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    });
  }
  await symlink(join(REPOSITORY, "node_modules"), join(to, "node_modules"));
}

/** Runs a command line in the copy, as the shell of the page's reader would: with the variables and in the folder that lines before have set. */
async function run(world: World, page: string, text: string, exported: string[]): Promise<void> {
  const line = PLACEHOLDERS.reduce((before, [written, here]) => before.replace(written, here(world)), text);
  const answer = ANSWERS.find(([command]) => command.test(`${page}: ${text}`))?.[1] ?? "";
  const shell = spawn("bash", ["--norc", "-euo", "pipefail", "-c", [...exported, line].join("\n")], {
    cwd: join(world.dir, "clone"), env: environment(world), detached: true, stdio: ["pipe", "pipe", "pipe"],
  });
  let words = "";
  for (const stream of [shell.stdout, shell.stderr]) stream.on("data", (chunk: Buffer) => (words = `${words}${chunk.toString()}`.slice(-6000)));
  shell.stdin.on("error", () => undefined).end(answer);
  const ended = new Promise<number | null>((resolve, reject) => shell.once("close", resolve).once("error", reject));
  const code = await Promise.race([ended, sleep(COMMAND_TIMEOUT_MS, undefined, { ref: false })]);
  if (code === undefined && shell.pid !== undefined) process.kill(-shell.pid, "SIGKILL");
  expect(code, `${line}\n${words}`).to.equal(0);
  if (/^(?:export|cd) /.test(text)) exported.push(line);
}

/** A user's environment: the state in a folder, the passphrase, the keys of the server; and nothing of this machine's accounts. */
function environment({ dir }: World): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    HOME: join(dir, "home"),
    PULUMI_HOME: join(dir, "home", ".pulumi"),
    PULUMI_BACKEND_URL: `file://${join(dir, "state")}`,
    PULUMI_CONFIG_PASSPHRASE: PASSPHRASE,
    PULUMI_SKIP_UPDATE_CHECK: "true",
    PULUMI_SKIP_CONFIRMATIONS: "true",
    // Half of the time of each up; the pages that want a preview have one.
    PULUMI_OPTION_SKIP_PREVIEW: "true",
    AWS_ACCESS_KEY_ID: ROOT.accessKey,
    AWS_SECRET_ACCESS_KEY: ROOT.secretKey,
    AWS_EC2_METADATA_DISABLED: "true",
    npm_config_update_notifier: "false",
    GIT_AUTHOR_NAME: "docs", GIT_AUTHOR_EMAIL: "docs@authentik.company", GIT_COMMITTER_NAME: "docs", GIT_COMMITTER_EMAIL: "docs@authentik.company",
  };
}

const Secret = v.object({ secure: v.string() });
const StackFile = v.looseObject({ config: v.record(v.string(), v.unknown()) });
const NAMESPACE = "authentik-storage:";

/** A stack file's config as the program gets it; what is encrypted in it is any text. */
async function configIn(file: string): Promise<RawConfig> {
  const { config } = v.parse(StackFile, parse(await readFile(file, "utf8")));
  const own = Object.entries(config).filter(([key]) => key.startsWith(NAMESPACE)).map(([key, value]) => [key.slice(NAMESPACE.length), value] as const);
  const textOf = (value: unknown) => (v.is(Secret, value) ? "encrypted" : typeof value === "string" ? value : JSON.stringify(value));
  return {
    values: Object.fromEntries(own.map(([key, value]) => [key, textOf(value)])),
    secrets: new Set(own.filter(([, value]) => v.is(Secret, value)).map(([key]) => key)),
  };
}
