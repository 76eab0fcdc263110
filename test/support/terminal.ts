/** A command on a terminal, with replies to its questions. */
import { spawn } from "@lydell/node-pty";

/** The keys to type once a question is shown, control characters and the Enter key (`\r`) included. */
export type Reply = readonly [question: string, keys: string];

export interface Terminal {
  cwd?: string;
  /** Replaces this process's environment. */
  env?: NodeJS.ProcessEnv;
}

/** A reply waits this long, because a program may ask before it reads. */
const THINKING_MS = 200;
const LIMIT_MS = 60_000;

/**
 * Runs a command to its end, for a minute at most.
 *
 * @returns its exit status, and everything that the terminal showed
 * @throws Error if a question was not asked
 */
export async function onTerminal(
  file: string,
  args: readonly string[],
  replies: readonly Reply[],
  { cwd, env = process.env }: Terminal = {},
): Promise<{ status: number; text: string }> {
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined));
  const options = { cols: 200, env: present, ...(cwd === undefined ? {} : { cwd }) };
  const terminal = spawn(file, [...args], options);
  const limit = setTimeout(() => { terminal.kill("SIGKILL"); }, LIMIT_MS);
  const left = [...replies];
  let [text, seen] = ["", 0];
  terminal.onData((shown) => {
    text += shown;
    // The program asks where the cursor is.
    if (shown.includes("\u001b[6n")) terminal.write("\u001b[1;1R");
    const [question, keys] = left[0] ?? [];
    if (question === undefined || keys === undefined || !text.includes(question, seen)) return;
    seen = text.length;
    left.shift();
    setTimeout(() => { terminal.write(keys); }, THINKING_MS);
  });
  const status = await new Promise<number>((resolve) => { terminal.onExit(({ exitCode }) => { resolve(exitCode); }); });
  clearTimeout(limit);
  if (left.length > 0) throw new Error(`"${left[0]?.[0] ?? ""}" was not asked:\n${text}`);
  return { status, text };
}
