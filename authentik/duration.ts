/** Durations in authentik's format: `minutes=15`, or several parts joined by `;`. */

/** The arguments of Python's `timedelta`, in seconds. */
const SECONDS: Readonly<Record<string, number>> = {
  microseconds: 1e-6,
  milliseconds: 1e-3,
  seconds: 1,
  minutes: 60,
  hours: 3600,
  days: 86_400,
  weeks: 604_800,
};

/**
 * The whole seconds of a duration, by the rules of `timedelta_from_string` in authentik's
 * `lib/utils/time.py`.
 *
 * @returns undefined for a text that is not a duration
 */
export function durationSeconds(text: string): number | undefined {
  let seconds = 0;
  for (const part of text.split(";")) {
    const [, unit = "", amount = ""] = /^\s*([a-z]+)\s*=\s*(\d+(?:\.\d+)?)\s*$/i.exec(part) ?? [];
    const length = SECONDS[unit.toLowerCase()];
    if (length === undefined) return undefined;
    seconds += length * Number(amount);
  }
  return Math.trunc(seconds);
}
