/** migrate's signatures, compared with those of the AWS SDK for the same requests. */
import { PutObjectCommand, S3Client, UploadPartCommand } from "@aws-sdk/client-s3";
import { expect } from "chai";
import { s3ClientConfig } from "../providers/s3/client.ts";
import { addressOf, Signer } from "../tools/migrate/s3-signing.ts";

const SETTINGS = {
  bucketName: "authentik-media",
  endpoint: "https://s3.example.com/folder",
  region: "eu-central-1",
  secureUrls: true,
};
const KEYS = { accessKey: "access", secretKey: "secret" };
const OBJECT = {
  Bucket: SETTINGS.bucketName,
  Key: "media/public/a b+c~é!'()*/$1,2;3=4&5@:6.png",
  Body: Buffer.from("content"),
};

/** What the SDK sends. */
interface SentRequest {
  path: string;
  query?: Record<string, string>;
  headers: Record<string, string>;
}

/** Has the SDK sign a request, and signs the same one. */
async function expectSameSignature(
  sessionToken: string | undefined,
  send: (client: S3Client) => Promise<unknown>,
): Promise<void> {
  const sent: SentRequest[] = [];
  const { region, endpoint } = SETTINGS;
  const handle = (request: SentRequest) => {
    sent.push(request);
    return Promise.reject(new Error("this test sends nothing"));
  };
  const limits = { connectionTimeout: 0, requestTimeout: 0, maxAttempts: 1 };
  const keys = { ...KEYS, sessionToken };
  const config = s3ClientConfig({ keys, region, endpoint, forcePathStyle: true, ...limits });
  await send(new S3Client({ ...config, requestHandler: { handle } })).catch(() => undefined);
  const [request] = sent;
  if (!request) throw new Error("the SDK has sent nothing");
  const { authorization, "x-amz-date": time = "", ...headers } = request.headers;
  // The SDK does not sign its name, and migrate does not send one.
  const others = Object.entries(headers).filter(([name]) => name !== "user-agent");
  const signer = new Signer(await addressOf({ ...SETTINGS, ...KEYS, sessionToken }));
  const signed = await signer.sign(
    {
      method: "PUT",
      key: OBJECT.Key,
      query: request.query ?? {},
      headers: Object.fromEntries(others),
      body: OBJECT.Body,
    },
    new Date(time.replace(/^(....)(..)(..T..)(..)(..Z)$/, "$1-$2-$3:$4:$5")),
  );
  expect(signed.path.split("?")[0]).to.equal(request.path);
  expect(signed.headers["authorization"]).to.equal(authorization);
}

describe("migrate's signatures are those of the AWS SDK", () => {
  it("for keys and headers with all kinds of characters", () =>
    expectSameSignature(undefined, (client) =>
      client.send(
        new PutObjectCommand({
          ...OBJECT,
          CacheControl: "no-cache",
          ContentType: 'text/plain;  charset="utf-8" ',
          Metadata: { b: "2", a: "1   1" },
        }),
      ),
    ));

  it("for a query and a session token", () =>
    expectSameSignature("token/+=", (client) =>
      client.send(new UploadPartCommand({ ...OBJECT, PartNumber: 2, UploadId: "a b/+=é~*" })),
    ));
});
