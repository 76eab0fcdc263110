/** Policy `no-wildcard-origin`: which sites may load the files is a list of sites. */
import * as v from "valibot";
import { rule, TYPES, type StoragePolicy } from "./rule.ts";

const Origins = v.array(v.string());
const Allowed = v.object({ allowedOrigins: Origins });

/** A resource with origins: its type, its inputs, and where in them the origins are. */
export interface OriginPlace {
  type: string;
  schema: v.GenericSchema<unknown, string[]>;
  key: string;
}

const place = <Inputs>(type: string, key: string, schema: v.GenericSchema<unknown, Inputs>, origins: (inputs: Inputs) => string[]): OriginPlace =>
  ({ type, key, schema: v.pipe(schema, v.transform(origins)) });

/** Every place of the clouds' resources that has origins, whether the program uses it or not. */
export const ORIGIN_PLACES: readonly OriginPlace[] = [
  place(TYPES.awsCors, "corsRules.allowedOrigins", v.object({ corsRules: v.array(Allowed) }), ({ corsRules }) => corsRules.flatMap(({ allowedOrigins }) => allowedOrigins)),
  place(TYPES.awsBucket, "corsRules.allowedOrigins", v.object({ corsRules: v.optional(v.array(Allowed), []) }), ({ corsRules }) => corsRules.flatMap(({ allowedOrigins }) => allowedOrigins)),
  place(TYPES.r2Cors, "rules.allowed.origins", v.object({ rules: v.array(v.object({ allowed: v.object({ origins: Origins }) })) }), ({ rules }) => rules.flatMap(({ allowed }) => allowed.origins)),
  place(TYPES.s3Cors, "rules.allowedOrigins", v.object({ rules: v.array(Allowed) }), ({ rules }) => rules.flatMap(({ allowedOrigins }) => allowedOrigins)),
  place(
    TYPES.azureBlobs, "cors.corsRules.allowedOrigins",
    v.object({ cors: v.optional(v.object({ corsRules: v.optional(v.array(Allowed), []) })) }),
    ({ cors }) => (cors?.corsRules ?? []).flatMap(({ allowedOrigins }) => allowedOrigins),
  ),
  place(
    TYPES.azureGateway, "configuration.ingress.corsPolicy.allowedOrigins",
    v.object({ configuration: v.object({ ingress: v.object({ corsPolicy: v.optional(Allowed) }) }) }),
    ({ configuration }) => configuration.ingress.corsPolicy?.allowedOrigins ?? [],
  ),
];

export const origins: StoragePolicy = {
  name: "no-wildcard-origin",
  description: "Only authentik's own origins may load its files.",
  validateResource: ORIGIN_PLACES.map(({ type, schema, key }) => rule(type, schema, (all) => all.filter(isOpen).map((origin) =>
    `${key} has "${origin}", which lets ${origin === "null" ? "any sandboxed page" : "other sites"} read the files; ` +
    'write each origin of authentik in full, e.g. "https://authentik.company"'))),
};

/** `null` is the origin of every sandboxed frame and of pages from disk. */
function isOpen(origin: string): boolean {
  return origin.includes("*") || origin === "null";
}
