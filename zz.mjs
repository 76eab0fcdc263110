import {
  S3Client,
  CreateBucketCommand,
  PutBucketCorsCommand,
  PutBucketPolicyCommand,
  GetBucketPolicyCommand,
  GetBucketCorsCommand,
} from "@aws-sdk/client-s3";
const [, , endpoint, ak = "k", sk = "secretsecret"] = process.argv;
const s3 = new S3Client({
  endpoint,
  region: "us-east-1",
  forcePathStyle: true,
  credentials: { accessKeyId: ak, secretAccessKey: sk },
  maxAttempts: 1,
});
const Bucket = "probe-" + Date.now();
const t = async (n, c) => {
  try {
    const r = await s3.send(c);
    delete r.$metadata;
    console.log(n, JSON.stringify(r));
  } catch (e) {
    console.log(n, "ERR", e.name, e.message?.slice(0, 100), e.$metadata?.httpStatusCode);
  }
};
await t("create", new CreateBucketCommand({ Bucket }));
await t("get policy none", new GetBucketPolicyCommand({ Bucket }));
await t("get cors none", new GetBucketCorsCommand({ Bucket }));
const doc = {
  Version: "2012-10-17",
  Statement: [
    {
      Sid: "A",
      Effect: "Allow",
      Principal: { AWS: ["*"] },
      Action: ["s3:GetObject"],
      Resource: `arn:aws:s3:::${Bucket}/*`,
    },
  ],
};
await t("put policy", new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(doc) }));
await t(
  "put policy+field",
  new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify({ ...doc, Verify: "x" }) }),
);
await t("get", new GetBucketPolicyCommand({ Bucket }));
await t("put same", new PutBucketPolicyCommand({ Bucket, Policy: JSON.stringify(doc) }));
await t("put invalid", new PutBucketPolicyCommand({ Bucket, Policy: "neither" }));
await t("get", new GetBucketPolicyCommand({ Bucket }));
await t(
  "put cors",
  new PutBucketCorsCommand({
    Bucket,
    CORSConfiguration: {
      CORSRules: [{ AllowedOrigins: ["https://a.b"], AllowedMethods: ["GET"] }],
    },
  }),
);
await t("get cors", new GetBucketCorsCommand({ Bucket }));
