/** Characters that a terminal or an editor acts on or does not show. */

/**
 * Control and format characters, which also change the direction of writing; characters without a
 * meaning; and every blank that is not a space (Unicode's categories C and Z).
 */
export const INVISIBLE = /(?! )[\p{C}\p{Z}]/gu;

/** The text with an escape for each invisible character, line breaks included: `\u{202e}`. */
export function visible(text: string): string {
  return text.replaceAll(INVISIBLE, (character) => {
    return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  });
}
