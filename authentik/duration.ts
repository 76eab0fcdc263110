/** Durations as authentik writes them: `minutes=15`, several joined by `;`. */

/** Python's `timedelta` arguments, in seconds. */
const SECONDS: Readonly<Record<string, number>> = {
  microseconds: 1e-6, milliseconds: 1e-3, seconds: 1, minutes: 60, hours: 3600, days: 86_400, weeks: 604_800,
};

/** Whole seconds of such a duration (`timedelta_from_string` of authentik's `lib/utils/time.py`); undefined for other texts. */
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
