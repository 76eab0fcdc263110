/** What every provider's file provides. */
import { RunError } from "@pulumi/pulumi/errors.js";
import type { Inputs, Output } from "@pulumi/pulumi/output.js";
import {
  ComponentResource,
  ResourceHook,
  type ComponentResourceOptions,
  type ResourceHookArgs,
} from "@pulumi/pulumi/resource.js";
import { getMonitor } from "@pulumi/pulumi/runtime/settings.js";
import * as v from "valibot";
import type { AddressingStyle } from "../authentik/env.ts";
import { parseProvider, type CommonConfig, type ProviderConfig } from "../config/common.ts";
import type { ConfigReader } from "../config/index.ts";
import type { Retention } from "./retention.ts";

/** What authentik signs with: keys, the name of an AWS profile, or nothing if it has a role. */
export interface Credentials {
  accessKey?: string | undefined;
  secretKey?: string | undefined;
  sessionToken?: string | undefined;
  sessionProfile?: string | undefined;
}

/** A bucket that authentik can use. Each provider's component resource is one. */
export interface AuthentikStorage {
  readonly bucketName: Output<string>;
  /** The region that requests are signed for; undefined if the server needs none. */
  readonly region: Output<string | undefined>;
  /** URL of the S3 API, without the bucket. */
  readonly endpoint: Output<string>;
  /** The host from which browsers load files, without scheme, with the bucket. The default is the endpoint. */
  readonly customDomain?: Output<string> | undefined;
  /** Where everybody could read the files if somebody turned that on at the provider. */
  readonly publicUrl?: Output<string> | undefined;
  /** What authentik signs with. Always a Pulumi secret. */
  readonly credentials: Output<Credentials>;
  /** The AWS role that authentik's pods assume, if the provider creates one. */
  readonly roleArn?: Output<string> | undefined;
  /** The Kubernetes service accounts that may have the role, as `namespace/name`. */
  readonly serviceAccounts?: readonly string[] | undefined;
  /** Where the bucket is in URLs, for releases with that setting; undefined leaves it to boto3. */
  readonly addressingStyle?: AddressingStyle | undefined;
}

/** The provider of a stack, chosen and configured. */
export interface Chosen<Config> {
  config: Config;
  /** Registers the storage that the config describes, below one component of this name. */
  provision: (name: string) => AuthentikStorage;
}

/** What the tools and the policies know of a type of resources. */
export interface ResourceType {
  /** What a reviewer calls it, e.g. `CORS policy`. */
  label: string;
  /** Whether it holds authentik's files: deleting or replacing it deletes them. False by default. */
  holdsFiles?: boolean;
  /** The properties that have the name of the bucket, where the resource is the bucket. */
  bucketName?: readonly string[];
  /**
   * The settings that decide for how long files are kept. A plan that shortens that needs the same
   * label as a deletion.
   */
  keeps?: readonly Retention[];
}

/**
 * What a provider cannot do, and what the user can change. A `RunError`, so that the engine shows
 * its message and no stack. Throw nothing else in an `apply`: on Node 20 and 22 the SDK takes up to
 * two minutes to print a stack (pulumi/pulumi issue 20567).
 */
export class ProviderError extends RunError {
  override name = "ProviderError";
  constructor(message: string, cause?: unknown) {
    super(message);
    this.cause = cause;
    this.stack = "";
  }
}

/**
 * What a provider's function (an `invoke`) answers.
 *
 * @param what what is looked up, e.g. `the permission groups of the account`
 * @param todo what to do when this fails, with the key of the setting
 * @throws ProviderError with both and the provider's reason
 */
export async function lookUp<Answer>(
  what: string,
  todo: string,
  call: () => Promise<Answer>,
): Promise<Answer> {
  try {
    return await call();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ProviderError(`could not look up ${what} (${reason}); ${todo}`, error);
  }
}

/** What a provider's file exports by default. */
export interface Provider<Config, Type extends string = string>
  extends ConfigReader<Chosen<Config>> {
  /**
   * Every type of resources that the provider registers, its component included, and those that
   * keep files and that a change to the program may add, by type token.
   */
  resources: Readonly<Record<Type, ResourceType>>;
}

/** A provider: its part of the config, the types of its resources, and what it makes of the config. */
interface Definition<Keys extends v.ObjectEntries, Config, Type extends string>
  extends ProviderConfig<Keys, Config> {
  /** Every type of resources that `provision` registers, its component included, by type token. */
  resources: Readonly<Record<Type, ResourceType>>;
  /** Creates the component. The names of its resources begin with the component's name. */
  provision: (name: string, config: Config) => AuthentikStorage;
}

/** Binds a provider's config to its component. */
export function defineProvider<
  Keys extends v.ObjectEntries,
  Config extends CommonConfig & { provider: string },
  Type extends string,
>({ resources, provision, ...own }: Definition<Keys, Config, Type>): Provider<Config, Type> {
  return {
    keys: own.keys,
    resources,
    parse: (values, report) => {
      const config = parseProvider(own, values, report);
      return config && { config, provision: (name) => provision(name, config) };
    },
  };
}

/**
 * Options with which a component refuses an update, also in previews.
 *
 * @param check throws an error for an update that is refused
 */
export function guardUpdate(
  name: string,
  options: ComponentResourceOptions,
  check: (args: ResourceHookArgs) => void,
): ComponentResourceOptions {
  // The monitor of `setMocks` does not support hooks. A program under test would never end.
  if (!("registerResourceHook" in (getMonitor() ?? {}))) return options;
  const guard = new ResourceHook(name, check, { onDryRun: true });
  const beforeUpdate = [guard, ...(options.hooks?.beforeUpdate ?? [])];
  return { ...options, hooks: { ...options.hooks, beforeUpdate } };
}

/** A component without children, which records what a guard has to know of the updates before. */
export class UpdateRecord extends ComponentResource {
  /** Says that the update is complete, once the outputs are known. */
  complete(outputs: Inputs): void {
    this.registerOutputs(outputs);
  }
}

/** Options of a record: its component, and the protection of the bucket, so that neither is deleted without the other. */
export type RecordOptions = Required<Pick<ComponentResourceOptions, "parent" | "protect">>;

const AdoptionInputs = v.object({ adopted: v.string() });

/**
 * Options with which a component refuses to import a bucket while it has one, also in previews. The
 * engine would import it a second time and then delete the first, which may be the same bucket, and
 * `protect` does not prevent that. A component has outputs once an update was complete. Its input
 * `adopted` is the id that is imported, or an empty text.
 */
export function guardAdoption(
  component: string,
  options: ComponentResourceOptions,
): ComponentResourceOptions {
  return guardUpdate(`${component}-adoption`, options, ({ oldInputs, newInputs, oldOutputs }) => {
    const [before, after] = [oldInputs, newInputs].map((inputs) => {
      const parsed = v.safeParse(AdoptionInputs, inputs);
      return parsed.success ? parsed.output.adopted : undefined;
    });
    if (before === undefined || !after || before === after) return;
    if (!v.is(v.object({ bucketName: v.string() }), oldOutputs)) return;
    throw new ProviderError(
      'adopt = "true" would import a bucket again that this stack has, or another one in its place; ' +
        "remove adopt, or adopt the other bucket in a new stack",
    );
  });
}

/**
 * Records what a component has adopted, with the guard of adoptions. The engine drops the outputs of
 * a component when an update with other inputs fails. This one has no other inputs, so it knows
 * after any failed update that the stack has a bucket. What is imported must wait for its URN. The
 * component has the guard, too, for stacks that have no record yet.
 */
export function recordAdoption(
  type: string,
  component: string,
  adopted: string,
  options: RecordOptions,
): UpdateRecord {
  const name = `${component}-adoption`;
  return new UpdateRecord(type, name, { adopted }, guardAdoption(name, options));
}

const ProtectInputs = v.object({ protect: v.optional(v.boolean(), true) });

/**
 * Options with which a component refuses, also in previews, another bucket while the present one is
 * protected. The engine would create the other one first. Without `protect` in the state, an
 * earlier version has made the last update. Its resources have to get their names first.
 *
 * A component has outputs once an update was complete.
 *
 * @param place where the bucket is, by the names of the component's outputs
 * @param keys the keys of the config that say that
 */
export function guardProtected(
  component: string,
  place: Record<string, string>,
  keys: string,
  options: ComponentResourceOptions,
): ComponentResourceOptions {
  const names = Object.keys(place);
  const Outputs = v.object(Object.fromEntries(names.map((name) => [name, v.string()])));
  return guardUpdate(`${component}-protected`, options, ({ oldInputs, oldOutputs }) => {
    const old = v.safeParse(ProtectInputs, oldInputs);
    const outputs = v.safeParse(Outputs, oldOutputs);
    if (!old.success || !outputs.success || !old.output.protect) return;
    const [from, to] = [outputs.output, place].map((at) => names.map((name) => at[name]).join("/"));
    if (from === to) return;
    throw new ProviderError(
      `${keys} would replace the protected bucket ${from} by ${to}; ` +
        "write the old value back, set protect to false, run pulumi up, and then change it",
    );
  });
}

const Place = v.record(v.string(), v.string());

/**
 * Records where a stack's storage is, by the keys of the config. Its guard refuses another place:
 * the stack would get an empty bucket there, or delete what authentik uses, and no way back.
 *
 * @param place the keys with their values. Its outputs, once an update is complete, have the real
 *   value of a key that was empty.
 */
export function recordPlace(
  type: string,
  component: string,
  place: Record<string, string>,
  options: RecordOptions,
): UpdateRecord {
  const name = `${component}-place`;
  const guarded = guardUpdate(name, options, ({ oldInputs, oldOutputs }) => {
    const [before, real] = [v.safeParse(Place, oldInputs), v.safeParse(Place, oldOutputs)];
    if (!before.success || !real.success) return;
    const isOther = ([key, value]: [string, string]) =>
      key in real.output && value !== before.output[key] && value !== real.output[key];
    const changed = Object.entries(place).filter(isOther);
    if (changed.length === 0) return;
    const values = changed.map(([key]) => `${key} = "${real.output[key] ?? ""}"`).join(" and ");
    throw new ProviderError(
      `the storage of a stack stays where it is; write ${values} back; ` +
        "to move, create another stack and copy the files (docs/move.md)",
    );
  });
  return new UpdateRecord(type, name, place, guarded);
}
