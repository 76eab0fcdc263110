/**
 * `npm run compat`: runs the provider `s3`, `verify` and `migrate` against each S3 server that is on
 * PATH, and prints what works as one table.
 */
import { execFile, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { Command } from "commander";
import * as v from "valibot";
import { messageOf } from "../tools/lib/errors.ts";
import { EngineProject, STACK } from "../test/support/engine.ts";
import { MIB, numbered, readTree, writeTree } from "../test/support/migration.ts";
import { onPath } from "../tools/lib/programs.ts";
import { runPulumi } from "../tools/lib/pulumi.ts";
import { freePort } from "../tools/start/versitygw.ts";

const ORIGIN = "https://authentik.company";
const KEYS = { access: "compat-access", secret: "compat-secret-0123456789" };
const START_MS = 60_000;
const COMMAND_MS = 180_000;
const VERSION_MS = 20_000;
/** A server and its parts need no more. */
const MAX_PORTS = 8;
const FILES = 200;
const LARGE_BYTES = 9 * MIB;
/** What object keys, URLs, signatures and listings in XML encode in different ways. */
const ODD_NAMES = [
  ["a b", "two  spaces", "a+b", "100%", "%2F", "%25", "a&b", "a=b", "(x)", "it's", "!", "~"],
  ["ä", "a\u0308", "日本語", "😀", "[x]", "{x}", "#", "?", ";,:@$", "<x>", '"x"', "^`|"],
].flat();
const STEPS = ["up", "second preview", "refresh", "verify", "files", "destroy"] as const;

interface Launch {
  args: string[];
  env?: Record<string, string>;
}

interface Server {
  program: string;
  version?: string;
  /**
   * How it is started.
   *
   * @param folder its own, which is removed at the end
   * @param more gives another free port at each call
   */
  start: (port: number, folder: string, more: () => number) => Launch;
}

const SERVERS: readonly Server[] = [
  {
    program: "versitygw",
    version: "--version",
    start: (port, folder) => ({
      args: ["--port", `127.0.0.1:${port}`, "--quiet", "posix", folder],
      env: { ROOT_ACCESS_KEY: KEYS.access, ROOT_SECRET_KEY: KEYS.secret },
    }),
  },
  {
    program: "minio",
    version: "--version",
    start: (port, folder, more) => ({
      args: [
        "server",
        `--address=127.0.0.1:${port}`,
        `--console-address=127.0.0.1:${more()}`,
        folder,
      ],
      env: {
        MINIO_ROOT_USER: KEYS.access,
        MINIO_ROOT_PASSWORD: KEYS.secret,
        // It has no CORS policies for buckets.
        MINIO_API_CORS_ALLOW_ORIGIN: ORIGIN,
      },
    }),
  },
  {
    program: "moto_server",
    start: (port) => ({ args: ["-H", "127.0.0.1", "-p", String(port)] }),
  },
  {
    program: "weed",
    version: "version",
    start: (port, folder, more) => {
      const actions = ["Admin", "Read", "Write", "List", "Tagging"];
      const credentials = [{ accessKey: KEYS.access, secretKey: KEYS.secret }];
      const config = join(folder, "s3.json");
      const identities = [{ name: "admin", credentials, actions }];
      writeFileSync(config, JSON.stringify({ identities }));
      const names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc"];
      names.push("filer.port", "filer.port.grpc", "s3.port.grpc");
      const ports = names.map((name) => `-${name}=${more()}`);
      const common = [`-dir=${folder}`, "-ip=127.0.0.1", "-s3", `-s3.config=${config}`];
      return { args: ["server", ...common, `-s3.port=${port}`, ...ports] };
    },
  },
  {
    program: "s3s-fs",
    version: "--version",
    start: (port, folder) => {
      const keys = ["--access-key", KEYS.access, "--secret-key", KEYS.secret];
      return { args: ["--host", "127.0.0.1", "--port", String(port), ...keys, folder] };
    },
  },
  {
    program: "rclone",
    version: "version",
    start: (port, folder) => ({
      args: ["serve", "s3", "--addr", `127.0.0.1:${port}`, folder],
      // A list in CSV, of pairs that have a comma themselves.
      env: { RCLONE_AUTH_KEY: `"${KEYS.access},${KEYS.secret}"` },
    }),
  },
  {
    program: "s3proxy",
    version: "--version",
    start: (port, folder) => {
      const file = join(folder, "s3proxy.conf");
      const data = join(folder, "data");
      mkdirSync(data);
      const lines = [
        `s3proxy.endpoint=http://127.0.0.1:${port}`,
        "s3proxy.authorization=aws-v2-or-v4",
        `s3proxy.identity=${KEYS.access}`,
        `s3proxy.credential=${KEYS.secret}`,
        `s3proxy.cors-allow-origins=${ORIGIN}`,
        "s3proxy.cors-allow-methods=GET HEAD",
        "jclouds.provider=filesystem-nio2",
        "jclouds.identity=unused",
        "jclouds.credential=unused",
        `jclouds.filesystem.basedir=${data}`,
      ];
      writeFileSync(file, lines.join("\n"), { mode: 0o600 });
      return { args: ["--properties", file] };
    },
  },
];

/** What a server passes: each step's result is `ok`, or the reason why not. */
interface Row {
  server: string;
  results: Partial<Record<(typeof STEPS)[number] | "start", string>>;
}

/** Ctrl-C ends the programs that run. All folders and servers are removed on the way out. */
const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    stop.abort();
  });

interface Ended {
  ok: boolean;
  out: string;
  err: string;
}

/** Runs a program to its end, which Ctrl-C brings about. */
async function execute(
  program: string,
  args: readonly string[],
  timeout = COMMAND_MS,
): Promise<Ended> {
  const options = { timeout, maxBuffer: 50 * MIB, signal: stop.signal };
  return new Promise((resolve) => {
    execFile(program, args, options, (error, out, err) => {
      resolve({ ok: error === null, out, err });
    });
  });
}

/** The first line that says why, short enough for a table. */
function shortReason(error: unknown): string {
  const lines = messageOf(error)
    .split("\n")
    .map((line) => line.trim());
  const said = lines.filter((line) => /\berror: |\bfailed /i.test(line));
  const reason = said.find((line) => !/update failed|^pulumi .* failed/.test(line)) ?? lines[0];
  return (reason ?? "").replaceAll("|", "\\|").slice(0, 160);
}

async function versionOf(path: string, { program, version }: Server): Promise<string> {
  if (version === undefined) return program;
  const { out, err } = await execute(path, [version], VERSION_MS);
  const found = /\bv?\d+\.\d+(?:\.\d+)?\S*|RELEASE\.\S+|DEVELOPMENT\.\S+/.exec(
    (out + err).replace(/^\d\d:\d\d:\S+/gm, ""),
  );
  return found === null ? program : `${program} ${found[0]}`;
}

/** Starts a server, and stops it and removes its folder after the work. */
async function withServer<T>(
  path: string,
  server: Server,
  work: (endpoint: string) => Promise<T>,
): Promise<T> {
  const ports = await Promise.all(Array.from({ length: MAX_PORTS }, freePort));
  const more = () => ports.pop() ?? 0;
  const port = more();
  const folder = mkdtempSync(join(tmpdir(), "compat-server-"));
  const { args, env } = server.start(port, folder, more);
  const options = { cwd: folder, env: { ...process.env, ...env }, stdio: "ignore" } as const;
  // A group of its own: the program on PATH may be a script that starts the server.
  const child = spawn(path, args, { ...options, detached: true });
  const ended = once(child, "exit");
  const endpoint = `http://127.0.0.1:${port}`;
  try {
    const early = ended.then(([code]) => {
      throw new Error(`it did not answer: exit ${String(code)}`);
    });
    const answering = untilAnswering(endpoint, () => child.exitCode !== null);
    await Promise.race([early, answering]);
    return await work(endpoint);
  } finally {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGKILL");
    await ended.catch(() => undefined);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function untilAnswering(endpoint: string, hasEnded: () => boolean): Promise<void> {
  const deadline = Date.now() + START_MS;
  while (Date.now() < deadline && !hasEnded()) {
    stop.signal.throwIfAborted();
    const limit = AbortSignal.timeout(2_000);
    const answer = await fetch(endpoint, { signal: limit }).catch(() => undefined);
    if (answer !== undefined && answer.status < 500) return;
    await sleep(200);
  }
  throw new Error(`it did not answer within ${START_MS / 1000} s`);
}

const Verified = v.object({
  results: v.array(v.object({ check: v.string(), status: v.string() })),
});

async function verify(envFile: string): Promise<void> {
  const args = ["--env-file", envFile, "--origin", ORIGIN, "--json"];
  const { out, err } = await tool("verify", ...args);
  if (!out.startsWith("{")) throw new Error(err);
  const { results } = v.parse(Verified, JSON.parse(out));
  const failed = results.filter(({ status }) => status === "failed").map(({ check }) => check);
  if (failed.length > 0) throw new Error(`failed: ${failed.join(", ")}`);
}

function tool(name: string, ...args: string[]): Promise<Ended> {
  return execute(process.execPath, ["--import", "tsx/esm", `tools/${name}/command.ts`, ...args]);
}

/** Copies odd files to the bucket and back, and compares them byte by byte. */
async function copyFiles(folder: string, envFile: string): Promise<void> {
  const [from, back] = [join(folder, "from"), join(folder, "back")];
  const nameOf = (index: number) => `${index}/${ODD_NAMES[index % ODD_NAMES.length] ?? ""}.png`;
  const contentOf = (index: number) =>
    index === 0 ? randomBytes(LARGE_BYTES) : randomBytes(index % 10 === 0 ? 0 : index * 50);
  writeTree(from, numbered(FILES, contentOf, nameOf));
  const common = ["--yes", "--state", join(folder, "journal")];
  for (const ends of [
    [from, `env:${envFile}`],
    [`env:${envFile}`, back],
  ]) {
    const { ok, out, err } = await tool("migrate", ...ends, ...common);
    if (!ok) throw new Error((err + out).trim());
  }
  if (!isDeepStrictEqual(readTree(from), readTree(back))) throw new Error("the files differ");
}

const Env = v.record(v.string(), v.string());

async function tryServer(endpoint: string): Promise<Row["results"]> {
  const results: Row["results"] = {};
  const folder = mkdtempSync(join(tmpdir(), "compat-"));
  const project = await EngineProject.create();
  const pulumi = async (...args: string[]) => {
    const place = { workDir: project.dir, envVars: project.env };
    const limits = { timeoutMs: COMMAND_MS, signal: stop.signal };
    const { code, stdout, stderr } = await runPulumi([...args, "--stack", STACK], {
      ...place,
      ...limits,
    });
    if (code !== 0) throw new Error(stdout + stderr);
    return stdout;
  };
  const preview = () => pulumi("preview", "--expect-no-changes");
  const step = async (name: (typeof STEPS)[number], work: () => Promise<unknown>) => {
    const result = await work().then(() => "ok", shortReason);
    stop.signal.throwIfAborted();
    results[name] = result;
    return result === "ok";
  };
  try {
    const values = { provider: "s3", endpoint, origins: [ORIGIN], bucketName: "compat-media" };
    const throwaway = { secureUrls: false, protect: false, forceDestroy: true };
    const secrets = { accessKey: KEYS.access, secretKey: KEYS.secret };
    await project.configure({ ...values, ...throwaway }, secrets);
    if (await step("up", () => pulumi("up", "--yes", "--skip-preview"))) {
      await step("second preview", preview);
      await step("refresh", async () => {
        await pulumi("refresh", "--yes", "--skip-preview");
        await preview();
      });
      const shown = await pulumi("stack", "output", "env", "--show-secrets", "--json");
      const env = Object.entries(v.parse(Env, JSON.parse(shown)));
      const envFile = join(folder, "authentik.env");
      writeFileSync(envFile, env.map(([name, value]) => `${name}=${value}\n`).join(""));
      await step("verify", () => verify(envFile));
      await step("files", () => copyFiles(folder, envFile));
    }
    await step("destroy", () => pulumi("destroy", "--yes", "--skip-preview"));
    return results;
  } finally {
    for (const dir of [folder, project.dir]) rmSync(dir, { recursive: true, force: true });
  }
}

async function compat(names: readonly string[], { json }: { json: boolean }): Promise<void> {
  const rows: Row[] = [];
  const isChosen = ({ program }: Server) => names.length === 0 || names.includes(program);
  for (const server of SERVERS.filter(isChosen)) {
    const path = await onPath(server.program);
    if (path === undefined) {
      rows.push({ server: server.program, results: { start: "not found" } });
      continue;
    }
    const name = await versionOf(path, server);
    console.error(`${name} ...`);
    const results = await withServer(path, server, tryServer).catch((error: unknown) => ({
      start: shortReason(error),
    }));
    if (stop.signal.aborted) {
      process.exitCode = 130;
      return;
    }
    console.error(JSON.stringify(results));
    rows.push({ server: name, results });
  }
  console.log(json ? JSON.stringify(rows, undefined, 2) : table(rows));
}

function table(rows: readonly Row[]): string {
  const cells = rows.map(({ server, results }) => [
    server,
    ...STEPS.map((step) => results[step] ?? results.start ?? "-"),
  ]);
  const all = [["Server", ...STEPS], ["Server", ...STEPS].map(() => "---"), ...cells];
  return all.map((row) => `| ${row.join(" | ")} |`).join("\n");
}

await new Command("npm run compat --")
  .description(
    "Runs up, preview, refresh, verify, 200 odd files both ways and destroy against each S3 server on PATH.",
  )
  .argument("[servers...]", SERVERS.map(({ program }) => program).join(", "))
  .option("--json", "print JSON", false)
  .addHelpText("after", "\nExamples:\n  npm run compat\n  npm run compat -- minio versitygw")
  .action(compat)
  .parseAsync();
