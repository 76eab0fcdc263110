/** Rotation of authentik's keys: two slots of which generation n takes slot n mod 2, so that one of them is never touched. */
import { ResourceHook, type ComponentResourceOptions } from "@pulumi/pulumi/resource.js";
import { getMonitor } from "@pulumi/pulumi/runtime/settings.js";

/** What the config says of the keys. */
export interface Rotation {
  /** Raised by one to rotate. */
  keyGeneration: number;
  /** Whether the key of the generation before is gone. */
  retirePreviousKey: boolean;
}

/** A place for a key. Its key is made anew whenever its generation changes. */
export interface KeySlot {
  slot: 0 | 1;
  generation: number;
}

/**
 * The slots that hold a key, the current one first. Raising the generation by one makes the older of the two keys anew and
 * leaves the one that authentik has.
 */
export function keySlots({ keyGeneration, retirePreviousKey }: Rotation): [current: KeySlot, previous?: KeySlot] {
  const current = slotOf(keyGeneration);
  return keyGeneration === 1 || retirePreviousKey ? [current] : [current, slotOf(keyGeneration - 1)];
}

function slotOf(generation: number): KeySlot {
  return { slot: generation % 2 === 0 ? 0 : 1, generation };
}

/**
 * What a step from one rotation to the next would break, or undefined: authentik has the key of `before.keyGeneration`
 * until it is handed the new one, which is after the update.
 */
export function rotationFault(before: Rotation, after: Rotation): string | undefined {
  const step = after.keyGeneration - before.keyGeneration;
  if (step === 0) return undefined;
  if (step !== 1) {
    return (
      `keyGeneration = "${after.keyGeneration}" would replace the key that authentik has, of generation ${before.keyGeneration}; ` +
      `raise it by one: pulumi config set keyGeneration ${before.keyGeneration + 1}`
    );
  }
  if (after.retirePreviousKey) {
    return (
      `retirePreviousKey = "true" would delete the key that authentik has while keyGeneration goes to ${after.keyGeneration}; ` +
      "set it to false, run pulumi up, hand the new values to authentik, and retire the key then"
    );
  }
  return undefined;
}

/**
 * Options that keep a component from a step that `rotationFault` finds, in previews already. The component has to have
 * the rotation among its inputs: the engine remembers those of the last update.
 */
export function guardRotation(component: string, options: ComponentResourceOptions = {}): ComponentResourceOptions {
  // The monitor of `setMocks` knows no hooks: a program under test would wait for their registration for ever.
  if (!("registerResourceHook" in (getMonitor() ?? {}))) return options;
  const guard = new ResourceHook(
    `${component}-rotation`,
    ({ oldInputs, newInputs }) => {
      const [before, after] = [rotationOf(oldInputs), rotationOf(newInputs)];
      const fault = before && after && rotationFault(before, after);
      if (fault !== undefined) throw new Error(fault);
    },
    { onDryRun: true },
  );
  return { ...options, hooks: { ...options.hooks, beforeUpdate: [guard, ...(options.hooks?.beforeUpdate ?? [])] } };
}

function rotationOf(inputs: unknown): Rotation | undefined {
  if (typeof inputs !== "object" || inputs === null || !("keyGeneration" in inputs) || !("retirePreviousKey" in inputs)) return undefined;
  const { keyGeneration, retirePreviousKey } = inputs;
  return typeof keyGeneration === "number" && typeof retirePreviousKey === "boolean" ? { keyGeneration, retirePreviousKey } : undefined;
}
