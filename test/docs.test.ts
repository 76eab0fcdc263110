/**
 * The commands in the docs, in `sh` blocks. What can run here is run, page by page, in a throwaway copy
 * of this repository, with a local S3 server and the state in a folder. The README's first command
 * installs the packages. What cannot run is listed as not run, and its form is checked.
 */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as readText } from "node:stream/consumers";
import { promisify } from "node:util";
import { expect } from "chai";
import * as v from "valibot";
import { parse } from "yaml";
import type { RunningServer } from "../tools/start/versitygw.ts";
import { isOwnStackFile, projectName, pulumi, REPOSITORY } from "./support/engine.ts";
import { configProblems } from "./support/recorder.ts";
import { AUTHENTIK, ROOT, startTestServer } from "./support/server.ts";

/** The programs that run here. Others need an account, a cluster or authentik itself. */
const PROGRAMS = ["npm", "npx", "pulumi", "git", "export", "cd", "mkdir"];

/** Commands of these programs that do not run here, and the reason. */
const NOT_RUN: readonly [command: RegExp, reason: string][] = [
  [/^npm test$/, "it runs this test"],
  [/^npm (?:pkg|install)\b/, "it removes packages"],
  [
    /^git (?:remote add upstream|fetch --tags|diff --binary)/,
    "it needs a release, see update.test.ts",
  ],
  [/^pulumi new (?!.* --yes )/, "it asks on a terminal, see template.test.ts"],
  [/(?:awskms|azurekeyvault|azblob):|api\.pulumi\.com/, "it needs an account"],
];

/** Commands that need no Pulumi command line tool. */
const WITHOUT_PULUMI =
  /^(?:npm ci|npm start|npx (?:tsc|biome)|npm run -s stacks|.*npx mocha test\/(?:config-page|contract|policy)\.|git|cd|mkdir)/;

/** Pages without such a command continue on the README's stack `prod`. */
const MAKES_PROD = /^pulumi (?:stack init|new .* --stack) prod/;

/** What a page takes for granted beside that. */
const GIVEN: Readonly<Record<string, string>> = {
  "docs/adopt.md": "mkdir ../data/company-media",
  "docs/migrate.md":
    "pulumi stack init next --copy-config-from prod; pulumi config set bucketName company-media; pulumi up",
  "docs/start.md": "cd ../home",
  "docs/state.md": "mkdir ../data/company-pulumi-state",
};

/** Sections that do not continue what is above them. */
const FRESH = /^#+ (?:From a script|Destroy|Empty a bucket first|Keep the bucket|Restore deleted)/;

/** Files in a command line, and those of them that every user of authentik has. */
const FILES = /(?<=[\s=]|file:\/\/)(?:[\w./-]+\.(?:ya?ml|json|txt)|\.env)(?=\s|$)/g;
const OWN_FILES = [".env", "values.yaml", "compose.yaml", "docker-compose.yml"];

const textOf = (file: string) => readFileSync(join(REPOSITORY, file), "utf8");

let dir: string;
let server: RunningServer;

/** What takes the place of placeholders, and answers to questions. */
// biome-ignore format: a table of replacements
const REPLACEMENTS: readonly [written: RegExp, here: (page: string) => string][] = [
  [/(s3:\/\/[\w-]+)\?region=eu-central-1/, () => `$1?endpoint=${server.endpoint}&s3ForcePathStyle=true&region=us-east-1`],
  // The server here speaks http.
  [/^(pulumi config set endpoint) \S+/, () => `pulumi config set secureUrls false; $1 ${server.endpoint}`],
  [/-c endpoint=\S+/, () => `-c endpoint=${server.endpoint} -c secureUrls=false`],
  [/https:\/\/github\.com\/company\/authentik-storage/, () => join(dir, "template")],
  [/(?<= )(\/data|\/media)(?= |$)/, () => `${dir}/authentik$1`],
  [/\/srv\/pulumi-state/, () => join(dir, "home/pulumi-state")],
  // The server here names principals by their access keys.
  [/arn:aws:iam:::user\/authentik/, () => AUTHENTIK.accessKey],
  [/^(pulumi config set --secret adminAccessKey).*/, () => `$1 <<< ${ROOT.accessKey}`],
  [/^(pulumi config set --secret adminSecretKey).*/, () => `$1 <<< ${ROOT.secretKey}`],
  [/^(pulumi config set --secret accessKey).*/, (page) => `$1 <<< ${userOf(page).accessKey}`],
  [/^(pulumi config set --secret secretKey).*/, (page) => `$1 <<< ${userOf(page).secretKey}`],
  [/^(pulumi config set --secret cloudflare:apiToken)/, () => "$1 <<< a-token"],
  [/^(pulumi stack change-secrets-provider passphrase)/, () => "$1 <<< test"],
  [/^pulumi login --local/, () => `pulumi login file://${join(dir, "state")}`],
  [/^(npm run migrate -- .*|pulumi stack migrate .*)/, () => "$1 --yes"],
  // Other commands of the page, or of the README, may have written the same file.
  [/^(npm run env (?!.* --merge).* --output (\S+).*)/, () => "rm -f $2; $1"],
  [/^git commit/, () => "git -c user.name=docs -c user.email=docs@authentik.company commit"],
];

/** Whose key a page gives to authentik. On these pages authentik has its own user. */
const userOf = (page: string) => (/s3|start|rotate|README/.test(page) ? AUTHENTIK : ROOT);

/** The commands in the `sh` blocks of a page, without comments, in groups that are run in one shell each. */
function commandsOf(markdown: string): string[][] {
  const groups: string[][] = [[]];
  let language = "";
  for (const line of markdown.replaceAll(/\\\n\s*/g, "").split("\n")) {
    const [isFence, named] = /^[\s>]*```\s*(\S*)/.exec(line) ?? [];
    const text = line.replace(/(?:^|\s+)#(?=\s|$).*/, "").trim();
    if (isFence !== undefined) language = language === "" ? named || "none" : "";
    else if (language === "" && FRESH.test(line)) groups.push([]);
    else if (language === "sh" && text !== "") groups.at(-1)?.push(text);
  }
  return groups;
}

/** Why a command is not run; undefined for one that is. */
function reasonNotToRun(text: string): string | undefined {
  const parts = text.split(/\s*(?:\|\||\||&&|;)\s*/);
  const programs = parts.map((part) => /^(?:\w+=\S*\s+)*(\S*)/.exec(part)?.[1] ?? "");
  const other = programs.find((program) => !PROGRAMS.includes(program));
  if (other !== undefined) return `${other} does not run here`;
  return NOT_RUN.find(([command]) => command.test(text))?.[1];
}

const docs = readdirSync(join(REPOSITORY, "docs"))
  .filter((name) => name.endsWith(".md"))
  .sort();
const PAGES = ["README.md", "CONTRIBUTING.md", ...docs.map((name) => `docs/${name}`)];

describe("docs: scripts, options and files of the commands", function () {
  this.timeout(60_000);
  const Manifest = v.object({ scripts: v.record(v.string(), v.string()) });
  const { scripts } = v.parse(Manifest, JSON.parse(textOf("package.json")));
  const helps = new Map<string, string>();
  async function helpOf(script: string): Promise<string> {
    const command = ["-c", `${scripts[script] ?? "false"} --help`];
    const ask = () => promisify(execFile)("bash", command, { cwd: REPOSITORY });
    const help = helps.get(script) ?? (await ask()).stdout;
    helps.set(script, help);
    return help;
  }

  for (const page of PAGES) {
    it(page, async () => {
      const markdown = textOf(page);
      expect(markdown).not.to.match(/^[\s>]*```(?:bash|shell|console)/m);
      const runs = markdown.matchAll(/npm run (?:-s )?([\w:-]+)(?: -- ([^`|#\n]*))?/g);
      for (const [text, script = "", words = ""] of runs) {
        expect(scripts, text).to.have.property(script);
        for (const [option] of words.matchAll(/(?<=^|\s)--[\w-]+/g)) {
          expect(await helpOf(script), text).to.match(new RegExp(`${option}(?![\\w-])`));
        }
      }

      const written = [...markdown.matchAll(/(?<=--output |--file |> )\S+/g)].map(([file]) => file);
      for (const text of commandsOf(markdown).flat().filter(reasonNotToRun)) {
        for (const [file] of text.matchAll(FILES)) {
          if (existsSync(join(REPOSITORY, file)) || OWN_FILES.includes(file)) continue;
          expect(written, text).to.include(file);
        }
      }
    });
  }
});

describe("docs: run", function () {
  this.timeout("40m");
  this.slow(60_000);
  const CHANGED = "clone state home data authentik";
  const shell = (script: string) => promisify(execFile)("bash", ["-euc", script], { cwd: dir });
  // By cp, because the server keeps metadata in extended attributes. The folders stay: the server works in one of them.
  const keep = (name: string) => shell(`mkdir -p kept/${name}; cp -a ${CHANGED} kept/${name}`);
  const restore = (name: string) =>
    shell(`for f in ${CHANGED}; do find $f -mindepth 1 -delete; cp -a kept/${name}/$f/. $f; done`);

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-docs-"));
    const left = ["node_modules", ".git", ".local", ".env", "storage-secret.yaml"];
    const isCopied = (file: string) => !left.includes(file) && !isOwnStackFile(file);
    const filter = (path: string) => isCopied(path.slice(REPOSITORY.length));
    await cp(REPOSITORY, join(dir, "template"), { recursive: true, filter });
    await mkdir(join(dir, "authentik/data/media/public"), { recursive: true });
    await writeFile(join(dir, "authentik/data/media/public/icon.svg"), "<svg/>");
    server = await startTestServer({ dataDir: join(dir, "data"), iamDir: join(dir, "iam") });
    await shell("mkdir state home; cp -a template clone");
    await keep("empty");
  });
  after(async () => {
    await server.stop();
    await rm(dir, { recursive: true, force: true });
  });

  for (const page of PAGES) {
    describe(page, () => {
      const groups = commandsOf(textOf(page));
      const makesProd = groups.flat().some((text) => MAKES_PROD.test(text));
      for (const texts of groups) {
        let lacksPulumi = false;
        const run: string[] = [];
        for (const text of texts) {
          const reason = reasonNotToRun(text);
          const needsPulumi = reason === undefined && !WITHOUT_PULUMI.test(text);
          lacksPulumi ||= needsPulumi && pulumi === undefined;
          if (reason === undefined && !lacksPulumi) run.push(text);
          else it.skip(`${text} (not run: ${reason ?? "it needs pulumi"})`);
        }
        if (run.length === 0) continue;
        it(run.join("\n        "), async () => {
          await restore(makesProd ? "empty" : "prod");
          await runAll(page, [GIVEN[page] ?? "", ...run]);
          if (makesProd && !lacksPulumi && page !== "docs/start.md") await checkConfig();
        });
      }
      if (page !== "README.md") return;
      // Later pages share the packages, so that nothing has to copy them.
      after(async () => {
        await shell("mv clone/node_modules .");
        await shell("ln -s $PWD/node_modules clone; ln -s $PWD/node_modules kept/empty/clone");
        await keep("prod");
      });
    });
  }
});

/** Runs command lines in the copy, in one shell. */
async function runAll(page: string, texts: readonly string[]): Promise<void> {
  const lines = texts.map((text) => {
    return REPLACEMENTS.reduce((line, [written, here]) => line.replace(written, here(page)), text);
  });
  const script = ["exec 2>&1", "set -euxo pipefail", ...lines].join("\n");
  const child = spawn("bash", ["--norc", "-c", script], {
    cwd: join(dir, "clone"),
    env: environment(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [log] = await Promise.all([readText(child.stdout), once(child, "close")]);
  expect(child.exitCode, log.slice(-6000)).to.equal(0);
}

/** A user's environment: npm's settings, the state in a folder, the server's keys, and no account of this machine. */
function environment(): NodeJS.ProcessEnv {
  const kept = /^(?:npm_config_\w+|https?_proxy|no_proxy|NODE_EXTRA_CA_CERTS|HOME)$/i;
  return {
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => kept.test(name))),
    npm_config_prefer_offline: "true",
    PATH: process.env.PATH,
    PULUMI_HOME: join(dir, "home", ".pulumi"),
    PULUMI_BACKEND_URL: `file://${join(dir, "state")}`,
    PULUMI_CONFIG_PASSPHRASE: "test",
    PULUMI_SKIP_UPDATE_CHECK: "true",
    PULUMI_SKIP_CONFIRMATIONS: "true",
    // Saves half the time of each up.
    PULUMI_OPTION_SKIP_PREVIEW: "true",
    AWS_ACCESS_KEY_ID: ROOT.accessKey,
    AWS_SECRET_ACCESS_KEY: ROOT.secretKey,
    AWS_CONFIG_FILE: "/dev/null",
    AWS_SHARED_CREDENTIALS_FILE: "/dev/null",
    GIT_CONFIG_GLOBAL: "/dev/null",
  };
}

/** Has the program read the config that the commands have made: pages of clouds bring nothing up. */
async function checkConfig(): Promise<void> {
  const StackFile = v.looseObject({ config: v.record(v.string(), v.unknown()) });
  const file = await readFile(join(dir, "clone/Pulumi.prod.yaml"), "utf8");
  const { config } = v.parse(StackFile, parse(file));
  const values: Record<string, string> = {};
  for (const [key, value] of Object.entries(config)) {
    const [project, name = ""] = key.split(":");
    // The file has an encrypted value in place of a secret.
    const isSecret = typeof value === "object" && value !== null && "secure" in value;
    if (project === projectName) values[name] = isSecret ? "a-secret" : String(value);
  }
  expect(await configProblems(values)).to.deep.equal([]);
}
