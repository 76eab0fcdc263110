/** A certificate that nobody trusts yet, for servers on 127.0.0.1. */
import { generate } from "selfsigned";

/** In PEM, for a few days. */
export async function selfSigned(): Promise<{ key: string; cert: string }> {
  const altNames = [{ type: 7, ip: "127.0.0.1" }] as const;
  const { private: key, cert } = await generate([{ name: "commonName", value: "127.0.0.1" }], { extensions: [{ name: "subjectAltName", altNames: [...altNames] }] });
  return { key, cert };
}
