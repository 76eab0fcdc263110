/** An S3 server that has only a listing, generated as it is asked for: a million objects need no disk. */
import { createServer, type ServerResponse } from "node:http";
import { listen } from "./listen.ts";

export interface GeneratedListing {
  /** How many objects there are. */
  count: number;
  /** The key of the object with this number; rising with it. */
  keyAt: (index: number) => string;
  /** What each object has in it. Without one, reading is answered 404. */
  content?: Buffer;
}

export interface ListingServer {
  endpoint: string;
  stop(): Promise<void>;
}

const PAGE = 1000;

/** Serves one bucket on a free port of 127.0.0.1, whatever the signature. */
export async function startListingServer({ count, keyAt, content }: GeneratedListing): Promise<ListingServer> {
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "", "http://localhost");
    request.resume();
    if (url.searchParams.has("list-type")) list(url.searchParams, response);
    else if (content && (request.method === "GET" || request.method === "HEAD")) response.writeHead(200, { "content-length": content.length }).end(request.method === "GET" ? content : undefined);
    else response.writeHead(404).end();
  });

  function list(query: URLSearchParams, response: ServerResponse): void {
    const prefix = query.get("prefix") ?? "";
    const folders = new Set<string>();
    let body = "";
    let index = Number(query.get("continuation-token") ?? 0);
    for (let found = 0; index < count && found < PAGE; index++) {
      const key = keyAt(index);
      if (!key.startsWith(prefix)) continue;
      if (query.has("delimiter")) folders.add(key.slice(0, key.indexOf("/") + 1));
      else {
        body += `<Contents><Key>${encodeURIComponent(key)}</Key><Size>${content?.length ?? index}</Size><ETag>&quot;0x${index}&quot;</ETag></Contents>`;
        found++;
      }
    }
    const next = index < count ? `<IsTruncated>true</IsTruncated><NextContinuationToken>${index}</NextContinuationToken>` : "<IsTruncated>false</IsTruncated>";
    const prefixes = [...folders].map((folder) => `<CommonPrefixes><Prefix>${encodeURIComponent(folder)}</Prefix></CommonPrefixes>`).join("");
    response.end(`<ListBucketResult>${next}<EncodingType>url</EncodingType>${body}${prefixes}</ListBucketResult>`);
  }

  const { host, stop } = await listen(server);
  return {
    endpoint: `http://${host}`,
    stop,
  };
}
