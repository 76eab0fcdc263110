/** Programs that ask on a terminal. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { onPath } from "../../local/programs.ts";

/** The program that gives others a terminal, where there is one with Linux's options. */
export const script = process.platform === "linux" ? await onPath("script") : undefined;

export interface Asked {
  status: unknown;
  /** All that was written to the terminal. */
  text: string;
  /** The questions that were not asked. */
  unasked: string[];
}

/**
 * Runs a command line of the shell on a terminal and answers its questions, each when it is asked.
 *
 * @param answers in the order of the questions; a part of a question will do
 */
export async function onTerminal(
  commandLine: string,
  { cwd, env, timeout }: { cwd: string; env: NodeJS.ProcessEnv; timeout: number },
  answers: readonly (readonly [question: string, answer: string])[],
): Promise<Asked> {
  const child = spawn("script", ["-qefc", commandLine, "/dev/null"], { cwd, env, stdio: ["pipe", "pipe", "inherit"], timeout });
  let text = "";
  let seen = 0;
  const left = [...answers];
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    // The tool asks the terminal where its cursor is.
    if (chunk.toString().includes("\u001b[6n")) child.stdin.write("\u001b[1;1R");
    const [question, answer] = left[0] ?? [];
    if (question === undefined || answer === undefined || !text.includes(question, seen)) return;
    seen = text.length;
    left.shift();
    // What is written before the tool listens is lost.
    setTimeout(() => child.stdin.write(`${answer}\r`), 200);
  });
  const status = await once(child, "close").then(([code]: unknown[]) => code);
  return { status, text, unasked: left.map(([question]) => question) };
}
