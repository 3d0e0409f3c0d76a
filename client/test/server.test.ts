import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createPublisher, type PublishError } from "../src/server.js";

interface Seen {
  method: string | undefined;
  url: string | undefined;
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
  lines: Record<string, unknown>[];
}
type Reply =
  | [status: number, body?: unknown, headers?: Record<string, string>]
  | "hang up"
  | "silence";

let http: Server;
let seen: Seen[];
let replies: Reply[];
let most: number; // events in one request that the server takes
const receipt = { id: "e-7", connections: 2 };

beforeEach(() => {
  seen = [];
  replies = [];
  most = 1000;
  http = createServer(async (req, res) => {
    let text = "";
    for await (const chunk of req) text += chunk;
    const batch = req.headers["content-type"] === "application/x-ndjson";
    const lines = batch ? text.split("\n").map((line) => JSON.parse(line)) : [];
    const event = batch ? {} : JSON.parse(text);
    seen.push({ method: req.method, url: req.url, headers: req.headers, body: event, lines });
    const bad = lines.findIndex(({ type }) => type === "sse.bad") + 1;
    const receipts = lines.map(({ data }) => JSON.stringify({ id: `e-${data}`, connections: 1 }));
    let reply = replies.shift() ?? [200, batch ? receipts.join("\n") : receipt];
    if (bad) reply = [400, { error: `line ${bad}: reserved type` }];
    if (lines.length > most) reply = [413, { error: "the body is larger than 9 bytes" }];
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
  test("over http nothing is sent that only browsers send: Caddy's admin API would want its own Origin", async () => {
    const endpoint = await listen();
    await createPublisher({ endpoint }).notifyAll("ünï");
    expect(seen[0]?.body).toMatchObject({ data: { message: "ünï" } });
    for (const name of ["origin", "sec-fetch-mode", "sec-fetch-site"]) {
      expect(seen[0]?.headers).not.toHaveProperty(name);
    }
  });
  test("with the fetch of Node the Origin is the endpoint's", async () => {
    const endpoint = await listen();
    await createPublisher({ endpoint, fetch }).notifyAll("x");
    expect(seen[0]?.headers).toMatchObject({ origin: new URL(endpoint).origin });
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
    expect(() => createPublisher({ endpoint: "ftp://x/sse" })).toThrow(/must begin with http/);
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

  const broken: [string, Reply][] = [
    ["a login page", [200, "<html>"]],
    ["JSON that is no receipt", [200, "null"]],
    ["an empty body", [200, ""]],
  ];
  for (const [name, reply] of broken) {
    test(`a 200 with ${name}: it may be stored, so the key and that it can be sent again`, async () => {
      replies.push(reply);
      const sse = createPublisher({ endpoint: await listen(), retries: 0 });
      await expect(sse.broadcast({ data: 1, key: "k" })).rejects.toMatchObject({
        name: "PublishError",
        status: 200,
        retryable: true,
        key: "k",
      });
    });
  }
  for (const how of ["node", "fetch"] as const) {
    test(`a redirect is no answer, and is not followed (${how})`, async () => {
      const endpoint = await listen();
      replies.push([302, "", { Location: "/login" }]);
      const sse = createPublisher({ endpoint, ...(how === "fetch" && { fetch }) });
      await expect(sse.notifyAll("x")).rejects.toMatchObject({
        name: "PublishError",
        status: 302,
        retryable: false,
      });
      expect(seen).toHaveLength(1);
    });
  }
  const circular: { self?: unknown } = {};
  circular.self = circular;
  for (const [name, data] of [
    ["circular", circular],
    ["a BigInt", 1n],
  ] as const) {
    test(`data that is ${name}`, async () => {
      const sse = createPublisher({ endpoint: await listen() });
      await expect(sse.broadcast({ data })).rejects.toMatchObject({
        name: "PublishError",
        status: 0,
        retryable: false,
        key: expect.any(String),
      });
      expect(seen).toHaveLength(0);
    });
  }
  test("an auth that throws", async () => {
    const cause = new Error("no token");
    const auth = () => Promise.reject(cause);
    const sse = createPublisher({ endpoint: await listen(), auth, retries: 0 });
    await expect(sse.notifyAll("x")).rejects.toMatchObject({
      name: "PublishError",
      status: 0,
      retryable: true,
      cause,
    });
  });
});

describe("credentials", () => {
  const print = (error: unknown) => `${inspect(error, { depth: 9 })}${(error as Error).message}`;

  test("in the endpoint go out as Authorization", async () => {
    const endpoint = (await listen()).replace("://", "://u%20ser:p%C3%A4ss@");
    await createPublisher({ endpoint }).notifyAll("x");
    const login = Buffer.from("u ser:päss").toString("base64");
    expect(seen[0]?.headers.authorization).toBe(`Basic ${login}`);
    await createPublisher({ endpoint, auth: "Bearer x" }).notifyAll("x");
    expect(seen[1]?.headers.authorization).toBe("Bearer x");
  });
  for (const endpoint of [
    "http://u:geheim@127.0.0.1:1/sse",
    "https://u:geheim@127.0.0.1:1/sse",
    "ftp://u:geheim@x/sse",
    "http://u:geheim@:x/sse",
    "u:geheim@x",
  ]) {
    test(`are in no error: ${endpoint}`, async () => {
      const error = await Promise.resolve()
        .then(() => createPublisher({ endpoint, retries: 0 }).notifyAll("x"))
        .catch((error) => error);
      expect(error).toBeInstanceOf(Error);
      expect(print(error)).not.toContain("geheim");
    });
  }
  for (const how of ["node", "fetch"] as const) {
    test(`of auth that no header can have are in no error (${how})`, async () => {
      const sse = createPublisher({
        endpoint: await listen(),
        auth: () => "Bearer geheim\n",
        ...(how === "fetch" && { fetch }),
      });
      const error = await sse.notifyAll("x").catch((error) => error);
      expect(error).toMatchObject({ name: "PublishError", status: 0, retryable: false });
      expect(print(error)).not.toContain("geheim");
    });
  }
});

describe("sends that wait for the same connection", () => {
  const outcomes = (sends: Promise<{ id: string }>[]) =>
    Promise.allSettled(sends).then((all) =>
      all.map((one) => (one.status === "fulfilled" ? one.value.id : one.reason.message)),
    );
  const numbers = (n: number) => Array.from({ length: n }, (_, i) => i);

  test("go as one request, in order, each with its own result", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    const got = await outcomes(numbers(1500).map((data) => sse.broadcast({ data })));
    expect(got).toEqual([
      "e-7",
      ...numbers(1500)
        .slice(1)
        .map((n) => `e-${n}`),
    ]);
    expect(seen.map(({ lines }) => lines.length)).toEqual([0, 1000, 499]);
    expect(seen.flatMap(({ lines }) => lines.map(({ data }) => data))).toEqual(
      numbers(1500).slice(1),
    );
    expect(new Set(seen.flatMap(({ lines }) => lines.map(({ key }) => key))).size).toBe(1499);
  });

  test("keep their order over both calls", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    await Promise.all([
      sse.broadcast({ data: 0 }),
      sse.broadcast({ data: 1 }),
      sse.send({ user: "a", data: 2 }),
      sse.send({ user: "a", data: 3 }),
      sse.broadcast({ data: 4 }),
    ]);
    expect(seen.map(({ url, lines, body }) => [url, lines.length || body.data])).toEqual([
      ["/sse/broadcast", 0],
      ["/sse/broadcast", 1],
      ["/sse/send", 2],
      ["/sse/broadcast", 4],
    ]);
  });

  test("one bad event fails alone", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    const got = await outcomes(
      numbers(6).map((data) => sse.broadcast({ data, ...(data % 3 === 2 && { type: "sse.bad" }) })),
    );
    const bad = "caddy-sse: 400: reserved type";
    expect(got).toEqual(["e-7", "e-1", bad, "e-3", "e-4", bad]);
  });

  test("too much for one request goes as more", async () => {
    most = 2;
    const sse = createPublisher({ endpoint: await listen() });
    const got = await outcomes(numbers(8).map((data) => sse.broadcast({ data })));
    expect(got.every((id) => /^e-\d$/.test(id))).toBe(true);
    expect(
      seen
        .filter(({ lines }) => lines.length <= 2)
        .map(({ lines, body }) => (lines.length ? lines.map(({ data }) => data) : body.data)),
    ).toEqual([0, 1, [2, 3], [4, 5], [6, 7]]);
  });

  test("large ones are not put together", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    const text = "x".repeat(1_500_000);
    await Promise.all(numbers(4).map(() => sse.broadcast({ text })));
    expect(seen).toHaveLength(4);
  });

  test("a lost answer is asked for again with the same keys", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    replies.push([200, receipt], [503], "hang up", [200, "<html>"]);
    const got = await outcomes(numbers(4).map((data) => sse.broadcast({ data })));
    expect(got).toEqual(["e-7", "e-1", "e-2", "e-3"]);
    const keys = seen.slice(1).map(({ lines }) => lines.map(({ key }) => key).join());
    expect(keys).toHaveLength(4);
    expect(new Set(keys).size).toBe(1);
  });

  test("what fails for all rejects each with its own key, and the next go on", async () => {
    const sse = createPublisher({ endpoint: await listen(), retries: 0 });
    replies.push([200, receipt], [401, { error: "who?" }]);
    const sends = [
      sse.broadcast({ data: 0 }),
      ...numbers(3).map((n) => sse.broadcast({ data: n, key: `k${n}` })),
    ];
    const errors = (await Promise.allSettled(sends))
      .slice(1)
      .map((one) => one.status === "rejected" && one.reason);
    expect(errors.map(({ key, status }) => [key, status])).toEqual([
      ["k0", 401],
      ["k1", 401],
      ["k2", 401],
    ]);
    expect(await sse.broadcast({ data: 9 })).toEqual(receipt);
  });
});
