/** From the config to the provider's module. Only the chosen one is loaded: the clouds' packages are large. */
import type { StorageConfig } from "../config/index.ts";
import type { AuthentikStorage } from "./contract.ts";

/** Declares the storage that the config describes, below one component of this name. */
export async function provision(name: string, config: StorageConfig): Promise<AuthentikStorage> {
  switch (config.provider) {
    case "aws":
      return (await import("./aws.ts")).provision(name, config);
    case "r2":
      return (await import("./r2.ts")).provision(name, config);
    case "azure":
      return (await import("./azure.ts")).provision(name, config);
    case "s3":
      return (await import("./s3/index.ts")).provision(name, config);
  }
}
