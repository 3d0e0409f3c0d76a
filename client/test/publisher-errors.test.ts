import { describe, expect, test } from "vitest";
import { createPublisher, type PublishError } from "../src/server.js";
import { listen, type Reply, receipt, received, replies } from "./publisher-server.js";

describe("errors", () => {
  for (const reply of [
    [500],
    [502, "<html>"],
    [503, { error: "store", stored: "unknown" }],
    [429],
    [408],
    "hang up",
  ] as Reply[]) {
    test(`${JSON.stringify(reply)} is retried with the same key`, async () => {
      replies.push(reply);
      const sse = createPublisher({ endpoint: await listen() });
      expect(await sse.notifyAll("x")).toEqual(receipt);
      expect(received).toHaveLength(2);
      expect(received[0]?.body.key).toBe(received[1]?.body.key);
    });
  }
  test("an empty key is none: the event gets a random one, with which it is retried", async () => {
    replies.push("hang up");
    const sse = createPublisher({ endpoint: await listen() });
    await sse.broadcast({ data: 1, key: "" });
    expect(received[0]?.body.key).toMatch(/^.{36}$/);
    expect(received[1]?.body.key).toBe(received[0]?.body.key);
  });
  for (const code of [400, 401, 403, 404, 413, 415]) {
    test(`${code} is final, and the error has the reason`, async () => {
      replies.push([code, { error: "unknown field" }]);
      const sse = createPublisher({ endpoint: await listen() });
      await expect(sse.notifyAll("x")).rejects.toMatchObject({
        name: "PublishError",
        message: `caddy-sse: ${code}: unknown field`,
        status: code,
        retryable: false,
      });
      expect(received).toHaveLength(1);
    });
  }
  test("after the retries the last error is thrown, with the key for another try", async () => {
    replies.push([503], [503], [503]);
    const sse = createPublisher({ endpoint: await listen(), retries: 2 });
    const error: PublishError = await sse.broadcast({ data: 1, key: "mine" }).catch((e) => e);
    expect(error).toMatchObject({ status: 503, retryable: true, key: "mine" });
    expect(error).toBeInstanceOf(Error);
    expect(received).toHaveLength(3);
  });
  test("no response within timeoutMs is an error that can be retried", async () => {
    replies.push("silence");
    const sse = createPublisher({ endpoint: await listen(), timeoutMs: 50, retries: 0 });
    await expect(sse.notifyAll("x")).rejects.toMatchObject({ status: 0, retryable: true });
  });
  test("a Retry-After of an hour is an error at once", async () => {
    replies.push([503, {}, { "Retry-After": "3600" }]);
    const sse = createPublisher({ endpoint: await listen() });
    await expect(sse.notifyAll("x")).rejects.toMatchObject({ status: 503, retryable: true });
  });

  test("a short Retry-After delays the retry", async () => {
    replies.push([503, {}, { "Retry-After": "1" }]);
    const sse = createPublisher({ endpoint: await listen() });
    const before = Date.now();
    await sse.notifyAll("x");
    expect(Date.now() - before).toBeGreaterThanOrEqual(990);
  });

  const broken: [string, Reply][] = [
    ["a login page", [200, "<html>"]],
    ["JSON that is not a receipt", [200, "null"]],
    ["an empty body", [200, ""]],
  ];
  for (const [name, reply] of broken) {
    test(`a 200 with ${name}: the event may be stored, so the error has the key and can be retried`, async () => {
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
    test(`a redirect is an error, and is not followed (${how})`, async () => {
      const endpoint = await listen();
      replies.push([302, "", { Location: "/login" }]);
      const sse = createPublisher({ endpoint, ...(how === "fetch" && { fetch }) });
      await expect(sse.notifyAll("x")).rejects.toMatchObject({
        name: "PublishError",
        status: 302,
        retryable: false,
      });
      expect(received).toHaveLength(1);
    });
  }
  const circular: { self?: unknown } = {};
  circular.self = circular;
  for (const [name, data] of [
    ["circular", circular],
    ["a BigInt", 1n],
  ] as const) {
    test(`data that is ${name} is an error without a request`, async () => {
      const sse = createPublisher({ endpoint: await listen() });
      await expect(sse.broadcast({ data })).rejects.toMatchObject({
        name: "PublishError",
        status: 0,
        retryable: false,
        key: expect.any(String),
      });
      expect(received).toHaveLength(0);
    });
  }
  test("an error thrown by auth is the cause", async () => {
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
