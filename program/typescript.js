/**
 * Loads a TypeScript file from its compiled form. Loading the TypeScript and its packages file by
 * file takes up to four times the CPU time.
 *
 * The compiled files are below node_modules: an entry, and a file for what is imported later. The
 * first line of the entry has the hashes of the other files and of the sources, so that an edit, a
 * pull and another version of a package take effect at once. If the files cannot be made or written,
 * the TypeScript runs. This file is plain JavaScript, because nothing compiles it.
 */
import { hash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const OWN = fileURLToPath(import.meta.url);
const ROOT = join(dirname(OWN), "..");
const PACKAGES = join(ROOT, "node_modules");
const COMPILED = join(PACKAGES, ".cache", "compiled");
/** npm writes it whenever it changes a package. */
const LOCK = join(PACKAGES, ".package-lock.json");
/** Large packages that are not always needed, and Pulumi's SDK, which must exist once in a process. */
const NOT_COMPILED = ["@aws-sdk/*", "@pulumi/*"];
/** Packages that are CommonJS call it. */
const REQUIRE =
  'import { createRequire as newRequire } from "node:module"; const require = newRequire(import.meta.url);';

/**
 * What `import()` gives for a TypeScript file of this repository.
 *
 * @param {string} source the absolute path of the file
 */
export async function importTypeScript(source) {
  const name = hash("sha256", source);
  const entry = join(COMPILED, `${name}.js`);
  const compiled = () =>
    compile(source, name)
      .then(() => isCurrent(entry))
      .catch(() => false);
  if (isCurrent(entry) || (await compiled())) return import(pathToFileURL(entry).href);
  // Node that strips types itself needs no loader.
  if (!process.features.typescript) await import("tsx/esm");
  return import(pathToFileURL(source).href);
}

/** Whether an entry is there, and the files that its first line names are as they were. */
function isCurrent(entry) {
  try {
    const [line] = readFileSync(entry, "utf8").split("\n", 1);
    const hashes = Object.entries(JSON.parse(line.slice("//".length)));
    return hashes.every(([path, known]) => hashOf(path) === known);
  } catch {
    return false;
  }
}

function hashOf(path) {
  return hash("sha256", readFileSync(path));
}

async function compile(source, name) {
  const { build } = await import("esbuild");
  const hashes = { [OWN]: hashOf(OWN), [LOCK]: hashOf(LOCK) };
  const { outputFiles } = await build({
    entryPoints: { [name]: source },
    bundle: true,
    // What is imported when it is needed gets a file of its own, named by its content.
    splitting: true,
    chunkNames: "[hash]",
    outdir: COMPILED,
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
  mkdirSync(COMPILED, { recursive: true });
  const write = (path, text) => {
    const written = `${path}.${randomBytes(4).toString("hex")}`;
    writeFileSync(written, text);
    renameSync(written, path);
  };
  const isEntry = ({ path }) => basename(path) === `${name}.js`;
  const [entry, ...others] = outputFiles.sort((a, b) => isEntry(b) - isEntry(a));
  for (const { path, text } of others) {
    write(path, text);
    hashes[path] = hash("sha256", text);
  }
  write(entry.path, `//${JSON.stringify(hashes)}\n${entry.text}`);
}
