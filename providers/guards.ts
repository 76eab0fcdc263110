/**
 * Guards: they refuse an update that would lose files or keys, also in previews. What a guard must
 * know of earlier updates is in records, which are components without children.
 */
import type { Inputs } from "@pulumi/pulumi/output.js";
import {
  ComponentResource,
  ResourceHook,
  type ComponentResourceOptions,
  type ResourceHookArgs,
} from "@pulumi/pulumi/resource.js";
import { getMonitor } from "@pulumi/pulumi/runtime/settings.js";
import * as v from "valibot";
import { ProviderError } from "./contract.ts";

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

/** A component without children. It records what a guard must know of earlier updates. */
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
      'this stack already has a bucket, and adopt = "true" would import one again; ' +
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
  const keys = Object.keys(place).map((key) => [key, v.optional(v.string())] as const);
  const Place = v.object(Object.fromEntries(keys));
  const guarded = guardUpdate(name, options, ({ oldInputs, oldOutputs }) => {
    const [before, real] = [v.safeParse(Place, oldInputs), v.safeParse(Place, oldOutputs)];
    if (!before.success || !real.success) return;
    // A stack of an earlier version may lack a key. The outputs of a failed update lack all.
    const isOther = ([key, value]: [string, string]) =>
      real.output[key] !== undefined && value !== before.output[key] && value !== real.output[key];
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
