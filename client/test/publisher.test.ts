import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { createPublisher } from "../src/server.js";
import { listen, receipt, received, replies } from "./publisher-server.js";

describe("calls", () => {
  test("send posts an event", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    expect(await sse.send({ user: ["a", "b"], type: "t", data: { x: 1 }, ttl: "10m" })).toEqual(
      receipt,
    );
    expect(received[0]).toMatchObject({
      method: "POST",
      url: "/sse/send",
      headers: { "content-type": "application/json" },
      body: { user: ["a", "b"], type: "t", data: { x: 1 }, ttl: "10m", key: expect.any(String) },
    });
  });
  test("broadcast posts a text with a key to a hub", async () => {
    const sse = createPublisher({ endpoint: `${await listen()}/`, hub: "chat" });
    await sse.broadcast({ text: "<b>hi</b>", key: "k-1" });
    expect(received[0]).toMatchObject({
      url: "/sse/broadcast?hub=chat",
      body: { text: "<b>hi</b>", key: "k-1" },
    });
  });
  test("the helpers post their kinds of events", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    await sse.notifyUser("alice", "hi");
    await sse.notifyUser("alice", "hi", "order", { id: 1 });
    await sse.notifyAll("all");
    await sse.sendUpdate("alice", "stock", [1]);
    await sse.sendAlert("alice", "fire");
    await sse.sendAlert("alice", "fire", "critical");
    expect(received.map(({ url, body: { key: _, ...event } }) => [url, event])).toEqual([
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
  test("over http there are no headers of browsers, because Caddy's admin API would require its own Origin", async () => {
    const endpoint = await listen();
    await createPublisher({ endpoint }).notifyAll("ünï");
    expect(received[0]?.body).toMatchObject({ data: { message: "ünï" } });
    for (const name of ["origin", "sec-fetch-mode", "sec-fetch-site"]) {
      expect(received[0]?.headers).not.toHaveProperty(name);
    }
  });
  test("with Node's fetch the Origin is that of the endpoint", async () => {
    const endpoint = await listen();
    await createPublisher({ endpoint, fetch }).notifyAll("x");
    expect(received[0]?.headers).toMatchObject({ origin: new URL(endpoint).origin });
  });
});

describe("endpoints", () => {
  test("an endpoint may be a Unix socket", async () => {
    const dir = mkdtempSync(join(tmpdir(), "caddy sse "));
    try {
      const endpoint = await listen(join(dir, "admin.sock"));
      const sse = createPublisher({ endpoint, auth: "Bearer x", hub: "h" });
      expect(await sse.notifyAll("ünï")).toEqual(receipt);
      expect(received[0]).toMatchObject({
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
  test("an invalid endpoint is refused at once", () => {
    expect(() => createPublisher({ endpoint: "ftp://x/sse" })).toThrow(/must begin with http/);
    expect(() => createPublisher({ endpoint: "localhost:2019/sse" })).toThrow(TypeError);
    expect(() => createPublisher({ endpoint: "" })).toThrow(TypeError);
  });
  test("an endpoint with a query is refused, since its hub would be ignored", () => {
    for (const start of ["http://x", "https://x", "unix:///run/admin.sock"]) {
      for (const end of ["?hub=chat", "?", "#x"]) {
        expect(() => createPublisher({ endpoint: `${start}/sse${end}` })).toThrow(/option `hub`/);
      }
    }
  });
  test("an endpoint with a bare % is refused with the remedy, and without its password", () => {
    for (const endpoint of [
      "http://u:se%cret@x/sse",
      "http://%:secret@x/sse",
      "unix:///run/a%.sock",
    ]) {
      expect(() => createPublisher({ endpoint })).toThrow(
        new TypeError("caddy-sse: invalid endpoint: write % in a name, password or path as %25"),
      );
    }
    expect(() => createPublisher({ endpoint: "http://u:se%25cret@x/sse" })).not.toThrow();
  });
  test("over https there is no Origin, because a proxy may change the host", async () => {
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
  test("an auth function is called for every attempt", async () => {
    let n = 0;
    const sse = createPublisher({ endpoint: await listen(), auth: async () => `Bearer ${++n}` });
    replies.push([503]);
    await sse.notifyAll("x");
    expect(received.map(({ headers }) => headers.authorization)).toEqual(["Bearer 1", "Bearer 2"]);
  });
});

describe("credentials", () => {
  const print = (error: unknown) => `${inspect(error, { depth: 9 })}${(error as Error).message}`;

  test("in the endpoint are sent as Authorization", async () => {
    const endpoint = (await listen()).replace("://", "://u%20ser:p%C3%A4ss@");
    await createPublisher({ endpoint }).notifyAll("x");
    const login = Buffer.from("u ser:päss").toString("base64");
    expect(received[0]?.headers.authorization).toBe(`Basic ${login}`);
    await createPublisher({ endpoint, auth: "Bearer x" }).notifyAll("x");
    expect(received[1]?.headers.authorization).toBe("Bearer x");
  });
  for (const endpoint of [
    "http://u:geheim@127.0.0.1:1/sse",
    "https://u:geheim@127.0.0.1:1/sse",
    "ftp://u:geheim@x/sse",
    "http://u:geheim@:x/sse",
    "u:geheim@x",
  ]) {
    test(`are not in an error: ${endpoint}`, async () => {
      const error = await Promise.resolve()
        .then(() => createPublisher({ endpoint, retries: 0 }).notifyAll("x"))
        .catch((error) => error);
      expect(error).toBeInstanceOf(Error);
      expect(print(error)).not.toContain("geheim");
    });
  }
  for (const how of ["node", "fetch"] as const) {
    test(`that are invalid in a header are not in an error (${how})`, async () => {
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
