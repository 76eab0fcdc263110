/** Makes a home of one's own for the state, which no program can do whose state would have to be there already. */
import { mkdir } from "node:fs/promises";
import {
  BucketLocationConstraint, CreateBucketCommand, GetBucketVersioningCommand, GetPublicAccessBlockCommand, HeadBucketCommand,
  ListObjectsV2Command, PutBucketVersioningCommand, PutPublicAccessBlockCommand, S3Client, S3ServiceException,
  type CreateBucketCommandInput,
} from "@aws-sdk/client-s3";
import { adviceOn } from "./check.ts";
import { StateError, type Home } from "./home.ts";

/** What was made, or what is there. */
export interface Creation {
  created: boolean;
  /** What is known of it, each a sentence without its subject: `is private`. */
  facts: string[];
  /** What it should be and is not, and what to do about it. */
  wants: string[];
}

/**
 * Makes the folder or the bucket if it is not there: private and versioned. One that is there and empty gets what it lacks, so
 * that an interrupted run can be run again; one with anything in it is only looked at.
 *
 * @throws StateError for what has to be made by other means, with the commands
 */
export async function createHome(home: Home): Promise<Creation> {
  switch (home.kind) {
    case "file":
      return { created: (await mkdir(home.place, { recursive: true, mode: 0o700 })) !== undefined, facts: ["is a folder of this machine"], wants: ["Nobody else has it: back it up."] };
    case "s3":
      return createBucket(home);
    case "azblob":
      throw new StateError(`a container is made with Azure's own tool:\n${azureCommands(home)}`);
    case "gs":
      throw new StateError(`a bucket is made with Google's own tool:\n  gcloud storage buckets create gs://${home.place} --uniform-bucket-level-access --public-access-prevention\n  gcloud storage buckets update gs://${home.place} --versioning`);
    case "cloud":
      throw new StateError("Pulumi Cloud needs no bucket; go on with: npm run state -- start <stack> --backend https://api.pulumi.com --secrets-provider default");
  }
}

function azureCommands({ place, query }: Home): string {
  const account = query.get("storage_account") ?? "<account>";
  return [
    `az storage account create --name ${account} --resource-group <group> --location <region> --sku Standard_ZRS --allow-blob-public-access false --min-tls-version TLS1_2`,
    `az storage account blob-service-properties update --account-name ${account} --enable-versioning true --enable-delete-retention true --delete-retention-days 30`,
    `az storage container create --account-name ${account} --name ${place} --auth-mode login`,
  ].map((line) => `  ${line}`).join("\n");
}

async function createBucket(home: Home): Promise<Creation> {
  const s3 = createClient(home);
  try {
    const isThere = await exists(s3, home);
    if (!isThere) await make(s3, home);
    const mayWrite = !isThere || (await isEmpty(s3, home));
    const found = [];
    for (const setting of settingsOf(s3, home.place)) found.push(await put(setting, mayWrite));
    return { created: !isThere, facts: found.flatMap(({ fact }) => fact ?? []), wants: found.flatMap(({ want }) => want ?? []) };
  } finally {
    s3.destroy();
  }
}

/** What a bucket for state should be. */
interface Setting {
  good: string;
  bad: string;
  write: () => Promise<unknown>;
  isGood: () => Promise<boolean>;
}

function settingsOf(s3: S3Client, Bucket: string): Setting[] {
  const blocked = { BlockPublicAcls: true, IgnorePublicAcls: true, BlockPublicPolicy: true, RestrictPublicBuckets: true };
  return [
    {
      good: "is closed to the public",
      bad: "is not closed to the public",
      write: () => s3.send(new PutPublicAccessBlockCommand({ Bucket, PublicAccessBlockConfiguration: blocked })),
      isGood: async () => {
        const { PublicAccessBlockConfiguration: found = {} } = await s3.send(new GetPublicAccessBlockCommand({ Bucket }));
        return [found.BlockPublicAcls, found.IgnorePublicAcls, found.BlockPublicPolicy, found.RestrictPublicBuckets].every(Boolean);
      },
    },
    {
      good: "keeps old versions",
      bad: "keeps no old versions, which are the way back from a broken state",
      write: () => s3.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: "Enabled" } })),
      isGood: async () => (await s3.send(new GetBucketVersioningCommand({ Bucket }))).Status === "Enabled",
    },
  ];
}

/** Puts a setting where it may be put, and looks what is there. */
async function put({ good, bad, write, isGood }: Setting, mayWrite: boolean): Promise<{ fact?: string; want?: string }> {
  try {
    if (mayWrite) await write();
    return (await isGood()) ? { fact: good } : { want: `It ${bad}. It is not empty, so it was left as it is.` };
  } catch (error) {
    if (!(error instanceof S3ServiceException)) throw error;
    // Servers beside AWS lack one or the other setting; their buckets are private from the beginning.
    return { want: `It is not known whether it ${good}: the server answered ${error.name}.` };
  }
}

function createClient(home: Home): S3Client {
  const { query } = home;
  const endpoint = query.get("endpoint");
  const profile = query.get("profile");
  // On Node 20 the SDK warns, at every start, of what its later versions will need; the lock file holds this one.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = "true";
  return new S3Client({
    region: regionOf(home),
    forcePathStyle: query.get("s3ForcePathStyle") === "true" || query.get("use_path_style") === "true",
    ...(endpoint === null ? {} : { endpoint: endpoint.includes("://") ? endpoint : `https://${endpoint}` }),
    ...(profile === null ? {} : { profile }),
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    requestHandler: { connectionTimeout: 5_000, requestTimeout: 30_000, throwOnRequestTimeout: true },
  });
}

function regionOf({ query }: Home): string {
  return query.get("region") ?? process.env.AWS_REGION ?? process.env.AWS_DEFAULT_REGION ?? "us-east-1";
}

/** AWS wants the region of a new bucket named, but for its first one; other servers have one. */
function location(home: Home): Pick<CreateBucketCommandInput, "CreateBucketConfiguration"> {
  const LocationConstraint = Object.values(BucketLocationConstraint).find((region) => region === regionOf(home));
  return home.query.has("endpoint") || LocationConstraint === undefined ? {} : { CreateBucketConfiguration: { LocationConstraint } };
}

async function exists(s3: S3Client, home: Home): Promise<boolean> {
  try {
    await s3.send(new HeadBucketCommand({ Bucket: home.place }));
    return true;
  } catch (error) {
    if (error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404) return false;
    throw unreachable(home, error);
  }
}

async function isEmpty(s3: S3Client, home: Home): Promise<boolean> {
  const { KeyCount } = await s3.send(new ListObjectsV2Command({ Bucket: home.place, MaxKeys: 1 }));
  return KeyCount === 0;
}

async function make(s3: S3Client, home: Home): Promise<void> {
  try {
    await s3.send(new CreateBucketCommand({ Bucket: home.place, ...location(home) }));
  } catch (error) {
    throw unreachable(home, error);
  }
}

function unreachable(home: Home, error: unknown): StateError {
  const said = error instanceof S3ServiceException
    ? `${error.name} (HTTP ${error.$metadata.httpStatusCode ?? "?"}) ${error.message}`
    : String(error instanceof Error && "code" in error ? `${String(error.code)} ${error.message}` : error);
  const advice = said.includes("(HTTP 403)")
    ? "The name belongs to somebody else, or these keys may not make buckets: choose another name, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    : adviceOn(said, home);
  return new StateError(`the bucket "${home.place}" cannot be had: ${said}. ${advice}`, { cause: error });
}
