/**
 * The clouds' packages import the root of Pulumi's SDK, which loads the Automation API, an npm client and more: 500 modules
 * and most of a second in every preview, of which they use a few functions. Importing this file first has them find those
 * functions without the rest. Whatever else is asked for is loaded when it is asked for, from the real module.
 */
import Module, { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** Gives a large module's names from its small parts, and from the module itself those that no part has. */
function standIn(id: string, parts: readonly object[]): void {
  const file = require.resolve(id);
  if (require.cache[file]) return;
  const module = new Module(file);
  module.loaded = true;
  let loaded: object | undefined;
  const whole = (): object => {
    // Out of the way first, or it would find itself.
    if (require.cache[file] === module) Reflect.deleteProperty(require.cache, file);
    return (loaded ??= load(id));
  };
  module.exports = new Proxy({}, {
    get: (_target, name): unknown => Reflect.get(parts.find((part) => name in part) ?? whole(), name),
    has: (_target, name) => name in whole(),
    ownKeys: () => Reflect.ownKeys(whole()),
    getOwnPropertyDescriptor: (_target, name) => {
      const descriptor = Reflect.getOwnPropertyDescriptor(whole(), name);
      return descriptor && { ...descriptor, configurable: true };
    },
  });
  require.cache[file] = module;
}

function load(id: string): object {
  const exports: unknown = require(id);
  if (typeof exports !== "object" || exports === null) throw new TypeError(`"${id}" is no module of Pulumi's SDK`);
  return exports;
}

standIn("@pulumi/pulumi/runtime", ["invoke", "settings"].map((part) => load(`@pulumi/pulumi/runtime/${part}`)));
const root = ["config", "errors", "metadata", "output", "resource"].map((part) => load(`@pulumi/pulumi/${part}`));
standIn("@pulumi/pulumi", [{ __esModule: true, runtime: load("@pulumi/pulumi/runtime") }, ...root]);
