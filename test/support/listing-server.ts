/** An S3 server with a generated listing: a million objects need no disk. */
import { createServer, type ServerResponse } from "node:http";
import { listen } from "./listen.ts";

export interface GeneratedListing {
  /** How many objects there are. */
  count: number;
  /** The key of the object with this number, in the order of the listing. */
  keyAt: (index: number) => string;
  /** The content of each object. Without it, reading is answered with 404. */
  content?: Buffer;
}

export interface ListingServer {
  endpoint: string;
  stop(): Promise<void>;
}

const PAGE = 1000;

/** Serves one bucket on a free port of 127.0.0.1, with any signature. */
export async function startListingServer(listing: GeneratedListing): Promise<ListingServer> {
  const { content } = listing;
  const server = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? "", "http://localhost");
    const { method = "" } = request;
    request.resume();
    if (searchParams.has("list-type")) list(listing, searchParams, response);
    else if (content && ["GET", "HEAD"].includes(method)) {
      response.writeHead(200, { "content-length": content.length });
      response.end(method === "GET" ? content : undefined);
    } else response.writeHead(404).end();
  });
  const { host, stop } = await listen(server);
  return { endpoint: `http://${host}`, stop };
}

function list(
  { count, keyAt, content }: GeneratedListing,
  query: URLSearchParams,
  response: ServerResponse,
): void {
  const prefix = query.get("prefix") ?? "";
  const folders = new Set<string>();
  let body = "";
  let index = Number(query.get("continuation-token") ?? 0);
  for (let found = 0; index < count && found < PAGE; index++) {
    const key = keyAt(index);
    if (!key.startsWith(prefix)) continue;
    if (query.has("delimiter")) folders.add(key.slice(0, key.indexOf("/") + 1));
    else {
      const size = `<Size>${content?.length ?? index}</Size>`;
      const etag = `<ETag>&quot;0x${index}&quot;</ETag>`;
      body += `<Contents><Key>${encodeURIComponent(key)}</Key>${size}${etag}</Contents>`;
      found++;
    }
  }
  for (const folder of folders) {
    body += `<CommonPrefixes><Prefix>${encodeURIComponent(folder)}</Prefix></CommonPrefixes>`;
  }
  const next = `<NextContinuationToken>${index}</NextContinuationToken>`;
  const isTruncated = index < count;
  const more = `<IsTruncated>${String(isTruncated)}</IsTruncated>${isTruncated ? next : ""}`;
  const encoding = "<EncodingType>url</EncodingType>";
  response.end(`<ListBucketResult>${more}${encoding}${body}</ListBucketResult>`);
}
