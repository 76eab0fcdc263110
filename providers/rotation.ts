/**
 * Rotation of authentik's keys. There are two slots, and generation n uses slot n mod 2, so that a
 * rotation never changes the key in use.
 */
import type { ComponentResourceOptions } from "@pulumi/pulumi/resource.js";
import * as v from "valibot";
import { guardUpdate } from "./contract.ts";

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

/**
 * What is wrong with a step from one rotation to the next, or undefined. authentik uses the key of
 * `before.keyGeneration` until it gets the new key, which happens after the update.
 */
export function rotationFault(before: Rotation, after: Rotation): string | undefined {
  const step = after.keyGeneration - before.keyGeneration;
  if (step === 0) return undefined;
  if (step !== 1) {
    return (
      `keyGeneration = "${after.keyGeneration}" would replace the key in use, of generation ${before.keyGeneration}; ` +
      `raise it by one: pulumi config set keyGeneration ${before.keyGeneration + 1}`
    );
  }
  if (after.retirePreviousKey) {
    return (
      `retirePreviousKey = "true" would delete the key in use while keyGeneration becomes ${after.keyGeneration}; ` +
      "set it to false, run pulumi up, give authentik the new values, and then retire the key"
    );
  }
  return undefined;
}

/**
 * Options with which a component refuses a step that `rotationFault` finds, also in previews. The
 * rotation must be among the component's inputs: the engine keeps the inputs of the last update.
 */
export function guardRotation(
  component: string,
  options: ComponentResourceOptions = {},
): ComponentResourceOptions {
  return guardUpdate(`${component}-rotation`, options, ({ oldInputs, newInputs }) => {
    const [before, after] = [rotationOf(oldInputs), rotationOf(newInputs)];
    const fault = before && after && rotationFault(before, after);
    if (fault !== undefined) throw new Error(fault);
  });
}

const RotationInputs = v.object({ keyGeneration: v.number(), retirePreviousKey: v.boolean() });

function rotationOf(inputs: unknown): Rotation | undefined {
  const parsed = v.safeParse(RotationInputs, inputs);
  return parsed.success ? parsed.output : undefined;
}
