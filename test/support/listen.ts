/** HTTP servers that tests write themselves. */
import { once } from "node:events";
import type { Server } from "node:http";

export interface Listening {
  /** Without scheme: `127.0.0.1:40123`. */
  host: string;
  stop: () => Promise<void>;
}

/** Has a server listen on a free port of 127.0.0.1. `stop` cuts what is open. */
export async function listen(server: Server): Promise<Listening> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port could be had on 127.0.0.1");
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
