/** Policy documents in IAM's JSON grammar, and what they let happen. */
import * as v from "valibot";
import { BUCKET_ACTIONS, OBJECT_ACTIONS } from "../authentik/permissions.ts";

/** One text or a list of texts; read as a list. */
const Texts = v.union([v.pipe(v.string(), v.transform((text) => [text])), v.array(v.string())]);
const Principal = v.union([v.literal("*"), v.record(v.string(), Texts)]);

const Statement = v.object({
  Effect: v.picklist(["Allow", "Deny"]),
  Principal: v.optional(Principal),
  NotPrincipal: v.optional(Principal),
  Action: v.optional(Texts, []),
  NotAction: v.optional(Texts),
  Resource: v.optional(Texts, []),
  NotResource: v.optional(Texts),
  Condition: v.optional(v.record(v.string(), v.record(v.string(), Texts)), {}),
});
type Statement = v.InferOutput<typeof Statement>;

const Parsed = v.object({
  Statement: v.union([v.array(Statement), v.pipe(Statement, v.transform((statement) => [statement]))]),
});

/** A document as its JSON text, as AWS takes it, or as an object. */
export const Document = v.union([v.pipe(v.string(), v.parseJson(), Parsed), Parsed]);
export type Document = v.InferOutput<typeof Document>;

/** Everyone, in each way of writing it. A condition does not count: it can be met by strangers, and judging it is IAM's work. */
export function opensToEveryone({ Statement }: Document): boolean {
  return allowing(Statement).some(({ Principal, NotPrincipal }) => {
    return NotPrincipal !== undefined || principals(Principal).some((name) => name.includes("*"));
  });
}

/** Whether plain http is denied to everyone, for every action on the bucket and its objects (AWS, "Enforce encryption of data in transit"). */
export function deniesPlainHttp({ Statement }: Document): boolean {
  return Statement.some(({ Effect, Principal, Action, Resource, Condition }) =>
    Effect === "Deny" &&
    (Principal === "*" || Principal?.AWS?.includes("*") === true) &&
    Action.includes("s3:*") &&
    Resource.some((arn) => Resource.includes(`${arn}/*`)) &&
    // Another condition beside it would deny less.
    JSON.stringify(Condition) === '{"Bool":{"aws:SecureTransport":["false"]}}');
}

const KMS_ACTIONS = ["kms:Decrypt", "kms:GenerateDataKey"];
const ALLOWED: readonly string[] = [...BUCKET_ACTIONS, ...OBJECT_ACTIONS, ...KMS_ACTIONS];

/** What a document gives beyond authentik's rights on one bucket (`authentik/permissions.ts`) and the use of one KMS key through S3. */
export function excessRights({ Statement }: Document): string[] {
  return allowing(Statement).flatMap(({ NotAction, NotResource, Action, Resource, Condition }) => [
    ...(NotAction === undefined ? [] : ["policy has NotAction, which gives every action but those; write the actions of authentik/permissions.ts"]),
    ...(NotResource === undefined ? [] : ["policy has NotResource, which gives every resource but those; write the bucket's ARN"]),
    ...Action.filter((action) => !ALLOWED.includes(action)).map((action) =>
      `policy gives "${action}", which authentik does not need; write the actions of authentik/permissions.ts`),
    ...Resource.filter((arn) => !isOneBucket(arn) && !isOneKey(arn)).map((arn) =>
      `policy gives rights on "${arn}"; write the bucket's ARN, and the same with "/*" for its objects`),
    ...(Action.some((action) => KMS_ACTIONS.includes(action)) && Condition.StringEquals?.["kms:ViaService"] === undefined
      ? ['policy lets the KMS key be used for anything; add the condition StringEquals "kms:ViaService" with the region\'s S3 host']
      : []),
  ]);
}

/** The names of the buckets on which a document gives rights. */
export function namedBuckets({ Statement }: Document): string[] {
  const arns = allowing(Statement).flatMap(({ Resource }) => Resource.filter(isOneBucket));
  return [...new Set(arns.map((arn) => arn.split(":::")[1]?.split("/")[0] ?? ""))];
}

/** Whom a document gives rights, everyone left out, which `opensToEveryone` finds. */
export function grantees({ Statement }: Document): string[] {
  const names = allowing(Statement).flatMap(({ Principal }) => principals(Principal));
  return [...new Set(names)].filter((name) => !name.includes("*"));
}

/** How pods of EKS take a role, as `providers/aws.ts` writes it: who vouches for them, by which actions, and what StringEquals has to name. */
const TRUSTS = [
  {
    // AWS, "IAM roles for service accounts".
    voucher: /^Federated arn:[a-z-]+:iam::\d{12}:oidc-provider\/([\w./-]+)$/,
    actions: ["sts:AssumeRoleWithWebIdentity"],
    keys: (issuer: string) => [`${issuer}:sub`],
    name: /^system:serviceaccount:[a-z0-9-]+:[a-z0-9.-]+$/,
  },
  {
    // AWS, "EKS Pod Identity".
    voucher: /^Service pods\.eks\.amazonaws\.com$/,
    actions: ["sts:AssumeRole", "sts:TagSession"],
    keys: () => ["eks-cluster-name", "kubernetes-namespace", "kubernetes-service-account"].map((tag) => `aws:RequestTag/${tag}`),
    name: /^[\w.-]+$/,
  },
];

/** What a role's trust gives beyond the service accounts that it names. More conditions, with whatever operator, can only narrow it. */
export function excessTrust({ Statement }: Document): string[] {
  return allowing(Statement).flatMap(({ Principal = {}, NotPrincipal, Action, NotAction, Condition }) => {
    const [voucher = "", ...others] = Principal === "*" ? [] : Object.entries(Principal).flatMap(([kind, names]) => names.map((name) => `${kind} ${name}`));
    const trust = TRUSTS.find((trust) => trust.voucher.test(voucher));
    if (NotPrincipal !== undefined || trust === undefined || others.length > 0) {
      return ["assumeRolePolicy lets others than EKS's pods take the role; name one Principal: the cluster's OIDC provider (Federated), or pods.eks.amazonaws.com (Service)"];
    }
    const keys = trust.keys(trust.voucher.exec(voucher)?.[1] ?? "");
    const isNamed = keys.every((key) => {
      const names = Condition.StringEquals?.[key] ?? [];
      return names.length > 0 && names.every((name) => trust.name.test(name));
    });
    return [
      ...(NotAction !== undefined || Action.some((action) => !trust.actions.includes(action))
        ? [`assumeRolePolicy gives more than ${trust.actions.join(", ")}; write that alone`]
        : []),
      ...(isNamed ? [] : [`assumeRolePolicy is not limited to authentik's service accounts; add the condition StringEquals that names each in full (${keys.join(", ")})`]),
    ];
  });
}

/** Whom a statement names; nobody in a policy of an identity, which has no principal. */
function principals(principal: Statement["Principal"] = {}): string[] {
  return principal === "*" ? ["*"] : Object.values(principal).flat();
}

function allowing(statements: readonly Statement[]): Statement[] {
  return statements.filter(({ Effect }) => Effect === "Allow");
}

function isOneBucket(arn: string): boolean {
  return /^arn:[a-z-]+:s3:::[a-z0-9.-]+(?:\/\*)?$/.test(arn);
}

function isOneKey(arn: string): boolean {
  return /^arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key\/[\w-]+$/.test(arn);
}
