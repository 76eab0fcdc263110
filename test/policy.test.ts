/** The policies on what the providers really register: as it is they pass, and each change below is found by exactly one of them. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import * as v from "valibot";
import { parse } from "yaml";
import { policies } from "../policy/policies.ts";
import { PROVIDERS, providers, resourceType, type ProviderName } from "../providers/index.ts";
import { UNKNOWN } from "../providers/retention.ts";
import { labelOf, lookUpTypes } from "../tools/preview/resource-types.ts";
import { EngineProject, pulumi, REPOSITORY } from "./support/engine.ts";
import { exampleValues } from "./support/examples.ts";
import { check } from "./support/policies.ts";
import { record, type Recorded } from "./support/recorder.ts";
import { AUTHENTIK, ROOT, startTestServer } from "./support/server.ts";

/** Short names of the types that the cases change. */
const T = {
  awsBucket: "aws:s3/bucket:Bucket",
  awsAccessPoint: "aws:s3/accessPoint:AccessPoint",
  awsAccessPointPolicy: "aws:s3control/accessPointPolicy:AccessPointPolicy",
  awsAccessKey: "aws:iam/accessKey:AccessKey",
  awsBucketAcl: "aws:s3/bucketAcl:BucketAcl",
  awsCors: "aws:s3/bucketCorsConfiguration:BucketCorsConfiguration",
  awsBucketPolicy: "aws:s3/bucketPolicy:BucketPolicy",
  awsPublicAccess: "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
  awsPods: "aws:eks/podIdentityAssociation:PodIdentityAssociation",
  awsRole: "aws:iam/role:Role",
  awsRolePolicy: "aws:iam/rolePolicy:RolePolicy",
  awsUserPolicy: "aws:iam/userPolicy:UserPolicy",
  r2Bucket: "cloudflare:index/r2Bucket:R2Bucket",
  r2Cors: "cloudflare:index/r2BucketCors:R2BucketCors",
  r2CustomDomain: "cloudflare:index/r2CustomDomain:R2CustomDomain",
  r2ManagedDomain: "cloudflare:index/r2ManagedDomain:R2ManagedDomain",
  r2Token: "cloudflare:index/accountToken:AccountToken",
  azureAccount: "azure-native:storage:StorageAccount",
  azureBlobs: "azure-native:storage:BlobServiceProperties",
  azureContainer: "azure-native:storage:BlobContainer",
  azureGateway: "azure-native:app:ContainerApp",
  azureIdentity: "azure-native:managedidentity:UserAssignedIdentity",
  azureRole: "azure-native:authorization:RoleAssignment",
  s3Bucket: "pulumi-nodejs:dynamic/authentik-storage:S3Bucket",
  s3Cors: "pulumi-nodejs:dynamic/authentik-storage:S3BucketCors",
  s3BucketPolicy: "pulumi-nodejs:dynamic/authentik-storage:S3BucketPolicy",
} as const;

/** Values of a stack beside those of its provider's example. */
type Values = Record<string, string>;
type Change = (resources: Recorded[]) => Recorded[];

/** Changes every resource of a type. */
function each(type: string, change: (resource: Recorded) => Recorded): Change {
  return (resources) =>
    resources.map((resource) => (resource.type === type ? change(resource) : resource));
}

/** Sets the input at a path, e.g. `rules.0.allowedOrigins`. What is on the way has to be there: a fixture must not invent a shape. */
function set(type: string, path: string, value: unknown): Change {
  return each(type, (resource) => ({
    ...resource,
    inputs: { ...resource.inputs, ...changed(resource.inputs, path.split("."), value) },
  }));
}

function changed(inputs: object, [key = "", ...rest]: string[], value: unknown): object {
  const before: unknown = Reflect.get(inputs, key);
  if (rest.length > 0 && (typeof before !== "object" || before === null))
    throw new Error(`there is no "${key}" among ${Object.keys(inputs).join(", ")}`);
  const after =
    typeof before === "object" && before !== null && rest.length > 0
      ? changed(before, rest, value)
      : value;
  return Array.isArray(inputs)
    ? inputs.map((item: unknown, index) => (String(index) === key ? after : item))
    : { ...inputs, [key]: after };
}

/** Edits a document that is an input as JSON text. */
function edit(type: string, input: string, change: (text: string) => string): Change {
  return each(type, (resource) => {
    const before = String(resource.inputs[input]);
    const after = change(before);
    if (after === before) throw new Error(`"${before}" stays the same`);
    return { ...resource, inputs: { ...resource.inputs, [input]: after } };
  });
}

const replace = (type: string, input: string, from: string, to: string) =>
  edit(type, input, (text) => text.replaceAll(from, to));
const without =
  (type: string): Change =>
  (resources) =>
    resources.filter((resource) => resource.type !== type);
const withOptions = (type: string, options: Recorded["options"]) =>
  each(type, (resource) => ({ ...resource, options }));
const unprotected = (type: string) => withOptions(type, {});
/** The same under another name of its type. */
const renamed = (type: string, name: string) =>
  each(type, (resource) => ({ ...resource, type: name }));
const both =
  (first: Change, second: Change): Change =>
  (resources) =>
    second(first(resources));
/** A resource of a kind that the program does not make. */
const added =
  (type: string, inputs: Record<string, unknown> = {}): Change =>
  (resources) => [
    ...resources,
    {
      type,
      name: "added",
      parent: "authentik",
      inputs,
      outputs: {},
      secretInputs: [],
      options: {},
    },
  ];
/** Adds a statement to a policy document. */
const statement = (type: string, more: object): Change =>
  edit(type, "policy", (text) => text.replace(/\]\}$/, `,${JSON.stringify(more)}]}`));

const open = {
  Effect: "Allow",
  Principal: "*",
  Action: "s3:GetObject",
  Resource: "arn:aws:s3:::authentik-media-1a2b3c4/*",
};
const role: Values = {
  credentials: "role",
  roleTrust: "irsa",
  serviceAccounts: "authentik/authentik",
  oidcProviderArn: "arn:aws:iam::123456789012:oidc-provider/oidc.eks.company/id/1",
};
const pods: Values = {
  credentials: "role",
  roleTrust: "podIdentity",
  serviceAccounts: "authentik/authentik",
  clusterName: "company",
};
const ISSUER = "oidc.eks.company/id/1";
const POD = "system:serviceaccount:authentik:authentik";
/** Changes who may take the role. */
const trust = (more: object): Change =>
  edit(T.awsRole, "assumeRolePolicy", (text) =>
    text.replace(
      /"Statement":\[(.*)\]/,
      (_, statement: string) =>
        `"Statement":[${JSON.stringify({ ...v.parse(v.record(v.string(), v.unknown()), JSON.parse(statement)), ...more })}]`,
    ),
  );
const kms: Values = { kmsKeyArn: "arn:aws:kms:eu-central-1:123456789012:key/0123-4567" };
const withPolicy: Values = { policyPrincipal: "arn:aws:iam:::user/authentik" };
const public_ = {
  Version: "2012-10-17",
  Statement: [{ ...open, Resource: "arn:aws:s3:::authentik-media/*" }],
};

type Fixture = [what: string, change: Change, expected: RegExp, values?: Values];

// biome-ignore format: a table of cases
const fixtures: Record<string, Partial<Record<ProviderName, Fixture[]>>> = {
  "no-public-bucket": {
    aws: [
      ["a block that is off", set(T.awsPublicAccess, "restrictPublicBuckets", false), /restrictPublicBuckets is not true.*write true/],
      ["no blocks", without(T.awsPublicAccess), /has no BucketPublicAccessBlock.*add one/],
      ["a public ACL", set(T.awsBucket, "acl", "public-read"), /acl = "public-read".*write "private"/],
      ["an ACL of its own resource", added(T.awsBucketAcl, { acl: "authenticated-read" }), /acl = "authenticated-read"/],
      ["an ACL by its second name", added("aws:s3/bucketAclV2:BucketAclV2", { acl: "public-read" }), /acl = "public-read"/],
      ["a grant to a group", set(T.awsBucket, "grants", [{ uri: "http://acs.amazonaws.com/groups/global/AllUsers", type: "Group", permissions: ["READ"] }]), /grants.*remove it/],
      ["a grant to another's account", set(T.awsBucket, "grants", [{ id: "abc", type: "CanonicalUser", permissions: ["FULL_CONTROL"] }]), /grants.*remove it/],
      ["a bucket by its second name", both(set(T.awsBucket, "acl", "public-read"), renamed(T.awsBucket, "aws:s3/bucketV2:BucketV2")), /acl = "public-read"/],
      ["a policy of the bucket itself", set(T.awsBucket, "policy", JSON.stringify({ Statement: open })), /Principal "\*"/],
      ["a statement for everyone", statement(T.awsBucketPolicy, open), /Principal "\*"/],
      ["one in another spelling", statement(T.awsBucketPolicy, { ...open, Principal: { AWS: ["*"] } }), /Principal "\*"/],
    ],
    r2: [
      ["r2.dev", set(T.r2ManagedDomain, "enabled", true), /enabled is not false.*r2\.dev/],
      ["r2.dev left as it is", without(T.r2ManagedDomain), /has no R2ManagedDomain/],
      ["a custom domain", added(T.r2CustomDomain, { enabled: true }), /enabled is not false, so everyone can read/],
    ],
    azure: [
      ["a public container", set(T.azureContainer, "publicAccess", "Blob"), /publicAccess is not "None".*write "None"/],
      ["a public container of another API version", both(set(T.azureContainer, "publicAccess", "Blob"), renamed(T.azureContainer, "azure-native:storage/v20230101:BlobContainer")), /publicAccess is not "None"/],
      ["an account of another API version", both(set(T.azureAccount, "allowBlobPublicAccess", true), renamed(T.azureAccount, "azure-native:storage/v20230101:StorageAccount")), /allowBlobPublicAccess is not false/],
      ["one of a package for that version", both(set(T.azureAccount, "allowBlobPublicAccess", true), renamed(T.azureAccount, "azure-native_storage_v20240101:storage:StorageAccount")), /allowBlobPublicAccess is not false/],
      ["an account that allows one", set(T.azureAccount, "allowBlobPublicAccess", true), /allowBlobPublicAccess is not false/],
      ["a statement for everyone", set(T.s3BucketPolicy, "policy", public_), /Principal "\*"/],
    ],
    s3: [["a statement for everyone", set(T.s3BucketPolicy, "policy", public_), /Principal "\*"/, withPolicy]],
  },
  "no-wildcard-origin": {
    aws: [
      ["every site", set(T.awsCors, "corsRules.0.allowedOrigins", ["*"]), /corsRules\.allowedOrigins = "\*".*write each origin/],
      ["every subdomain", set(T.awsCors, "corsRules.0.allowedOrigins", ["https://*.company"]), /"https:\/\/\*\.company"/],
      ["CORS of the bucket itself", set(T.awsBucket, "corsRules", [{ allowedOrigins: ["*"], allowedMethods: ["GET"] }]), /"\*"/],
    ],
    r2: [["every site", set(T.r2Cors, "rules.0.allowed.origins", ["*"]), /rules\.allowed\.origins = "\*"/]],
    azure: [
      ["every site", set(T.s3Cors, "rules.0.allowedOrigins", ["*"]), /rules\.allowedOrigins = "\*"/],
      ["every site, on the gateway", set(T.azureGateway, "configuration.ingress.corsPolicy", { allowedOrigins: ["*"] }), /corsPolicy\.allowedOrigins = "\*"/],
      ["every site, on the account", set(T.azureBlobs, "cors", { corsRules: [{ allowedOrigins: ["*"] }] }), /cors\.corsRules\.allowedOrigins = "\*"/],
    ],
    s3: [
      ["every site", set(T.s3Cors, "rules.0.allowedOrigins", ["https://authentik.company", "*"]), /rules\.allowedOrigins = "\*"/],
      ["sandboxed pages", set(T.s3Cors, "rules.0.allowedOrigins", ["null"]), /allowedOrigins = "null"/],
    ],
  },
  "tls-only": {
    aws: [
      ["no policy", without(T.awsBucketPolicy), /has no bucket policy.*add a BucketPolicy/],
      ["a policy for the objects alone", edit(T.awsBucketPolicy, "policy", (text) => text.replace(/"Resource":\["[^"]+",/, '"Resource":[')), /does not deny plain http/],
      ["a policy under another condition too", replace(T.awsBucketPolicy, "policy", '"Condition":{', '"Condition":{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"},'), /does not deny plain http/],
      ["a policy for some", replace(T.awsBucketPolicy, "policy", '"Principal":"*"', '"Principal":{"AWS":"arn:aws:iam::123456789012:root"}'), /does not deny plain http/],
      ["an origin on http", set(T.awsCors, "corsRules.0.allowedOrigins", ["http://authentik.company"]), /"http:\/\/authentik\.company".*write its https origin/],
    ],
    r2: [["an origin on http", set(T.r2Cors, "rules.0.allowed.origins", ["http://authentik.company"]), /"http:\/\/authentik\.company"/]],
    azure: [
      ["an account on http", set(T.azureAccount, "enableHttpsTrafficOnly", false), /enableHttpsTrafficOnly is not true/],
      ["TLS 1.0", set(T.azureAccount, "minimumTlsVersion", "TLS1_0"), /minimumTlsVersion = "TLS1_0".*write "TLS1_2"/],
      ["a gateway on http", set(T.azureGateway, "configuration.ingress.allowInsecure", true), /allowInsecure is not false/],
    ],
    s3: [
      ["an endpoint on http", set(T.s3Bucket, "endpoint", "http://s3.provider"), /endpoint = "http:\/\/s3\.provider".*write its https URL/],
      ["CORS over http", set(T.s3Cors, "endpoint", "http://s3.provider"), /endpoint = "http:\/\/s3\.provider"/],
      ["a policy over http", set(T.s3BucketPolicy, "endpoint", "http://s3.provider"), /endpoint = "http:\/\/s3\.provider"/, withPolicy],
    ],
  },
  "least-privilege": {
    aws: [
      ["every action", replace(T.awsUserPolicy, "policy", '"s3:ListBucket"', '"s3:*"'), /allows "s3:\*".*docs\/verify\.md/],
      ["an action too many", replace(T.awsUserPolicy, "policy", '"s3:ListBucket"', '"s3:ListBucket","s3:DeleteBucket"'), /allows "s3:DeleteBucket"/],
      ["all actions but", replace(T.awsUserPolicy, "policy", '"Action":["s3:ListBucket"]', '"NotAction":["s3:DeleteBucket"]'), /policy is not in a form/],
      ["every resource", replace(T.awsUserPolicy, "policy", "arn:aws:s3:::authentik-media-1a2b3c4/*", "*"), /rights on "\*"/],
      ["all resources but", replace(T.awsUserPolicy, "policy", '"Resource":"arn:aws:s3:::authentik-media-1a2b3c4/*"', '"NotResource":"arn:aws:s3:::other"'), /policy is not in a form|the bucket "other"/],
      ["every bucket of a name", replace(T.awsUserPolicy, "policy", "authentik-media-1a2b3c4", "authentik-*"), /rights on "arn:aws:s3:::authentik-\*(?:\/\*)?"/],
      ["another's bucket", replace(T.awsUserPolicy, "policy", "authentik-media-1a2b3c4", "salaries"), /the bucket "salaries", which is not this stack's \(authentik-media-1a2b3c4\)/],
      ["a bucket policy for others", statement(T.awsBucketPolicy, { ...open, Principal: { AWS: "arn:aws:iam::123456789012:root" }, Action: "s3:PutBucketPolicy" }), /allows "s3:PutBucketPolicy"|rights to "arn:aws:iam::123456789012:root"/],
      ["a bucket policy for another account", statement(T.awsBucketPolicy, { ...open, Principal: { AWS: "arn:aws:iam::999999999999:root" } }), /rights to "arn:aws:iam::999999999999:root"; remove the statement/],
      ["a bucket policy for a service", statement(T.awsBucketPolicy, { ...open, Principal: { Service: "cloudfront.amazonaws.com" } }), /rights to "Service cloudfront\.amazonaws\.com"/],
      ["a policy of the bucket itself", set(T.awsBucket, "policy", JSON.stringify({ Statement: { ...open, Principal: { AWS: "arn:aws:iam::999999999999:root" } } })), /rights to "arn:aws:iam::999999999999:root"/],
      ["another user's access key", set(T.awsAccessKey, "user", "admin"), /user = "admin" is not a user of this stack/],
      ["an access key beside the role", added(T.awsAccessKey, { user: "admin" }), /user = "admin" is not a user of this stack/, role],
      ["a key for anything", replace(T.awsUserPolicy, "policy", "kms:ViaService", "kms:CallerAccount"), /any use of the KMS key/, kms],
      ["every key", replace(T.awsUserPolicy, "policy", "key/0123-4567", "key/*"), /rights on "arn:aws:kms:eu-central-1:123456789012:key\/\*"/, kms],
      ["a role with every action", replace(T.awsRolePolicy, "policy", '"s3:ListBucket"', '"*"'), /allows "\*"/, role],
      ["a role for everyone", edit(T.awsRole, "assumeRolePolicy", (text) => text.replace(/"Principal":\{[^}]+\}/, '"Principal":"*"')), /allows others than EKS's pods to take the role/, role],
      ["a role for another account", trust({ Principal: { AWS: "arn:aws:iam::999999999999:root" }, Action: "sts:AssumeRole", Condition: { Bool: { "aws:SecureTransport": "true" } } }), /allows others than EKS's pods/, role],
      ["a role for another service", trust({ Principal: { Service: "ec2.amazonaws.com" }, Action: "sts:AssumeRole", Condition: { Bool: { "aws:SecureTransport": "true" } } }), /allows others than EKS's pods/, role],
      ["a role for two services", trust({ Principal: { Service: ["pods.eks.amazonaws.com", "ec2.amazonaws.com"] } }), /allows others than EKS's pods/, pods],
      ["a role for all but", trust({ NotPrincipal: { AWS: "arn:aws:iam::999999999999:root" } }), /not in a form/, role],
      ["a role for every pod of the audience", trust({ Condition: { StringEquals: { [`${ISSUER}:aud`]: "sts.amazonaws.com" } } }), /not limited.*oidc\.eks\.company\/id\/1:sub/, role],
      ["a role for the pods of another issuer", trust({ Condition: { StringEquals: { "other.company:sub": POD } } }), /not limited/, role],
      ["a role for nobody in particular", trust({ Condition: { StringEquals: { [`${ISSUER}:sub`]: [] } } }), /not limited/, role],
      ["a role for what is no service account", trust({ Condition: { StringEquals: { [`${ISSUER}:sub`]: "repo:company/authentik" } } }), /not limited/, role],
      ...["StringNotEquals", "StringEqualsIfExists", "StringLike", "ForAnyValue:StringEquals", "ForAllValues:StringEquals"].map((operator): Fixture =>
        [`a role by ${operator}`, trust({ Condition: { [operator]: { [`${ISSUER}:sub`]: POD } } }), /not limited/, role]),
      ["a role for every pod of a namespace", replace(T.awsRole, "assumeRolePolicy", "aws:RequestTag/kubernetes-service-account", "aws:RequestTag/other"), /not limited.*aws:RequestTag\/kubernetes-service-account/, pods],
      ["a role for the pods of every cluster", replace(T.awsRole, "assumeRolePolicy", "aws:RequestTag/eks-cluster-name", "aws:RequestTag/other"), /not limited.*aws:RequestTag\/eks-cluster-name/, pods],
      ["a role with the other way's action", trust({ Action: "sts:AssumeRoleWithWebIdentity" }), /allows more than sts:AssumeRole, sts:TagSession/, pods],
      ["pods with another's role", withOptions(T.awsPods, {}), /roleArn is not this stack's role/, pods],
      ["a role for every pod", replace(T.awsRole, "assumeRolePolicy", "authentik:authentik", "*"), /not limited to authentik's service accounts/, role],
      ["a role without conditions", edit(T.awsRole, "assumeRolePolicy", (text) => text.replace(/,"Condition":\{.*\}\}(?=\}\]\}$)/, "")), /not limited to authentik's service accounts/, role],
      ["a role with more actions", replace(T.awsRole, "assumeRolePolicy", "sts:AssumeRoleWithWebIdentity", "sts:*"), /allows more than/, role],
      ["a role with AWS's policies", set(T.awsRole, "managedPolicyArns", ["arn:aws:iam::aws:policy/AdministratorAccess"]), /AdministratorAccess.*remove it/, role],
      ["a role with inline policies", set(T.awsRole, "inlinePolicies", [{ name: "all" }]), /inlinePolicies.*RolePolicy/, role],
    ],
    r2: [
      ["another permission group", set(T.r2Token, "policies.0.permissionGroups.0.id", "bf7481a1826f439697cb59a20b22293e"), /permissionGroups\.id = "bf74/],
      ["every bucket", set(T.r2Token, "policies.0.resources", '{"com.cloudflare.api.account.0123456789abcdef0123456789abcdef":"*"}'), /policies\.resources.*is not one bucket/],
      ["another's bucket", set(T.r2Token, "policies.0.resources", '{"com.cloudflare.edge.r2.bucket.0123456789abcdef0123456789abcdef_default_salaries":"*"}'), /the bucket "salaries", which is not this stack's/],
    ],
    azure: [
      ["another role", set(T.azureRole, "roleDefinitionId", "/subscriptions/1/providers/Microsoft.Authorization/roleDefinitions/b24988ac-6180-42a0-ab88-20f7382dd24c"), /is not "Storage Blob Data Contributor"/],
      ["the resource group", set(T.azureRole, "scope", "/subscriptions/1/resourceGroups/authentik"), /wider than the storage account/],
      ["another's account", withOptions(T.azureRole, {}), /not (?:this stack's account|the gateway's)/],
      ["another's identity", withOptions(T.azureRole, { dependsOn: ["authentikmedia"] }), /not the gateway's/],
      ["a role of another API version", both(set(T.azureRole, "scope", "/subscriptions/1"), renamed(T.azureRole, "azure-native:authorization/v20220401:RoleAssignment")), /wider than the storage account/],
      ["another user of the gateway", set(T.s3BucketPolicy, "policy.Statement.0.Principal", { AWS: ["authentik-0", "other"] }), /rights to 3 principals/],
      ["the account's keys", set(T.azureAccount, "allowSharedKeyAccess", true), /allowSharedKeyAccess is not false/],
      ["SFTP users", set(T.azureAccount, "isLocalUserEnabled", true), /isLocalUserEnabled is not false/],
      ["every action on the gateway", set(T.s3BucketPolicy, "policy.Statement.0.Action", "s3:*"), /allows "s3:\*"/],
      ["another's container", set(T.s3BucketPolicy, "policy.Statement.0.Resource", "arn:aws:s3:::salaries"), /the bucket "salaries", which is not this stack's/],
    ],
    s3: [
      ["every action", set(T.s3BucketPolicy, "policy.Statement.0.Action", ["s3:ListBucket", "s3:PutBucketPolicy"]), /allows "s3:PutBucketPolicy"/, withPolicy],
      ["a principal too many", set(T.s3BucketPolicy, "policy.Statement.1.Principal", { AWS: "arn:aws:iam::999999999999:root" }), /rights to 2 principals; name only authentik's/, withPolicy],
      ["another's bucket", set(T.s3BucketPolicy, "policy.Statement.1.Resource", "arn:aws:s3:::salaries/*"), /the bucket "salaries", which is not this stack's/, withPolicy],
    ],
  },
  "protected-bucket": {
    aws: [
      ["a bucket without protection", unprotected(T.awsBucket), /protect is false.*allow-bucket-deletion\.json/],
      ["a bucket by its second name", both(unprotected(T.awsBucket), renamed(T.awsBucket, "aws:s3/bucketV2:BucketV2")), /protect is false/],
    ],
    r2: [["a bucket without protection", unprotected(T.r2Bucket), /protect is false/]],
    azure: [
      ["an account without protection", unprotected(T.azureAccount), /protect is false/],
      ["a container without protection", unprotected(T.azureContainer), /protect is false/],
      ["an account of another API version", both(unprotected(T.azureAccount), renamed(T.azureAccount, "azure-native:storage/v20230101:StorageAccount")), /protect is false/],
      ["a container of a package for that version", both(unprotected(T.azureContainer), renamed(T.azureContainer, "azure-native_storage_v20240101:storage:BlobContainer")), /protect is false/],
    ],
    s3: [["a bucket without protection", unprotected(T.s3Bucket), /protect is false/]],
  },
  "known-types": {
    aws: [
      ["another kind of grant", added("aws:iam/userPolicyAttachment:UserPolicyAttachment"), /"aws:iam\/userPolicyAttachment:UserPolicyAttachment" is a type that this project does not know/],
      ["a key of KMS", added("aws:kms/key:Key", { policy: "{}" }), /does not know/],
      ["a type of a new release", added("aws:iam/rolePower:RolePower"), /does not know/],
      ["the same bucket by Cloud Control", added("aws-native:s3:Bucket"), /does not know/],
    ],
    r2: [["a user's token", added("cloudflare:index/apiToken:ApiToken"), /does not know/]],
    azure: [["users of the account, of another API version", added("azure-native:storage/v20230101:LocalUser"), /does not know/]],
    s3: [["a type of nobody", added("random:index/randomId:RandomId"), /does not know.*add it to resources/]],
  },
  "pinned-gateway-image": {
    azure: [
      ["latest", set(T.azureGateway, "template.containers.0.image", "docker.io/versity/versitygw:latest"), /"docker\.io\/versity\/versitygw:latest" is not a pinned image/],
      ["a branch", set(T.azureGateway, "template.containers.0.image", "docker.io/versity/versitygw:main"), /"docker\.io\/versity\/versitygw:main" is not a pinned image/],
      ["no tag", set(T.azureGateway, "template.containers.0.image", "registry.company:5000/versitygw"), /is not a pinned image/],
      ["an image beside it", set(T.azureGateway, "template.initContainers", [{ image: "busybox" }]), /"busybox" is not a pinned image/],
    ],
  },
};

/** How a whole stack may be named otherwise. */
const OTHER_NAMES: [provider: ProviderName, rename: (type: string) => string][] = [
  [
    "aws",
    (type) => type.replace(/^(aws:s3\/bucket(?!Policy|Public|Ownership)\w*):(\w+)$/, "$1V2:$2V2"),
  ],
  ["azure", (type) => type.replace(/^azure-native:(\w+):/, "azure-native:$1/v20230101preview:")],
  ["azure", (type) => type.replace(/^azure-native:(\w+):/, "azure-native_$1_v20230101:$1:")],
];

describe("policy pack", function () {
  this.timeout(60_000);
  const recordings = new Map<string, Promise<Recorded[]>>();
  const registered = (provider: ProviderName, values: Values = {}): Promise<Recorded[]> => {
    const key = JSON.stringify([provider, values]);
    const recording =
      recordings.get(key) ??
      exampleValues(provider)
        .then((example) => record({ ...example, ...values }))
        .then(({ resources }) => resources);
    recordings.set(key, recording);
    return recording;
  };

  it("has a violating case of each policy, for each provider that it concerns", () => {
    expect(policies.map(({ name }) => name)).to.have.members(Object.keys(fixtures));
    for (const { name } of policies) {
      expect(Object.keys(fixtures[name] ?? {}), name).to.have.members(
        name === "pinned-gateway-image" ? ["azure"] : PROVIDERS,
      );
    }
  });

  it("knows every type that the providers register", async () => {
    for (const provider of PROVIDERS) {
      for (const { type } of await registered(provider)) {
        if (!type.startsWith("pulumi:"))
          expect(await resourceType(type), type).to.have.property("label");
      }
    }
  });

  const ways: [provider: ProviderName, what: string, values: Values][] = [
    ...PROVIDERS.map((provider): [ProviderName, string, Values] => [
      provider,
      "its example stack",
      {},
    ]),
    ["aws", "a role and a KMS key", { ...role, ...kms }],
    ["aws", "pod identity", pods],
    [
      "aws",
      "an adopted bucket, two keys",
      { bucketName: "company-media", adopt: "true", keyGeneration: "2" },
    ],
    [
      "azure",
      "an image of another build",
      { gatewayImage: "registry.company:5000/versitygw:1.8.0-alpine" },
    ],
    [
      "azure",
      "an image with a digest",
      { gatewayImage: `docker.io/versity/versitygw@sha256:${"0".repeat(64)}` },
    ],
    [
      "azure",
      "an external gateway",
      {
        gateway: "external",
        endpoint: "https://gateway.company",
        accessKey: "a",
        secretKey: "s",
        adminAccessKey: "aa",
        adminSecretKey: "as",
      },
    ],
    ["s3", "a bucket policy", withPolicy],
    [
      "s3",
      "the local server, without protection",
      {
        endpoint: "http://127.0.0.1:7070",
        secureUrls: "false",
        protect: "false",
        origins: "http://localhost:9000,https://localhost:9443",
      },
    ],
  ];
  for (const [provider, what, values] of ways) {
    it(`passes ${provider}: ${what}`, async () => {
      expect(await check(await registered(provider, values))).to.deep.equal({
        violations: [],
        unknown: [],
      });
    });
  }

  for (const [policy, byProvider] of Object.entries(fixtures)) {
    describe(policy, () => {
      for (const provider of PROVIDERS) {
        for (const [what, change, expected, values] of byProvider[provider] ?? []) {
          it(`finds on ${provider}: ${what}`, async () => {
            const { violations } = await check(change(await registered(provider, values)));
            expect(violations).not.to.have.length(0);
            for (const violation of violations) {
              expect(violation.policy).to.equal(policy);
              expect(violation.message)
                .to.match(expected)
                .and.to.match(/\(urn:pulumi:test::authentik-storage::\S+\)$/);
            }
          });
        }
      }
    });
  }

  it("allows types that a change to the program may add", async () => {
    for (const [provider, type] of [
      ["aws", "aws:s3/bucketMetric:BucketMetric"],
      ["azure", "azure-native:authorization/v20240501:ManagementLockByScope"],
    ] as const) {
      expect(await check(added(type)(await registered(provider))), type).to.deep.equal({
        violations: [],
        unknown: [],
      });
    }
  });

  it("knows the types of a new provider by its file and its line alone", async () => {
    const type = "madeup:store/bucket:Bucket";
    const component = "authentik-storage:madeup:MadeupStorage";
    const bucket = { label: "Madeup bucket", holdsFiles: true, bucketName: ["name"] };
    const file = { default: { resources: { [type]: bucket, [component]: { label: "Storage" } } } };
    const line = { packages: ["madeup"], load: () => Promise.resolve(file) };
    Object.assign(providers, { madeup: line });
    try {
      const { violations } = await check(added(component)(added(type)([])));
      expect(violations.map(({ policy }) => policy)).to.deep.equal(["protected-bucket"]);
      expect(labelOf(type, await lookUpTypes([type]))).to.equal("Madeup bucket");
    } finally {
      Reflect.deleteProperty(providers, "madeup");
    }
    expect(await resourceType(type)).to.equal(undefined);
  });

  it("refuses a statement with NotPrincipal, which it cannot check", async () => {
    const butOne = {
      ...open,
      Principal: undefined,
      NotPrincipal: { AWS: "arn:aws:iam::123456789012:root" },
    };
    const { violations } = await check(
      statement(T.awsBucketPolicy, butOne)(await registered("aws")),
    );
    expect(violations.map(({ policy }) => policy)).to.include.members([
      "no-public-bucket",
      "least-privilege",
    ]);
    for (const { message } of violations)
      expect(message).to.match(/policy is not in a form|does not deny plain http/);
  });

  it("refuses an access point that gives rights, to everyone or to others", async () => {
    for (const type of [T.awsAccessPoint, T.awsAccessPointPolicy]) {
      const found = async (principal: unknown) =>
        (
          await check(
            added(type, {
              policy: JSON.stringify({ Statement: { ...open, Principal: principal } }),
            })(await registered("aws")),
          )
        ).violations.map(({ policy }) => policy);
      expect(await found("*"), type).to.deep.equal(["no-public-bucket"]);
      expect(await found({ AWS: "arn:aws:iam::123456789012:root" }), type).to.deep.equal([
        "least-privilege",
      ]);
    }
  });

  it("allows a role whose trust is narrower than the program's", async () => {
    const narrower = trust({
      Condition: {
        StringEquals: {
          [`${ISSUER}:sub`]: [POD, "system:serviceaccount:authentik:authentik-worker"],
        },
        StringLike: { [`${ISSUER}:aud`]: "sts.*" },
      },
    });
    expect(await check(narrower(await registered("aws", role)))).to.deep.equal({
      violations: [],
      unknown: [],
    });
  });

  it("allows the types of the example stacks under their other names", async () => {
    for (const [provider, rename] of OTHER_NAMES) {
      const resources = (await registered(provider)).map((resource) => ({
        ...resource,
        type: rename(resource.type),
      }));
      expect(await check(resources), resources.map(({ type }) => type).join(" ")).to.deep.equal({
        violations: [],
        unknown: [],
      });
    }
  });

  it("finds URLs for browsers with http, except on this machine", async () => {
    const outputs = (customDomain: string) =>
      check([
        {
          type: "pulumi:pulumi:Stack",
          name: "test",
          parent: "",
          inputs: { secureUrls: false, customDomain },
          outputs: {},
          secretInputs: [],
          options: {},
        },
      ]);
    const { customDomain = "" } = await record({
      ...(await exampleValues("s3")),
      secureUrls: "false",
      customDomain: "media.company/authentik-media",
    });
    expect(
      (await outputs(customDomain)).violations.map(({ message }) => message).join(),
    ).to.contain("http://media.company/authentik-media unencrypted");
    expect((await outputs("localhost:7070/authentik-media")).violations).to.deep.equal([]);
  });

  it("knows this machine by its names", async () => {
    for (const [endpoint, count] of [
      ["http://localhost:1", 0],
      ["http://127.1.2.3", 0],
      ["http://[::1]:1", 0],
      ["http://s3.localhost", 0],
      ["http://localhost.company", 2],
      ["http://192.168.1.2", 2],
    ] as const) {
      const changes = [set(T.s3Bucket, "endpoint", endpoint), unprotected(T.s3Bucket)];
      const { violations } = await check(
        changes.reduce((resources, change) => change(resources), await registered("s3")),
      );
      expect(violations, endpoint).to.have.length(count);
    }
  });

  it("reports the policy that cannot check an unknown value, and checks the rest", async () => {
    const resources = set(
      T.awsUserPolicy,
      "policy",
      UNKNOWN,
    )(set(T.awsPublicAccess, "blockPublicAcls", false)(await registered("aws")));
    const { violations, unknown } = await check(unprotected(T.awsBucket)(resources));
    expect(violations.map(({ policy }) => policy)).to.deep.equal([
      "no-public-bucket",
      "protected-bucket",
    ]);
    expect([
      ...new Set(unknown.map(({ policy, message }) => `${policy}: ${message}`)),
    ]).to.deep.equal(["least-privilege: string value at .policy can't be known during preview"]);
  });

  it("finds a property in an unknown form, and does not show its value", async () => {
    const { violations } = await check(
      set(T.s3Cors, "rules", "top secret")(await registered("s3")),
    );
    expect(violations.map(({ policy }) => policy)).to.deep.equal([
      "no-wildcard-origin",
      "tls-only",
    ]);
    for (const { message } of violations)
      expect(message)
        .to.match(/^rules is not in a form that this policy can check/)
        .and.not.to.contain("top secret");
    const document = await check(
      set(T.awsUserPolicy, "policy", "not JSON")(await registered("aws")),
    );
    expect(document.violations.map(({ policy }) => policy)).to.deep.equal(["least-privilege"]);
  });
});

(pulumi ? describe : describe.skip)("policy pack on the real Pulumi engine", function () {
  this.timeout(60_000);
  this.slow(20_000);
  let project: EngineProject;
  before(async () => {
    project = await EngineProject.create();
    await project.configure(
      { provider: "s3", endpoint: "https://s3.provider", origins: ["https://authentik.company"] },
      { accessKey: "access", secretKey: "secret" },
    );
  });
  after(() => project.remove());

  const pack = ["--policy-pack", join(REPOSITORY, "policy")];
  const relaxed = [
    ...pack,
    "--policy-pack-config",
    join(REPOSITORY, "policy/allow-bucket-deletion.json"),
  ];

  it("stops the preview of a bucket without protection, and says what, where, why and what to do", async () => {
    await project.configure({ protect: false });
    const text = await project.expectFailure("preview", ...pack);
    expect(text).to.match(/\[mandatory\] +protected-bucket/);
    expect(text).to.match(
      /protect is false, so .*; remove protect .*\(urn:pulumi:test::authentik-storage::\S+::authentik-bucket\)/,
    );
    expect(text).not.to.match(/tls-only|least-privilege/);
  });

  it("creates nothing in an update without a preview", async () => {
    const text = await project.expectFailure("up", "--yes", "--skip-preview", ...pack);
    expect(text)
      .to.match(/protected-bucket/)
      .and.not.to.match(/could not/);
  });

  it("allows it when only that policy is relaxed, and still reports it", async () => {
    expect(await project.expectOk("preview", ...relaxed)).to.match(
      /\[advisory\] +protected-bucket/,
    );
    await project.configure({ endpoint: "http://s3.provider", secureUrls: false });
    const text = await project.expectFailure("preview", ...relaxed);
    expect(text)
      .to.match(/\[mandatory\] +tls-only/)
      .and.to.match(/endpoint = "http:\/\/s3.provider"/)
      .and.to.match(/secureUrls is false/);
  });

  it("allows the stack on the local server, in preview and update", async () => {
    const server = await startTestServer();
    try {
      const { config } = v.parse(
        v.object({ config: v.record(v.string(), v.unknown()) }),
        parse(await readFile(join(REPOSITORY, "Pulumi.dev.yaml"), "utf8")),
      );
      const values = Object.entries(config).map(
        ([key, value]) => [key.replace(/^.*:/, ""), value] as const,
      );
      const keys = {
        accessKey: AUTHENTIK.accessKey,
        secretKey: AUTHENTIK.secretKey,
        adminAccessKey: ROOT.accessKey,
        adminSecretKey: ROOT.secretKey,
      };
      await project.configure(
        { ...Object.fromEntries(values), endpoint: server.endpoint },
        { ...keys, policyPrincipal: AUTHENTIK.accessKey },
      );
      expect(await project.expectOk("up", "--yes", ...pack)).to.match(/✅ authentik-storage@v\d/);
      expect(project.written).not.to.contain(ROOT.secretKey);
    } finally {
      await server.stop();
    }
  });
});
