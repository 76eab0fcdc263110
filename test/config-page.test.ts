import { readFile, writeFile } from "node:fs/promises";
import { expect } from "chai";
import * as v from "valibot";
import { commonKeys } from "../config/common.ts";
import { defaultOf, documentationOf } from "../config/values.ts";
import { PROVIDERS, providers } from "../providers/index.ts";

const PAGE = new URL("../docs/config.md", import.meta.url);
const TABLE = /(?<=<!-- config table: begin -->\n)[^]*?(?=<!-- config table: end -->)/;

/** The config table as the schemas have it: a row for each key, and one more where a provider has a key of the same name. */
async function table(): Promise<string> {
  const own = await Promise.all(
    PROVIDERS.map(async (provider) => {
      const { keys } = (await providers[provider].load()).default;
      return Object.entries(keys).map(([key, schema]) => keyRow(key, provider, schema));
    }),
  );
  const rows = [
    row(
      "provider",
      "all",
      PROVIDERS.map((name) => `\`${name}\``).join(", "),
      "required",
      "Where the bucket is.",
    ),
    ...Object.entries(commonKeys).map(([key, schema]) => keyRow(key, "all", schema)),
    ...own.flat(),
  ];
  return [
    "| Key | Provider | Type | Default | Meaning |",
    "| --- | --- | --- | --- | --- |",
    ...rows,
    "",
  ].join("\n");
}

function keyRow(key: string, provider: string, schema: v.GenericSchema): string {
  const fallback = defaultOf(schema);
  const shown =
    fallback !== undefined ? `\`${fallback}\`` : schema.type === "optional" ? "" : "required";
  return row(key, provider, documentationOf(schema).type, shown, v.getDescription(schema) ?? "");
}

function row(key: string, ...cells: string[]): string {
  return `| ${[`\`${key}\``, ...cells].join(" | ")} |`;
}

describe("docs/config.md", () => {
  it("lists every key of the config with its type, default and meaning (UPDATE_CONFIG_PAGE=1 writes it)", async () => {
    const page = await readFile(PAGE, "utf8");
    const actual = await table();
    if (process.env.UPDATE_CONFIG_PAGE)
      await writeFile(
        PAGE,
        page.replace(TABLE, () => actual),
      );
    else expect(TABLE.exec(page)?.[0]).to.equal(actual);
  });
});
