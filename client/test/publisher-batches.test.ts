import { describe, expect, test } from "vitest";
import { createPublisher } from "../src/server.js";
import { listen, receipt, received, replies, setMaxEvents } from "./publisher-server.js";

describe("events that wait for a request", () => {
  const outcomes = (sends: Promise<{ id: string }>[]) =>
    Promise.allSettled(sends).then((all) =>
      all.map((one) => (one.status === "fulfilled" ? one.value.id : one.reason.message)),
    );
  const numbers = (n: number) => Array.from({ length: n }, (_, i) => i);

  test("are sent as one request, in order, each with its own result", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    const got = await outcomes(numbers(1500).map((data) => sse.broadcast({ data })));
    expect(got).toEqual([
      "e-7",
      ...numbers(1500)
        .slice(1)
        .map((n) => `e-${n}`),
    ]);
    expect(received.map(({ lines }) => lines.length)).toEqual([0, 1000, 499]);
    expect(received.flatMap(({ lines }) => lines.map(({ data }) => data))).toEqual(
      numbers(1500).slice(1),
    );
    expect(new Set(received.flatMap(({ lines }) => lines.map(({ key }) => key))).size).toBe(1499);
  });

  test("keep their order across send and broadcast", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    await Promise.all([
      sse.broadcast({ data: 0 }),
      sse.broadcast({ data: 1 }),
      sse.send({ user: "a", data: 2 }),
      sse.send({ user: "a", data: 3 }),
      sse.broadcast({ data: 4 }),
    ]);
    expect(received.map(({ url, lines, body }) => [url, lines.length || body.data])).toEqual([
      ["/sse/broadcast", 0],
      ["/sse/broadcast", 1],
      ["/sse/send", 2],
      ["/sse/broadcast", 4],
    ]);
  });

  test("fail alone if they are invalid", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    const got = await outcomes(
      numbers(6).map((data) => sse.broadcast({ data, ...(data % 3 === 2 && { type: "sse.bad" }) })),
    );
    const bad = "caddy-sse: 400: reserved type";
    expect(got).toEqual(["e-7", "e-1", bad, "e-3", "e-4", bad]);
  });

  test("are split if the server refuses the size of the request", async () => {
    setMaxEvents(2);
    const sse = createPublisher({ endpoint: await listen() });
    const got = await outcomes(numbers(8).map((data) => sse.broadcast({ data })));
    expect(got.every((id) => /^e-\d$/.test(id))).toBe(true);
    expect(
      received
        .filter(({ lines }) => lines.length <= 2)
        .map(({ lines, body }) => (lines.length ? lines.map(({ data }) => data) : body.data)),
    ).toEqual([0, 1, [2, 3], [4, 5], [6, 7]]);
  });

  test("are sent alone if they are large", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    const text = "x".repeat(1_500_000);
    await Promise.all(numbers(4).map(() => sse.broadcast({ text })));
    expect(received).toHaveLength(4);
  });

  test("are sent again with the same keys if the response is lost", async () => {
    const sse = createPublisher({ endpoint: await listen() });
    replies.push([200, receipt], [503], "hang up", [200, "<html>"]);
    const got = await outcomes(numbers(4).map((data) => sse.broadcast({ data })));
    expect(got).toEqual(["e-7", "e-1", "e-2", "e-3"]);
    const keys = received.slice(1).map(({ lines }) => lines.map(({ key }) => key).join());
    expect(keys).toHaveLength(4);
    expect(new Set(keys).size).toBe(1);
  });

  test("are rejected with their own keys if the request fails, and later events are sent", async () => {
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
