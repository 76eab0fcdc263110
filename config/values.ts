/**
 * Turns the text of a config value into a typed value. Pulumi passes every value as text, and lists
 * as JSON. Each message says what is wrong and what to write instead, so that it can follow the key
 * and the value.
 */
import * as v from "valibot";

/** What a key's schema has besides its meaning (`v.getDescription`) and its default (`v.getDefault`). */
interface Documentation {
  type: string;
  /** Never shown, and accepted only as a Pulumi secret. */
  secret?: boolean;
}

/** The documentation of a key. */
export function documentationOf(schema: v.GenericSchema): Documentation {
  return v.parse(
    v.object({ type: v.string(), secret: v.optional(v.boolean(), false) }),
    v.getMetadata(schema),
  );
}

/** A key's default, as you would write it in the stack's file; undefined for a key without one. */
export function defaultOf(schema: v.GenericSchema): string | undefined {
  return "default" in schema && typeof schema.default === "string" ? schema.default : undefined;
}

/** A schema from the text of a config value to `Output`, with its line in docs/config.md. */
export type Value<Output> = v.GenericSchema<string, Output>;

function documented<Output>(
  schema: Value<Output>,
  meaning: string,
  documentation: Documentation,
): Value<Output> {
  return v.pipe(schema, v.description(meaning), v.metadata({ ...documentation }));
}

/** Any text except an empty one, restricted by `rule`, which returns what is wrong or undefined. */
export function text(
  meaning: string,
  rule: (value: string) => string | undefined = () => undefined,
  documentation: Documentation = { type: "string" },
): Value<string> {
  return documented(
    v.pipe(
      v.string(),
      v.rawCheck(({ dataset, addIssue }) => {
        if (!dataset.typed) return;
        const wrong = faultOf(dataset.value, rule);
        if (wrong !== undefined) addIssue({ message: wrong });
      }),
    ),
    meaning,
    documentation,
  );
}

/** No valid text is longer: a session token has up to about 4,000 characters. */
const LONGEST_TEXT = 8_192;
/** No valid list is longer. */
const MOST_ENTRIES = 1_000;

/** Empty and very long texts are refused before a rule reads them. */
function faultOf(value: string, rule: (value: string) => string | undefined): string | undefined {
  if (value.trim() === "") return "is empty; write a value or remove the key";
  if (value.length > LONGEST_TEXT) return `has more than ${LONGEST_TEXT} characters; write less`;
  return rule(value);
}

/** A text that is never shown and accepted only as a Pulumi secret. */
export function secretText(
  meaning: string,
  rule?: (value: string) => string | undefined,
): Value<string> {
  return text(meaning, rule, { type: "secret string", secret: true });
}

export function oneOf<const Choice extends string>(
  choices: readonly Choice[],
  meaning: string,
): Value<Choice> {
  return documented(
    v.picklist(
      choices,
      `is not one of the choices; write ${choices.map((choice) => `"${choice}"`).join(", ")}`,
    ),
    meaning,
    { type: choices.map((choice) => `\`${choice}\``).join(", ") },
  );
}

export function boolean(meaning: string): Value<boolean> {
  return documented(
    v.pipe(
      v.picklist(["true", "false"], "is not a boolean; write true or false"),
      v.transform((value) => value === "true"),
    ),
    meaning,
    { type: "boolean" },
  );
}

export function integer(meaning: string, minimum: number, maximum: number): Value<number> {
  const wrong = `is not a whole number from ${minimum} to ${maximum}; write one`;
  return documented(
    v.pipe(
      v.string(),
      v.regex(/^-?\d{1,15}$/, wrong),
      v.transform(Number),
      v.minValue(minimum, wrong),
      v.maxValue(maximum, wrong),
    ),
    meaning,
    { type: "integer" },
  );
}

/**
 * A list of texts: a YAML list in the stack's file, or texts separated by commas, as a prompt gives
 * them. `rule` checks one entry of the list and returns what is wrong with it.
 */
export function list(
  meaning: string,
  rule: (entry: string, index: number, entries: readonly string[]) => string | undefined,
): Value<string[]> {
  return documented(
    v.pipe(
      v.string(),
      v.rawTransform(({ dataset, addIssue, NEVER }) => {
        const entries = splitList(dataset.value);
        if (!entries) {
          addIssue({ message: "is not a list of strings; write a YAML list, one entry a line" });
          return NEVER;
        }
        if (entries.length === 0) addIssue({ message: "is empty; write at least one entry" });
        if (entries.length > MOST_ENTRIES) {
          addIssue({ message: `has more than ${MOST_ENTRIES} entries; write fewer` });
          return NEVER;
        }
        for (const [index, entry] of entries.entries()) {
          const wrong = faultOf(entry, (value) => rule(value, index, entries));
          const path = {
            type: "array",
            origin: "value",
            input: entries,
            key: index,
            value: entry,
          } as const;
          if (wrong !== undefined) addIssue({ message: wrong, input: entry, path: [path] });
        }
        return entries;
      }),
    ),
    meaning,
    { type: "list of strings" },
  );
}

/** The entries of a list's text; undefined for another text. */
export function splitList(value: string): string[] | undefined {
  if (!value.trimStart().startsWith("[")) {
    return value
      .split(",")
      .map((entry) => entry.trim())
      .filter((entry) => entry !== "");
  }
  try {
    const parsed = v.safeParse(v.array(v.string()), JSON.parse(value));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined;
  }
}

/**
 * An optional key. The fallback is written as in the stack's file, and shown like that in docs/config.md.
 */
export function optional<Output>(value: Value<Output>): v.OptionalSchema<Value<Output>, undefined>;
export function optional<Output>(
  value: Value<Output>,
  fallback: string,
): v.OptionalSchema<Value<Output>, string>;
export function optional<Output>(
  value: Value<Output>,
  fallback?: string,
): v.OptionalSchema<Value<Output>, string | undefined> {
  return v.pipe(
    v.optional(value, fallback),
    v.description(v.getDescription(value) ?? ""),
    v.metadata(v.getMetadata(value)),
  );
}
