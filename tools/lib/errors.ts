/** What an error says. */

/** An error's message, or the text of something else that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** An error's message and those of its causes. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? "" : reasonOf(error.cause);
  if (cause === "" || error.message.includes(cause)) return error.message;
  return `${error.message}: ${cause}`;
}
