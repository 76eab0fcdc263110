/** Runs the policies on recorded resources as the policy framework does: each rule by itself, unknown values in between. */
import type { PolicyResource, PolicyResourceOptions } from "@pulumi/policy";
import { unknownCheckingProxy, UnknownValueError } from "@pulumi/policy/proxy.js";
import { policies } from "../../policy/policies.ts";
import type { Recorded } from "./recorder.ts";

declare module "@pulumi/policy/proxy.js" {
  /** Part of the framework, but stripped from its types: what makes reading an unknown value an error. */
  function unknownCheckingProxy(props: Record<string, unknown>): Record<string, unknown>;
  class UnknownValueError extends Error {}
}

export interface Violation {
  policy: string;
  message: string;
}

/** What the policies find, and which of them could not check because of a value that is not known yet. */
export interface Judgement {
  violations: Violation[];
  unknown: Violation[];
}

/** Checks each resource and then the stack. */
export async function check(resources: readonly Recorded[]): Promise<Judgement> {
  const violations: Violation[] = [];
  const unknown: Violation[] = [];
  const attempt = async (
    policy: string,
    work: (report: (message: string) => void) => Promise<void> | void,
  ) => {
    try {
      await work((message) => violations.push({ policy, message }));
    } catch (error) {
      if (!(error instanceof UnknownValueError)) throw error;
      unknown.push({ policy, message: error.message });
    }
  };
  const planned = resources.map((resource) => policyResource(resource, resource.inputs));
  const stack = stackOf(resources);
  for (const { name: policy, validateResource, validateStack } of policies) {
    for (const resource of planned) {
      for (const validate of validateResource)
        await attempt(policy, (report) =>
          validate({ ...resource, ...COMMON, asType: () => undefined }, report),
        );
    }
    if (validateStack)
      await attempt(policy, (report) => validateStack({ resources: stack, ...COMMON }, report));
  }
  return { violations, unknown };
}

const COMMON = {
  stackTags: new Map<string, string>(),
  getConfig: (): never => {
    throw new Error("no policy here has a config");
  },
  notApplicable: (): never => {
    throw new Error("no policy here says that it is not applicable");
  },
};

function stackOf(resources: readonly Recorded[]): PolicyResource[] {
  // Without what a test has changed among the inputs they would not be what the cloud answers.
  const all = resources.map((resource) =>
    policyResource(resource, { ...resource.outputs, ...resource.inputs }),
  );
  for (const [index, { options }] of resources.entries()) {
    all[index]?.dependencies.push(...all.filter(({ name }) => options.dependsOn?.includes(name)));
  }
  return all;
}

function policyResource(
  { type, name, options }: Recorded,
  props: Record<string, unknown>,
): PolicyResource {
  const opts: PolicyResourceOptions = {
    protect: options.protect ?? false,
    ignoreChanges: [],
    aliases: [],
    additionalSecretOutputs: [],
    customTimeouts: { createSeconds: 0, updateSeconds: 0, deleteSeconds: 0 },
  };
  return {
    type,
    name,
    opts,
    urn: `urn:pulumi:test::authentik-storage::${type}::${name}`,
    props: unknownCheckingProxy(props),
    dependencies: [],
    propertyDependencies: {},
    isType: () => false,
    asType: () => undefined,
  };
}
