/** A self-signed certificate for servers on 127.0.0.1. */
import { generate } from "selfsigned";

/** Key and certificate in PEM, valid for a few days. */
export async function selfSigned(): Promise<{ key: string; cert: string }> {
  const subject = [{ name: "commonName", value: "127.0.0.1" }];
  const { private: key, cert } = await generate(subject, {
    extensions: [{ name: "subjectAltName", altNames: [{ type: 7, ip: "127.0.0.1" }] }],
  });
  return { key, cert };
}
