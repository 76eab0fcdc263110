/**
 * Runs a Pulumi program in this process, in the SDK's own monitor, without the command line tool.
 * Dynamic resources are really created, by the code that the engine would run. No state is stored.
 */
import { createRequire } from "node:module";
import { join } from "node:path";
import { runInThisContext } from "node:vm";
import type { ConfigureRequest } from "@pulumi/pulumi/dynamic/index.js";
import { output, type Inputs } from "@pulumi/pulumi/output.js";
import { setAllConfig } from "@pulumi/pulumi/runtime/config.js";
import {
  setMocks,
  type MockCallArgs,
  type MockResourceArgs,
  type MockResourceResult,
} from "@pulumi/pulumi/runtime/mocks.js";
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
  /** The program. It resolves to the stack's outputs. */
  program: () => Promise<Inputs>;
  /** Ends the wait for the program. Its calls go on until this process exits. */
  signal: AbortSignal;
}

/**
 * The program's outputs, resolved. Secret outputs are in plain text.
 *
 * @throws the first error of the program or of a resource, or the signal's reason
 */
export async function runInProcess({
  project,
  stack,
  config,
  secrets,
  program,
  signal,
}: ProgramRun): Promise<Inputs> {
  let fail: (error: unknown) => void = () => undefined;
  // Outputs that depend on a failed resource never resolve, so the failure must end the run.
  const failed = new Promise<never>((_resolve, reject) => (fail = reject));
  signal.addEventListener("abort", () => {
    fail(signal.reason);
  });
  const newResource = async (args: MockResourceArgs): Promise<MockResourceResult> => {
    try {
      return await create(args, configOf(config));
    } catch (error) {
      fail(error);
      throw error;
    }
  };
  const call = ({ token }: MockCallArgs) => {
    throw new Error(`no provider for the function "${token}" in this process`);
  };
  const qualified = (key: string) => `${project}:${key}`;
  const values = Object.entries(config).map(([key, value]) => [qualified(key), value] as const);
  await setMocks({ newResource, call }, project, stack);
  setAllConfig(Object.fromEntries(values), secrets.map(qualified));
  // After a failure the listener stays: other calls of the program may fail later.
  process.on("unhandledRejection", fail);
  const outputs = await Promise.race([failed, resolveOutputs(program)]);
  process.off("unhandledRejection", fail);
  return outputs;
}

async function resolveOutputs(program: () => Promise<Inputs>): Promise<Inputs> {
  const outputs = await runInPulumiStack(program);
  await disconnect();
  return new Promise<Inputs>((resolve) => output(outputs ?? {}).apply(resolve));
}

type ProviderConfig = ConfigureRequest["config"];

function configOf(values: Readonly<Record<string, string>>): ProviderConfig {
  const required = (key: string): string => {
    const value = values[key];
    if (value === undefined) throw new Error(`the config has no "${key}"`);
    return value;
  };
  return { get: (key) => values[key], require: required };
}

async function create(
  { type, name, custom, inputs }: MockResourceArgs,
  config: ProviderConfig,
): Promise<MockResourceResult> {
  const given: unknown = inputs;
  const plain = ([key, value]: [string, unknown]) => [key, unwrapRpcSecret(value)] as const;
  const state: Record<string, unknown> = Object.fromEntries(Object.entries(given ?? {}).map(plain));
  if (custom === false) return { id: undefined, state };
  const provider = typeof state.__provider === "string" ? load(state.__provider) : undefined;
  if (!isProvider(provider)) {
    throw new Error(`the resource "${name}" (${type}) needs the Pulumi command line tool`);
  }
  await provider.configure({ config });
  const { id, outs = {} } = await provider.create(state);
  return { id, state: outs };
}

/** The provider that the engine would get from a handler (`cmd/dynamic-provider` in the SDK). */
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
  if (typeof value !== "object" || value === null) return false;
  return "configure" in value && "create" in value;
}
