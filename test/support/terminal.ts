/** A command on a terminal, and somebody who types. */
import { spawn } from "@lydell/node-pty";

/** What is typed once a question is shown: control characters and the Enter key (`\r`) too. */
export type Reply = readonly [question: string, keys: string];

export interface Terminal {
  cwd?: string;
  /** In place of this process's. */
  env?: NodeJS.ProcessEnv;
  /** How long the command may take; a minute without it. */
  limitMs?: number;
}

/** What is typed before a program listens is lost. */
const THINKING_MS = 200;

/** Runs a command to its end and gives its exit status and everything that the terminal showed; throws where a question never came. */
export async function onTerminal(
  file: string, args: readonly string[], replies: readonly Reply[], { cwd, env = process.env, limitMs = 60_000 }: Terminal = {},
): Promise<{ status: number; text: string }> {
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined));
  const terminal = spawn(file, [...args], { cols: 200, env: present, ...(cwd === undefined ? {} : { cwd }) });
  const limit = setTimeout(() => { terminal.kill("SIGKILL"); }, limitMs);
  const left = [...replies];
  let [text, seen] = ["", 0];
  terminal.onData((shown) => {
    text += shown;
    // Asks the terminal where its cursor is.
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
