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
