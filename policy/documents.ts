/** IAM's policy documents in JSON, and what is wrong with them. */
import type { ResourceValidation } from "@pulumi/policy";
import * as v from "valibot";
import { BUCKET_ACTIONS, OBJECT_ACTIONS } from "../authentik/permissions.ts";
import type { KnownType } from "./known-types.ts";
import { findIf, rule } from "./rule.ts";

/** A text or a list of texts, as a list. */
const Texts = v.pipe(
  v.union([v.string(), v.array(v.string())]),
  v.transform((texts) => [texts].flat()),
);
/** The names of principals. Those that are not AWS's get their kind: `Service ec2.amazonaws.com`. */
const Principal = v.pipe(
  v.union([v.literal("*"), v.record(v.string(), Texts)]),
  v.transform((kinds) => (kinds === "*" ? [kinds] : Object.entries(kinds).flatMap(namesOf))),
);
/** It has no NotPrincipal, NotAction or NotResource: these allow whatever they do not name. */
const Statement = v.strictObject({
  Sid: v.optional(v.string()),
  Effect: v.picklist(["Allow", "Deny"]),
  // The policy of an identity has no principal.
  Principal: v.optional(Principal, {}),
  Action: Texts,
  // The trust of a role has no resource.
  Resource: v.optional(Texts, []),
  Condition: v.optional(v.record(v.string(), v.record(v.string(), Texts)), {}),
});
const Statements = v.pipe(
  v.object({ Statement: v.union([v.array(Statement), Statement]) }),
  v.transform(({ Statement }) => [Statement].flat()),
);
/** A document as JSON text, as AWS takes it, or as an object. */
const Document = v.union([v.pipe(v.string(), v.parseJson(), Statements), Statements]);
/** The statements of a document. */
export type Document = v.InferOutput<typeof Document>;

function namesOf([kind, names]: [string, string[]]): string[] {
  return kind === "AWS" ? names : names.map((name) => `${kind} ${name}`);
}

/** A rule for the document in a property of a resource, if it has one. */
export function documentRule(
  type: KnownType,
  check: (document: Document) => string[],
  key: "policy" | "assumeRolePolicy" = "policy",
): ResourceValidation {
  const Props = v.object({ [key]: v.optional(Document, { Statement: [] }) });
  return rule(type, Props, ({ [key]: document = [] }) => check(document));
}

/** Rights for everyone. A condition does not change that: strangers may meet it. */
export function opensToEveryone(document: Document): string[] {
  return findIf(
    allowing(document).some(({ Principal }) => Principal.some(isEveryone)),
    'policy allows everyone (Principal "*"); name the principal that needs the rights',
  );
}

/** Rights for anybody but everyone, whom `opensToEveryone` finds. */
export function othersRights(document: Document): string[] {
  return grantees(document).map(
    (name) =>
      `policy gives rights to "${name}"; remove the statement: ` +
      "authentik's rights are in the policy of its user or role",
  );
}

/** The principals that have rights, without everyone. */
export function grantees(document: Document): string[] {
  const names = allowing(document).flatMap(({ Principal }) => Principal);
  return [...new Set(names)].filter((name) => !isEveryone(name));
}

function isEveryone(name: string): boolean {
  return name.includes("*");
}

/**
 * No statement that denies plain http to everyone, for the bucket and its objects (AWS, "Enforce
 * encryption of data in transit").
 */
export function allowsPlainHttp(document: Document): string[] {
  const isDenied = document.some(
    ({ Effect, Principal, Action, Resource, Condition }) =>
      Effect === "Deny" &&
      Principal.includes("*") &&
      Action.includes("s3:*") &&
      Resource.some((arn) => Resource.includes(`${arn}/*`)) &&
      // A second condition would deny less.
      JSON.stringify(Condition) === '{"Bool":{"aws:SecureTransport":["false"]}}',
  );
  return findIf(
    !isDenied,
    'policy does not deny plain http; add the statement that denies "s3:*" on the bucket and ' +
      'its objects to everyone where "aws:SecureTransport" is "false"',
  );
}

const KMS_ACTIONS = ["kms:Decrypt", "kms:GenerateDataKey"];
const ACTIONS: readonly string[] = [...BUCKET_ACTIONS, ...OBJECT_ACTIONS, ...KMS_ACTIONS];
const BUCKET = /^arn:[a-z-]+:s3:::[a-z0-9.-]+(?:\/\*)?$/;
const KMS_KEY = /^arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key\/[\w-]+$/;

/** Rights beyond `authentik/permissions.ts` on one bucket and the use of one KMS key through S3. */
export function excessRights(document: Document): string[] {
  return allowing(document).flatMap(({ Action, Resource, Condition }) => {
    const actions = Action.filter((action) => !ACTIONS.includes(action));
    const resources = Resource.filter((arn) => !BUCKET.test(arn) && !KMS_KEY.test(arn));
    const usesKey = Action.some((action) => KMS_ACTIONS.includes(action));
    return [
      ...actions.map(
        (action) =>
          `policy allows "${action}", which authentik does not need; ` +
          "write the actions in docs/verify.md#permissions",
      ),
      ...resources.map(
        (arn) =>
          `policy gives rights on "${arn}"; ` +
          'write the bucket\'s ARN, and the same with "/*" for its objects',
      ),
      ...findIf(
        usesKey && Condition.StringEquals?.["kms:ViaService"] === undefined,
        "policy allows any use of the KMS key; " +
          'add the condition StringEquals "kms:ViaService" with the region\'s S3 host',
      ),
    ];
  });
}

/** How pods of EKS take a role, in the two forms that `providers/aws.ts` writes. */
const TRUSTS = [
  {
    // AWS, "IAM roles for service accounts".
    principal: /^Federated arn:[a-z-]+:iam::\d{12}:oidc-provider\/([\w./-]+)$/,
    actions: ["sts:AssumeRoleWithWebIdentity"],
    /** What StringEquals must name; `$1` is the issuer. */
    keys: ["$1:sub"],
    name: /^system:serviceaccount:[a-z0-9-]+:[a-z0-9.-]+$/,
  },
  {
    // AWS, "EKS Pod Identity".
    principal: /^Service pods\.eks\.amazonaws\.com$/,
    actions: ["sts:AssumeRole", "sts:TagSession"],
    keys: [
      "aws:RequestTag/eks-cluster-name",
      "aws:RequestTag/kubernetes-namespace",
      "aws:RequestTag/kubernetes-service-account",
    ],
    name: /^[\w.-]+$/,
  },
];

/** Trust beyond the service accounts that it names. A further condition can only allow less. */
export function excessTrust(document: Document): string[] {
  return allowing(document).flatMap(({ Principal, Action, Condition }) => {
    const [principal = "", ...more] = Principal;
    const trust = TRUSTS.find((trust) => trust.principal.test(principal));
    if (!trust || more.length > 0) {
      return [
        "assumeRolePolicy allows others than EKS's pods to take the role; name one Principal: " +
          "the cluster's OIDC provider (Federated), or pods.eks.amazonaws.com (Service)",
      ];
    }
    const keys = trust.keys.map((key) => principal.replace(trust.principal, key));
    const names = keys.map((key) => Condition.StringEquals?.[key] ?? []);
    return [
      ...findIf(
        Action.some((action) => !trust.actions.includes(action)),
        `assumeRolePolicy allows more than ${trust.actions.join(", ")}; write only that`,
      ),
      ...findIf(
        names.some((names) => names.length === 0 || !names.every((name) => trust.name.test(name))),
        "assumeRolePolicy is not limited to authentik's service accounts; add the condition " +
          `StringEquals that names each in full (${keys.join(", ")})`,
      ),
    ];
  });
}

function allowing(document: Document): Document {
  return document.filter(({ Effect }) => Effect === "Allow");
}
