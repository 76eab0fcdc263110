import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { expect } from "chai";
import { PulumiError } from "../tools/lib/pulumi.ts";
import { policyArgs, runEngine } from "../tools/preview/engine.ts";
import { PlanError } from "../tools/preview/plan.ts";
import { preview } from "../tools/preview/preview.ts";
import { renderMarkdown, renderText } from "../tools/preview/render.ts";

const SUCCEEDED = '{"summaryEvent":{"result":"succeeded"}}';

/** Behavior that the real tool shows rarely or never. */
describe("a command line tool that misbehaves", function () {
  this.timeout(20_000);
  const path = process.env.PATH;
  let dir: string;

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "authentik-storage-tool-"));
    process.env.PATH = `${dir}${delimiter}${path}`;
  });
  afterEach(async () => {
    process.env.PATH = path;
    await rm(dir, { recursive: true, force: true });
  });

  const options = () => ({ workDir: dir, timeoutMs: 10_000 });

  async function tool(script: string): Promise<void> {
    await writeFile(join(dir, "pulumi"), `#!/usr/bin/env bash\ncd ${dir}\n${script}\n`);
    await chmod(join(dir, "pulumi"), 0o755);
  }

  it("prints secrets of the environment, which are redacted, also in JSON", async () => {
    const token = 'to\\"ken-123456';
    const message = `denied: ${token}, with ${JSON.stringify({ token })}`;
    await tool(`
      printf '%s\\n' '${JSON.stringify({ diagnosticEvent: { severity: "error", message } })}'
      echo "error: and $AWS_SECRET_ACCESS_KEY too" >&2
      exit 1`);
    const envVars = { VAULT_TOKEN: token, AWS_SECRET_ACCESS_KEY: "key-123456" };
    const run = await runEngine("preview", "prod", [], { ...options(), envVars });
    expect(run.output).to.equal("error: and [secret] too");
    const report = await preview("prod", { ...options(), deletionAllowed: false, envVars });
    expect(report.diagnostics[0]?.message).to.equal('denied: [secret], with {"token":"[secret]"}');
    expect(JSON.stringify(report)).not.to.contain("123456");
  });

  it("quotes secrets of a saved plan, which are not shown", async () => {
    const message = "resource urn violates plan: properties changed: ++key[{&{{old\nkey}}}!={x}]";
    await tool(`
      printf '%s\\n' '${JSON.stringify({ diagnosticEvent: { severity: "error", message } })}'
      exit 1`);
    const report = await preview("prod", { ...options(), deletionAllowed: false });
    expect(report.diagnostics.map((diagnostic) => diagnostic.message)).to.deep.equal([
      "resource urn violates the plan: something has changed since it was made",
    ]);
  });

  it("hides no variable for a word in its name", async () => {
    const KEYCLOAK_URL = "https://keycloak.company";
    const HTTPS_PROXY = "http://user:proxy-password@proxy.company";
    const message = `refused ${KEYCLOAK_URL} by proxy-password`;
    await tool(`
      printf '%s\\n' '${JSON.stringify({ diagnosticEvent: { severity: "error", message } })}'
      exit 1`);
    const envVars = { KEYCLOAK_URL, HTTPS_PROXY };
    const report = await preview("prod", { ...options(), deletionAllowed: false, envVars });
    expect(report.diagnostics[0]?.message).to.equal(`refused ${KEYCLOAK_URL} by [secret]`);
  });

  it("is checked by its events, also when they contain a secret of the environment", async () => {
    const [urn, type] = [
      "urn:pulumi:prod::authentik-storage::aws:s3/bucket:Bucket::authentik-media",
      "aws:s3/bucket:Bucket",
    ];
    const metadata = {
      op: "delete",
      urn,
      type,
      old: {
        inputs: {
          bucket: "authentik-media",
          note: "about-authentik",
          port: 1234567890,
          "authentik-key": "x",
        },
      },
    };
    await tool(`echo '${JSON.stringify({ resourcePreEvent: { metadata } })}'; echo '${SUCCEEDED}'`);
    for (const secret of [
      "resourcePreEvent",
      "metadata",
      "aws:s3/bucket:Bucket",
      "s3/bucket",
      "authentik-storage",
      "authentik",
      "succeeded",
      "1234567890",
      '{"resource',
    ]) {
      const report = await preview("prod", {
        ...options(),
        deletionAllowed: false,
        envVars: { PULUMI_ACCESS_TOKEN: secret },
      });
      expect(report, secret).to.have.property("ok", false);
      expect(report.atRisk, secret).to.have.length(1);
      for (const shown of [
        JSON.stringify(report.atRisk),
        renderMarkdown(report),
        renderText(report, { color: false }),
      ])
        expect(shown, secret).not.to.contain(secret);
    }
  });

  it("prints an unknown event, which is reported without secrets", async () => {
    await tool(`printf '%s\\n' '{"resourcePreEvent":"'"$VAULT_TOKEN"'"}'`);
    const report = await preview("prod", {
      ...options(),
      deletionAllowed: false,
      envVars: { VAULT_TOKEN: "token-123456" },
    });
    expect(report.failure)
      .to.contain("not an event of its engine")
      .and.to.contain("[secret]")
      .and.not.to.contain("token-123456");
  });

  it("gets no terminal, no input, and no secret in its arguments", async () => {
    await tool(`printf '%s\\n' "$@" > args; cat > input; echo '${SUCCEEDED}'`);
    expect((await runEngine("preview", "prod", ["--refresh"], options())).code).to.equal(0);
    expect(await readFile(join(dir, "args"), "utf8")).to.equal(
      "preview\n--json\n--color\nnever\n--stack\nprod\n--refresh\n--non-interactive\n",
    );
    expect(await readFile(join(dir, "input"), "utf8")).to.equal("");
  });

  it("is refused when a step has another form", async () => {
    await tool(`echo '{"resourcePreEvent":{"metadata":{"kind":"delete"}}}'; echo '${SUCCEEDED}'`);
    const error: unknown = await runEngine("preview", "prod", [], options()).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).to.be.instanceOf(PlanError);
    expect(await preview("prod", { ...options(), deletionAllowed: true })).to.have.property(
      "ok",
      false,
    );
  });

  it("finishes an update although an event cannot be read", async () => {
    await tool(`echo '{"resourcePreEvent":{}}'; sleep 0.5; touch done`);
    const error: unknown = await runEngine("up", "prod", [], options()).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).to.be.instanceOf(PlanError);
    expect(await readFile(join(dir, "done"), "utf8")).to.equal("");
  });

  it("gets one SIGINT to stop in order, and the command waits for it", async () => {
    await tool(
      `trap 'echo x >> interrupts; sleep 0.5; touch ended; exit 1' INT; while true; do sleep 0.1; done`,
    );
    const controller = new AbortController();
    setTimeout(() => {
      controller.abort();
      controller.abort();
    }, 300);
    const error: unknown = await runEngine("up", "prod", [], {
      ...options(),
      signal: controller.signal,
    }).catch((thrown: unknown) => thrown);
    expect(error)
      .to.be.instanceOf(PulumiError)
      .and.have.property("message")
      .that.contains("stopped");
    expect(await readFile(join(dir, "interrupts"), "utf8")).to.equal("x\n");
    expect(await readFile(join(dir, "ended"), "utf8")).to.equal("");
  });

  it("succeeds without a plan, which fails the preview", async () => {
    await tool("exit 0");
    expect(await preview("prod", { ...options(), deletionAllowed: true })).to.have.property(
      "ok",
      false,
    );
  });

  it("gets the policy pack, and its config for deletion only when that is allowed", async () => {
    expect(await policyArgs(dir, { deletionAllowed: true })).to.deep.equal([]);
    const pack = join(dir, "policy");
    await mkdir(pack);
    await writeFile(join(pack, "allow-bucket-deletion.json"), "{}");
    expect(await policyArgs(dir, { deletionAllowed: false })).to.deep.equal([
      "--policy-pack",
      pack,
    ]);
    expect(await policyArgs(dir, { deletionAllowed: true })).to.deep.equal([
      "--policy-pack",
      pack,
      "--policy-pack-config",
      join(pack, "allow-bucket-deletion.json"),
    ]);
  });
});
