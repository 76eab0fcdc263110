/** A fake of AWS: moto's server, with S3, IAM and STS. Tests ask it what the real plugin has made. */
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import {
  DeleteBucketPolicyCommand,
  GetBucketPolicyCommand,
  PutBucketPolicyCommand,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import * as v from "valibot";
import { hasPlugin } from "./engine.ts";
import { listen } from "./listen.ts";
import { moto, startMoto } from "./moto.ts";

export const canFakeAws = moto !== undefined && (await hasPlugin("aws"));

export interface FakeAws {
  /** What the plugin needs in its environment. */
  env: Record<string, string>;
  s3: S3Client;
  /** Puts a file in a bucket, past its policy: moto does not read the condition of a denial. */
  putFile(bucket: string): Promise<void>;
  /** An action of IAM. Returns the texts of its answer's elements of this name. */
  iam(action: string, parameters: Record<string, string>, element?: string): Promise<string[]>;
  /** Who has which inline policies, e.g. `user/authentik-user-1a2b3c4: authentik-user-policy-1a2b3c4`. */
  rights(): Promise<string[]>;
  /** The access keys of all users, with their status. */
  keys(): Promise<Map<string, string>>;
  /** The service accounts that have a role by Pod Identity, as `namespace/name`. */
  pods(): string[];
  stop(): Promise<void>;
}

const CREDENTIALS = { accessKeyId: "test", secretAccessKey: "test" };
const REGION = "eu-central-1";

/** Starts it on a free port of 127.0.0.1. */
export async function startAws(): Promise<FakeAws> {
  const server = await startMoto();
  const endpoint = server.url;
  const eks = await startEks();
  const s3 = new S3Client({
    endpoint,
    region: REGION,
    forcePathStyle: true,
    credentials: CREDENTIALS,
  });

  const iam: FakeAws["iam"] = async (action, parameters, element = "member") => {
    const response = await fetch(endpoint, {
      method: "POST",
      headers: {
        authorization: `AWS4-HMAC-SHA256 Credential=test/20261126/us-east-1/iam/aws4_request`,
      },
      body: new URLSearchParams({ Action: action, Version: "2010-05-08", ...parameters }),
    });
    const answer = await response.text();
    if (!response.ok) throw new Error(answer);
    return [...answer.matchAll(new RegExp(`<${element}>([^<]*)</${element}>`, "g"))].map(
      ([, found = ""]) => found,
    );
  };
  const users = () => iam("ListUsers", {}, "UserName");
  const roles = () => iam("ListRoles", {}, "RoleName");
  return {
    env: {
      AWS_ENDPOINT_URL: endpoint,
      AWS_ENDPOINT_URL_EKS: eks.endpoint,
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
      AWS_EC2_METADATA_DISABLED: "true",
      // Only in plugins that were built for tests: the real one waits 30 s.
      FAKE_AWS_LIFECYCLE_POLL: "200ms",
      PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION: "true",
    },
    s3,
    async putFile(Bucket) {
      const { Policy } = await s3.send(new GetBucketPolicyCommand({ Bucket }));
      await s3.send(new DeleteBucketPolicyCommand({ Bucket }));
      await s3.send(new PutObjectCommand({ Bucket, Key: "icon.png", Body: "x" }));
      await s3.send(new PutBucketPolicyCommand({ Bucket, Policy }));
    },
    iam,
    async rights() {
      const ofUsers = (await users()).map(async (name) => {
        return `user/${name}: ${(await iam("ListUserPolicies", { UserName: name })).join()}`;
      });
      const ofRoles = (await roles()).map(async (name) => {
        return `role/${name}: ${(await iam("ListRolePolicies", { RoleName: name })).join()}`;
      });
      return (await Promise.all([...ofUsers, ...ofRoles])).sort();
    },
    async keys() {
      const found = new Map<string, string>();
      for (const UserName of await users()) {
        const ids = await iam("ListAccessKeys", { UserName }, "AccessKeyId");
        const states = await iam("ListAccessKeys", { UserName }, "Status");
        for (const [index, id] of ids.entries()) found.set(id, states[index] ?? "");
      }
      return found;
    },
    pods: eks.pods,
    async stop() {
      s3.destroy();
      await eks.stop();
      await server.stop();
    },
  };
}

const Association = v.object({ namespace: v.string(), serviceAccount: v.string() });

/** The part of EKS that moto does not have: the associations of Pod Identity. */
async function startEks(): Promise<Pick<FakeAws, "pods" | "stop"> & { endpoint: string }> {
  const associations = new Map<string, Record<string, unknown>>();
  const server = createServer((request, response) => {
    void text(request).then((body) => {
      const [, , clusterName = "", , id = randomUUID()] = (request.url ?? "").split("/");
      if (request.method === "POST") {
        const associationArn = `arn:aws:eks:${REGION}:123456789012:podidentityassociation/${clusterName}/${id}`;
        const given = v.parse(v.record(v.string(), v.unknown()), JSON.parse(body));
        const made = {
          clusterName,
          associationId: id,
          associationArn,
          createdAt: 1,
          modifiedAt: 1,
        };
        associations.set(id, { ...made, ...associations.get(id), ...given });
      }
      const association = associations.get(id);
      if (request.method === "DELETE") associations.delete(id);
      response.writeHead(association ? 200 : 404, {
        "content-type": "application/json",
        ...(association ? {} : { "x-amzn-errortype": "ResourceNotFoundException" }),
      });
      response.end(JSON.stringify(association ? { association } : { message: "not found" }));
    });
  });
  const { host, stop } = await listen(server);
  return {
    endpoint: `http://${host}`,
    pods: () =>
      [...associations.values()]
        .map((association) => {
          const { namespace, serviceAccount } = v.parse(Association, association);
          return `${namespace}/${serviceAccount}`;
        })
        .sort(),
    stop,
  };
}
