/** Durations in authentik's format: `minutes=15`, or several parts joined by `;`. */

/** The arguments of Python's `timedelta` that authentik reads, in seconds. */
const SECONDS = new Map([
  ["microseconds", 1e-6],
  ["milliseconds", 1e-3],
  ["seconds", 1],
  ["minutes", 60],
  ["hours", 3600],
  ["days", 86_400],
  ["weeks", 604_800],
]);

/** A number as Python's `float` reads it. `inf` and `nan` raise an error in `timedelta`. */
const DIGITS = String.raw`\d+(?:_\d+)*`;
const NUMBER = new RegExp(
  String.raw`^[+-]?(?:${DIGITS}\.?(?:${DIGITS})?|\.${DIGITS})(?:e[+-]?${DIGITS})?$`,
  "i",
);

/** Python's `timedelta` raises an error from this many days on. */
const TOO_MANY_SECONDS = 1_000_000_000 * 86_400;

/**
 * The whole seconds of a duration, by the rules of `timedelta_from_string` in authentik's
 * `lib/utils/time.py`: it ignores parts with an unknown unit, and the last part of a unit counts.
 *
 * @returns undefined for a text with which authentik raises an error
 */
export function durationSeconds(text: string): number | undefined {
  const parts = new Map<string, number>();
  for (const part of text.split(";")) {
    const [name = "", amount, ...others] = part.split("=");
    if (amount === undefined || others.length > 0) return undefined;
    const length = SECONDS.get(name.toLowerCase());
    if (length === undefined) continue;
    const number = amount.trim();
    if (!NUMBER.test(number)) return undefined;
    parts.set(name.toLowerCase(), length * Number(number.replaceAll("_", "")));
  }
  if (parts.size === 0) return undefined;
  let seconds = 0;
  for (const part of parts.values()) seconds += part;
  if (Math.abs(seconds) >= TOO_MANY_SECONDS) return undefined;
  // Python's `timedelta` has whole microseconds.
  return Math.trunc(Math.round(seconds * 1e6) / 1e6);
}

/** Whether authentik reads every part of a duration: each begins with a known unit, and no other has it. */
export function isDuration(text: string): boolean {
  if (durationSeconds(text) === undefined) return false;
  const units = text.split(";").map((part) => part.split("=")[0]?.toLowerCase() ?? "");
  return units.every((unit) => SECONDS.has(unit)) && new Set(units).size === units.length;
}
