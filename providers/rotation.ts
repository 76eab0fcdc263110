/**
 * Rotation of what authentik signs with. There are two slots for keys, and generation n uses slot
 * n mod 2, so that a rotation never changes the key in use.
 *
 * A component knows its signers: the current one, which authentik gets, and the previous one, if it
 * stays valid. After an update that ended, authentik has the current one. After an update that
 * failed, it still has the last one of the list, because each step keeps that.
 */
import type { ComponentResourceOptions } from "@pulumi/pulumi/resource.js";
import * as v from "valibot";
import { guardUpdate, ProviderError } from "./contract.ts";

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
 * What is wrong with a step from one rotation to the next, or undefined. authentik uses what it has
 * until it gets the new values, which happens after the update.
 *
 * @param isComplete whether the update to `before` ended
 */
export function rotationFault(
  before: RotationInputs,
  after: RotationInputs,
  isComplete = true,
): string | undefined {
  const [from, to] = [signersOf(before), signersOf(after)];
  // The first update of a stack failed: authentik has nothing yet.
  if (!isComplete && from.length === 1 && !before.retirePreviousKey) return undefined;
  const used = from.at(isComplete ? 0 : -1);
  if (!used || from.join("\n") === to.join("\n")) return undefined;
  if (after.retirePreviousKey && to.length === 1 && to[0] === used) return undefined;
  if (!isComplete && from.length > 1) {
    const failed = from.filter((signer) => signer !== used).join();
    return (
      `the update to "${failed}" failed, so authentik still has "${used}"; complete it with the config that it had, ` +
      `or go back to "${used}" with retirePreviousKey = "true"`
    );
  }
  return to[0] !== used && to[1] === used ? undefined : stepFault(used, after);
}

/** What to do instead of a step that would delete the signer in use, or that makes an old key again. */
function stepFault(used: string, after: RotationInputs): string {
  const { keyGeneration, retirePreviousKey } = after;
  const [current = "", previous] = signersOf(after);
  const [usedKey, currentKey] = [generationOf(used), generationOf(current)];
  if (current === used) {
    return previous === undefined
      ? `only retirePreviousKey = "true" deletes what authentik had before "${used}"; keep its keys in the config, and set that`
      : `this update would create "${previous}" beside "${used}", which authentik has; keep retirePreviousKey = "true" ` +
          "until the update that changes what authentik has";
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

/** The ids of a component's keys, by generation. A component has them among its outputs as `keys`. */
export type KeyIds = Record<string, string>;

const Inputs = v.object({
  keyGeneration: v.number(),
  retirePreviousKey: v.boolean(),
  signers: v.optional(v.array(v.string())),
});
const Outputs = v.looseObject({ keys: v.optional(v.record(v.string(), v.string())) });

/**
 * Options with which a component refuses a step that `rotationFault` finds, also in previews. The
 * component's inputs are `RotationInputs`, and it registers outputs when it is complete: after an
 * update that failed, the engine has the new inputs and no outputs.
 *
 * @param known gets the ids of the keys before this update, for `checkReplaced`
 */
export function guardRotation(
  component: string,
  options: ComponentResourceOptions = {},
  known?: { keys?: KeyIds },
): ComponentResourceOptions {
  return guardUpdate(`${component}-rotation`, options, ({ oldInputs, newInputs, oldOutputs }) => {
    const [before, after] = [v.safeParse(Inputs, oldInputs), v.safeParse(Inputs, newInputs)];
    if (!before.success || !after.success) return;
    const outputs = v.parse(Outputs, oldOutputs ?? {});
    const isComplete = Object.keys(outputs).length > 0;
    const fault =
      known && isComplete && !outputs.keys
        ? earlierStackFault(before.output, after.output)
        : rotationFault(before.output, after.output, isComplete);
    if (fault !== undefined) throw new ProviderError(fault);
    if (known && outputs.keys) known.keys = outputs.keys;
  });
}

/**
 * The fault of a step of a stack that an earlier version updated last. It did not keep the ids of
 * the keys. Generation 1 may mean that it has no keys.
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

/**
 * Checks that a key of this generation is a new one.
 *
 * @param before the ids before this update
 * @throws ProviderError if the key has the id of another generation: the engine did not replace it
 */
export function checkReplaced(
  before: KeyIds | undefined,
  key: { generation: number; id: string; urn: string },
): void {
  const [generation] =
    Object.entries(before ?? {}).find(([generation, id]) => {
      return id === key.id && generation !== String(key.generation);
    }) ?? [];
  if (generation === undefined) return;
  throw new ProviderError(
    `the key of generation ${key.generation} is still that of generation ${generation}: the engine did not replace it; ` +
      `run pulumi up --replace '${key.urn}'`,
  );
}
