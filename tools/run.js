/** `node tools/run.js <file of a command> [arguments]`: runs a command that is TypeScript. */
import { resolve } from "node:path";
import { importTypeScript } from "../program/typescript.js";

const [file = ""] = process.argv.splice(2, 1);
await importTypeScript(resolve(file));
