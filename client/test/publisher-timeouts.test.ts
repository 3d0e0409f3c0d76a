// Deno's node:http ignores the signal of a request on a connection that it uses again.
import { expect, test, vi } from "vitest";
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

test("a request that its runtime does not abort fails after timeoutMs, and later ones are sent", async () => {
  const sse = createPublisher({ endpoint: await listen(), timeoutMs: 300, retries: 0 });
  await sse.notifyAll("first");
  replies.push("silence");
  const silent = sse.notifyAll("silent").catch((error: unknown) => error);
  const next = sse.notifyAll("next");
  expect(await silent).toMatchObject({ name: "PublishError", status: 0, retryable: true });
  expect(await next).toMatchObject({ id: "e-7" });
  expect(received).toHaveLength(3);
});
