/** Standard output and standard error, when nobody reads them any more. */

/**
 * Who reads the output may go before the end (`| head`). What is being done goes on in silence, with its own exit status.
 *
 * @param onGone for a command that has nothing left to do then
 */
export function outliveReaders(onGone: () => void = () => undefined): void {
  const onError = (error: NodeJS.ErrnoException): void => {
    if (error.code !== "EPIPE") throw error;
    onGone();
  };
  for (const stream of [process.stdout, process.stderr]) stream.on("error", onError);
}
