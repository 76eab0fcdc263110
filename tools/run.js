/**
 * `node tools/run.js <file of a command> [arguments]`: runs a command from one compiled file. To
 * load its TypeScript and its packages file by file takes four times the CPU time.
 *
 * The compiled file is below node_modules. It has the hashes of the files that it was made of, so
 * that an edit, a pull and another version of a package take effect at once. If it cannot be made
 * or written, the TypeScript runs. This file is plain JavaScript, because nothing compiles it.
 */
import { hash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const OWN = fileURLToPath(import.meta.url);
const ROOT = resolve(dirname(OWN), "..");
const PACKAGES = join(ROOT, "node_modules");
/** npm writes it whenever it changes a package. */
const LOCK = join(PACKAGES, ".package-lock.json");
/** A large package that a command does not always need. */
const NOT_COMPILED = ["@aws-sdk/*"];
/** Packages that are CommonJS call it. */
const REQUIRE =
  'import { createRequire as newRequire } from "node:module"; const require = newRequire(import.meta.url);';

const [file = ""] = process.argv.splice(2, 1);
const source = resolve(file);
const compiled = join(PACKAGES, ".cache", "commands", `${hash("sha256", source)}.mjs`);
if (isCurrent() || (await compile().then(isCurrent, () => false)))
  await import(pathToFileURL(compiled).href);
else {
  if (!process.features.typescript) await import("tsx/esm");
  await import(pathToFileURL(source).href);
}

/** Whether the files are as they were. The first line of the compiled file has their hashes. */
function isCurrent() {
  try {
    const [line] = readFileSync(compiled, "utf8").split("\n", 1);
    const hashes = Object.entries(JSON.parse(line.slice("//".length)));
    return hashes.every(([path, known]) => hashOf(path) === known);
  } catch {
    return false;
  }
}

function hashOf(path) {
  return hash("sha256", readFileSync(path));
}

async function compile() {
  const { build } = await import("esbuild");
  const hashes = { [OWN]: hashOf(OWN), [LOCK]: hashOf(LOCK) };
  const { outputFiles } = await build({
    entryPoints: [source],
    bundle: true,
    platform: "node",
    target: "node20.19",
    format: "esm",
    banner: { js: REQUIRE },
    external: NOT_COMPILED,
    // Node reads less, and names in messages stay.
    minifyWhitespace: true,
    minifySyntax: true,
    absWorkingDir: ROOT,
    write: false,
    logLevel: "silent",
    plugins: [{ name: "sources", setup: (built) => built.onLoad({ filter: /\.ts$/ }, load) }],
  });
  /** The code finds other files by the place of its source. */
  function load({ path }) {
    const text = readFileSync(path, "utf8");
    hashes[path] = hash("sha256", text);
    const url = JSON.stringify(pathToFileURL(path).href);
    return { loader: "ts", contents: text.replaceAll("import.meta.url", url) };
  }
  const [{ text }] = outputFiles;
  mkdirSync(dirname(compiled), { recursive: true });
  const written = `${compiled}.${randomBytes(4).toString("hex")}`;
  writeFileSync(written, `//${JSON.stringify(hashes)}\n${text}`);
  renameSync(written, compiled);
}
