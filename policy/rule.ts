/**
 * What policies are made of. A rule checks the resources of one type by the inputs that the program
 * registers. A stack rule finds what is missing beside them. A finding names the property, says why
 * it is wrong, and what to write.
 */
import type {
  PolicyResource,
  ResourceValidation,
  ResourceValidationPolicy,
  StackValidation,
  StackValidationPolicy,
} from "@pulumi/policy";
import * as v from "valibot";
import { typeName } from "../providers/index.ts";
import type { KnownType } from "./known-types.ts";

/**
 * A policy that checks each resource before it is made. Most check the whole stack too, at the end
 * of a preview or update.
 */
export type StoragePolicy = ResourceValidationPolicy & {
  validateResource: ResourceValidation[];
} & Partial<StackValidationPolicy>;

/**
 * A rule for the resources of one type. A property in a form that `schema` does not know is a
 * finding too, so a new release of a provider's package cannot bypass the rule. The framework
 * reports a property that is not known before `up` as an advice; `up` checks it before it makes the
 * resource.
 */
export function rule<Props>(
  type: KnownType,
  schema: v.GenericSchema<unknown, Props>,
  check: (props: Props) => string[],
): ResourceValidation {
  return ({ type: actual, props, urn }, report) => {
    if (typeName(actual) !== type) return;
    for (const finding of checked(schema, props, check)) report(`${finding} (${urn})`);
  };
}

/** The findings of `check`, or that the properties cannot be checked. */
export function checked<Props>(
  schema: v.GenericSchema<unknown, Props>,
  props: unknown,
  check: (props: Props) => string[],
): string[] {
  const parsed = v.safeParse(schema, props);
  if (parsed.success) return check(parsed.output);
  return parsed.issues.map((issue) => {
    const key = v.getDotPath(issue) ?? "the resource";
    const expected = issue.expected ?? "JSON";
    // The value itself may be a secret.
    return (
      `${key} is not in a form that this policy can check (expected: ${expected}); ` +
      "correct it, or add the new form to the rule in policy/"
    );
  });
}

/**
 * A rule for each text at a path, e.g. `cors?.corsRules?.allowedOrigins`. A property with `?` may be
 * absent. Of a list, each item is read.
 */
export function eachText(
  type: KnownType,
  path: string,
  isWrong: (text: string) => boolean,
  wrong: string,
): ResourceValidation {
  const key = path.replaceAll("?", "");
  return rule(type, textsAt(path.split(".")), (texts) =>
    texts.filter(isWrong).map((text) => `${key} = ${JSON.stringify(text)} ${wrong}`),
  );
}

function textsAt([property, ...rest]: string[]): v.GenericSchema<unknown, string[]> {
  if (property === undefined) return OneText;
  const key = property.replace("?", "");
  const one = textsAt(rest);
  const each = v.pipe(
    v.array(one),
    v.transform((lists) => lists.flat()),
  );
  // The list first: valibot takes a list for an object too.
  const eachOrOne = v.union([each, one]);
  return v.pipe(
    v.object({ [key]: key === property ? eachOrOne : v.optional(eachOrOne, []) }),
    v.transform((props) => props[key] ?? []),
  );
}

const OneText = v.pipe(
  v.string(),
  v.transform((text) => [text]),
);

/** A rule that the property at a path has exactly this value; `undefined`: that it is absent. */
export function mustBe(
  type: KnownType,
  path: string,
  value: boolean | string | undefined,
  otherwise: string,
): ResourceValidation {
  const finding =
    value === undefined
      ? `${path} is set, so ${otherwise}; remove it`
      : `${path} is not ${JSON.stringify(value)}, so ${otherwise}; write ${JSON.stringify(value)}`;
  return rule(type, v.unknown(), (props) => findIf(valueAt(props, path) !== value, finding));
}

function valueAt(props: unknown, path: string): unknown {
  return path.split(".").reduce<unknown>((value, key) => {
    return typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
  }, props);
}

/** The finding, if this is the case. */
export function findIf(isWrong: boolean, finding: string): string[] {
  return isWrong ? [finding] : [];
}

/** A finding of a stack rule, and the resource that it is about. */
export interface Finding {
  finding: string;
  urn: string;
}

/** What a stack lacks, or has too much of. */
type StackRule = (resources: PolicyResource[]) => Finding[] | Promise<Finding[]>;

/** Checks a stack by these rules. */
export function stackRules(...rules: StackRule[]): StackValidation {
  return async ({ resources }, report) => {
    for (const find of rules) {
      for (const { finding, urn } of await find(resources)) report(`${finding} (${urn})`, urn);
    }
  };
}

/** A stack rule: each resource of `type` depends on one of the type `other`, or that one on it. */
export function needs(type: KnownType, other: KnownType, finding: string): StackRule {
  return (resources) => {
    const others = ofType(resources, other);
    const alone = ofType(resources, type).filter(
      (resource) => !others.some((other) => areLinked(resource, other)),
    );
    return alone.map(({ urn }) => ({ finding, urn }));
  };
}

function areLinked(left: PolicyResource, right: PolicyResource): boolean {
  return (
    left.dependencies.some(({ urn }) => urn === right.urn) ||
    right.dependencies.some(({ urn }) => urn === left.urn)
  );
}

/** The resources of a type, under any of its names. */
export function ofType(resources: readonly PolicyResource[], type: KnownType): PolicyResource[] {
  return resources.filter((resource) => typeName(resource.type) === type);
}
