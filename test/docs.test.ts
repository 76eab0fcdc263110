/**
 * Every command in the docs: taken from the pages and run, page by page, in a throwaway copy of this repository, against a
 * local S3 server, with the state in a folder. The copy begins without packages, which the README's first command installs.
 *
 * A command stands in an `sh` block, which is run, or in a sentence, where it is one that a block runs, or its beginning; `npm test` is
 * what runs this. Commands of any program that is not run here are refused. Where a program is missing, what needs it is skipped by name,
 * with what follows it.
 */
import { execFile, execFileSync, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { expect } from "chai";
import * as v from "valibot";
import { parse } from "yaml";
import type { RawConfig } from "../config/index.ts";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { chooseProvider } from "../providers/index.ts";
import { isOwnStackFile, pulumi, REPOSITORY } from "./support/engine.ts";
import { startGitServer, type GitServer } from "./support/git-server.ts";
import { AUTHENTIK, BIN_DIR, ROOT, startTestServer } from "./support/server.ts";
import { onTerminal } from "./support/terminal.ts";

/** The programs of which there are commands. What others did would be real, or needs an account, a cluster or authentik itself. */
const PROGRAMS: readonly string[] = ["npm", "npx", "pulumi", "git", "export", "cd", "mkdir"];

/** Commands that neither are the Pulumi command line tool nor ask it. */
const WITHOUT_PULUMI = /^(?:npm ci|npm start|npx tsc|npm run -s stacks|npm run state -- create|(?:\w+=1 )?npx mocha test\/(?:readme|contract|policy)\.test\.ts|git|cd|mkdir)(?: |$)/;

const PULUMI_NEW = /^pulumi new /;
/** Where the copy is for those who make a project of it. */
const TEMPLATE_PATH = "/company/authentik-storage.git";

/** What stands for something else in the docs, and what it is here. */
const PLACEHOLDERS: readonly [written: RegExp, here: (world: World) => string][] = [
  [/(s3:\/\/[\w-]+)\?region=eu-central-1/g, ({ server }) => `$1?endpoint=${server.endpoint}&s3ForcePathStyle=true&region=us-east-1`],
  // The server here speaks http, and the program wants to be told.
  [/^(pulumi config set endpoint) https:\/\/s3\.(?:provider|elsewhere)(.*)$/g, ({ server }) => `$1 ${server.endpoint}$2 && pulumi config set secureUrls false$2`],
  [/^(pulumi new .* -c endpoint=https:\/\/s3\.provider)/g, () => "$1 -c secureUrls=false"],
  [/https:\/\/s3\.provider/g, ({ server }) => server.endpoint],
  [/^(pulumi new) https:\/\/github\.com(?=\/company\/)/g, ({ git }) => `SSL_CERT_FILE=${git?.certFile ?? ""} $1 ${git?.url ?? ""}`],
  [/(?<= )(\/data|\/media)(?= |$)/g, ({ dir }) => `${dir}/authentik$1`],
  [/file:\/\/\/srv\/pulumi-state/g, ({ dir }) => `file://${dir}/state`],
  [/(?<=< )([\w-]+)\.txt/g, ({ dir }) => `${dir}/authentik/$1.txt`],
  // The server here names principals by their access keys.
  [/arn:aws:iam:::user\/authentik/g, () => AUTHENTIK.accessKey],
  // It asks, and there is no terminal here.
  [/^(npm run migrate -- .*)$/g, () => "$1 --yes"],
];

const COMMAND_TIMEOUT_MS = 600_000;
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

/** What `pulumi new` asks on a terminal, in its order. */
const NEW_PROJECT: readonly (readonly [question: string, answer: string])[] = [
  ["Project description", ""], ["(accessKey)", AUTHENTIK.accessKey], ["(accountId)", ""], ["(endpoint)", "https://s3.provider"], ["(location)", ""],
  ["(origins)", "https://authentik.company"], ["(provider)", "s3"], ["(region)", ""], ["(resourceGroupName)", ""], ["(secretKey)", AUTHENTIK.secretKey],
];

/** Files that the docs read keys from. */
const KEY_FILES: Readonly<Record<string, string>> = {
  "access-key.txt": AUTHENTIK.accessKey, "secret-key.txt": AUTHENTIK.secretKey, "admin-access-key.txt": ROOT.accessKey, "admin-secret-key.txt": ROOT.secretKey,
};

/** What a page takes for granted beside the stack `prod` of the README, as commands. */
const GIVEN: Readonly<Record<string, readonly string[]>> = {
  "docs/adopt.md": ["npm run state -- create 's3://company-media?region=eu-central-1'"],
  "docs/migrate.md": ["pulumi stack init next --copy-config-from prod", "pulumi config set bucketName company-media", "pulumi up"],
  // Who begins has no clone of this repository.
  "docs/start.md": ["cd ~"],
};

/** Sections that do not follow on what stands before them: each begins anew. */
const ALTERNATIVES: Readonly<Record<string, readonly string[]>> = {
  "docs/start.md": ["From a script"],
  "docs/undo.md": ["Destroy", "Empty a bucket first", "Keep the bucket", "Deleted or overwritten files"],
};

interface Command {
  page: string;
  line: number;
  /** The heading above it. */
  section: string;
  /** One command line of the shell, continued lines joined, without its comment. */
  text: string;
}

interface Line {
  line: string;
  number: number;
  /** What the block that it is in is written in; undefined outside of blocks. */
  language: string | undefined;
}

/** The lines of a page, but for those that begin and end blocks. */
function linesOf(markdown: string): Line[] {
  let language: string | undefined;
  return markdown.split("\n").flatMap((line, index) => {
    const [isBoundary, named] = /^[\s>]*```\s*(.*?)\s*$/.exec(line) ?? [];
    if (isBoundary === undefined) return [{ line, number: index + 1, language }];
    language = language === undefined ? named : undefined;
    return [];
  });
}

/** The commands in a page's `sh` blocks. */
function commandsOf(page: string, markdown: string): Command[] {
  const commands: Command[] = [];
  let section = "";
  let begun: Command | undefined;
  for (const { line, number, language } of linesOf(markdown)) {
    if (language === undefined) section = /^#+ (.*)/.exec(line)?.[1] ?? section;
    const text = line.replace(/(?:^|\s+)#(?=\s|$).*$/, "").trim();
    if (language !== "sh" || text === "") continue;
    begun = begun ? { ...begun, text: `${begun.text} ${text}` } : { page, line: number, section, text };
    if (text.endsWith("\\")) begun = { ...begun, text: begun.text.slice(0, -1).trimEnd() };
    else {
      commands.push(begun);
      begun = undefined;
    }
  }
  return commands;
}

/** The commands in a page's sentences. */
function inlineCommandsOf(markdown: string): string[] {
  const sentences = linesOf(markdown).map(({ line, language }) => (language === undefined ? line : "")).join("\n");
  const code = sentences.split(/\n\s*\n/).flatMap((paragraph) => [...paragraph.matchAll(/(`+)(.+?)\1/gs)].map(([, , text = ""]) => text.trim().replace(/\s+/g, " ")));
  return code.filter((text) => {
    const [program = ""] = programsOf(text);
    // A word alone names a program or a file; `key: value` is a setting, and `Name<...>` a type.
    return text.includes(" ") && /^\.{0,2}\/?[a-z][\w./-]*$/.test(program) && !/\w</.test(text);
  });
}

const PAGES = ["README.md", "CONTRIBUTING.md", ...readdirSync(join(REPOSITORY, "docs")).sort().map((name) => `docs/${name}`)]
  .filter((page) => page.endsWith(".md"))
  .map((page) => ({ page, markdown: readFileSync(join(REPOSITORY, page), "utf8") }))
  .map(({ page, markdown }) => ({ page, markdown, commands: commandsOf(page, markdown) }));

/** The programs of a command line: the first word of each command in it that sets no variable. */
function programsOf(text: string): string[] {
  return text.split(/\s*(?:\|\||\||&&|;)\s*/).map((part) => part.split(/\s+/).find((word) => !/^\w+=/.test(word)) ?? "");
}

/** A project that `pulumi new` has made is no template any more. */
const isTemplate = v.is(v.looseObject({ template: v.looseObject({}) }), parse(readFileSync(join(REPOSITORY, "Pulumi.yaml"), "utf8")));

/** What a command lacks on this machine. */
function lackOf({ text }: Command): string | undefined {
  if (pulumi === undefined && !WITHOUT_PULUMI.test(text)) return "pulumi";
  if (!PULUMI_NEW.test(text)) return undefined;
  if (!isTemplate) return "a template, which this project is not any more";
  // Only Linux has Pulumi trust the certificate that one command is given.
  return process.platform === "linux" ? undefined : "Linux";
}

describe("docs: the commands", () => {
  const all = PAGES.flatMap(({ commands }) => commands);
  const inline = PAGES.flatMap(({ page, markdown }) => inlineCommandsOf(markdown).map((text) => ({ page, text })));

  it("are found", () => {
    expect(commandsOf("x", "```sh\nnpm ci # why\n# all\na \\\n  b\n```\n## c d\n```json\nno\n```\n```sh\ne\n```\n")).to.deep.equal([
      { page: "x", line: 2, section: "", text: "npm ci" }, { page: "x", line: 4, section: "", text: "a b" }, { page: "x", line: 12, section: "c d", text: "e" },
    ]);
    expect(inlineCommandsOf("`docker` `docker compose\nup` `A=1 B=2 helm` `./x y` `set -a; . ./.env`\n`key: value` `--option value` `type Name<...>` `A=1`\n> ```diff\n> `no no`\n> ```\n")).to.deep.equal([
      "docker compose up", "A=1 B=2 helm", "./x y", "set -a; . ./.env",
    ]);
    expect(all.length).to.be.greaterThan(30);
    expect(inline.length).to.be.greaterThan(30);
  });

  it("stand in blocks that say so", () => {
    const languages = PAGES.flatMap(({ page, markdown }) => linesOf(markdown).flatMap(({ number, language }) => (language === undefined ? [] : [{ page, number, language }])));
    expect(languages.filter(({ language }) => !["sh", "json", "mermaid", "diff"].includes(language))).to.deep.equal([]);
  });

  it("are of programs that are run here", () => {
    const others = all.filter(({ text }) => programsOf(text).some((program) => !PROGRAMS.includes(program)));
    expect(others.map(({ page, line, text }) => `${page}:${line}: ${text}`), "say in words what is to be done, with a link to the program's documentation").to.deep.equal([]);
  });

  it("are run in a block where a sentence names them", () => {
    const others = inline.filter(({ text }) => text !== "npm test" && !all.some((command) => `${command.text} `.startsWith(`${text} `)));
    expect(others, "give it a block, or say in words what is to be done").to.deep.equal([]);
  });

  it("are run by npm test, which is what runs this", function () {
    if (process.env.npm_lifecycle_event !== "test") this.skip();
    expect(process.env.npm_package_json).to.equal(join(REPOSITORY, "package.json"));
  });

  it("have every page and section that is listed", () => {
    const sections = Object.entries(ALTERNATIVES).flatMap(([page, names]) => names.map((section) => ({ page, section })));
    expect(sections.filter(({ page, section }) => !all.some((command) => command.page === page && command.section === section))).to.deep.equal([]);
    expect(Object.keys(GIVEN).filter((page) => !PAGES.some((known) => known.page === page))).to.deep.equal([]);
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
    const texts = [...new Set([...inlineCommandsOf(markdown), ...commandsOf(page, markdown).map(({ text }) => text)])];
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
  /** Where it is wanted. */
  git: GitServer | undefined;
  /** What npm needs to know. */
  npm: Readonly<Record<string, string>>;
}

describe("docs: run", function () {
  this.timeout(COMMAND_TIMEOUT_MS + 10_000);
  this.slow(30_000);
  let world: World;

  before(async () => {
    const dir = await mkdtemp(join(tmpdir(), "authentik-storage-docs-"));
    await copyRepository(join(dir, "clone"));
    for (const folder of ["state", "home", "authentik/data/media/public"]) await mkdir(join(dir, folder), { recursive: true });
    await writeFile(join(dir, "authentik/data/media/public/icon.svg"), "<svg/>");
    for (const [name, key] of Object.entries(KEY_FILES)) await writeFile(join(dir, "authentik", name), key);
    const server = await startTestServer({ dataDir: join(dir, "data"), iamDir: join(dir, "iam") });
    world = { dir, server, git: undefined, npm: await npmSettings() };
    if (PAGES.some(({ commands }) => commands.some((command) => PULUMI_NEW.test(command.text) && lackOf(command) === undefined))) {
      world = { ...world, git: await serveTemplate(world) };
    }
    await keep("empty");
  });
  after(async () => {
    await world.git?.stop();
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

  /** Puts the packages where nothing has to copy them, and links to them. */
  async function shareNodeModules(): Promise<void> {
    const shared = join(world.dir, "node_modules");
    await rename(join(world.dir, "clone/node_modules"), shared);
    for (const clone of ["clone", "kept/empty/clone"]) await symlink(shared, join(world.dir, clone, "node_modules"));
  }

  for (const { page, commands } of PAGES.filter(({ commands }) => commands.length > 0)) {
    describe(page, () => {
      const exported: string[] = [];
      const makesProd = commands.some(({ text }) => /stack init prod$|state -- start prod |^pulumi new .* --stack prod/.test(text));

      const begin = async () => {
        await restore(makesProd ? "empty" : "prod");
        exported.length = 0;
        for (const text of GIVEN[page] ?? []) await run(world, page, text, exported);
      };

      let section: string | undefined;
      let lack: string | undefined;
      for (const command of commands) {
        const beginsAnew = section === undefined || (command.section !== section && ALTERNATIVES[page]?.includes(command.section) === true);
        section = command.section;
        lack = (beginsAnew ? undefined : lack) ?? lackOf(command);
        (lack === undefined ? it : it.skip)(lack === undefined ? command.text : `${command.text} (needs ${lack})`, async () => {
          if (beginsAnew) await begin();
          await run(world, page, command.text, exported);
        });
      }

      (lack === undefined ? it : it.skip)("leaves stack files that the program takes", async () => {
        const folders = await Promise.all(["../clone", "../home/company-storage"].map(async (folder) => {
          const names = await readdir(join(world.dir, "clone", folder)).catch(() => []);
          return names.filter((name) => /^Pulumi\.(?!dev\.).+\.yaml$/.test(name)).map((name) => join(folder, name));
        }));
        const files = folders.flat();
        for (const file of files) await chooseProvider(await configIn(join(world.dir, "clone", file)));
      });

      if (page === "README.md") {
        after(async () => {
          await shareNodeModules();
          await keep("prod");
        });
      }
    });
  }
});

/** The files that git knows, or would take; of the stacks' the one that is not the user's own. */
async function copyRepository(to: string): Promise<void> {
  const files = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: REPOSITORY, encoding: "utf8" }).split("\0");
  for (const file of files.filter((name) => name !== "" && !isOwnStackFile(name))) {
    await mkdir(join(to, dirname(file)), { recursive: true });
    await cp(join(REPOSITORY, file), join(to, file)).catch((error: unknown) => {
      // Deleted here, and git has not been told yet.
      if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    });
  }
}

/** Makes a git repository of another copy, and serves it. */
async function serveTemplate(world: World): Promise<GitServer> {
  const cwd = join(world.dir, "template");
  await copyRepository(cwd);
  for (const args of [["init", "--quiet", "--initial-branch", "main"], ["add", "."], ["commit", "--quiet", "--message", "A template"]]) {
    await promisify(execFile)("git", args, { cwd, env: environment(world) });
  }
  return startGitServer(cwd, TEMPLATE_PATH, world.dir);
}

/** The registry and the cache of the user's own npm, for a home that knows of neither. */
async function npmSettings(): Promise<Record<string, string>> {
  const inherited = Object.entries(process.env).filter(([name]) => /^(?:npm_config_\w+|https?_proxy|no_proxy|NODE_EXTRA_CA_CERTS)$/i.test(name));
  const ofUser = await Promise.all(["cache", "userconfig"].map(async (key): Promise<[string, string]> => {
    const { stdout } = await promisify(execFile)("npm", ["config", "get", key], { cwd: REPOSITORY });
    return [`npm_config_${key}`, stdout.trim()];
  }));
  return { ...Object.fromEntries(inherited), ...Object.fromEntries(ofUser), npm_config_prefer_offline: "true", npm_config_update_notifier: "false" };
}

/** Runs a command line in the copy, as the shell of the page's reader would: with the variables and in the folder that lines before have set. */
async function run(world: World, page: string, text: string, exported: string[]): Promise<void> {
  // On a machine that has other programs they would do what they are told.
  for (const program of programsOf(text)) expect(PROGRAMS, text).to.include(program);
  const line = fillIn(text, world);
  const lines = [...exported, line].join("\n");
  if (PULUMI_NEW.test(text) && !text.includes(" --yes ")) await runOnTerminal(world, lines);
  else await runInShell(world, lines, ANSWERS.find(([command]) => command.test(`${page}: ${text}`))?.[1] ?? "");
  if (/^(?:export|cd) /.test(text)) exported.push(line);
}

/** A text of the docs with what there is here. */
function fillIn(text: string, world: World): string {
  return PLACEHOLDERS.reduce((before, [written, here]) => before.replace(written, here(world)), text);
}

async function runInShell(world: World, lines: string, answer: string): Promise<void> {
  const shell = spawn("bash", ["--norc", "-euo", "pipefail", "-c", lines], {
    cwd: join(world.dir, "clone"), env: environment(world), detached: true, stdio: ["pipe", "pipe", "pipe"],
  });
  let words = "";
  for (const stream of [shell.stdout, shell.stderr]) stream.on("data", (chunk: Buffer) => (words = `${words}${chunk.toString()}`.slice(-6000)));
  shell.stdin.on("error", () => undefined).end(answer);
  const ended = new Promise<number | null>((resolve, reject) => shell.once("close", resolve).once("error", reject));
  const code = await Promise.race([ended, sleep(COMMAND_TIMEOUT_MS, undefined, { ref: false })]);
  if (code === undefined && shell.pid !== undefined) process.kill(-shell.pid, "SIGKILL");
  expect(code, `${lines}\n${words}`).to.equal(0);
}

async function runOnTerminal(world: World, lines: string): Promise<void> {
  // It is to ask.
  const env = { ...environment(world), PULUMI_SKIP_CONFIRMATIONS: undefined };
  const replies = NEW_PROJECT.map(([question, answer]) => [question, `${fillIn(answer, world)}\r`] as const);
  const { status, text } = await onTerminal("bash", ["--norc", "-euc", lines], replies, { cwd: join(world.dir, "clone"), env, limitMs: COMMAND_TIMEOUT_MS });
  expect(status, `${lines}\n${text}`).to.equal(0);
}

/** A user's environment: the state in a folder, the passphrase, the keys of the server, npm's settings; and nothing of this machine's accounts. */
function environment({ dir, npm }: World): NodeJS.ProcessEnv {
  return {
    ...npm,
    // The local server is there, or was installed there for these tests.
    PATH: [process.env.PATH, BIN_DIR].join(delimiter),
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
    GIT_AUTHOR_NAME: "docs", GIT_AUTHOR_EMAIL: "docs@authentik.company", GIT_COMMITTER_NAME: "docs", GIT_COMMITTER_EMAIL: "docs@authentik.company",
  };
}

const Secret = v.object({ secure: v.string() });
const StackFile = v.looseObject({ config: v.record(v.string(), v.unknown()) });
const Project = v.looseObject({ name: v.string() });

/** A stack file's config as the program gets it; what is encrypted in it is any text. */
async function configIn(file: string): Promise<RawConfig> {
  const { config } = v.parse(StackFile, parse(await readFile(file, "utf8")));
  const { name } = v.parse(Project, parse(await readFile(join(dirname(file), "Pulumi.yaml"), "utf8")));
  const own = Object.entries(config).filter(([key]) => key.startsWith(`${name}:`)).map(([key, value]) => [key.slice(name.length + 1), value] as const);
  const textOf = (value: unknown) => (v.is(Secret, value) ? "encrypted" : typeof value === "string" ? value : JSON.stringify(value));
  return {
    values: Object.fromEntries(own.map(([key, value]) => [key, textOf(value)])),
    secrets: new Set(own.filter(([, value]) => v.is(Secret, value)).map(([key]) => key)),
  };
}
