/** authentik's variables in the formats of the tools that pass them to authentik. */
import { stringify } from "yaml";
import { isCredential, supersededNames } from "../../authentik/env.ts";
import { quoteDotenv } from "../lib/dotenv.ts";

export const FORMATS = ["dotenv", "compose", "helm", "secret", "ecs", "json"] as const;
export type Format = (typeof FORMATS)[number];

/**
 * Where authentik's Helm chart finds the credentials: in a Secret of its own beside the chart's
 * Secret (`env-from`), in the Secret that replaces the chart's Secret (`existing-secret`), or in
 * the values.
 */
export const KEYS_IN = ["env-from", "existing-secret", "values"] as const;
export type KeysIn = (typeof KEYS_IN)[number];

/** The values that a format needs in addition to the variables. */
export interface FormatOptions {
  /** For `helm` and `secret`. */
  keysIn: KeysIn;
  /** For `helm` and `secret`: the name of the Kubernetes Secret. */
  secretName: string;
  /** For `helm`: the AWS role of the service accounts, if authentik has no keys. */
  roleArn?: string | undefined;
  /**
   * For `helm`: the service accounts that may have the role, as `namespace/name`: the server's, and
   * the worker's if it is another. The default is the chart's own.
   */
  serviceAccounts?: readonly string[] | undefined;
  /**
   * For `ecs`: the ARN of a Secrets Manager secret whose JSON has the variables, or of a Parameter
   * Store path whose parameters have the names of the variables.
   */
  secretArn?: string | undefined;
}

export const DEFAULT_OPTIONS = {
  keysIn: "env-from",
  secretName: "authentik-storage",
} as const satisfies FormatOptions;

/**
 * A value that a format cannot hold, or an option that it lacks. The message names the variable,
 * never its value.
 */
export class FormatError extends Error {
  override name = "FormatError";
}

type Env = Readonly<Record<string, string>>;
type Formatter = (env: Env, options: FormatOptions) => string;

const FORMATTERS: Readonly<Record<Format, Formatter>> = {
  dotenv,
  compose,
  helm,
  secret,
  ecs,
  json: toJson,
};

/**
 * The variables as a text in a format.
 *
 * @throws FormatError
 */
export function formatEnv(
  env: Env,
  format: Format,
  options: FormatOptions = DEFAULT_OPTIONS,
): string {
  return FORMATTERS[format](env, options);
}

/** `NAME=value` lines. */
function dotenv(env: Env): string {
  return Object.entries(dotenvValues(env))
    .map(([name, value]) => `${name}=${value}\n`)
    .join("");
}

/**
 * The variables with their values as they are written in a `.env` file.
 *
 * @throws FormatError
 */
export function dotenvValues(env: Env): Record<string, string> {
  return mapValues(env, (value, name) => {
    const quoted = quoteDotenv(name, value);
    if (quoted !== undefined) return quoted;
    throw new FormatError(
      `${name} cannot be written to a .env file: its value has a quote, a newline or a backslash ` +
        "at its end, which Compose and shells do not read in the same way",
    );
  });
}

/**
 * An override file for authentik's `docker-compose.yml`, where server and worker need the
 * variables.
 */
function compose(env: Env): string {
  // Compose replaces `$NAME` in its files; `$$` is a dollar sign.
  const environment = mapValues(env, (value) => value.replaceAll("$", "$$$$"));
  return yaml({ services: { server: { environment }, worker: { environment } } });
}

/** Comments at the top of the values file. */
const HELM_HEAD = `# Use this as the last values file of the release, also with --reuse-values.
# An empty value removes what earlier values have set. The chart makes no variable of it.
`;
const LIST_HEAD = `# The lists below "global" replace your own. If you have such a list, add these entries to it.
`;

/** Values for the chart `authentik` of charts.goauthentik.io. */
function helm(env: Env, options: FormatOptions): string {
  const { keysIn, secretName } = options;
  const serviceAccounts = options.roleArn === undefined ? {} : helmServiceAccounts(env, options);
  // With a Secret of this name the chart ignores all other values below `authentik`.
  if (keysIn === "existing-secret") {
    return yaml({ authentik: { existingSecret: { secretName } }, ...serviceAccounts });
  }
  const inSecret = keysIn === "env-from" ? secretEntries(env) : {};
  const visible = Object.entries(env).filter(([name]) => !(name in inSecret));
  const others = visible.filter(([name]) => !isAuthentik(name));
  const removed = [...supersededNames(env), ...Object.keys(inSecret).filter(isAuthentik)];
  const values = [...visible.filter(([name]) => isAuthentik(name)), ...removed.map(asEmpty)];
  const hasSecret = Object.keys(inSecret).length > 0;
  const global = {
    ...(others.length > 0 ? { env: nameValuePairs(others) } : {}),
    ...(hasSecret ? { envFrom: [{ secretRef: { name: secretName } }] } : {}),
  };
  const hasLists = Object.keys(global).length > 0;
  const text = yaml({
    ...(hasLists ? { global } : {}),
    authentik: helmTree(values),
    ...serviceAccounts,
  });
  return HELM_HEAD + (hasLists ? LIST_HEAD : "") + text;
}

function isAuthentik(name: string): boolean {
  return name.startsWith("AUTHENTIK_");
}

/**
 * A value that removes a setting of earlier values. `null` does not: with `--reuse-values` Helm
 * takes the earlier value again, and without one the chart makes "<nil>" of it.
 */
function asEmpty(name: string): [name: string, value: string] {
  return [name, ""];
}

interface Tree {
  [key: string]: string | Tree;
}

/**
 * `AUTHENTIK_STORAGE__S3__REGION` as `storage.s3.region`, which the chart turns into that name
 * again.
 */
function helmTree(variables: readonly [string, string][]): Tree {
  const tree: Tree = {};
  for (const [name, value] of variables) {
    const path = name.slice("AUTHENTIK_".length).toLowerCase().split("__");
    const last = path.pop() ?? "";
    let branch = tree;
    for (const part of path) {
      const next = branch[part];
      branch = typeof next === "object" ? next : (branch[part] = {});
    }
    // The chart passes its values through `tpl`.
    branch[last] = value.replaceAll("{{", '{{ "{{" }}');
  }
  return tree;
}

/**
 * The service accounts with an AWS role. The chart gives its own service account to the worker
 * alone, unless the server names it (goauthentik/helm issue 472).
 */
function helmServiceAccounts(
  env: Env,
  { roleArn, serviceAccounts = [] }: FormatOptions,
): Record<string, unknown> {
  const credentials = Object.keys(env).filter(isCredential);
  if (credentials.length > 0) {
    throw new FormatError(
      `authentik would use ${credentials.join(", ")} instead of the role; ` +
        "remove the keys from the stack, or the role from the command",
    );
  }
  const names = serviceAccounts.map((account) => account.split("/").at(-1) ?? account);
  const [server = "authentik", worker = server] = names;
  const annotations = { "eks.amazonaws.com/role-arn": roleArn };
  return {
    server: { serviceAccountName: server },
    worker: { serviceAccountName: worker },
    serviceAccount: { create: true, fullnameOverride: worker, annotations },
  };
}

/**
 * The Secret that `helm` refers to: with the credentials, or with every variable if it replaces the
 * chart's Secret.
 */
function secret(env: Env, { keysIn, secretName }: FormatOptions): string {
  const entries = keysIn === "env-from" ? secretEntries(env) : env;
  if (Object.keys(entries).length === 0) {
    throw new FormatError(
      "there are no keys to put into a Secret; " +
        "if authentik has a role, use the format helm with --role-arn",
    );
  }
  // `kubectl apply` does not remove keys that an earlier `stringData` has set.
  const data = mapValues(entries, (value) => Buffer.from(value).toString("base64"));
  const metadata = { name: secretName };
  return yaml({ apiVersion: "v1", kind: "Secret", metadata, type: "Opaque", data });
}

/**
 * The content of a Secret beside the chart's own: the credentials, and the variables that the chart
 * would pass on in a list. It is empty if there are no credentials.
 */
function secretEntries(env: Env): Record<string, string> {
  if (!Object.keys(env).some(isCredential)) return {};
  const isInSecret = (name: string) => isCredential(name) || !isAuthentik(name);
  return Object.fromEntries(Object.entries(env).filter(([name]) => isInSecret(name)));
}

/** The `environment` and `secrets` of a container definition. */
function ecs(env: Env, { secretArn }: FormatOptions): string {
  const entries = Object.entries(env);
  const environment = nameValuePairs(entries.filter(([name]) => !isCredential(name)));
  const secrets = Object.keys(env)
    .filter(isCredential)
    .map((name) => ({ name, valueFrom: ecsReference(name, secretArn) }));
  return toJson({ environment, secrets });
}

function ecsReference(name: string, arn: string | undefined): string {
  if (arn === undefined) {
    throw new FormatError(
      `${name} is a key, which a task gets by reference; ` +
        "name the secret that has it with --secret-arn",
    );
  }
  if (/^arn:[^:]+:secretsmanager:/.test(arn)) return `${arn}:${name}::`;
  if (/^arn:[^:]+:ssm:[^:]*:[^:]*:parameter\//.test(arn)) {
    return `${arn.replace(/\/$/, "")}/${name}`;
  }
  throw new FormatError(
    `"${arn}" is not the ARN of a Secrets Manager secret or of a Parameter Store path; ` +
      "write arn:aws:secretsmanager:... or arn:aws:ssm:...:parameter/...",
  );
}

function toJson(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

/** YAML with every text in double quotes, which YAML 1.1 and 1.2 both read as text. */
function yaml(value: unknown): string {
  return stringify(value, {
    defaultStringType: "QUOTE_DOUBLE",
    defaultKeyType: "PLAIN",
    lineWidth: 0,
    aliasDuplicateObjects: false,
  });
}

function nameValuePairs(entries: readonly [string, string][]): { name: string; value: string }[] {
  return entries.map(([name, value]) => ({ name, value }));
}

function mapValues(
  env: Env,
  change: (value: string, name: string) => string,
): Record<string, string> {
  return Object.fromEntries(
    Object.entries(env).map(([name, value]) => [name, change(value, name)]),
  );
}
