/** What is known about the types of a plan's resources. */
import type { ResourceType } from "../../providers/contract.ts";
import { resourceType } from "../../providers/index.ts";

/** What a provider's table has about a type; undefined for a type that no provider registers. */
export type TypeLookup = (type: string) => ResourceType | undefined;

/** Loads what the providers' tables have about these types. */
export async function lookUpTypes(types: Iterable<string>): Promise<TypeLookup> {
  const unique = [...new Set(types)];
  const entries = unique.map(async (type) => [type, await resourceType(type)] as const);
  const known = new Map(await Promise.all(entries));
  return (type) => known.get(type);
}

/**
 * What a reviewer calls a resource of this type: the label in its provider's table (`CORS policy`),
 * or else the type's name as words (`Topic policy` for `aws:sns/topicPolicy:TopicPolicy`).
 */
export function labelOf(type: string, typeOf: TypeLookup): string {
  const known = typeOf(type);
  if (known !== undefined) return known.label;
  const [, cloud = ""] = /^pulumi:providers:(.+)$/.exec(type) ?? [];
  if (cloud !== "") return `Access to ${cloud}`;
  const name = type.split(":").at(-1) ?? type;
  const words = name.replace(
    /([a-z0-9])([A-Z])/g,
    (_, left: string, right: string) => `${left} ${right.toLowerCase()}`,
  );
  return words === "" ? "Resource" : words;
}
