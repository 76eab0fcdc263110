/**
 * `pulumi new` with this repository as the template: what it asks for, and that the new project
 * previews at once, under any name.
 */
import { execFile } from "node:child_process";
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { setAllConfig } from "@pulumi/pulumi/runtime/config.js";
import { setMocks } from "@pulumi/pulumi/runtime/mocks.js";
import { expect } from "chai";
import * as v from "valibot";
import { parse } from "yaml";
import { ConfigError } from "../config/index.ts";
import { readStackConfig } from "../config/stack.ts";
import { documentationOf } from "../config/values.ts";
import { onPath } from "../tools/lib/programs.ts";
import { chooseProvider, PROVIDERS, providers } from "../providers/index.ts";
import { pulumi, REPOSITORY } from "./support/engine.ts";
import { exampleValues } from "./support/examples.ts";
import { configProblems } from "./support/recorder.ts";
import { onTerminal } from "./support/terminal.ts";

const Asked = v.object({
  description: v.string(),
  default: v.optional(v.string()),
  secret: v.optional(v.boolean(), false),
});
const Project = v.object({
  name: v.string(),
  template: v.optional(v.object({ config: v.record(v.string(), Asked) })),
});

const { name, template } = v.parse(
  Project,
  parse(await readFile(join(REPOSITORY, "Pulumi.yaml"), "utf8")),
);
const asked = template?.config ?? {};
/** A project that `pulumi new` has created is not a template. */
const isTemplate = template !== undefined;

(isTemplate ? describe : describe.skip)("template", () => {
  it("asks for the provider, the origins and every key that a preview needs", async () => {
    expect(Object.keys(asked)).to.include.members(["provider", "origins"]);
    for (const provider of PROVIDERS) {
      const example = await exampleValues(provider);
      const answers = Object.fromEntries(
        Object.keys(asked).flatMap((key) =>
          example[key] === undefined ? [] : [[key, example[key]]],
        ),
      );
      expect(await configProblems(answers), provider).to.deep.equal([]);
    }
  });

  it("has defaults that are valid for every provider, and asks for secrets as secrets", async () => {
    const defaults = Object.fromEntries(
      Object.entries(asked).flatMap(([key, value]) =>
        value.default === undefined ? [] : [[key, value.default]],
      ),
    );
    expect(defaults).to.deep.equal({ provider: "s3", origins: "https://authentik.company" });
    const own = await Promise.all(
      PROVIDERS.map(async (provider) =>
        Object.entries((await providers[provider].load()).default.keys),
      ),
    );
    const secrets = own
      .flat()
      .filter(([, schema]) => documentationOf(schema).secret)
      .map(([key]) => key);
    for (const [key, { secret }] of Object.entries(asked))
      expect(secret, key).to.equal(secrets.includes(key));
  });

  it("has no text that pulumi new would replace", async () => {
    for (const file of await repositoryFiles()) {
      expect(await readFile(join(REPOSITORY, file), "utf8"), file).not.to.match(
        /\$\{(?:PROJECT|DESCRIPTION)\}/,
      );
    }
  });
});

describe("a project under another name", () => {
  it("reports keys under the project name of the examples", async () => {
    await setMocks(
      { newResource: () => ({ id: undefined, state: {} }), call: () => ({}) },
      "company-storage",
      "test",
    );
    setAllConfig(
      {
        "company-storage:provider": "r2",
        "authentik-storage:bucketName": "files",
        "aws:region": "eu-central-1",
      },
      [],
    );
    const error: unknown = await chooseProvider(readStackConfig()).catch(
      (reason: unknown) => reason,
    );
    expect(error)
      .to.be.instanceOf(ConfigError)
      .and.property("message")
      .to.contain(
        "authentik-storage:bucketName is under the name of another project, where nothing reads it; write company-storage:bucketName",
      )
      .and.not.to.contain("aws:region");
  });
});

(isTemplate && pulumi ? describe : describe.skip)(
  "template with the real command line tool",
  function () {
    this.timeout(120_000);
    this.slow(30_000);
    let dir: string;
    let env: Record<string, string>;
    before(async () => {
      dir = await mkdtemp(join(tmpdir(), "authentik-storage-template-"));
      // The files of a clone. From a folder, pulumi copies everything, also node_modules and .local.
      for (const file of await repositoryFiles()) {
        await mkdir(dirname(join(dir, "template", file)), { recursive: true });
        await copyFile(join(REPOSITORY, file), join(dir, "template", file));
      }
      await mkdir(join(dir, "state"));
      await mkdir(join(dir, "bin"));
      // This saves a minute of downloads: npm tells where it would install, and a link to the
      // existing packages is created there.
      await writeFile(
        join(dir, "bin/npm"),
        `#!/bin/sh\nln -s "${join(REPOSITORY, "node_modules")}" "$(${(await onPath("npm")) ?? "npm"} prefix)/node_modules"\n`,
      );
      await chmod(join(dir, "bin/npm"), 0o755);
      env = {
        PULUMI_BACKEND_URL: `file://${join(dir, "state")}`,
        PULUMI_CONFIG_PASSPHRASE: "test",
        PULUMI_SKIP_UPDATE_CHECK: "true",
        PATH: `${join(dir, "bin")}:${process.env.PATH ?? ""}`,
      };
    });
    after(() => rm(dir, { recursive: true, force: true }));

    /** Runs a program in the project of this name. */
    const run = async (
      project: string,
      program: string,
      args: string[],
      input = "",
    ): Promise<{ ok: boolean; text: string }> => {
      const cwd = join(dir, project);
      await mkdir(cwd, { recursive: true });
      const running = promisify(execFile)(program, args, {
        cwd,
        env: { ...process.env, ...env },
        timeout: 100_000,
      });
      running.child.stdin?.end(input);
      return running.then(
        ({ stdout, stderr }) => ({ ok: true, text: stdout + stderr }),
        (error: unknown) => {
          const { stdout, stderr } = v.parse(
            v.object({ stdout: v.string(), stderr: v.string() }),
            error,
          );
          return { ok: false, text: stdout + stderr };
        },
      );
    };
    const expectOk = async (...command: Parameters<typeof run>): Promise<string> => {
      const { ok, text } = await run(...command);
      expect(ok, text).to.equal(true);
      return text;
    };
    const preview = ["preview", "--non-interactive", "--policy-pack", "policy"];
    const configOf = async (project: string, stack: string) =>
      v.parse(
        v.object({ config: v.record(v.string(), v.unknown()) }),
        parse(await readFile(join(dir, project, `Pulumi.${stack}.yaml`), "utf8")),
      ).config;

    it("creates a project of another name without questions, which passes the policies", async () => {
      const project = "company-storage";
      const answers = [
        "endpoint=https://s3.provider",
        "origins=https://a.company,https://b.company",
      ].flatMap((answer) => ["-c", answer]);
      await expectOk(project, "pulumi", [
        "new",
        "../template",
        "--yes",
        "--name",
        project,
        "--stack",
        "prod",
        ...answers,
      ]);
      for (const key of ["accessKey", "secretKey"])
        await expectOk(project, "pulumi", ["config", "set", "--secret", key], "value");
      expect(await expectOk(project, "pulumi", preview))
        .to.contain("https://b.company")
        .and.to.contain("✅");
      expect(Object.keys(await configOf(project, "prod"))).to.have.members(
        ["provider", "origins", "endpoint", "accessKey", "secretKey"].map(
          (key) => `${project}:${key}`,
        ),
      );
    });

    it("creates a project in which npm start works", async () => {
      const text = await expectOk("company-storage", process.execPath, [
        "--import",
        "tsx/esm",
        "tools/start/command.ts",
        "--dir",
        join(dir, "local"),
      ]);
      expect(text)
        .to.match(/ok +cors http:\/\/localhost:9000/)
        .and.not.to.contain("FAIL");
    });

    it("gives a stack named dev no local settings, and reports how to set missing keys", async () => {
      const project = "all-defaults";
      await expectOk(project, "pulumi", ["new", "../template", "--yes"]);
      const { ok, text } = await run(project, "pulumi", preview);
      expect(ok).to.equal(false);
      for (const command of [
        "pulumi config set endpoint <value>",
        "pulumi config set --secret accessKey",
        "pulumi config set --secret secretKey",
      ])
        expect(text).to.contain(command);
      await expectOk(project, "pulumi", ["config", "set", "endpoint", "https://s3.provider"]);
      for (const key of ["accessKey", "secretKey"])
        await expectOk(project, "pulumi", ["config", "set", "--secret", key], "value");
      // The policy pack refuses a bucket without protection.
      const diff = await expectOk(project, "pulumi", [...preview, "--diff"]);
      expect(diff)
        .to.match(/forceDestroy *: false/)
        .and.to.match(/adopt *: false/)
        .and.to.contain(`[urn=urn:pulumi:dev::${name}::pulumi:pulumi:Stack::${name}-dev]`);
    });

    it("asks on a terminal, and previews the answers", async () => {
      const project = "asked";
      await mkdir(join(dir, project));
      const answers = Object.entries({
        "Project name": "asked-storage",
        "Project description": "",
        "Stack name": "prod",
        "(accessKey)": "access",
        "(accountId)": "",
        "(endpoint)": "https://s3.provider",
        "(location)": "",
        "(origins)": "https://a.company, https://b.company",
        "(provider)": "",
        "(region)": "",
        "(resourceGroupName)": "",
        "(secretKey)": "secret",
      });
      const replies = answers.map(([question, answer]) => [question, `${answer}\r`] as const);
      const { text } = await onTerminal("pulumi", ["new", "../template"], replies, {
        cwd: join(dir, project),
        env: { ...process.env, ...env },
      });
      expect(text).to.contain("Your new project is ready to go!");
      expect(text).not.to.match(/access\r|secret\r/);
      const config = await configOf(project, "prod");
      // A key with an empty answer is left out.
      expect(Object.keys(config)).to.have.members(
        ["provider", "origins", "endpoint", "accessKey", "secretKey"].map(
          (key) => `asked-storage:${key}`,
        ),
      );
      expect(config["asked-storage:secretKey"]).to.have.property("secure");
      expect(await expectOk(project, "pulumi", preview)).to.contain("https://b.company");
    });
  },
);

/** The files of a clone of this repository, and new files. */
async function repositoryFiles(folder = ""): Promise<string[]> {
  const entries = await readdir(join(REPOSITORY, folder), { withFileTypes: true });
  const files = await Promise.all(
    entries
      .filter((entry) => ![".git", ".local", "node_modules"].includes(entry.name))
      .map(async (entry) => {
        const path = join(folder, entry.name);
        return entry.isDirectory() ? await repositoryFiles(path) : [path];
      }),
  );
  return files.flat();
}
