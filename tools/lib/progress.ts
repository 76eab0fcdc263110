/**
 * Shows the progress of a command on stderr: a line that changes on a terminal, plain lines elsewhere.
 */
import yoctoSpinner from "yocto-spinner";

export interface Progress {
  /** Shows the current step. */
  step: (text: string) => void;
  /** Prints a line that stays. */
  notice: (text: string) => void;
  /** Removes the changing line. */
  stop: () => void;
}

export function createProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  if (!stream.isTTY) {
    const line = (text: string) => void stream.write(`${text}\n`);
    return { step: line, notice: line, stop: () => undefined };
  }
  // The command stops in order by itself. The spinner would exit at once.
  const spinner = yoctoSpinner({ stream, handleSignals: false });
  return {
    step: (text) => {
      if (spinner.isSpinning) spinner.text = text;
      else spinner.start(text);
    },
    notice: (text) => {
      spinner.stop();
      stream.write(`${text}\n`);
    },
    stop: () => void spinner.stop(),
  };
}
