/**
 * The part of undici that each run needs. Its index loads fetch, WebSocket and the rest, too, which
 * takes a tenth of a run with nothing to do.
 */
declare module "undici/lib/dispatcher/pool.js" {
  export { Pool as default } from "undici";
}

declare module "undici/lib/core/connect.js" {
  export { buildConnector as default } from "undici";
}
