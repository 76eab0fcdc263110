/** Starts the HTTP servers of tests. */
import { once } from "node:events";
import type { Server } from "node:http";

export interface Listening {
  /** Without scheme: `127.0.0.1:40123`. */
  host: string;
  stop: () => Promise<void>;
}

/** Starts a server on a free port of 127.0.0.1. `stop` closes the open connections too. */
export async function listen(server: Server): Promise<Listening> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") {
    throw new Error("there is no free port on 127.0.0.1");
  }
  return {
    host: `127.0.0.1:${address.port}`,
    async stop() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
