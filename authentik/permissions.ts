/** What authentik's key must be able to do, and nothing else. */

/**
 * Actions on the bucket and on its objects. Source: the calls of authentik's `admin/files/backends/s3.py`: list, head, get
 * (presigned), put and multipart upload with an ACL, delete. Each upload names an ACL, hence PutObjectAcl, which
 * authentik's own page leaves out.
 */
export const BUCKET_ACTIONS = ["s3:ListBucket"] as const;
export const OBJECT_ACTIONS = [
  "s3:GetObject",
  "s3:PutObject",
  "s3:PutObjectAcl",
  "s3:DeleteObject",
  "s3:AbortMultipartUpload",
  "s3:ListMultipartUploadParts",
] as const;

/**
 * The actions on objects behind a gateway whose AbortMultipartUpload deletes the file at the key
 * (versitygw before Azure Blob, `backend/azure/azure.go`). boto3 aborts each upload in parts that
 * fails: without the right to abort, the file that was there stays.
 */
export const OBJECT_ACTIONS_WITHOUT_ABORT = OBJECT_ACTIONS.filter(
  (action) => action !== "s3:AbortMultipartUpload",
);

/** A policy document in IAM's JSON grammar; `Principal` only in bucket policies. */
export interface PolicyDocument {
  Version: "2012-10-17";
  Statement: PolicyStatement[];
}

export interface PolicyStatement {
  Sid: string;
  Effect: "Allow" | "Deny";
  Principal?: "*" | { AWS: string[] };
  Action: string | readonly string[];
  Resource: string | string[];
  Condition?: Record<string, Record<string, string | string[]>>;
}

/**
 * authentik's rights on a bucket.
 *
 * @param bucketArn `arn:aws:s3:::authentik-media`; other partitions have another second field.
 * @param principals who gets them, for a bucket policy; left out for an IAM policy.
 * @param objectActions `OBJECT_ACTIONS_WITHOUT_ABORT` where an abort deletes the file.
 */
export function authentikPolicy(
  bucketArn: string,
  principals?: string[],
  objectActions: readonly string[] = OBJECT_ACTIONS,
): PolicyDocument {
  const principal = principals ? { Principal: { AWS: principals } } : {};
  return {
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "AuthentikBucket",
        Effect: "Allow",
        ...principal,
        Action: BUCKET_ACTIONS,
        Resource: bucketArn,
      },
      {
        Sid: "AuthentikObjects",
        Effect: "Allow",
        ...principal,
        Action: objectActions,
        Resource: `${bucketArn}/*`,
      },
    ],
  };
}
