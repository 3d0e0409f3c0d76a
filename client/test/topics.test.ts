import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createSSE, type SSEOptions } from "../src/index.js";
import { fakeBrowser } from "./fake-browser.js";
import { connected, fakeServer, settle } from "./fake-server.js";

type Any = Record<string, unknown>;
const URL_ = "https://example.com/events?x=1";

let server: ReturnType<typeof fakeServer>;
const offs: (() => void)[] = [];
beforeEach(() => {
  vi.useFakeTimers();
  server = fakeServer();
});
afterEach(async () => {
  for (const off of offs.splice(0)) off();
  await settle();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

async function open(options: SSEOptions = {}) {
  const sse = createSSE<Any>(URL_, { fetch: server.fetch, ...options });
  const got: unknown[] = [];
  offs.push(sse.on("*", ({ data }) => got.push(data)));
  await settle();
  return { sse, got };
}
const event = (n: number) => `data: ${n}\nid: e-${n}\n\n`;
const query = () => server.last.url.search;

test("topics are added to the query of the URL", async () => {
  await open({ topics: ["news", "a&b"] });
  expect(query()).toBe("?x=1&topic=a%26b&topic=news");
});

test("setTopics reconnects at the position, and keeps the messages", async () => {
  const { sse, got } = await open({ topics: ["a"] });
  await server.last.send(connected("c-1"), event(2));
  const first = server.last;
  sse.setTopics(["a", "b"]);
  await settle();
  expect(first.aborted).toBe(true);
  expect(query()).toBe("?x=1&topic=a&topic=b&previous=c-1");
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
  await server.last.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(got).toEqual([2, 3]);
  expect(sse.getSnapshot().messages).toHaveLength(2);
});

test("the same topics in another order change nothing", async () => {
  const { sse } = await open({ topics: ["a", "b"] });
  sse.setTopics(["b", "a", "b"]);
  await settle();
  expect(server.calls).toHaveLength(1);
  expect(server.last.aborted).toBe(false);
});

test("setTopics in the middle of a chunk loses or doubles no event", async () => {
  const { sse, got } = await open({ topics: ["a"] });
  const off = sse.on("*", ({ data }) => data === 2 && sse.setTopics(["b"]));
  offs.push(off);
  await server.last.send(connected("c-1"), event(2) + event(3));
  await settle();
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
  await server.last.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(got).toEqual([2, 3]);
});

test("clients with the old topics keep their connection", async () => {
  const a = await open({ topics: ["a"] });
  const b = await open({ topics: ["a"] });
  await server.last.send(connected("c-1"), event(2));
  const first = server.last;
  a.sse.setTopics(["b"]);
  await settle();
  expect(first.aborted).toBe(false);
  expect(query()).toBe("?x=1&topic=b");
  await first.send(event(3));
  expect(b.got).toEqual([2, 3]);
});

test("other tabs with the old topics keep their connection", async () => {
  fakeBrowser();
  const options = { share: "tabs", identity: "alice", topics: ["a"] } as const;
  const { sse } = await open(options);
  await server.last.send(connected("c-1"), event(2));
  sse.setTopics(["b"]);
  await settle();
  expect(query()).toBe("?x=1&topic=b");
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
});

test("a client that changes its topics while closed ends no stream that others use", async () => {
  const a = await open();
  const b = await open();
  await server.last.send(connected("c-1"), event(2));
  a.sse.close();
  a.sse.setTopics(["a"]);
  a.sse.reconnect();
  await settle();
  expect(query()).toBe("?x=1&topic=a");
  await server.calls[0]?.send(event(3));
  expect(b.got).toEqual([2, 3]);
});

test("setTopics before the first listener or while closed sends no request", async () => {
  const sse = createSSE<Any>(URL_, { fetch: server.fetch });
  sse.setTopics(["a"]);
  expect(server.calls).toHaveLength(0);
  offs.push(sse.subscribe(() => {}));
  await settle();
  expect(query()).toBe("?x=1&topic=a");
  sse.close();
  sse.setTopics(["b"]);
  await settle();
  expect(server.calls).toHaveLength(1);
  sse.reconnect();
  await settle();
  expect(query()).toContain("topic=b");
});

test("setTopics calls load again, because load does not know the new topics", async () => {
  const load = vi.fn();
  const { sse } = await open({ load, topics: ["a"] });
  await server.last.send(connected("c-1"));
  sse.setTopics(["b"]);
  await settle();
  expect(load).toHaveBeenCalledTimes(1);
  await server.last.send(connected("c-2"));
  expect(load).toHaveBeenCalledTimes(2);
});

test("load runs again if the topics change while the client is closed", async () => {
  const load = vi.fn();
  const { sse } = await open({ load, topics: ["a"] });
  await server.last.send(connected("c-1"));
  sse.close();
  sse.setTopics(["b"]);
  sse.reconnect();
  await settle();
  await server.last.send(connected("c-2"));
  expect(load).toHaveBeenCalledTimes(2);
});

test("sse.topics is reported in order, with the position", async () => {
  const order: unknown[] = [];
  const { sse } = await open({ onTopics: (change) => order.push(change) });
  offs.push(sse.on("*", ({ data }) => order.push(data)));
  await server.last.send(
    `${connected("c-1") + event(2)}event: sse.topics\ndata: {"added":["x"],"removed":["y"]}\nid: e-3\n\n${event(4)}`,
    "event: sse.topics\ndata: junk\nid: e-5\n\n",
  );
  expect(order).toEqual([
    2,
    { added: ["x"], removed: ["y"], id: "e-3" },
    4,
    { added: [], removed: [], id: "e-5" },
  ]);
  expect(sse.getSnapshot().lastEventId).toBe("e-5");
});
