import { createServer, type IncomingMessage, type Server } from "node:http";
import { afterEach, beforeEach } from "vitest";

/** One request that the server has received: a single event, or the lines of a batch. */
interface Received {
  method: string | undefined;
  url: string | undefined;
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
  lines: Record<string, unknown>[];
}
export type Reply =
  | [status: number, body?: unknown, headers?: Record<string, string>]
  | "hang up"
  | "silence";

let http: Server;
/** The requests of the current test. */
export let received: Received[];
/** The replies to the next requests. After them the server replies with receipts. */
export let replies: Reply[];
let maxEvents: number;
export const receipt = { id: "e-7", connections: 2 };

/** Sets how many events the server accepts in one request. */
export const setMaxEvents = (n: number): void => {
  maxEvents = n;
};

beforeEach(() => {
  received = [];
  replies = [];
  maxEvents = 1000;
  http = createServer(async (req, res) => {
    let text = "";
    for await (const chunk of req) text += chunk;
    const batch = req.headers["content-type"] === "application/x-ndjson";
    const lines = batch ? text.split("\n").map((line) => JSON.parse(line)) : [];
    const event = batch ? {} : JSON.parse(text);
    received.push({ method: req.method, url: req.url, headers: req.headers, body: event, lines });
    const bad = lines.findIndex(({ type }) => type === "sse.bad") + 1;
    const receipts = lines.map(({ data }) => JSON.stringify({ id: `e-${data}`, connections: 1 }));
    let reply = replies.shift() ?? [200, batch ? receipts.join("\n") : receipt];
    if (bad) reply = [400, { error: `line ${bad}: reserved type` }];
    if (lines.length > maxEvents) reply = [413, { error: "the body is larger than 9 bytes" }];
    if (reply === "silence") return;
    if (reply === "hang up") return void req.socket.destroy();
    const [status, body = { error: "no" }, headers = {}] = reply;
    res.writeHead(status, headers).end(typeof body === "string" ? body : JSON.stringify(body));
  });
});
afterEach(() => {
  http.closeAllConnections();
  return new Promise((resolve) => http.close(resolve));
});

/** Lets the server listen, on a Unix socket if there is a path, and returns its endpoint. */
export async function listen(path?: string): Promise<string> {
  await new Promise<void>((resolve) => http.listen(path ?? 0, resolve));
  const address = http.address();
  return typeof address === "object" && address
    ? `http://127.0.0.1:${address.port}/sse`
    : `unix://${address}`;
}
