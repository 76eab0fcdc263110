// The language host runs this file with plain Node: options of the runtime reach a program, but no policy pack.
require("tsx/cjs");
require("./index.ts");
