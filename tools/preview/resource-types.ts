/** Labels and other facts about the types of a plan's resources. */
import type { ResourceType } from "../../providers/contract.ts";
import { resourceType } from "../../providers/index.ts";
import { wordsOf } from "./diff.ts";

/** The entry of a type in its provider's table; undefined for a type of no provider. */
export type TypeLookup = (type: string) => ResourceType | undefined;

/** Loads the entries of these types. */
export async function lookUpTypes(types: Iterable<string>): Promise<TypeLookup> {
  const unique = [...new Set(types)];
  const entries = unique.map(async (type) => [type, await resourceType(type)] as const);
  const known = new Map(await Promise.all(entries));
  return (type) => known.get(type);
}

/**
 * The name of this type for a reviewer: the label in its provider's table (`CORS policy`),
 * or else the type's name as words (`Topic policy` for `aws:sns/topicPolicy:TopicPolicy`).
 */
export function labelOf(type: string, typeOf: TypeLookup): string {
  const known = typeOf(type);
  if (known !== undefined) return known.label;
  const [, cloud = ""] = /^pulumi:providers:(.+)$/.exec(type) ?? [];
  if (cloud !== "") return `Access to ${cloud}`;
  const name = type.split(":").at(-1) ?? type;
  return wordsOf(name) || "Resource";
}
