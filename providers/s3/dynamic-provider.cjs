/**
 * The code of the resources of this folder, for Pulumi's provider process. Stacks store the name of
 * this file in package.json's `imports`, and nothing else (see resources.ts). It is plain
 * JavaScript, because the provider process runs plain Node: this file decides how TypeScript is
 * loaded there. Its exports are `bucket`, `cors` and `policy`. Stacks store these names too, so
 * they never change.
 */
// Node that strips types itself needs no loader, but refuses to strip them below node_modules.
const stripsTypes = process.features.typescript && !/[\\/]node_modules[\\/]/.test(__dirname);

module.exports = stripsTypes
  ? require("./operations.ts")
  : require("tsx/cjs/api").require("./operations.ts", __filename);
