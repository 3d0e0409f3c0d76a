import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createSSE, type SSEOptions } from "../src/index.js";
import { fakeBrowser } from "./fake-browser.js";
import { connected, fakeServer, settle } from "./fake-server.js";

type Any = Record<string, unknown>;
const URL_ = "https://example.com/events";

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

async function open(options: SSEOptions = {}, create = createSSE) {
  const onGap = vi.fn();
  const sse = create<Any>(URL_, { fetch: server.fetch, state: true, onGap, ...options });
  const got: unknown[] = [];
  offs.push(sse.on("*", ({ data }) => got.push(data)));
  await settle();
  return { sse, got, onGap };
}
const event = (n: number) => `data: ${n}\nid: e-${n}\n\n`;
/** The first block before a state, which has no position. */
const hello = (id: string) => connected(id).replace("id: e-1\n", "");
const query = (call = server.last) => call.url.searchParams.get("state");
const openCalls = () => server.calls.filter(({ aborted }) => !aborted);

test("the client requests the state until it has a position", async () => {
  const { sse, got, onGap } = await open();
  expect(query()).toBe("1");
  await server.last.send(hello("c-1"));
  expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "open", lastEventId: "" });
  sse.reconnect();
  await settle();
  expect(query()).toBe("1");
  expect(server.last.headers.has("Last-Event-ID")).toBe(false);
  await server.last.send(hello("c-2"), event(3));
  sse.reconnect();
  await settle();
  expect(query()).toBe(null);
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-3");
  await server.last.send(connected("c-3").replace("e-1", "e-3"), event(5));
  expect(got).toEqual([3, 5]);
  expect(onGap).not.toHaveBeenCalled();
});

test("a client with a position, or without the option, does not request the state", async () => {
  await open({ lastEventId: "e-7" });
  expect(query()).toBe(null);
  await open({ state: false, share: false });
  expect(query()).toBe(null);
});

test("load does not wait for a position", async () => {
  const load = vi.fn();
  const { got } = await open({ load });
  await server.last.send(hello("c-1"));
  expect(load).toHaveBeenCalledTimes(1);
  await server.last.send(event(2));
  expect(got).toEqual([2]);
  expect(load).toHaveBeenCalledTimes(1);
});

test("a later client gets the state on a connection of its own, and then shares", async () => {
  const a = await open();
  await server.last.send(hello("c-1"), event(2), event(4));
  const shared = server.last;
  const b = await open();
  expect(openCalls()).toHaveLength(2);
  expect(query()).toBe("1");
  await server.last.send(hello("c-2"), event(2));
  expect(openCalls()).toHaveLength(2);
  await server.last.send(event(4));
  await settle();
  expect(openCalls()).toEqual([shared]);
  await shared.send(event(5));
  expect(a.got).toEqual([2, 4, 5]);
  expect(b.got).toEqual([2, 4, 5]);
  expect(b.onGap).not.toHaveBeenCalled();
});

test("a later client in another tab gets the state on a connection of its own, and then shares", async () => {
  fakeBrowser();
  const options = { share: "tabs", identity: "alice" } as const;
  const tab = async () => {
    vi.resetModules();
    return (await import("../src/index.js")).createSSE;
  };
  const a = await open(options, await tab());
  await server.last.send(hello("c-1"), event(2));
  const shared = server.last;
  const b = await open(options, await tab());
  await settle();
  expect(query()).toBe("1");
  await server.last.send(hello("c-2"), event(2));
  await settle();
  expect(openCalls()).toEqual([shared]);
  await shared.send(event(3));
  expect(a.got).toEqual([2, 3]);
  expect(b.got).toEqual([2, 3]);
});

test("a client without the option does not share with one that has it", async () => {
  const a = await open({ state: false });
  const first = server.last;
  await open();
  expect(server.calls).toHaveLength(2);
  expect([query(first), query()]).toEqual([null, "1"]);
  await server.last.send(hello("c-2"), event(2));
  expect(a.got).toEqual([]);
});
