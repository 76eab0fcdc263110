import { partition } from "@aws-sdk/core/client";
import { runSimulation } from "@cloud-copilot/iam-simulate";
import { expect } from "chai";
import type { Recording } from "./support/recorder.ts";
import { configProblems, record } from "./support/recorder.ts";

const valid = {
  provider: "aws",
  region: "eu-central-1",
  origins: "https://authentik.company",
  bucketName: "company-media",
};
const ACCOUNT = "123456789012";
const IRSA = {
  credentials: "role",
  roleTrust: "irsa",
  oidcProviderArn: `arn:aws:iam::${ACCOUNT}:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/ABC`,
  serviceAccounts: "authentik/authentik-server,authentik/authentik",
};

const problems = (changes: Record<string, string | undefined>) =>
  configProblems({ ...valid, ...changes });

/** One request and whether the policies of the recording let it through. */
async function evaluate(
  recording: Recording,
  {
    action,
    resource,
    principal = "user/authentik-user-1a2b3c4",
    secure = true,
  }: { action: string; resource: string; principal?: string; secure?: boolean },
): Promise<string> {
  const [, name = "aws"] = /^arn:([a-z-]+):/.exec(resource) ?? [];
  const [identity] = [
    ...recording.all("aws:iam/userPolicy:UserPolicy"),
    ...recording.all("aws:iam/rolePolicy:RolePolicy"),
  ];
  const bucketPolicy: unknown = JSON.parse(
    String(recording.one("aws:s3/bucketPolicy:BucketPolicy").inputs.policy),
  );
  const identityPolicy: unknown = JSON.parse(String(identity?.inputs.policy));
  const isKey = action.startsWith("kms:");
  const keyPolicy = {
    Version: "2012-10-17",
    Statement: [
      {
        Effect: "Allow",
        Principal: { AWS: `arn:${name}:iam::${ACCOUNT}:root` },
        Action: "kms:*",
        Resource: "*",
      },
    ],
  };
  const result = await runSimulation(
    {
      request: {
        principal: `arn:${name}:iam::${ACCOUNT}:${principal}`,
        action,
        resource: { resource, accountId: ACCOUNT },
        contextVariables: {
          "aws:SecureTransport": String(secure),
          ...(isKey && secure ? { "kms:ViaService": new URL(recording.endpoint).host } : {}),
        },
      },
      identityPolicies: [{ name: "authentik", policy: identityPolicy }],
      serviceControlPolicies: [],
      resourceControlPolicies: [],
      resourcePolicy: isKey ? keyPolicy : bucketPolicy,
    },
    {},
  );
  if (result.resultType === "error") throw new Error(JSON.stringify(result.errors));
  return result.overallResult;
}

describe("AWS: what authentik may do, by a policy simulator", () => {
  for (const region of ["eu-central-1", "us-gov-west-1", "cn-north-1"]) {
    const { name } = partition(region);
    const bucket = `arn:${name}:s3:::company-media`;
    // biome-ignore format: a table of cases
    const allowed: [call: string, action: string, resource: string][] = [
      ["list_objects_v2", "s3:ListBucket", bucket],
      ["head_object, presigned GET", "s3:GetObject", `${bucket}/media/public/icon.png`],
      ["put_object, upload_fileobj", "s3:PutObject", `${bucket}/media/public/icon.png`],
      ["put_object with an ACL", "s3:PutObjectAcl", `${bucket}/media/public/icon.png`],
      ["delete_object", "s3:DeleteObject", `${bucket}/media/public/icon.png`],
      ["upload_fileobj that fails", "s3:AbortMultipartUpload", `${bucket}/media/public/icon.png`],
      ["upload_fileobj in parts", "s3:ListMultipartUploadParts", `${bucket}/media/public/icon.png`],
    ];
    // biome-ignore format: a table of cases
    const denied: [action: string, resource: string][] = [
      ["s3:ListBucket", `arn:${name}:s3:::another`],
      ["s3:GetObject", `arn:${name}:s3:::another/file`],
      ["s3:PutObject", `arn:${name}:s3:::company-media-too/file`],
      ["s3:GetBucketPolicy", bucket],
      ["s3:PutBucketPolicy", bucket],
      ["s3:DeleteBucketPolicy", bucket],
      ["s3:GetBucketCORS", bucket],
      ["s3:PutBucketCORS", bucket],
      ["s3:PutBucketAcl", bucket],
      ["s3:PutBucketPublicAccessBlock", bucket],
      ["s3:PutLifecycleConfiguration", bucket],
      ["s3:PutBucketVersioning", bucket],
      ["s3:DeleteBucket", bucket],
      ["s3:CreateBucket", `arn:${name}:s3:::another`],
      ["s3:ListBucketVersions", bucket],
      ["s3:GetObjectVersion", `${bucket}/file`],
      ["s3:DeleteObjectVersion", `${bucket}/file`],
      ["s3:GetObjectAcl", `${bucket}/file`],
      ["s3:BypassGovernanceRetention", `${bucket}/file`],
      ["s3:PutObjectTagging", `${bucket}/file`],
      ["s3:ListAllMyBuckets", "*"],
      ["iam:CreateAccessKey", `arn:${name}:iam::${ACCOUNT}:user/authentik-user-1a2b3c4`],
    ];

    it(`${region}: authentik's calls and no others`, async () => {
      const recording = await record({ ...valid, region });
      for (const [call, action, resource] of allowed)
        expect(await evaluate(recording, { action, resource }), call).to.equal("Allowed");
      for (const [action, resource] of denied)
        expect(await evaluate(recording, { action, resource }), `${action} ${resource}`).to.equal(
          "ImplicitlyDenied",
        );
    });

    it(`${region}: nothing over plain HTTP`, async () => {
      const recording = await record({ ...valid, region });
      for (const [call, action, resource] of allowed) {
        expect(await evaluate(recording, { action, resource, secure: false }), call).to.equal(
          "ExplicitlyDenied",
        );
      }
    });

    it(`${region}: a KMS key through S3 alone`, async () => {
      const kmsKeyArn = `arn:${name}:kms:${region}:${ACCOUNT}:key/11111111-2222-3333-4444-555555555555`;
      const recording = await record({ ...valid, region, kmsKeyArn });
      for (const action of ["kms:Decrypt", "kms:GenerateDataKey"]) {
        expect(await evaluate(recording, { action, resource: kmsKeyArn })).to.equal("Allowed");
        expect(await evaluate(recording, { action, resource: kmsKeyArn, secure: false })).to.equal(
          "ImplicitlyDenied",
        );
      }
      for (const action of [
        "kms:Encrypt",
        "kms:PutKeyPolicy",
        "kms:ScheduleKeyDeletion",
        "kms:CreateGrant",
      ]) {
        expect(await evaluate(recording, { action, resource: kmsKeyArn })).to.equal(
          "ImplicitlyDenied",
        );
      }
      expect(
        await evaluate(recording, {
          action: "kms:Decrypt",
          resource: kmsKeyArn.replace("1111", "9999"),
        }),
      ).to.equal("ImplicitlyDenied");
    });
  }
});

describe("AWS: regions", () => {
  const regions = [
    "us-east-1",
    "eu-central-1",
    "eu-south-2",
    "ap-southeast-7",
    "mx-central-1",
    "il-central-1",
    "ca-west-1",
    "af-south-1",
    "me-central-1",
    "sa-east-1",
    "us-gov-east-1",
    "cn-northwest-1",
    "us-iso-east-1",
    "us-isob-east-1",
    "eu-isoe-west-1",
    "us-isof-south-1",
    "eusc-de-east-1",
  ];
  for (const region of regions) {
    it(`${region}: the regional endpoint that the AWS SDK has`, async () => {
      const recording = await record({ ...valid, region });
      expect(recording.endpoint).to.equal(`https://s3.${region}.${partition(region).dnsSuffix}`);
      expect(recording.region).to.equal(region);
      expect(recording.one("pulumi:providers:aws").inputs.region).to.equal(region);
    });
  }

  for (const region of [
    "EU-Central-1",
    "eu-central-1a",
    "frankfurt",
    "eu_central_1",
    "xx-central-1",
  ]) {
    it(`refuses ${region}`, async () => {
      expect((await problems({ region })).join()).to.match(
        /^region: is not an AWS region; write e\.g\. "eu-central-1"/,
      );
    });
  }
});

describe("AWS: the bucket", () => {
  it("gets a name from Pulumi unless the config has one", async () => {
    const unnamed = await record({
      provider: "aws",
      region: "eu-central-1",
      origins: "https://authentik.company",
    });
    expect(unnamed.one("aws:s3/bucket:Bucket").inputs).not.to.have.property("bucket");
    expect(unnamed.bucketName).to.equal("authentik-media-1a2b3c4");
    expect((await record(valid)).bucketName).to.equal("company-media");
  });

  it("is adopted by its name", async () => {
    expect(
      (await record({ ...valid, adopt: "true" })).one("aws:s3/bucket:Bucket").options.import,
    ).to.equal("company-media");
    expect((await record(valid)).one("aws:s3/bucket:Bucket").options).not.to.have.property(
      "import",
    );
    expect((await problems({ adopt: "true", bucketName: undefined }))[0]).to.match(
      /^bucketName: is missing, and adopt/,
    );
  });

  it("is protected and never emptied by default", async () => {
    const bucket = async (changes: object) =>
      (await record({ ...valid, ...changes })).one("aws:s3/bucket:Bucket");
    expect((await bucket({})).options.protect).to.equal(true);
    expect((await bucket({})).inputs.forceDestroy).to.equal(false);
    expect((await bucket({ protect: "false" })).options).not.to.have.property("protect");
    expect((await bucket({ forceDestroy: "true" })).inputs.forceDestroy).to.equal(true);
  });

  it("accepts the other ownership and a KMS key", async () => {
    const kmsKeyArn = `arn:aws:kms:eu-central-1:${ACCOUNT}:key/abc`;
    const recording = await record({ ...valid, ownership: "BucketOwnerEnforced", kmsKeyArn });
    expect(
      recording.one("aws:s3/bucketOwnershipControls:BucketOwnershipControls").inputs.rule,
    ).to.deep.equal({ objectOwnership: "BucketOwnerEnforced" });
    expect(
      recording.one(
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
      ).inputs.rules,
    ).to.deep.equal([
      {
        applyServerSideEncryptionByDefault: { sseAlgorithm: "aws:kms", kmsMasterKeyId: kmsKeyArn },
        bucketKeyEnabled: true,
      },
    ]);
    expect(
      (await problems({ kmsKeyArn: kmsKeyArn.replace("eu-central-1", "eu-west-1") }))[0],
    ).to.match(/^kmsKeyArn: is not in the bucket.s region "eu-central-1"/);
    expect(
      (
        await problems({
          region: "cn-north-1",
          kmsKeyArn: `arn:aws:kms:cn-north-1:${ACCOUNT}:key/abc`,
        })
      )[0],
    ).to.match(/^kmsKeyArn: is not in the partition "aws-cn"/);
    expect(
      (await problems({ kmsKeyArn: `arn:aws:kms:eu-central-1:${ACCOUNT}:alias/abc` }))[0],
    ).to.match(/^kmsKeyArn: is not the ARN of a KMS key.*cannot name an alias/);
  });

  it("uses the one account, the tags and the retention of old versions from the config", async () => {
    const recording = await record({
      ...valid,
      accountId: ACCOUNT,
      tags: "team=identity,cost centre=42",
      noncurrentVersionDays: "7",
    });
    const { allowedAccountIds, defaultTags } = recording.one("pulumi:providers:aws").inputs;
    expect(JSON.parse(String(allowedAccountIds))).to.deep.equal([ACCOUNT]);
    expect(JSON.parse(String(defaultTags))).to.deep.equal({
      tags: { application: "authentik", team: "identity", "cost centre": "42" },
    });
    const { rules } = recording.one(
      "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
    ).inputs;
    expect(rules).to.have.nested.property("[0].noncurrentVersionExpiration.noncurrentDays", 7);
    expect((await problems({ accountId: "12345" }))[0]).to.match(
      /^accountId: is not an AWS account id/,
    );
    expect((await problems({ tags: "aws:x=y" }))[0]).to.match(
      /^tags\[0\]: has a name that the cloud reserves/,
    );
  });
});

describe("AWS: credentials", () => {
  const noUser = [
    "aws:iam/user:User",
    "aws:iam/accessKey:AccessKey",
    "aws:iam/userPolicy:UserPolicy",
  ];

  it("role in EKS by IRSA: the two service accounts and no other pod", async () => {
    const recording = await record({ ...valid, ...IRSA });
    for (const type of noUser) expect(recording.all(type)).to.deep.equal([]);
    expect(recording.credentials).to.deep.equal({});
    expect(
      JSON.parse(String(recording.one("aws:iam/role:Role").inputs.assumeRolePolicy)),
    ).to.deep.equal({
      Version: "2012-10-17",
      Statement: [
        {
          Sid: "AuthentikPods",
          Effect: "Allow",
          Principal: { Federated: IRSA.oidcProviderArn },
          Action: "sts:AssumeRoleWithWebIdentity",
          Condition: {
            StringEquals: {
              "oidc.eks.eu-central-1.amazonaws.com/id/ABC:aud": "sts.amazonaws.com",
              "oidc.eks.eu-central-1.amazonaws.com/id/ABC:sub": [
                "system:serviceaccount:authentik:authentik-server",
                "system:serviceaccount:authentik:authentik",
              ],
            },
          },
        },
      ],
    });
    expect(
      await evaluate(recording, {
        action: "s3:PutObject",
        resource: "arn:aws:s3:::company-media/file",
        principal: "role/authentik-role",
      }),
    ).to.equal("Allowed");
    expect(recording.storage.serviceAccounts).to.deep.equal(IRSA.serviceAccounts.split(","));
  });

  it("role in EKS by Pod Identity: an association for each service account", async () => {
    const recording = await record({
      ...valid,
      credentials: "role",
      roleTrust: "podIdentity",
      clusterName: "prod",
      serviceAccounts: IRSA.serviceAccounts,
    });
    expect(
      recording
        .all("aws:eks/podIdentityAssociation:PodIdentityAssociation")
        .map(({ inputs }) => inputs),
    ).to.deep.equal([
      {
        clusterName: "prod",
        namespace: "authentik",
        serviceAccount: "authentik-server",
        roleArn: `arn:aws:iam::${ACCOUNT}:role/authentik-role`,
      },
      {
        clusterName: "prod",
        namespace: "authentik",
        serviceAccount: "authentik",
        roleArn: `arn:aws:iam::${ACCOUNT}:role/authentik-role`,
      },
    ]);
    const trust = String(recording.one("aws:iam/role:Role").inputs.assumeRolePolicy);
    expect(JSON.parse(trust)).to.have.nested.property(
      "Statement[0].Principal.Service",
      "pods.eks.amazonaws.com",
    );
    expect(trust)
      .to.include('"aws:RequestTag/kubernetes-namespace":["authentik"]')
      .and.include('"aws:RequestTag/eks-cluster-name":"prod"');
  });

  it("profile: no keys, and the policy only for attachTo", async () => {
    const plain = await record({ ...valid, credentials: "profile", sessionProfile: "authentik" });
    expect(plain.credentials).to.deep.equal({ sessionProfile: "authentik" });
    expect(plain.resources.filter(({ type }) => type.startsWith("aws:iam"))).to.deep.equal([]);
    const attached = await record({
      ...valid,
      credentials: "profile",
      sessionProfile: "authentik",
      attachTo: "user/ops",
    });
    expect(attached.one("aws:iam/userPolicy:UserPolicy").inputs.user).to.equal("ops");
  });

  it("external: the policy for the existing role or user", async () => {
    const role = await record({
      ...valid,
      credentials: "external",
      attachTo: `arn:aws:iam::${ACCOUNT}:role/service/ecs-task`,
    });
    expect(role.one("aws:iam/rolePolicy:RolePolicy").inputs.role).to.equal("ecs-task");
    expect(role.all("aws:iam/role:Role")).to.deep.equal([]);
    expect(role.credentials).to.deep.equal({ sessionProfile: undefined });
    const user = await record({ ...valid, credentials: "external", attachTo: "user/authentik" });
    expect(user.one("aws:iam/userPolicy:UserPolicy").inputs.user).to.equal("authentik");
  });

  it("keeps what authentik had before beside what it gets, until that is retired", async () => {
    const types = async (changes: Record<string, string>) =>
      (await record({ ...valid, ...changes })).resources
        .map(({ type }) => type)
        .filter((type) => type.startsWith("aws:iam"));
    const user = [
      "aws:iam/accessKey:AccessKey",
      "aws:iam/user:User",
      "aws:iam/userPolicy:UserPolicy",
    ];
    const role = ["aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy"];
    const [keepsUser, keepsRole] = [
      { ...IRSA, keyGeneration: "3" },
      { ...IRSA, credentials: "user", retirePreviousKey: "false" },
    ];
    for (const changes of [keepsUser, keepsRole])
      expect(await types(changes)).to.have.members([...user, ...role]);
    expect(await types({ ...keepsUser, retirePreviousKey: "true" })).to.have.members(role);
    expect(await types({ ...keepsRole, retirePreviousKey: "true" })).to.have.members(user);
    expect((await record({ ...valid, ...keepsUser })).credentials).to.deep.equal({});
    expect((await record({ ...valid, ...keepsRole })).credentials).to.have.keys(
      "accessKey",
      "secretKey",
    );
  });

  // biome-ignore format: a table of cases
  const wrong: [what: string, changes: Record<string, string>, message: RegExp][] = [
    ["a role without its trust", { credentials: "role" }, /^roleTrust: is missing, and credentials "role" needs it/],
    ["IRSA without a provider", { credentials: "role", roleTrust: "irsa", serviceAccounts: "a/b" }, /^oidcProviderArn: is missing/],
    ["Pod Identity without a cluster", { credentials: "role", roleTrust: "podIdentity", serviceAccounts: "a/b" }, /^clusterName: is missing/],
    ["a role's key for a user", { sessionProfile: "x" }, /^sessionProfile: has no effect with credentials "user"/],
    ["a profile without its name", { credentials: "profile" }, /^sessionProfile: is missing/],
    ["nobody to attach to", { credentials: "external" }, /^attachTo: is missing/],
    ["something else to attach to", { credentials: "external", attachTo: "group/x" }, /^attachTo: is not a role or user/],
    ["a role beside a user, without a word on what becomes of it", { ...IRSA, credentials: "user" }, /^roleTrust: has no effect with credentials "user"/],
    ["a role beside a user without its accounts", { roleTrust: "irsa", retirePreviousKey: "false" }, /^serviceAccounts: is missing.*\noidcProviderArn: is missing/],
    ["a service account without its namespace", { ...IRSA, serviceAccounts: "authentik" }, /^serviceAccounts\[0\]: is not a service account/],
    ["a service account twice", { ...IRSA, serviceAccounts: "a/b,a/b" }, /^serviceAccounts\[1\]: is listed twice/],
    ["a trust policy over IAM's quota", { ...IRSA, serviceAccounts: Array.from({ length: 50 }, (_, index) => `authentik/account-${index}`).join() }, /^serviceAccounts: makes the role's trust policy \d{4} characters long, and IAM allows 2048/],
  ];
  for (const [what, changes, message] of wrong)
    it(`refuses ${what}`, async () => {
      expect((await problems(changes)).join("\n")).to.match(message);
    });
});

describe("AWS: custom domain", () => {
  const own = "company-media.s3.eu-central-1.amazonaws.com";

  it("accepts the bucket's own regional host from 2026.5 on", async () => {
    expect(
      (await record({ ...valid, authentikVersion: "2026.5", customDomain: own })).customDomain,
    ).to.equal(own);
    expect((await record(valid)).customDomain).to.equal(undefined);
  });

  // biome-ignore format: a table of cases
  const wrong: [what: string, changes: Record<string, string | undefined>, message: RegExp][] = [
    ["it before 2026.5", { authentikVersion: "2026.4", customDomain: own }, /^customDomain: cannot work: authentik 2026\.4 signs for the endpoint's host/],
    ["it without a release", { customDomain: own }, /^customDomain: cannot work: authentik before 2026\.5, which this stack may run/],
    ["a CDN", { authentikVersion: "2026.5", customDomain: "media.company" }, /^customDomain: cannot work: presigned URLs do not work behind a CDN or CNAME.*write "company-media\.s3\.eu-central-1\.amazonaws\.com"/],
    ["the global host", { authentikVersion: "2026.5", customDomain: "company-media.s3.amazonaws.com" }, /^customDomain: cannot work/],
    ["it without a written name", { authentikVersion: "2026.5", customDomain: own, bucketName: undefined }, /^customDomain: needs bucketName/],
    ["it for a bucket with a dot", { authentikVersion: "2026.5", customDomain: "a.b.s3.eu-central-1.amazonaws.com", bucketName: "a.b" }, /certificate does not cover/],
    ["it over http", { authentikVersion: "2026.5", customDomain: own, secureUrls: "false" }, /^secureUrls: sends browsers to http/],
  ];
  for (const [what, changes, message] of wrong)
    it(`refuses ${what}`, async () => {
      expect((await problems(changes)).join("\n")).to.match(message);
    });
});
