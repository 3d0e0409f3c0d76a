import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createPublisher, type PublishError } from "../src/server.js";

interface Seen {
  method: string | undefined;
  url: string | undefined;
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
}
type Reply =
  | [status: number, body?: unknown, headers?: Record<string, string>]
  | "hang up"
  | "silence";

let http: Server;
let seen: Seen[];
let replies: Reply[];
const receipt = { id: "e-7", connections: 2 };

beforeEach(() => {
  seen = [];
  replies = [];
  http = createServer(async (req, res) => {
    let text = "";
    for await (const chunk of req) text += chunk;
    seen.push({ method: req.method, url: req.url, headers: req.headers, body: JSON.parse(text) });
    const reply = replies.shift() ?? [200, receipt];
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

async function listen(path?: string): Promise<string> {
  await new Promise<void>((resolve) => http.listen(path ?? 0, resolve));
  const address = http.address();
  return typeof address === "object" && address
    ? `http://127.0.0.1:${address.port}/sse`
    : `unix://${address}`;
}

describe("calls", () => {
  test("send", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    expect(await sse.send({ user: ["a", "b"], type: "t", data: { x: 1 }, ttl: "10m" })).toEqual(
      receipt,
    );
    expect(seen[0]).toMatchObject({
      method: "POST",
      url: "/sse/send",
      headers: { "content-type": "application/json" },
      body: { user: ["a", "b"], type: "t", data: { x: 1 }, ttl: "10m", key: expect.any(String) },
    });
  });
  test("broadcast, with text, a key and a hub", async () => {
    const sse = createPublisher({ endpoint: `${await listen()}/`, hub: "chat" });
    await sse.broadcast({ text: "<b>hi</b>", key: "k-1" });
    expect(seen[0]).toMatchObject({
      url: "/sse/broadcast?hub=chat",
      body: { text: "<b>hi</b>", key: "k-1" },
    });
  });
  test("the helpers", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    await sse.notifyUser("alice", "hi");
    await sse.notifyUser("alice", "hi", "order", { id: 1 });
    await sse.notifyAll("all");
    await sse.sendUpdate("alice", "stock", [1]);
    await sse.sendAlert("alice", "fire");
    await sse.sendAlert("alice", "fire", "critical");
    expect(seen.map(({ url, body: { key: _, ...event } }) => [url, event])).toEqual([
      ["/sse/send", { user: "alice", type: "notification", data: { message: "hi", type: "info" } }],
      [
        "/sse/send",
        {
          user: "alice",
          type: "notification",
          data: { message: "hi", type: "order", data: { id: 1 } },
        },
      ],
      ["/sse/broadcast", { type: "notification", data: { message: "all", type: "info" } }],
      ["/sse/send", { user: "alice", type: "update", data: { updateType: "stock", payload: [1] } }],
      [
        "/sse/send",
        { user: "alice", type: "alert", data: { message: "fire", severity: "warning" } },
      ],
      [
        "/sse/send",
        { user: "alice", type: "alert", data: { message: "fire", severity: "critical" } },
      ],
    ]);
  });
  test("over http name the endpoint as Origin, without which Caddy's admin API refuses Node's fetch", async () => {
    const endpoint = await listen();
    await createPublisher({ endpoint }).notifyAll("x");
    expect(seen[0]?.headers).toMatchObject({
      origin: new URL(endpoint).origin,
      "sec-fetch-mode": "cors",
    });
    expect(seen[0]?.headers).not.toHaveProperty("sec-fetch-site");
  });
});

describe("endpoints", () => {
  test("a unix socket", async () => {
    const dir = mkdtempSync(join(tmpdir(), "caddy sse "));
    try {
      const endpoint = await listen(join(dir, "admin.sock"));
      const sse = createPublisher({ endpoint, auth: "Bearer x", hub: "h" });
      expect(await sse.notifyAll("ünï")).toEqual(receipt);
      expect(seen[0]).toMatchObject({
        url: "/sse/broadcast?hub=h",
        headers: { authorization: "Bearer x" },
        body: { data: { message: "ünï" } },
      });
      replies.push("silence");
      await expect(
        createPublisher({ endpoint, timeoutMs: 50, retries: 0 }).notifyAll("x"),
      ).rejects.toMatchObject({ status: 0, retryable: true });
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
  test("anything else is refused at once", () => {
    expect(() => createPublisher({ endpoint: "ftp://x/sse" })).toThrow(/want http/);
    expect(() => createPublisher({ endpoint: "localhost:2019/sse" })).toThrow(TypeError);
    expect(() => createPublisher({ endpoint: "" })).toThrow(TypeError);
  });
  test("over https there is no Origin: a proxy may have changed the host", async () => {
    let headers = new Headers();
    const sse = createPublisher({
      endpoint: "https://example.com/internal/sse",
      fetch: async (_, init) => {
        headers = new Headers(init?.headers);
        return Response.json(receipt);
      },
    });
    await sse.notifyAll("x");
    expect(headers.has("Origin")).toBe(false);
  });
  test("auth is asked for at every attempt", async () => {
    let n = 0;
    const sse = createPublisher({ endpoint: await listen(), auth: async () => `Bearer ${++n}` });
    replies.push([503]);
    await sse.notifyAll("x");
    expect(seen.map(({ headers }) => headers.authorization)).toEqual(["Bearer 1", "Bearer 2"]);
  });
});

describe("errors", () => {
  for (const reply of [
    [500],
    [502, "<html>"],
    [503, { error: "store", stored: "unknown" }],
    [429],
    [408],
    "hang up",
  ] as Reply[]) {
    test(`${JSON.stringify(reply)} is tried again with the same key`, async () => {
      replies.push(reply);
      const sse = createPublisher({ endpoint: await listen() });
      expect(await sse.notifyAll("x")).toEqual(receipt);
      expect(seen).toHaveLength(2);
      expect(seen[0]?.body.key).toBe(seen[1]?.body.key);
    });
  }
  for (const code of [400, 401, 403, 404, 413, 415]) {
    test(`${code} is final and says why`, async () => {
      replies.push([code, { error: "unknown field" }]);
      const sse = createPublisher({ endpoint: await listen() });
      await expect(sse.notifyAll("x")).rejects.toMatchObject({
        name: "PublishError",
        message: `caddy-sse: ${code}: unknown field`,
        status: code,
        retryable: false,
      });
      expect(seen).toHaveLength(1);
    });
  }
  test("after the retries the last error, with the key to go on with", async () => {
    replies.push([503], [503], [503]);
    const sse = createPublisher({ endpoint: await listen(), retries: 2 });
    const error: PublishError = await sse.broadcast({ data: 1, key: "mine" }).catch((e) => e);
    expect(error).toMatchObject({ status: 503, retryable: true, key: "mine" });
    expect(error).toBeInstanceOf(Error);
    expect(seen).toHaveLength(3);
  });
  test("no answer within timeoutMs", async () => {
    replies.push("silence");
    const sse = createPublisher({ endpoint: await listen(), timeoutMs: 50, retries: 0 });
    await expect(sse.notifyAll("x")).rejects.toMatchObject({ status: 0, retryable: true });
  });
  test("a Retry-After of an hour is not waited for", async () => {
    replies.push([503, {}, { "Retry-After": "3600" }]);
    const sse = createPublisher({ endpoint: await listen() });
    await expect(sse.notifyAll("x")).rejects.toMatchObject({ status: 503, retryable: true });
  });

  test("Retry-After is waited for", async () => {
    replies.push([503, {}, { "Retry-After": "1" }]);
    const sse = createPublisher({ endpoint: await listen() });
    const before = Date.now();
    await sse.notifyAll("x");
    expect(Date.now() - before).toBeGreaterThanOrEqual(990);
  });
});
