/**
 * Measures a preview of this program's dev stack, compared with an empty program, with the minimum
 * of the SDK's dynamic resources, and with a naive program. The programs alternate in one run, so
 * that the ratios hold on any machine.
 */
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { openLocalFolder } from "../tools/start/folder.ts";
import { onPath, run } from "../tools/lib/programs.ts";
import { localProject, type LocalProject } from "../tools/start/stack.ts";
import { withLocalStack } from "../tools/start/start.ts";
import { measure, report, type Sample } from "./measure.ts";
import { REPOSITORY } from "../tools/lib/repository.ts";

const RUNS = 3;
const OWN = "this program, stack dev";

/**
 * `modules` are the packages that the project has installed. The engine installs the plugin of
 * every cloud package that it finds there.
 */
const EMPTY = {
  runtime: "runtime: { name: nodejs, options: { typescript: false } }",
  modules: "@pulumi/pulumi",
  file: "index.js",
  code: "",
};
const DYNAMIC = {
  ...EMPTY,
  code: `
    const { CustomResource } = require("@pulumi/pulumi/resource");
    const create = "async (outs) => ({ id: 'x', outs })";
    const diff = "async () => ({ changes: false })";
    const __provider = "exports.handler = () => ({ create: " + create + ", diff: " + diff + " })";
    for (const name of ["a", "b", "c"]) {
      new CustomResource("pulumi-nodejs:dynamic:Resource", name, { __provider });
    }
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

/**
 * Measures and prints a table. `warm` is a program that was compiled before and is unchanged, `cold`
 * is a new machine, as in CI.
 */
export async function benchPreview(options: { json: boolean }): Promise<void> {
  if (!(await onPath("pulumi"))) {
    throw new Error("this bench needs the Pulumi engine; put pulumi on PATH");
  }
  const dir = await mkdtemp(join(tmpdir(), "authentik-storage-bench-"));
  try {
    const local = join(dir, "local");
    const signal = AbortSignal.timeout(600_000);
    const start = { dir: local, progress: console.error, notice: console.error, signal };
    await withLocalStack(start, () => Promise.resolve());
    const projects = {
      "(a) empty JavaScript": await project(join(dir, "empty"), EMPTY),
      "(a') three trivial dynamic resources": await project(join(dir, "dynamic"), DYNAMIC),
      [OWN]: localProject(await openLocalFolder(local)),
      "(b) naive TypeScript, three clouds": await project(join(dir, "naive"), NAIVE),
    };
    // The first warm round fills the caches and does not count.
    await runs("", projects, 1, () => Promise.resolve(tmpdir()));
    const samples = [
      ...(await runs("warm", projects, RUNS, () => Promise.resolve(tmpdir()))),
      ...(await runs("cold", projects, RUNS, async () => {
        await rm(join(REPOSITORY, "node_modules/.cache"), { recursive: true, force: true });
        return mkdtemp(join(dir, "tmp-"));
      })),
    ];
    report(`preview: medians of ${RUNS} rounds`, samples, OWN, options);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Runs the projects in turn. `temporary` gives the folder where compilers keep their output. */
async function runs(
  column: string,
  projects: Readonly<Record<string, LocalProject>>,
  rounds: number,
  temporary: () => Promise<string>,
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let round = 0; round < rounds; round += 1) {
    for (const [tool, { workDir, envVars }] of Object.entries(projects)) {
      const args = ["preview", "--stack", "dev", "--non-interactive"];
      const env = { ...envVars, TMPDIR: await temporary() };
      const figure = await measure("pulumi", args, { cwd: workDir, env });
      samples.push({ column, tool, figure });
    }
  }
  return samples;
}

async function project(
  workDir: string,
  { runtime, modules, file, code }: typeof EMPTY,
): Promise<LocalProject> {
  const state = join(workDir, "state");
  await mkdir(state, { recursive: true });
  const link = join(workDir, "node_modules", modules);
  await mkdir(dirname(link), { recursive: true });
  await symlink(join(REPOSITORY, "node_modules", modules), link.replace(/\/$/, ""));
  await writeFile(join(workDir, "Pulumi.yaml"), `name: bench\n${runtime}\n`);
  await writeFile(join(workDir, "package.json"), JSON.stringify({ name: "bench", main: file }));
  await writeFile(join(workDir, file), code);
  const envVars = {
    PULUMI_BACKEND_URL: `file://${state}`,
    PULUMI_CONFIG_PASSPHRASE: "bench",
    PULUMI_SKIP_UPDATE_CHECK: "true",
  };
  const args = ["stack", "init", "dev", "--non-interactive"];
  await run("pulumi", args, { cwd: workDir, env: envVars });
  return { workDir, envVars };
}
