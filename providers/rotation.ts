/**
 * Rotation of what authentik signs with. There are two slots for keys, and generation n uses slot
 * n mod 2, so that a rotation never changes the key in use.
 *
 * A component knows its signers: the current one, which authentik gets, and the previous one, if it
 * stays valid. After an update that is complete, authentik has the current one. After a rotation
 * that failed, it still has the last one of the list, because each step keeps that.
 */
import type { Output } from "@pulumi/pulumi/output.js";
import type { ComponentResourceOptions, CustomResource } from "@pulumi/pulumi/resource.js";
import * as v from "valibot";
import { ProviderError } from "./contract.ts";
import { guardUpdate, UpdateRecord, type RecordOptions } from "./guards.ts";

/** The rotation in the config. */
export interface Rotation {
  /** Raised by one to rotate. */
  keyGeneration: number;
  /** Whether the key of the previous generation is deleted. */
  retirePreviousKey: boolean;
}

/** A slot for a key. When its generation changes, its key is replaced. */
export interface KeySlot {
  slot: 0 | 1;
  generation: number;
}

/**
 * The slots that hold a key, the current one first. Raising the generation by one replaces the
 * older key and keeps the key that authentik has.
 */
export function keySlots(rotation: Rotation): [current: KeySlot, previous?: KeySlot] {
  const { keyGeneration, retirePreviousKey } = rotation;
  const current = slotOf(keyGeneration);
  const hasPrevious = keyGeneration > 1 && !retirePreviousKey;
  return hasPrevious ? [current, slotOf(keyGeneration - 1)] : [current];
}

function slotOf(generation: number): KeySlot {
  return { slot: generation % 2 === 0 ? 0 : 1, generation };
}

/** The signer that is the key of this generation. */
export function keySigner(generation: number): string {
  return `key ${generation}`;
}

/** The inputs of a component whose keys rotate. */
export interface RotationInputs extends Rotation {
  /**
   * The signers, the current one first, if they are not just the keys of the rotation. An empty
   * text is a signer that the stack does not create, and so never deletes.
   */
  signers?: string[] | undefined;
}

/** The signers of an update, the current one first. */
export function signersOf({ signers, ...rotation }: RotationInputs): string[] {
  return signers ?? keySlots(rotation).flatMap((key) => (key ? keySigner(key.generation) : []));
}

/**
 * How the last update ended. Of one that failed it may not be known whether it changed the signers:
 * it may have changed something else, when they were complete.
 */
export type LastUpdate = "complete" | "failed" | "failed to change the signers";

/**
 * What is wrong with a step from one rotation to the next, or undefined. authentik uses what it has
 * until it gets the new values, which happens after the update.
 */
export function rotationFault(
  before: RotationInputs,
  after: RotationInputs,
  last: LastUpdate = "complete",
): string | undefined {
  const [from, to] = [signersOf(before), signersOf(after)];
  const [current = "", previous] = from;
  if (from.join("\n") === to.join("\n")) return undefined;
  const isRotation = last === "failed to change the signers";
  if (last === "complete" || previous === undefined) {
    // The first update of a stack failed: authentik has nothing yet.
    const isFirst = isRotation && !before.retirePreviousKey;
    return isFirst ? undefined : stepFault(current, after);
  }
  if (!isRotation) {
    return (
      `the last update failed, so authentik has "${current}" or "${previous}"; keep both keys until an update succeeds: ` +
      `set keyGeneration = "${before.keyGeneration}" and retirePreviousKey = "${before.retirePreviousKey}"`
    );
  }
  if (after.retirePreviousKey && to.join() === previous) return undefined;
  return (
    `the update to "${current}" failed, so authentik still has "${previous}"; complete it with the config that it had, ` +
    `or go back to "${previous}" with retirePreviousKey = "true"`
  );
}

/**
 * What is wrong with a step that would delete the signer in use, or that makes an old key again,
 * and what to do instead. An empty text as the signer is one that the stack never deletes.
 */
function stepFault(used: string, after: RotationInputs): string | undefined {
  if (used === "") return undefined;
  const { keyGeneration, retirePreviousKey } = after;
  const [current = "", previous] = signersOf(after);
  if (current !== used && previous === used) return undefined;
  const [usedKey, currentKey] = [generationOf(used), generationOf(current)];
  if (current === used) {
    const retires =
      `this update would delete the credentials before "${used}"; keep their keys in the config, ` +
      'and set retirePreviousKey = "true" to delete them';
    if (previous === undefined) return retirePreviousKey ? undefined : retires;
    return (
      `this update would create "${previous}" again, and authentik has "${used}"; keep retirePreviousKey = "true" ` +
      "until the update that changes the credentials"
    );
  }
  if (usedKey !== undefined && currentKey !== undefined && currentKey !== usedKey + 1) {
    return (
      `keyGeneration = "${keyGeneration}" would replace the key in use, of generation ${usedKey}; ` +
      `raise it by one: pulumi config set keyGeneration ${usedKey + 1}`
    );
  }
  if (retirePreviousKey) {
    return (
      `retirePreviousKey = "true" would delete "${used}", which authentik has until it gets "${current}"; ` +
      "set it to false, run pulumi up, give authentik the new values, and then retire the previous key"
    );
  }
  const keep =
    usedKey !== undefined
      ? `keep keyGeneration = "${usedKey}" in the config`
      : currentKey !== undefined
        ? 'keep its keys in the config, and set retirePreviousKey = "false"'
        : 'set credentials = "user" first, with its keys still in the config and retirePreviousKey = "false"';
  return (
    `this update would delete "${used}", which authentik has until it gets "${current}"; ${keep}, run pulumi up, ` +
    "give authentik the new values, and then retire what it had before (docs/rotate.md)"
  );
}

function generationOf(signer: string): number | undefined {
  const [, generation] = /^key (\d+)$/.exec(signer) ?? [];
  return generation === undefined ? undefined : Number(generation);
}

const Inputs = v.object({
  keyGeneration: v.number(),
  retirePreviousKey: v.boolean(),
  signers: v.optional(v.array(v.string())),
});

/**
 * Options with which a component refuses a step that `rotationFault` finds, also in previews. The
 * component has the rotation among its inputs, and registers outputs when it is complete: after an
 * update that failed, the engine has the new inputs and no outputs.
 *
 * @param hasTriggers whether keys are replaced by their `replacementTrigger`. Such a component has
 *   `keys` among its outputs.
 */
export function guardRotation(
  component: string,
  options: ComponentResourceOptions = {},
  hasTriggers = false,
): ComponentResourceOptions {
  return guardUpdate(
    `${component}-rotation`,
    options,
    ({ oldInputs, newInputs, oldOutputs = {} }) => {
      const [before, after] = [v.safeParse(Inputs, oldInputs), v.safeParse(Inputs, newInputs)];
      if (!before.success || !after.success) return;
      const isComplete = Object.keys(oldOutputs).length > 0;
      const isRotationAlone = Object.keys(oldInputs ?? {}).every((key) => key in Inputs.entries);
      const failed = isRotationAlone ? "failed to change the signers" : "failed";
      const fault =
        hasTriggers && isComplete && !("keys" in oldOutputs)
          ? earlierStackFault(before.output, after.output)
          : rotationFault(before.output, after.output, isComplete ? "complete" : failed);
      if (fault !== undefined) throw new ProviderError(fault);
    },
  );
}

/**
 * The fault of a step of a stack that an earlier version updated last. It did not ask for the
 * version of the engine. Generation 1 may mean that it has no keys.
 */
function earlierStackFault(before: RotationInputs, after: RotationInputs): string | undefined {
  if (before.keyGeneration === 1 && after.signers) return undefined;
  if (before.keyGeneration === 1 || after.keyGeneration === before.keyGeneration)
    return rotationFault(before, after);
  return (
    `keyGeneration = "${after.keyGeneration}" comes too early: an engine before 3.208 may have made the keys of this stack, ` +
    `and they would not be replaced; run pulumi up with keyGeneration = "${before.keyGeneration}" first`
  );
}

/** The ids of keys, as a component with triggers has them among its outputs as `keys`. */
export function idsOf(keys: Record<string, CustomResource>): Record<string, Output<string>> {
  return Object.fromEntries(Object.entries(keys).map(([generation, { id }]) => [generation, id]));
}

const KeyInputs = v.object({
  keys: v.record(v.string(), v.object({ id: v.string(), urn: v.string() })),
});

/**
 * Records the keys of a component by generation. It refuses a key that has the id of another
 * generation: the engine did not replace it. Then the record stays as it was, so that the next
 * update refuses it too.
 *
 * @param component the name of the component that has the keys
 */
export function recordKeys(
  type: string,
  component: string,
  keys: Record<string, CustomResource>,
  options: RecordOptions,
): UpdateRecord {
  const entries = Object.entries(keys);
  const ids = Object.fromEntries(
    entries.map(([generation, { id, urn }]) => [generation, { id, urn }]),
  );
  const name = `${component}-keys`;
  const guarded = guardUpdate(name, options, ({ oldInputs, newInputs }) => {
    const [before, after] = [v.safeParse(KeyInputs, oldInputs), v.safeParse(KeyInputs, newInputs)];
    if (before.success && after.success) checkReplaced(before.output.keys, after.output.keys);
  });
  const record = new UpdateRecord(type, name, { keys: ids }, guarded);
  record.complete({});
  return record;
}

type KeyIds = v.InferOutput<typeof KeyInputs>["keys"];

function checkReplaced(before: KeyIds, after: KeyIds): void {
  for (const [generation, { id, urn }] of Object.entries(after)) {
    const [other] =
      Object.entries(before).find(([other, key]) => key.id === id && other !== generation) ?? [];
    if (other === undefined) continue;
    throw new ProviderError(
      `the key of generation ${generation} is still that of generation ${other}: the engine did not replace it; ` +
        `run pulumi up --replace '${urn}'`,
    );
  }
}
