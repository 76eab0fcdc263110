/** authentik's variables in the forms in which people hand them over. */
import { stringify } from "yaml";
import { isCredential } from "../../authentik/env.ts";
import { quoteDotenv } from "../lib/dotenv.ts";

export const FORMATS = ["dotenv", "compose", "helm", "secret", "ecs", "json"] as const;
export type Format = (typeof FORMATS)[number];

/**
 * Where authentik's Helm chart has the credentials: in a Secret of ours that reaches the pods beside the chart's own, in the
 * Secret that replaces the chart's own, or in the values.
 */
export const KEYS_IN = ["env-from", "existing-secret", "values"] as const;
export type KeysIn = (typeof KEYS_IN)[number];

/** What a form needs beside the variables. */
export interface FormatOptions {
  /** For `helm` and `secret`. */
  keysIn: KeysIn;
  /** Name of the Kubernetes Secret. */
  secretName: string;
  /** For `helm`: an AWS role that the service account takes on, where authentik has no keys. */
  roleArn?: string | undefined;
  /** For `ecs`: a Secrets Manager secret whose JSON has the variables, or the path of Parameter Store parameters named like them. */
  secretArn?: string | undefined;
}

export const DEFAULT_OPTIONS = { keysIn: "env-from", secretName: "authentik-storage" } as const satisfies FormatOptions;

/** What a form cannot carry, or lacks. The message names the variable, never its value. */
export class FormatError extends Error {
  override name = "FormatError";
}

type Env = Readonly<Record<string, string>>;

/**
 * The text of a form.
 *
 * @throws FormatError
 */
export function formatEnv(env: Env, format: Format, options: FormatOptions = DEFAULT_OPTIONS): string {
  return formatters[format](env, options);
}

const formatters: Readonly<Record<Format, (env: Env, options: FormatOptions) => string>> = {
  dotenv: (env) => Object.entries(dotenvLines(env)).map(([name, line]) => `${name}=${line}\n`).join(""),
  compose,
  helm,
  secret,
  ecs,
  json: (env) => `${JSON.stringify(env, undefined, 2)}\n`,
};

/** Each variable's value as a `.env` file has it. */
export function dotenvLines(env: Env): Record<string, string> {
  return Object.fromEntries(Object.entries(env).map(([name, value]) => {
    const line = quoteDotenv(name, value);
    if (line === undefined) {
      throw new FormatError(`${name} cannot be carried by a .env file that Compose and shells read alike: its value has quotes, a newline or a backslash at its end`);
    }
    return [name, line];
  }));
}

/** All texts in double quotes: no YAML, old or new, reads those as anything but text. */
function yaml(value: unknown): string {
  return stringify(value, { defaultStringType: "QUOTE_DOUBLE", defaultKeyType: "PLAIN", lineWidth: 0, aliasDuplicateObjects: false });
}

/** An override file for authentik's `docker-compose.yml`, whose server and worker both need the variables. */
function compose(env: Env): string {
  // Compose replaces `$NAME` in its files; `$$` is a dollar sign.
  const environment = mapValues(env, (value) => value.replaceAll("$", "$$$$"));
  return yaml({ services: { server: { environment }, worker: { environment } } });
}

/** Values for the chart `authentik` of charts.goauthentik.io. */
function helm(env: Env, { keysIn, secretName, roleArn }: FormatOptions): string {
  const credentials = Object.keys(env).filter(isCredential);
  if (roleArn !== undefined && credentials.length > 0) {
    throw new FormatError(`${credentials.join(", ")} would be used instead of the role; leave the keys out of the stack, or the role out of the values`);
  }
  return yaml({ ...helmVariables(env, keysIn, secretName), ...(roleArn === undefined ? {} : helmServiceAccount(roleArn)) });
}

function helmVariables(env: Env, keysIn: KeysIn, secretName: string): Record<string, unknown> {
  // The chart then ignores all other values below `authentik`, so the Secret has to have every variable.
  if (keysIn === "existing-secret") return { authentik: { existingSecret: { secretName } } };
  const hasSecret = keysIn === "env-from" && Object.keys(env).some(isCredential);
  const clear = Object.entries(env).filter(([name]) => !hasSecret || !isCredential(name));
  const own = clear.filter(([name]) => name.startsWith("AUTHENTIK_"));
  const others = clear.filter(([name]) => !name.startsWith("AUTHENTIK_")).map(([name, value]) => ({ name, value }));
  const global = {
    ...(others.length > 0 ? { env: others } : {}),
    ...(hasSecret ? { envFrom: [{ secretRef: { name: secretName } }] } : {}),
  };
  return { ...(Object.keys(global).length > 0 ? { global } : {}), authentik: helmTree(own) };
}

/** `AUTHENTIK_STORAGE__S3__REGION` as `storage.s3.region`, of which the chart makes the same name again. */
function helmTree(variables: readonly (readonly [string, string])[]): Tree {
  const tree: Tree = {};
  for (const [name, value] of variables) {
    const path = name.slice("AUTHENTIK_".length).toLowerCase().split("__");
    const last = path.pop() ?? "";
    let branch = tree;
    for (const part of path) {
      const next = branch[part];
      branch = typeof next === "object" ? next : (branch[part] = {});
    }
    // The chart passes values through `tpl`.
    branch[last] = value.replaceAll("{{", '{{ "{{" }}');
  }
  return tree;
}

interface Tree {
  [key: string]: string | Tree;
}

/** The chart's own service account reaches the worker alone, unless the server names it (goauthentik/helm issue 472). */
function helmServiceAccount(roleArn: string): Record<string, unknown> {
  const name = "authentik";
  return {
    server: { serviceAccountName: name },
    serviceAccount: { create: true, fullnameOverride: name, annotations: { "eks.amazonaws.com/role-arn": roleArn } },
  };
}

/** The Secret that `helm` refers to: the credentials, or every variable where it replaces the chart's own. */
function secret(env: Env, { keysIn, secretName }: FormatOptions): string {
  const stringData = Object.fromEntries(Object.entries(env).filter(([name]) => keysIn !== "env-from" || isCredential(name)));
  if (Object.keys(stringData).length === 0) {
    throw new FormatError("there are no keys to put into a Secret; with a role use the format helm with --role-arn");
  }
  return yaml({ apiVersion: "v1", kind: "Secret", metadata: { name: secretName }, type: "Opaque", stringData });
}

/** The `environment` and `secrets` of a container definition. */
function ecs(env: Env, { secretArn }: FormatOptions): string {
  const entries = Object.entries(env);
  const environment = entries.filter(([name]) => !isCredential(name)).map(([name, value]) => ({ name, value }));
  const secrets = entries.filter(([name]) => isCredential(name)).map(([name]) => ({ name, valueFrom: reference(name, secretArn) }));
  return `${JSON.stringify({ environment, secrets }, undefined, 2)}\n`;
}

function reference(name: string, arn: string | undefined): string {
  if (arn === undefined) {
    throw new FormatError(`${name} is a key, which a task takes by reference; name the secret that has it with --secret-arn`);
  }
  if (/^arn:[^:]+:secretsmanager:/.test(arn)) return `${arn}:${name}::`;
  if (/^arn:[^:]+:ssm:[^:]*:[^:]*:parameter\//.test(arn)) return `${arn.replace(/\/$/, "")}/${name}`;
  throw new FormatError(`"${arn}" is the ARN neither of a Secrets Manager secret nor of a Parameter Store path; write arn:aws:secretsmanager:... or arn:aws:ssm:...:parameter/...`);
}

function mapValues(env: Env, change: (value: string) => string): Record<string, string> {
  return Object.fromEntries(Object.entries(env).map(([name, value]) => [name, change(value)]));
}
