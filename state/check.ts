/** Whether a home can keep state: the tool makes a stack there, reads it and takes it away again, with the rights that it will have. */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StateError, type Home } from "./home.ts";
import { pulumi } from "./pulumi.ts";

/** One thing that was tried. */
export interface CheckResult {
  step: string;
  ok: boolean;
  /** Where it failed: the tool's own words, and what to do. */
  said?: string;
  advice?: string;
}

const CHECK_PROJECT = "authentik-storage-check";

/** Tries everything that `pulumi up` does with a home; ends at the first failure. It leaves nothing but `.pulumi/meta.yaml`. */
export async function checkHome(home: Home, signal?: AbortSignal): Promise<CheckResult[]> {
  const cwd = await mkdtemp(join(tmpdir(), "authentik-storage-state-"));
  const stack = `check-${randomBytes(4).toString("hex")}`;
  // The throwaway stack's own, so that no passphrase need be known to check a home.
  const env = { PULUMI_CONFIG_PASSPHRASE: randomBytes(16).toString("base64url") };
  const run = (args: readonly string[]) => pulumi(args, { cwd, home, env, signal });
  const steps: [step: string, args: string[]][] = [
    ["open it, list, write, lock", ["stack", "init", stack, "--secrets-provider", "passphrase", "--no-select"]],
    ["read", ["stack", "export", "--stack", stack]],
    ["unlock, delete", ["stack", "rm", stack, "--yes", "--remove-backups"]],
  ];
  const results: CheckResult[] = [];
  try {
    await writeFile(join(cwd, "Pulumi.yaml"), `name: ${CHECK_PROJECT}\nruntime: nodejs\n`);
    for (const [step, args] of steps) {
      const result = await tryStep(step, () => run(args), home);
      results.push(result);
      if (!result.ok) break;
    }
  } finally {
    await rm(cwd, { recursive: true, force: true });
  }
  return results;
}

async function tryStep(step: string, work: () => Promise<string>, home: Home): Promise<CheckResult> {
  try {
    await work();
    return { step, ok: true };
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    return { step, ok: false, said: error.message, advice: adviceOn(error.message, home) };
  }
}

/** S3 actions that are not called like their operation. */
const ACTIONS: Readonly<Record<string, string>> = { ListObjectsV2: "s3:ListBucket", HeadObject: "s3:GetObject" };

/** What to do about the words of a tool that could not use a home. */
export function adviceOn(said: string, { kind, url }: Home): string {
  const is = (pattern: RegExp) => pattern.test(said);
  if (is(/NoSuchBucket|ContainerNotFound|code=NotFound|no such file or directory/)) return `It does not exist. Make it: npm run state -- create '${url}'`;
  if (is(/get credentials|no EC2 IMDS|DefaultAzureCredential|default credentials|PULUMI_ACCESS_TOKEN/)) return `No credentials were found. Set ${CREDENTIALS[kind]}.`;
  if (is(/InvalidAccessKeyId/)) return "The server does not know the access key. Correct AWS_ACCESS_KEY_ID or the profile.";
  if (is(/SignatureDoesNotMatch|AuthenticationFailed/)) return `The secret does not belong to the name. Correct ${CREDENTIALS[kind]}.`;
  if (is(/PermanentRedirect|AuthorizationHeaderMalformed|StatusCode: 301|HTTP 301/)) return "The bucket is in another region. Add ?region=<its region> to the URL.";
  if (is(/unknown query parameter/)) return "Pulumi does not know a name behind the ? of the URL. docs/state.md has the ones that are needed.";
  if (is(/connection refused|no such host|i\/o timeout|no answer within/)) return "Nobody answers there. Correct the endpoint in the URL, or start its server.";
  if (is(/currently locked/)) return `Its lock could not be deleted. The right to delete is missing${kind === "s3" ? ": s3:DeleteObject" : ""}.`;
  if (is(/AccessDenied|code=PermissionDenied|AuthorizationPermissionMismatch|AuthorizationFailure|Forbidden|permission denied/)) return rightOn(said, kind);
  return "docs/state.md says what each home needs.";
}

const CREDENTIALS: Readonly<Record<Home["kind"], string>> = {
  cloud: "PULUMI_ACCESS_TOKEN",
  file: "nothing; correct the folder",
  s3: "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
  azblob: "AZURE_STORAGE_ACCOUNT and sign in with az login, or set AZURE_CLIENT_ID and its like, or AZURE_STORAGE_KEY",
  gs: "GOOGLE_APPLICATION_CREDENTIALS",
};

function rightOn(said: string, kind: Home["kind"]): string {
  if (kind === "azblob") return "A right is missing. Give the role Storage Blob Data Contributor on the container; it takes minutes to hold.";
  const [, operation] = /operation error S3: (\w+)/.exec(said) ?? [];
  if (operation !== undefined) return `A right is missing: ${ACTIONS[operation] ?? `s3:${operation}`}. docs/state.md has the whole policy.`;
  return "A right is missing: list, read, write and delete are needed.";
}
