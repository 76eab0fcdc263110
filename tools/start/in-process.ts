/**
 * Runs a Pulumi program in this process, in the SDK's own monitor, without the command line tool. Dynamic resources are
 * really created, by the code that the engine would run; nothing is remembered afterwards.
 */
import { createRequire } from "node:module";
import { join } from "node:path";
import { runInThisContext } from "node:vm";
import type { ConfigureRequest } from "@pulumi/pulumi/dynamic/index.js";
import { output, type Inputs } from "@pulumi/pulumi/output.js";
import { setAllConfig } from "@pulumi/pulumi/runtime/config.js";
import { setMocks, type MockCallArgs, type MockResourceArgs, type MockResourceResult } from "@pulumi/pulumi/runtime/mocks.js";
import { unwrapRpcSecret } from "@pulumi/pulumi/runtime/rpc.js";
import { disconnect } from "@pulumi/pulumi/runtime/settings.js";
import { runInPulumiStack } from "@pulumi/pulumi/runtime/stack.js";

/** A run of a program. */
export interface ProgramRun {
  project: string;
  stack: string;
  /** Values of the stack's config, without the project's name before each key. */
  config: Readonly<Record<string, string>>;
  /** The keys whose values are secrets. */
  secrets: readonly string[];
  /** The program; what it resolves to is the stack's outputs. */
  program: () => Promise<Inputs>;
}

/**
 * The program's outputs, resolved; what is secret among them is in clear.
 *
 * @throws the first error of the program or of a resource
 */
export async function runInProcess({ project, stack, config, secrets, program }: ProgramRun): Promise<Inputs> {
  let fail: (error: unknown) => void = () => undefined;
  // Outputs that depend on a resource which failed are never resolved, so the failure has to end the run.
  const failed = new Promise<never>((_resolve, reject) => (fail = reject));
  const newResource = async (args: MockResourceArgs): Promise<MockResourceResult> => {
    try {
      return await create(args, { get: (key) => config[key], require: (key) => requireValue(config, key) });
    } catch (error) {
      fail(error);
      throw error;
    }
  };
  const call = ({ token }: MockCallArgs) => { throw new Error(`no provider for the function "${token}" in this process`); };
  const qualified = (key: string) => `${project}:${key}`;
  await setMocks({ newResource, call }, project, stack);
  setAllConfig(Object.fromEntries(Object.entries(config).map(([key, value]) => [qualified(key), value])), secrets.map(qualified));
  process.on("unhandledRejection", fail);
  try {
    return await Promise.race([failed, resolveOutputs(program)]);
  } finally {
    process.off("unhandledRejection", fail);
  }
}

async function resolveOutputs(program: () => Promise<Inputs>): Promise<Inputs> {
  const outputs = await runInPulumiStack(program);
  await disconnect();
  return new Promise<Inputs>((resolve) => output(outputs ?? {}).apply(resolve));
}

function requireValue(config: Readonly<Record<string, string>>, key: string): string {
  const value = config[key];
  if (value === undefined) throw new Error(`the config has no "${key}"`);
  return value;
}

async function create({ type, name, custom, inputs }: MockResourceArgs, config: ConfigureRequest["config"]): Promise<MockResourceResult> {
  const given: unknown = inputs;
  const state = Object.fromEntries(Object.entries(given ?? {}).map(([key, value]): [string, unknown] => [key, unwrapRpcSecret(value)]));
  if (custom === false) return { id: undefined, state };
  const provider = typeof state.__provider === "string" ? load(state.__provider) : undefined;
  if (!isProvider(provider)) throw new Error(`the resource "${name}" is of the type ${type}, which needs the Pulumi command line tool`);
  await provider.configure({ config });
  const { id, outs = {} } = await provider.create(state);
  return { id, state: outs };
}

/** The dynamic provider that the engine would make of this code (`cmd/dynamic-provider` in the SDK). */
function load(code: string): unknown {
  const module: { handler?: () => unknown } = {};
  const run: unknown = runInThisContext(`(function (exports, require) {${code}\n})`);
  if (isFunction(run)) run(module, createRequire(join(process.cwd(), "index")));
  return module.handler?.();
}

interface Provider {
  configure(request: ConfigureRequest): Promise<void>;
  create(inputs: Record<string, unknown>): Promise<{ id: string; outs?: Record<string, unknown> }>;
}

function isFunction(value: unknown): value is (...args: unknown[]) => unknown {
  return typeof value === "function";
}

function isProvider(value: unknown): value is Provider {
  return typeof value === "object" && value !== null && "configure" in value && "create" in value;
}
