import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { createPublisher } from "../src/server.js";
import { listen, receipt } from "./publisher-server.js";

describe("timeoutMs", () => {
  for (const timeoutMs of [Infinity, 2 ** 32]) {
    test(`may be ${timeoutMs}`, async () => {
      const sse = createPublisher({ endpoint: await listen(), timeoutMs, retries: 0 });
      expect(await sse.notifyAll("x")).toEqual(receipt);
    });
  }

  test("limits auth too, so that later events are sent", async () => {
    let calls = 0;
    const auth = () => (++calls === 1 ? new Promise<string>(() => {}) : "Bearer x");
    const sse = createPublisher({
      endpoint: "https://example.com/sse",
      timeoutMs: 100,
      retries: 0,
      auth,
      fetch: async () => Response.json(receipt),
    });
    const stuck = sse.notifyAll("stuck").catch((error: unknown) => error);
    const next = sse.notifyAll("next");
    expect(await stuck).toMatchObject({
      name: "PublishError",
      message: "caddy-sse: auth failed: timeout after 100 ms",
      retryable: true,
    });
    expect(await next).toEqual(receipt);
  });

  test("limits a fetch that ignores its signal", async () => {
    const endpoint = await listen();
    const sse = createPublisher({
      endpoint,
      timeoutMs: 100,
      retries: 0,
      fetch: () => new Promise<Response>(() => {}),
    });
    await expect(sse.notifyAll("x")).rejects.toMatchObject({
      message: `caddy-sse: no answer from ${endpoint}: timeout after 100 ms`,
    });
  });
});

describe("the events that wait are limited", () => {
  let answer: (response: Response) => void;
  /** A publisher whose first request is not answered until the test calls `answer`. */
  const publisher = () => {
    let requests = 0;
    return createPublisher({
      endpoint: "https://example.com/sse",
      retries: 0,
      fetch: async (_, { body } = {}) => {
        if (!requests++) {
          return new Promise((resolve) => {
            answer = resolve;
          });
        }
        const lines = String(body).split("\n");
        return new Response(lines.map(() => JSON.stringify(receipt)).join("\n"));
      },
    });
  };

  test("100,000 events", async () => {
    const sse = publisher();
    const sends = Array.from({ length: 100_001 }, (_, data) => sse.broadcast({ data }));
    const refused = { name: "PublishError", status: 0, retryable: true, key: "k" };
    await expect(sse.broadcast({ data: 0, key: "k" })).rejects.toMatchObject({
      ...refused,
      message: expect.stringMatching(
        /^caddy-sse: 100000 events with \d+ characters wait for https:\/\/example.com\/sse \(limits: 100000, 67108864\): publish again later$/,
      ),
    });
    await expect(sse.notifyAll("x")).rejects.toMatchObject({ ...refused, key: /./ });
    answer(Response.json(receipt));
    expect(await Promise.all(sends)).toHaveLength(100_001);
    expect(await sse.broadcast({ data: 1 })).toEqual(receipt);
  });

  test("64 Mi characters", async () => {
    const sse = publisher();
    const text = "x".repeat(2 ** 24);
    // One is on its way. The fourth that waits reaches the limit.
    const sends = Array.from({ length: 5 }, () => sse.broadcast({ text }));
    const more = sse.broadcast({ text: "x" });
    await expect(more).rejects.toMatchObject({ message: /^caddy-sse: 4 events with 67\d+ char/ });
    answer(Response.json(receipt));
    expect(await Promise.all(sends)).toHaveLength(5);
    expect(await Promise.all(sends.map(() => sse.broadcast({ text })))).toHaveLength(5);
  });
});

describe("memory", () => {
  let http: Server;
  beforeEach(() => {
    http = createServer((req, res) => {
      req.resume().on("end", () => res.end(JSON.stringify(receipt)));
    });
    return new Promise<void>((resolve) => http.listen(0, resolve));
  });
  afterEach(() => {
    http.closeAllConnections();
    http.close();
  });

  test("a request that was answered keeps nothing until its timeout", async () => {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as () => void;
    const { port } = http.address() as AddressInfo;
    const sse = createPublisher({
      endpoint: `http://127.0.0.1:${port}/sse`,
      timeoutMs: 600_000,
    });
    await sse.broadcast({ text: "first" });
    gc();
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 60; i++) await sse.broadcast({ text: `${i}`.padEnd(1e6, "x") });
    // On a busy machine the sockets free the last bodies later.
    await vi.waitFor(
      () => {
        gc();
        expect(process.memoryUsage().heapUsed - before).toBeLessThan(20e6);
      },
      { timeout: 50_000, interval: 100 },
    );
  });
});
