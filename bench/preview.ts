/**
 * What a preview costs: this program's dev stack against an empty program, the least that the SDK's dynamic resources cost,
 * and a naive program. All in one run and in turn, so that the ratios hold on any machine.
 */
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { openLocalFolder } from "../tools/start/folder.ts";
import { onPath, run } from "../tools/lib/programs.ts";
import { localProject, type LocalProject } from "../tools/start/stack.ts";
import { withLocalStack } from "../tools/start/start.ts";
import { measure, medianOf, type Figure } from "./measure.ts";
import { REPOSITORY } from "../tools/lib/repository.ts";

const RUNS = 3;

/** `modules` is what the project has installed: the engine fetches the plugin of every cloud package that it finds there. */
const EMPTY = { runtime: "runtime: { name: nodejs, options: { typescript: false } }", modules: "@pulumi/pulumi", file: "index.js", code: "" };
const DYNAMIC = {
  ...EMPTY,
  code: `
    const { CustomResource } = require("@pulumi/pulumi/resource");
    const provider = "exports.handler = () => ({ create: async (outs) => ({ id: 'x', outs }), diff: async () => ({ changes: false }) })";
    for (const name of ["a", "b", "c"]) new CustomResource("pulumi-nodejs:dynamic:Resource", name, { __provider: provider });
  `,
};
const NAIVE = {
  runtime: "runtime: nodejs",
  modules: "",
  file: "index.ts",
  code: `
    import * as aws from "@pulumi/aws";
    import * as azure from "@pulumi/azure-native";
    import * as cloudflare from "@pulumi/cloudflare";
    export const loaded = [aws.s3, azure.storage, cloudflare.R2Bucket].length;
  `,
};

/** Measures and prints a table of medians and ratios. */
export async function benchPreview(): Promise<void> {
  if (!(await onPath("pulumi"))) throw new Error("this measures the real Pulumi engine; put pulumi on PATH");
  const dir = await mkdtemp(join(tmpdir(), "authentik-storage-bench-"));
  try {
    const local = join(dir, "local");
    const options = { dir: local, progress: console.error, notice: console.error, signal: AbortSignal.timeout(600_000) };
    await withLocalStack(options, () => Promise.resolve());
    const projects = {
      "(a) empty JavaScript": await project(join(dir, "empty"), EMPTY),
      "(a') three trivial dynamic resources": await project(join(dir, "dynamic"), DYNAMIC),
      "this program, stack dev": localProject(await openLocalFolder(local)),
      "(b) naive TypeScript, three clouds": await project(join(dir, "naive"), NAIVE),
    };
    for (const mode of ["warm", "cold"] as const) {
      const samples = new Map(Object.keys(projects).map((name): [string, Figure[]] => [name, []]));
      // When warm, a first round fills the caches and does not count.
      for (let round = mode === "warm" ? 0 : 1; round <= RUNS; round += 1) {
        for (const [name, place] of Object.entries(projects)) {
          const sample = await preview(place, mode === "cold" ? await mkdtemp(join(dir, "tmp-")) : tmpdir());
          if (round > 0) samples.get(name)?.push(sample);
        }
      }
      print(mode, samples);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function project(workDir: string, { runtime, modules, file, code }: typeof EMPTY): Promise<LocalProject> {
  const state = join(workDir, "state");
  await mkdir(state, { recursive: true });
  const link = join(workDir, "node_modules", modules);
  await mkdir(dirname(link), { recursive: true });
  await symlink(join(REPOSITORY, "node_modules", modules), link.replace(/\/$/, ""));
  await writeFile(join(workDir, "Pulumi.yaml"), `name: bench\n${runtime}\n`);
  await writeFile(join(workDir, "package.json"), JSON.stringify({ name: "bench", main: file }));
  await writeFile(join(workDir, file), code);
  const envVars = { PULUMI_BACKEND_URL: `file://${state}`, PULUMI_CONFIG_PASSPHRASE: "bench", PULUMI_SKIP_UPDATE_CHECK: "true" };
  await run("pulumi", ["stack", "init", "dev", "--non-interactive"], { cwd: workDir, env: envVars });
  return { workDir, envVars };
}

/** One preview. Compilers keep what they have compiled below `temporary`. */
async function preview({ workDir, envVars }: LocalProject, temporary: string): Promise<Figure> {
  return measure("pulumi", ["preview", "--stack", "dev", "--non-interactive"], { cwd: workDir, env: { ...envVars, TMPDIR: temporary } });
}

function print(mode: "warm" | "cold", samples: Map<string, Figure[]>): void {
  const rows = [...samples].map(([name, list]) => ({ name, ...medianOf(list) }));
  const own = rows.find(({ name }) => name.startsWith("this"));
  if (!own) return;
  const meaning = mode === "warm" ? "unchanged programs, compiled before" : "on a fresh machine, as in CI";
  console.log(`pulumi preview, ${mode} (${meaning}), median of ${RUNS} runs in turn`);
  for (const { name, seconds, megabytes } of rows) {
    const ratios = `this program takes ${(own.seconds / seconds).toFixed(2)} of its time, ${(own.megabytes / megabytes).toFixed(2)} of its memory`;
    console.log(`${name.padEnd(38)} ${seconds.toFixed(2).padStart(6)} s ${megabytes.toFixed(0).padStart(6)} MB   ${name === own.name ? "" : ratios}`);
  }
}
