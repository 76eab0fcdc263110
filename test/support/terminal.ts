/** Runs a command on a terminal and types answers. */
import { spawn } from "@lydell/node-pty";

/** A question, and the keys that are typed when it appears, e.g. `yes\r`. */
export type Reply = readonly [question: string, keys: string];

export interface Terminal {
  cwd?: string;
  /** Replaces this process's environment. */
  env?: NodeJS.ProcessEnv;
  /** The command's time limit. The default is a minute. */
  limitMs?: number;
  /** How long after a question its keys are typed. */
  thinkingMs?: number;
  /** Keys that are typed some milliseconds after the start. */
  keys?: readonly (readonly [afterMs: number, keys: string])[];
}

/** Keys that are typed before the program listens for them are lost. */
const THINKING_MS = 200;

/**
 * Runs a command to its end.
 *
 * @returns the exit status, everything that the terminal showed, and how long the command ran after
 *   the last of the timed keys; 0 if it had ended before
 * @throws Error when a question did not appear
 */
export async function onTerminal(
  file: string,
  args: readonly string[],
  replies: readonly Reply[],
  {
    cwd,
    env = process.env,
    limitMs = 60_000,
    thinkingMs = THINKING_MS,
    keys: timed = [],
  }: Terminal = {},
): Promise<{ status: number; text: string; afterKeysMs: number }> {
  const present = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined),
  );
  const folder = cwd === undefined ? {} : { cwd };
  const terminal = spawn(file, [...args], { cols: 200, env: present, ...folder });
  const limit = setTimeout(() => {
    terminal.kill("SIGKILL");
  }, limitMs);
  let typed: number | undefined;
  const timers = timed.map(([afterMs, keys]) =>
    setTimeout(() => {
      typed = Date.now();
      terminal.write(keys);
    }, afterMs),
  );
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
    setTimeout(() => {
      terminal.write(keys);
    }, thinkingMs);
  });
  const status = await new Promise<number>((resolve) => {
    terminal.onExit(({ exitCode }) => {
      resolve(exitCode);
    });
  });
  for (const timer of [limit, ...timers]) clearTimeout(timer);
  if (left.length > 0) throw new Error(`"${left[0]?.[0] ?? ""}" was not asked:\n${text}`);
  return { status, text, afterKeysMs: typed === undefined ? 0 : Date.now() - typed };
}
