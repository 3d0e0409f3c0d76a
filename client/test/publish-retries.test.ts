import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createPublisher, PublishError, type PublisherOptions } from "../src/server.js";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const receipt = { id: "e-1", connections: 0 };
const endpoint = "https://example.com/internal/sse";

/** Publishes once to a server that gives these answers. Returns the outcome, and the times of it and of each request. */
async function publish(
  answer: (ms: number) => Response | Promise<Response>,
  options: Partial<PublisherOptions> = {},
) {
  const began = Date.now();
  const times: number[] = [];
  const sse = createPublisher({
    endpoint,
    ...options,
    fetch: async () => {
      const ms = Date.now() - began;
      times.push(ms);
      return answer(ms);
    },
  });
  let ended = Infinity;
  const outcome = sse
    .notifyAll("x")
    .catch((error: unknown) => error)
    .finally(() => {
      ended = Date.now() - began;
    });
  await vi.runAllTimersAsync();
  return { outcome: await outcome, ended, times };
}

test("a server that is away for 20 s is waited for", async () => {
  const { outcome } = await publish((ms) => {
    if (ms < 20_000) throw new TypeError("refused");
    return Response.json(receipt);
  });
  expect(outcome).toEqual(receipt);
});

test("after 8 retries the publisher gives up, in 25 to 77 s", async () => {
  const { outcome, times } = await publish(() => new Response("", { status: 503 }));
  expect(outcome).toBeInstanceOf(PublishError);
  expect(outcome).toMatchObject({ status: 503, retryable: true });
  expect(times).toHaveLength(9);
  expect(times.at(-1)).toBeGreaterThan(25_000);
  expect(times.at(-1)).toBeLessThan(77_000);
});

for (const [name, answer] of [
  ["an answer", () => new Response("", { status: 503 })],
  [
    "no answer for 14 s",
    () => new Promise<Response>((_, reject) => setTimeout(() => reject(new Error("lost")), 14_000)),
  ],
  [
    "a Retry-After of 25 s",
    () => new Response("", { status: 503, headers: { "Retry-After": "25" } }),
  ],
] as const) {
  test(`no retry begins more than 90 s after the first attempt: ${name}`, async () => {
    const { outcome, times } = await publish(answer, { retries: 1000 });
    expect(outcome).toMatchObject({ name: "PublishError", retryable: true });
    expect(times.at(-1)).toBeGreaterThan(30_000);
    expect(times.at(-1)).toBeLessThanOrEqual(90_000);
  });
}

test("many events that wait are each tried, and rejected after 100 s, not one request's retries after another", async () => {
  const began = Date.now();
  const tried = new Set<number>();
  const sse = createPublisher({
    endpoint,
    fetch: async (_, { body } = {}) => {
      for (const line of String(body).split("\n")) tried.add(JSON.parse(line).data);
      return new Response("", { status: 503 });
    },
  });
  const outcome = Promise.allSettled(
    Array.from({ length: 10_000 }, (_, data) => sse.broadcast({ data })),
  ).then((all) => ({ all, ended: Date.now() - began }));
  await vi.runAllTimersAsync();
  const { all, ended } = await outcome;
  expect(new Set(all.map(({ status }) => status))).toEqual(new Set(["rejected"]));
  expect(tried.size).toBe(10_000);
  expect(ended).toBeGreaterThan(60_000);
  expect(ended).toBeLessThan(100_000);
});

test("an event that waited for others is retried, too", async () => {
  let requests = 0;
  const sse = createPublisher({
    endpoint,
    fetch: async () =>
      ++requests > 12 ? Response.json(receipt) : new Response("", { status: 503 }),
  });
  const first = sse.broadcast({ data: 1 }).catch((error: unknown) => error);
  const second = sse.broadcast({ data: 2 });
  await vi.runAllTimersAsync();
  expect(await first).toMatchObject({ status: 503 });
  expect(await second).toEqual(receipt);
});

for (const timeoutMs of [60_000, Infinity]) {
  test(`no retry lasts until the server has forgotten the key, with timeoutMs ${timeoutMs}`, async () => {
    const { outcome, ended, times } = await publish(
      (ms) =>
        ms < 80_000
          ? new Response("", { status: 503, headers: { "Retry-After": "40" } })
          : new Promise<Response>(() => {}),
      { timeoutMs },
    );
    expect(outcome).toMatchObject({ name: "PublishError", status: 0, retryable: true });
    expect(times).toEqual([0, 40_000, 80_000]);
    expect(ended).toBe(120_000);
  });
}

test("a first attempt may last longer", async () => {
  const late = new Promise<Response>((resolve) =>
    setTimeout(() => resolve(Response.json(receipt)), 180_000),
  );
  const { outcome } = await publish(() => late, { timeoutMs: 200_000 });
  expect(outcome).toEqual(receipt);
});

test("a process that was suspended in a wait does not retry: the server may have forgotten the key", async () => {
  const { outcome, times } = await publish(() => {
    setTimeout(() => vi.setSystemTime(Date.now() + 120_000), 10);
    return new Response("", { status: 503 });
  });
  expect(outcome).toMatchObject({ name: "PublishError", status: 503, retryable: true });
  expect(times).toHaveLength(1);
});

for (const [status, body, text] of [
  [308, "", "308: no answer of the API: the endpoint must lead to it without a redirect"],
  [404, "", "404: the endpoint must end in /sse"],
  [404, "404 page not found", "404: the endpoint must end in /sse: 404 page not found"],
  [404, '{"error":"unknown hub"}', "404: unknown hub"],
  [401, "", "401: the guard of the route refused the login: set auth"],
  [401, '{"error":"who?"}', "401: who?"],
  [200, "", "200 without a receipt: does the endpoint lead to sse_api or the admin API?"],
] as const) {
  test(`the error of ${status} with ${body || "an empty body"} says what to do`, async () => {
    const { outcome } = await publish(() => new Response(body, { status }), { retries: 0 });
    expect((outcome as Error).message).toBe(`caddy-sse: ${text}`);
  });
}
