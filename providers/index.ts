/** From the config to the provider's module. Only the chosen one is loaded: the clouds' packages are large. */
import type { StorageConfig } from "../config/index.ts";
import type { AuthentikStorage } from "./contract.ts";

/** Declares the storage that the config describes, below one component of this name. */
export async function provision(name: string, config: StorageConfig): Promise<AuthentikStorage> {
  const { provision: s3 } = await import("./s3/index.ts");
  return s3(name, config);
}
