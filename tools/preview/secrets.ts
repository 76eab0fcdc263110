/**
 * Redacts the secrets of the environment in everything that is shown. The plan is judged before, with
 * the text that the engine wrote.
 */
import { parseUrl } from "../../authentik/url-parts.ts";
import { SECRET, type EngineEvent } from "./plan.ts";

export type Redact = (text: string) => string;

/** A shorter value is more likely a word than a secret. */
const MIN_SECRET_LENGTH = 8;

/**
 * How the engine ends a message about an update that is not as planned
 * (pulumi/pulumi, `pkg/resource/deploy/step_generator.go`). It quotes the plan's secrets in plain
 * text if the stack no longer has them.
 */
const PLAN_VIOLATION = /violates plan:[^]*/;

/**
 * The variables with a secret that Pulumi, the providers, the backends of the state and GitHub's
 * runner read, by the documentation of each. A word in a name decides nothing: KEYCLOAK_URL has no
 * secret.
 */
export const SECRET_VARIABLES: readonly string[] = [
  "PULUMI_ACCESS_TOKEN",
  "PULUMI_CONFIG_PASSPHRASE",
  "AWS_ACCESS_KEY_ID",
  "AWS_SECRET_ACCESS_KEY",
  "AWS_SESSION_TOKEN",
  "AWS_CONTAINER_AUTHORIZATION_TOKEN",
  "CLOUDFLARE_API_TOKEN",
  "CLOUDFLARE_API_KEY",
  "ARM_CLIENT_SECRET",
  "ARM_CLIENT_CERTIFICATE_PASSWORD",
  "ARM_OIDC_TOKEN",
  "ARM_OIDC_REQUEST_TOKEN",
  "AZURE_CLIENT_SECRET",
  "AZURE_CLIENT_CERTIFICATE_PASSWORD",
  "AZURE_STORAGE_KEY",
  "AZURE_STORAGE_SAS_TOKEN",
  "AZURE_STORAGE_CONNECTION_STRING",
  "GOOGLE_CREDENTIALS",
  "GOOGLE_OAUTH_ACCESS_TOKEN",
  "VAULT_TOKEN",
  "GITHUB_TOKEN",
  "GH_TOKEN",
  "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
  "ACTIONS_RUNTIME_TOKEN",
];

/**
 * Redacts the secrets of the environment, which a server or a provider may quote in an error: the
 * values of `SECRET_VARIABLES`, and the password in any URL. The engine redacts the secrets of the
 * stack's config and state.
 */
export function redactor(env: NodeJS.ProcessEnv): Redact {
  const values = [
    ...SECRET_VARIABLES.map((name) => env[name] ?? ""),
    ...Object.values(env).flatMap((value = "") => passwordsOf(value)),
  ];
  const secrets = values.flatMap((value) =>
    value.length >= MIN_SECRET_LENGTH ? [value, JSON.stringify(value).slice(1, -1)] : [],
  );
  const longestFirst = [...new Set(secrets)].sort((left, right) => right.length - left.length);
  return (text) =>
    longestFirst
      .reduce((redacted, secret) => redacted.replaceAll(secret, SECRET), text)
      .replace(PLAN_VIOLATION, "violates the plan: something has changed since it was made");
}

/** The password of a URL, as it is written there and decoded. */
function passwordsOf(value: string): string[] {
  if (!/^[a-z][a-z0-9+.-]*:\/\/[^/]*@/i.test(value)) return [];
  const password = parseUrl(value)?.password;
  if (password === undefined) return [];
  try {
    return [password, decodeURIComponent(password)];
  } catch {
    return [password];
  }
}

export interface RedactOptions {
  /** Whether names of properties are data too, and not only a fixed structure. */
  names?: boolean;
  /** Properties that stay as they are. */
  except?: readonly string[];
}

/**
 * A copy in which every string is redacted, at any depth. A property that is added later is
 * therefore redacted too, unless it is in `except`.
 */
export function redactDeep<T extends object>(
  value: T,
  redact: Redact,
  options: RedactOptions = {},
): T {
  const copy = structuredClone(value);
  redactIn(copy, redact, options);
  return copy;
}

function redactIn(target: object, redact: Redact, options: RedactOptions): void {
  const { names = false, except = [] } = options;
  for (const [key, value] of Object.entries(target)) {
    if (except.includes(key)) continue;
    const name = names && !Array.isArray(target) ? redact(key) : key;
    if (name !== key) Reflect.deleteProperty(target, key);
    Reflect.set(target, name, redactValue(value, redact, options));
  }
}

function redactValue(value: unknown, redact: Redact, options: RedactOptions): unknown {
  if (typeof value === "string") return redact(value);
  // A secret of digits alone may have become a number.
  if (typeof value === "number") return redact(String(value)) === String(value) ? value : SECRET;
  if (typeof value === "object" && value !== null) redactIn(value, redact, options);
  return value;
}

/**
 * The event without secrets in the properties of its resource, before any of them is shortened.
 * Everything else is redacted in the report, after the plan was judged: a secret may be a part of a
 * type's name.
 */
export function redactEvent(event: EngineEvent, redact: Redact): EngineEvent {
  const { resourcePreEvent, resOutputsEvent } = event;
  return {
    ...event,
    ...(resourcePreEvent && { resourcePreEvent: redactStep(resourcePreEvent, redact) }),
    ...(resOutputsEvent && { resOutputsEvent: redactStep(resOutputsEvent, redact) }),
  };
}

type StepEvent = NonNullable<EngineEvent["resourcePreEvent"]>;
type EventState = StepEvent["metadata"]["old"];

function redactStep({ metadata }: StepEvent, redact: Redact): StepEvent {
  const redactState = (state: EventState) =>
    state && {
      ...state,
      inputs: redactDeep(state.inputs, redact, { names: true }),
      outputs: redactDeep(state.outputs, redact, { names: true }),
    };
  return {
    metadata: { ...metadata, old: redactState(metadata.old), new: redactState(metadata.new) },
  };
}
