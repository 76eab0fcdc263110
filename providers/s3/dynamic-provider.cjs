/**
 * The code of the resources of this folder, for Pulumi's provider process. Stacks store the name of
 * this file in package.json's `imports`, and nothing else (see resources.ts). It is plain
 * JavaScript, because the provider process runs plain Node: this file decides how TypeScript is
 * loaded there. Its exports are `bucket`, `cors` and `policy`. Stacks store these names too, so
 * they never change.
 */
const { isDeepStrictEqual } = require("node:util");

module.exports = { bucket: resource("bucket"), cors: resource("cors"), policy: resource("policy") };

/**
 * The answer of `diff` in operations.ts for equal inputs. A replacement that failed is pending, and
 * the engine asks in which order to complete it, even if the inputs are the old ones again.
 */
const UNCHANGED = { changes: false, replaces: [], deleteBeforeReplace: true };

/**
 * What a resource does on the server is in operations.ts. A preview of an unchanged resource does
 * not load that file: TypeScript would cost it more time than all else here.
 */
function resource(name) {
  let configuration;
  const call =
    (method) =>
    async (...args) => {
      const operations = load()[name];
      await operations.configure(configuration);
      return operations[method](...args);
    };
  const diff = call("diff");
  return {
    configure: async (request) => {
      configuration = request;
    },
    diff: async (id, olds, news) =>
      isDeepStrictEqual(olds, news) ? UNCHANGED : diff(id, olds, news),
    create: call("create"),
    read: call("read"),
    update: call("update"),
    delete: call("delete"),
  };
}

function load() {
  // Node that strips types itself needs no loader, but refuses to strip them below node_modules.
  const stripsTypes = process.features.typescript && !/[\\/]node_modules[\\/]/.test(__dirname);
  // Not tsx/cjs/api: it compiles every file again in each process.
  if (!stripsTypes) require("tsx/cjs");
  return require("./operations.ts");
}
