// The language host runs this file with plain Node: options of the runtime reach a program, but no policy pack.
module.exports = import("tsx/esm").then(() => import("./index.ts"));
