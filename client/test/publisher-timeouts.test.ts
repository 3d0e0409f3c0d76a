// Deno's node:http ignores the signal of a request on a connection that it uses again.
import { afterEach, expect, test, vi } from "vitest";
import { createPublisher } from "../src/server.js";
import { listen, received, replies } from "./publisher-server.js";

vi.mock("node:http", async (original) => {
  const http = await original<typeof import("node:http")>();
  return {
    ...http,
    request: ({ signal, ...options }: import("node:http").RequestOptions, call: never) =>
      http.request(options, call),
  };
});
afterEach(() => {
  vi.useRealTimers();
});

test("a request that its runtime does not abort fails after timeoutMs, and later ones are sent", async () => {
  // Only the silent request reaches its timeout, no matter how slow the machine is.
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const sse = createPublisher({ endpoint: await listen(), timeoutMs: 300, retries: 0 });
  await sse.notifyAll("first");
  replies.push("silence");
  const silent = sse.notifyAll("silent").catch((error: unknown) => error);
  const next = sse.notifyAll("next");
  while (received.length < 2) await new Promise((resolve) => setImmediate(resolve));
  vi.advanceTimersByTime(300);
  expect(await silent).toMatchObject({ name: "PublishError", status: 0, retryable: true });
  expect(await next).toMatchObject({ id: "e-7" });
  expect(received).toHaveLength(3);
});
