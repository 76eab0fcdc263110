/** The state's home (Pulumi: "backend") and what encrypts its secrets ("secrets provider"): what their URLs say. */
import { homedir } from "node:os";
import { resolve } from "node:path";

/** What the user can mend about the state's home. The message says what to do. */
export class StateError extends Error {
  override name = "StateError";
}

/** Where state can live: Pulumi Cloud, or a folder or bucket of one's own. */
export type HomeKind = "cloud" | "file" | "s3" | "azblob" | "gs";

/** A home's URL, taken apart. */
export interface Home {
  kind: HomeKind;
  /** As Pulumi takes it, in `PULUMI_BACKEND_URL`. */
  url: string;
  /** The bucket or container, or the folder; for Pulumi Cloud its host. */
  place: string;
  query: URLSearchParams;
}

const KINDS: Readonly<Record<string, HomeKind>> = {
  "https:": "cloud", "http:": "cloud", "file:": "file", "s3:": "s3", "azblob:": "azblob", "gs:": "gs",
};

/**
 * Reads the URL of a home. What its query may hold is left to Pulumi, which says it best.
 *
 * @throws StateError when it is none, or has credentials in it
 */
export function parseHome(url: string): Home {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const kind = parsed && KINDS[parsed.protocol];
  if (!parsed || !kind) {
    throw new StateError(`"${url}" is no home for state; write https://api.pulumi.com, s3://bucket, azblob://container, gs://bucket or file:///folder`);
  }
  if (parsed.username !== "" || parsed.password !== "") {
    throw new StateError(`the URL of the ${parsed.protocol}// home has credentials in it, where others can read them; put them into the environment (docs/state.md)`);
  }
  const place = kind === "file" ? folderOf(url) : parsed.host;
  if (place === "") throw new StateError(`"${url}" names no ${kind === "azblob" ? "container" : "bucket"}; write ${parsed.protocol}//name`);
  return { kind, url, place, query: parsed.searchParams };
}

/** What of a bucket's URL says where it is; all else is how to get there. */
const WHERE = ["endpoint", "storage_account", "domain"] as const;

/** True when two URLs are known to be of one home, however they are written. */
export function isSameHome(one: Home, other: Home): boolean {
  const where = ({ kind, url, place, query }: Home) =>
    JSON.stringify([kind, place, kind === "file" ? "" : new URL(url).pathname.replace(/\/+$/, ""), ...WHERE.map((name) => query.get(name))]);
  return where(one) === where(other);
}

/**
 * The folder of a `file:` URL. Pulumi takes what follows `file://` up to a `?` for a path: `file://state` is relative to where it
 * runs, which is not one folder for all commands here, and `~` is a home that is a machine's own (`massageBlobPath` of
 * `pkg/backend/diy/backend.go`). A whole path is the same to everybody.
 */
function folderOf(url: string): string {
  const [path = ""] = url.replace(/^file:(?:\/\/)?/i, "").split(/[?#]/);
  if (!url.startsWith("file:///")) {
    const meant = path.replace(/^~(?=\/|$)/, homedir());
    throw new StateError(`"${url}" is not the whole path of a folder; write three slashes and all of it, e.g. "file://${resolve(meant)}"`);
  }
  try {
    return resolve(decodeURIComponent(path));
  } catch (error) {
    throw new StateError(`"${url}" has a "%" that begins no character; write %25 for the "%" itself`, { cause: error });
  }
}

/**
 * What is wrong with a secrets provider, and what to write instead; undefined when it can be right. The forms are those of
 * gocloud.dev's `secrets/awskms` and `secrets/azurekeyvault`, which Pulumi uses.
 */
export function secretsProviderFault(provider: string, home: Home): string | undefined {
  const [, scheme = provider, rest = ""] = /^([a-z]+):\/\/(.*)$/.exec(provider) ?? [];
  switch (scheme) {
    case "passphrase":
    case "gcpkms":
    case "hashivault":
      return undefined;
    case "default":
      return home.kind === "cloud" ? undefined : `is Pulumi Cloud's own and works only there; write passphrase, awskms://... or azurekeyvault://...`;
    case "awskms":
      if (/^[^/?]*arn:/.test(rest)) return `has an ARN where a URL has its host; write three slashes: "awskms:///${rest}"`;
      return /^(?:alias\/[\w/-]+|[\w-]+|\/arn:[^?]+)(?:\?.*)?$/.test(rest) ? undefined : 'names no key; write e.g. "awskms://alias/pulumi-state?region=eu-central-1"';
    case "azurekeyvault":
      return /^[\w-]+\.vault\.[a-z\d.-]+\/keys\/[^/?]+(?:\/[^/?]+)?(?:\?algorithm=[\w-]+)?$/.test(rest)
        ? undefined
        : 'names no key; write e.g. "azurekeyvault://company.vault.azure.net/keys/pulumi-state"';
    default:
      return "is not a secrets provider; write passphrase, awskms://..., azurekeyvault://..., gcpkms://... or hashivault://...";
  }
}

/** @throws StateError with what `secretsProviderFault` finds */
export function checkSecretsProvider(provider: string, home: Home): void {
  const fault = secretsProviderFault(provider, home);
  if (fault !== undefined) throw new StateError(`the secrets provider "${provider}" ${fault}`);
}
