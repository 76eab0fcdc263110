/**
 * Pulumi resources on the S3 API: a bucket, its CORS policy, its bucket policy. They work with any
 * S3-compatible server.
 *
 * A Pulumi program of your own can use them too. Its package.json has to name the code that the
 * engine runs, by a path in its folder or by a package:
 *
 * @example "imports": {
 *   "#authentik-storage-provider": "authentik-storage/providers/s3/dynamic-provider.cjs"
 * }
 */
import { createRequire } from "node:module";
import { RunError } from "@pulumi/pulumi/errors.js";
import type { Input, Inputs } from "@pulumi/pulumi/output.js";
import { CustomResource, type CustomResourceOptions } from "@pulumi/pulumi/resource.js";
import type { AddressingStyle } from "../../authentik/env.ts";
import type { PolicyDocument } from "../../authentik/permissions.ts";
import type { CorsRule } from "./operations.ts";

/** How to reach the server, part of every resource here. */
export interface ConnectionArgs {
  /** URL of the S3 API, with scheme, without the bucket. Changing it replaces the resource. */
  endpoint: Input<string>;
  /** The region that requests are signed for; `us-east-1` without one. */
  region?: Input<string | undefined>;
  /** `virtual` puts the bucket into the host. All else is path style. */
  addressingStyle?: Input<AddressingStyle | undefined>;
  /**
   * Keys that may administer the bucket, where they are outputs of other resources. Without them
   * the resource takes `adminAccessKey` and `adminSecretKey`, or else `accessKey` and `secretKey`,
   * from the stack's config, and does not store them.
   */
  credentials?: Input<
    { accessKey: Input<string>; secretKey: Input<string>; sessionToken?: Input<string> } | undefined
  >;
  /**
   * For how many seconds a call is retried, while the server does not answer or does not know the
   * keys yet. 0 by default.
   */
  retrySeconds?: Input<number | undefined>;
}

export interface S3BucketArgs extends ConnectionArgs {
  /** Changing it replaces the bucket. */
  bucket: Input<string>;
  /** Manages a bucket that exists already, instead of failing. */
  adopt?: Input<boolean>;
  /** Allows a bucket that is not empty to be deleted, with everything in it. */
  forceDestroy?: Input<boolean>;
}

export interface S3BucketCorsArgs extends ConnectionArgs {
  bucket: Input<string>;
  rules: Input<Input<CorsRule>[]>;
}

export interface S3BucketPolicyArgs extends ConnectionArgs {
  bucket: Input<string>;
  policy: Input<PolicyDocument>;
}

/** The CORS rules that authentik's browsers need. The defaults are the setup page's values. */
export function authentikCorsRules(args: {
  origins: string[];
  corsAllowedHeaders?: string[];
  corsMaxAgeSeconds?: number;
}): CorsRule[] {
  return [
    {
      allowedOrigins: args.origins,
      allowedHeaders: args.corsAllowedHeaders ?? ["Authorization"],
      allowedMethods: ["GET"],
      maxAgeSeconds: args.corsMaxAgeSeconds ?? 3000,
    },
  ];
}

/** A private bucket. It is not deleted while it has objects, unless `forceDestroy` is set. */
export class S3Bucket extends CustomResource {
  constructor(name: string, args: S3BucketArgs, options?: CustomResourceOptions) {
    super(...dynamicResource("S3Bucket", "bucket", name, { ...args }, options));
  }
}

/** The CORS policy of a bucket, as a whole. */
export class S3BucketCors extends CustomResource {
  constructor(name: string, args: S3BucketCorsArgs, options?: CustomResourceOptions) {
    super(...dynamicResource("S3BucketCors", "cors", name, { ...args }, options));
  }
}

/** The bucket policy of a bucket, as a whole. */
export class S3BucketPolicy extends CustomResource {
  constructor(name: string, args: S3BucketPolicyArgs, options?: CustomResourceOptions) {
    super(...dynamicResource("S3BucketPolicy", "policy", name, { ...args }, options));
  }
}

/**
 * The import in package.json by which the engine finds `dynamic-provider.cjs`. Every stack stores
 * this name, so it never changes (docs/architecture.md, "What a stack stores").
 */
const IMPORT = "#authentik-storage-provider";

/**
 * A dynamic resource whose code stays in its file. `pulumi.dynamic.Resource` would serialize the
 * code into the state. For that it loads the TypeScript compiler into every preview (0.5 s, 70 MB),
 * and a refresh or destroy would run the code of the last `up`. The engine's protocol needs only a
 * module with a `handler`, so this one loads the code by a name that every checkout resolves.
 *
 * @throws RunError where the program's package.json does not have that name
 */
function dynamicResource(
  type: string,
  operations: "bucket" | "cors" | "policy",
  name: string,
  args: Inputs,
  options: CustomResourceOptions = {},
): [string, string, Inputs, CustomResourceOptions] {
  checkImport();
  // A stack stores this text. Another text is an update of every resource in every stack.
  const handler =
    "exports.handler = () => " +
    `require("node:module").createRequire(process.cwd() + "/")("${IMPORT}").${operations};`;
  return [
    `pulumi-nodejs:dynamic/authentik-storage:${type}`,
    name,
    { ...args, __provider: handler },
    {
      ...options,
      additionalSecretOutputs: ["credentials", ...(options.additionalSecretOutputs ?? [])],
    },
  ];
}

/** The program and the engine's provider process run in the same folder, so both find one file. */
function checkImport(): void {
  try {
    createRequire(`${process.cwd()}/`).resolve(IMPORT);
  } catch (cause) {
    const error = new RunError(
      `the program in ${process.cwd()} has no file for the import "${IMPORT}". Pulumi finds the ` +
        `code of the S3 resources by it. Add "imports": { "${IMPORT}": ` +
        '"authentik-storage/providers/s3/dynamic-provider.cjs" } to the program\'s package.json. ' +
        "If authentik-storage is in a folder of the program, write its path with ./ in front.",
      { cause },
    );
    // As in config/index.ts: on Node 20 the SDK prints a stack through its files for 40 s.
    error.stack = "";
    throw error;
  }
}
