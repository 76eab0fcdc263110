/** Policy `no-wildcard-origin`: which sites may load the files is a list of sites. */
import * as v from "valibot";
import { rule, TYPES, type StoragePolicy } from "./rule.ts";

const Origins = v.array(v.string());
const Rules = v.array(v.object({ allowedOrigins: Origins }));
const inRules = (rules: v.InferOutput<typeof Rules>) => rules.flatMap(({ allowedOrigins }) => allowedOrigins);

/** A resource with origins: its type, where in its inputs they are, and a schema that gives them. */
export interface OriginPlace {
  type: string;
  key: string;
  schema: v.GenericSchema<unknown, string[]>;
}

/** Every place of the clouds' resources that has origins, whether the program uses it or not. */
export const ORIGIN_PLACES: readonly OriginPlace[] = [
  {
    type: TYPES.awsCors,
    key: "corsRules.allowedOrigins",
    schema: v.pipe(v.object({ corsRules: Rules }), v.transform(({ corsRules }) => inRules(corsRules))),
  },
  {
    type: TYPES.awsBucket,
    key: "corsRules.allowedOrigins",
    schema: v.pipe(v.object({ corsRules: v.optional(Rules, []) }), v.transform(({ corsRules }) => inRules(corsRules))),
  },
  {
    type: TYPES.r2Cors,
    key: "rules.allowed.origins",
    schema: v.pipe(
      v.object({ rules: v.array(v.object({ allowed: v.object({ origins: Origins }) })) }),
      v.transform(({ rules }) => rules.flatMap(({ allowed }) => allowed.origins)),
    ),
  },
  {
    type: TYPES.s3Cors,
    key: "rules.allowedOrigins",
    schema: v.pipe(v.object({ rules: Rules }), v.transform(({ rules }) => inRules(rules))),
  },
  {
    type: TYPES.azureBlobs,
    key: "cors.corsRules.allowedOrigins",
    schema: v.pipe(
      v.object({ cors: v.optional(v.object({ corsRules: v.optional(Rules, []) })) }),
      v.transform(({ cors }) => inRules(cors?.corsRules ?? [])),
    ),
  },
  {
    type: TYPES.azureGateway,
    key: "configuration.ingress.corsPolicy.allowedOrigins",
    schema: v.pipe(
      v.object({ configuration: v.object({ ingress: v.object({ corsPolicy: v.optional(v.object({ allowedOrigins: Origins })) }) }) }),
      v.transform(({ configuration }) => configuration.ingress.corsPolicy?.allowedOrigins ?? []),
    ),
  },
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
