/**
 * `.env` files as Docker Compose reads them (compose-go's `dotenv` and `template` packages),
 * written so that a shell (`set -a; . ./.env`) reads the same.
 */
import { decodeValue, isSuperseded } from "../../authentik/env.ts";

/** One assignment of a file. */
export interface Entry {
  name: string;
  /**
   * Unquoted and interpolated. Undefined for a name without a value that the environment does not
   * have either.
   */
  value: string | undefined;
  /**
   * Where in the text the assignment begins, its value begins and ends, and the next line begins.
   */
  start: number;
  valueStart: number;
  valueEnd: number;
  end: number;
  /** False for a name alone, whose value comes from the environment. */
  hasSign: boolean;
  /**
   * The variables that the value refers to and that are not set. Compose replaces such a reference
   * by nothing.
   */
  unset: string[];
}

/** A text that Compose refuses to read. */
export class DotenvError extends Error {
  override name = "DotenvError";
}

/**
 * The assignments of a text.
 *
 * @param environment for `$NAME`; it comes before the file's own variables
 * @throws DotenvError that names the line where Compose stops
 */
export function parseDotenv(
  text: string,
  environment: Readonly<Record<string, string | undefined>> = {},
): Entry[] {
  const entries: Entry[] = [];
  const known = new Map<string, string>();
  const blank = /(?:\s|#[^\n]*)*/y;
  const key = /(?:export[^\S\n]+)?([\p{L}\p{N}_.[\]-]+)[^\S\n]*(?:([=:])[^\S\n]*|\n|$)/uy;
  for (let position = text.startsWith("\uFEFF") ? 1 : 0; ; ) {
    position = matchAt(blank, text, position)?.end ?? position;
    if (position === text.length) return entries;
    const found = matchAt(key, text, position);
    const [, name = "", sign] = found?.match ?? [];
    if (!found) {
      throw new DotenvError(
        `line ${lineOf(text, position)} is not NAME=value; correct it or make it a comment`,
      );
    }
    const unset: string[] = [];
    const lookup = (variable: string) => {
      const set = environment[variable] ?? known.get(variable);
      if (set === undefined) unset.push(variable);
      return set;
    };
    const where = `line ${lineOf(text, position)}: ${name}`;
    const hasSign = sign !== undefined;
    const { value, end } = hasSign
      ? readValue(text, found.end, lookup, where)
      : { value: environment[name], end: found.end };
    if (value !== undefined) known.set(name, value);
    entries.push({
      name,
      value,
      start: position,
      valueStart: found.end,
      valueEnd: end,
      end: hasSign ? endOfLine(text, end) : end,
      hasSign,
      unset,
    });
    position = end;
  }
}

function matchAt(
  pattern: RegExp,
  text: string,
  position: number,
): { match: RegExpExecArray; end: number } | undefined {
  pattern.lastIndex = position;
  const match = pattern.exec(text);
  return match ? { match, end: position + match[0].length } : undefined;
}

function lineOf(text: string, position: number): number {
  return text.slice(0, position).split("\n").length;
}

function endOfLine(text: string, position: number): number {
  const newline = text.indexOf("\n", position);
  return newline === -1 ? text.length : newline + 1;
}

type Lookup = (name: string) => string | undefined;

/** A value, and where it ends. */
function readValue(
  text: string,
  start: number,
  lookup: Lookup,
  where: string,
): { value: string; end: number } {
  const quote = text[start];
  if (quote !== "'" && quote !== '"') {
    const [line = ""] = text.slice(start, endOfLine(text, start)).split(/\n| #/, 1);
    const value = line.trimEnd();
    return { value: substitute(value, lookup, where), end: start + value.length };
  }
  const body = new RegExp(`((?:[^\\\\${quote}]|\\\\[\\s\\S])*)${quote}`, "y");
  const found = matchAt(body, text, start + 1);
  if (!found) throw new DotenvError(`${where} has a quote without an end; close it`);
  const content = (found.match[1] ?? "").replaceAll(`\\${quote}`, quote);
  const value = quote === "'" ? content : substitute(unescape(content), lookup, where);
  return { value, end: found.end };
}

// biome-ignore format: a table of escapes
const ESCAPES: Readonly<Record<string, string>> = {
  a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v", '"': '"', "\\": "\\", $: "$$",
};

function unescape(value: string): string {
  return value.replace(/\\([abfnrtv$"\\])/g, (sequence, char: string) => ESCAPES[char] ?? sequence);
}

/** A reference: `$$`, `$NAME`, `${NAME}` or `${NAME<operator>word}`. A `${` alone is malformed. */
const REFERENCE = /\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-+?])([^{}]*))?\}|\{)/g;

/** Compose's interpolation. */
function substitute(value: string, lookup: Lookup, where: string): string {
  return value.replace(
    REFERENCE,
    (whole, dollar?: string, bare?: string, braced?: string, operator = "", word = "") => {
      if (dollar !== undefined) return "$";
      const name = bare ?? braced;
      if (name === undefined) {
        throw new DotenvError(
          `${where} has a "${whole}" that Compose takes for a reference; ` +
            "put the value into single quotes",
        );
      }
      const found = lookup(name);
      const isSet = found !== undefined && !(String(operator).startsWith(":") && found === "");
      if (!isSet) return ifUnset(name, String(operator), String(word), where);
      return String(operator).endsWith("+") ? String(word) : found;
    },
  );
}

function ifUnset(name: string, operator: string, word: string, where: string): string {
  if (operator.endsWith("?")) {
    throw new DotenvError(`${where} needs the variable ${name}, which is not set`);
  }
  return operator.endsWith("-") ? word : "";
}

/** Texts that Compose and a shell read unchanged without quotes. */
const PLAIN = /^[\w.,:/@%+=-]+$/;

/**
 * Quotes a value so that Compose and a shell read it back. The result is the value itself, or the
 * value in single quotes. A value with single quotes or control characters becomes a JSON string in
 * single quotes, which authentik decodes.
 *
 * @returns undefined when only a JSON string is possible, and the variable is not authentik's
 */
export function quoteDotenv(name: string, value: string): string | undefined {
  if (PLAIN.test(value)) return value;
  if (!/['\p{Cc}]|\\$/u.test(value)) return `'${value}'`;
  const decoded = decodeValue(value);
  if (!name.startsWith("AUTHENTIK_") || typeof decoded !== "string") return undefined;
  return `'${JSON.stringify(decoded).replace(/['\p{Cc}]/gu, unicodeEscape)}'`;
}

function unicodeEscape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** A file's text with new values, and the old values. */
export interface Merged {
  text: string;
  /** The variables that had another value or were removed, with the old value. */
  replaced: { name: string; old: string; removed: boolean }[];
}

/**
 * Puts variables into a file's text. An old value is replaced in place. Variables that would
 * override or contradict the new ones are removed. Other lines and all comments stay.
 *
 * @param lines names to quoted values
 * @param env names to values, to compare with the old ones
 */
export function mergeDotenv(
  text: string,
  lines: Readonly<Record<string, string>>,
  env: Readonly<Record<string, string>>,
): Merged {
  const replaced: Merged["replaced"] = [];
  const done = new Set<string>();
  let merged = "";
  let position = 0;
  for (const { name, value = "", start, valueStart, valueEnd, end, hasSign } of parseDotenv(text)) {
    if (!isSuperseded(name, env)) continue;
    const line = done.has(name) || !hasSign ? undefined : lines[name];
    const removed = line === undefined;
    if (removed || !isSame(env[name] ?? "", value)) replaced.push({ name, old: value, removed });
    merged += removed ? text.slice(position, start) : text.slice(position, valueStart) + line;
    position = removed ? end : valueEnd;
    if (!removed) done.add(name);
  }
  merged += text.slice(position);
  const missing = Object.entries(lines).filter(([name]) => !done.has(name));
  return { text: appendLines(merged, missing), replaced };
}

/** The text with these assignments at its end, with its own kind of line ends. */
function appendLines(text: string, lines: readonly [name: string, line: string][]): string {
  if (lines.length === 0) return text;
  const newline = text.includes("\r\n") ? "\r\n" : "\n";
  const gap = text === "" || text.endsWith("\n") ? "" : newline;
  return text + gap + lines.map(([name, line]) => `${name}=${line}${newline}`).join("");
}

/** Whether authentik reads both as the same value. A value may be written as a JSON string. */
function isSame(left: string, right: string): boolean {
  return JSON.stringify(decodeValue(left)) === JSON.stringify(decodeValue(right));
}
