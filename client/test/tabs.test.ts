import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { isSeen } from "../src/position.js";
import type { ConnectionStatus, SSEOptions } from "../src/types.js";
import { connected, fakeServer, settle } from "./fake-server.js";

const URL_ = "https://example.com/events";
type Any = Record<string, unknown>;

/** What the tabs of one browser have in common: locks and channels. */
function fakeBrowser() {
  const queues = new Map<string, (() => void)[]>();
  const channels = new Map<string, Set<FakeChannel>>();

  class FakeChannel {
    onmessage?: (event: { data: unknown }) => void;
    constructor(readonly name: string) {
      channels.set(name, (channels.get(name) ?? new Set()).add(this));
    }
    postMessage(data: unknown) {
      const text = JSON.stringify(data);
      for (const other of channels.get(this.name) ?? []) {
        if (other === this) continue;
        queueMicrotask(() => {
          if (channels.get(this.name)?.has(other)) other.onmessage?.({ data: JSON.parse(text) });
        });
      }
    }
    close() {
      channels.get(this.name)?.delete(this);
    }
  }

  async function request(
    name: string,
    { signal }: { signal: AbortSignal },
    held: () => Promise<void>,
  ) {
    const queue = queues.get(name) ?? [];
    queues.set(name, queue);
    await new Promise<void>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      queue.push(resolve);
      if (queue.length === 1) resolve();
    });
    if (signal.aborted) queue.shift();
    else await held().finally(() => queue.shift());
    queue[0]?.();
  }

  vi.stubGlobal("isSecureContext", true);
  vi.stubGlobal("BroadcastChannel", FakeChannel);
  vi.stubGlobal("navigator", { locks: { request } });
  return { names: () => [...queues.keys()] };
}

let server: ReturnType<typeof fakeServer>;
let browser: ReturnType<typeof fakeBrowser>;
beforeEach(() => {
  vi.useFakeTimers();
  server = fakeServer();
  browser = fakeBrowser();
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

/** A page of its own: the modules are loaded anew, so nothing is shared but the browser. */
async function openTab(options: Partial<SSEOptions> = {}) {
  vi.resetModules();
  const { createSSE } = await import("../src/index.js");
  const gaps: string[] = [];
  const sse = createSSE<Any>(URL_, {
    share: "tabs",
    identity: "alice",
    fetch: server.fetch,
    onGap: ({ reason }) => gaps.push(reason),
    ...options,
  } as SSEOptions);
  const got: unknown[] = [];
  const seen: ConnectionStatus[] = [];
  sse.subscribe(() => seen.push(sse.getSnapshot().connectionStatus));
  const off = sse.on("*", ({ data }) => got.push(data));
  await settle();
  return { sse, got, gaps, seen, off, close: sse.close };
}
const event = (n: number) => `data: ${n}\nid: e-${n}\n\n`;

test("eight tabs, one stream, everybody gets everything", async () => {
  const tabs = await Promise.all(Array.from({ length: 8 }, () => openTab()));
  await server.last.send(connected("c-1"), event(2), event(3));
  expect(server.calls).toHaveLength(1);
  for (const { got, sse } of tabs) {
    expect(got).toEqual([2, 3]);
    expect(sse.getSnapshot()).toMatchObject({
      connectionStatus: "open",
      connectionId: "c-1",
      user: "alice",
    });
  }
});

test("a tab that joins later is told where the stream is", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2));
  const late = await openTab();
  expect(late.sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-1" });
  await server.last.send(event(3));
  expect(late.got).toEqual([3]);
  expect(server.calls).toHaveLength(1);
});

test("when the leader closes, the next one resumes where it was", async () => {
  const [a, b, c] = [await openTab(), await openTab(), await openTab()];
  await server.last.send(connected("c-1"), event(2));
  const first = server.last;
  a.close();
  await settle();
  expect(first.aborted).toBe(true);
  expect(server.calls).toHaveLength(2);
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
  expect(server.last.url.searchParams.get("previous")).toBe("c-1");
  await server.last.send(connected("c-2", {}).replace("e-1", "e-2"), event(3));
  expect([a.got, b.got, c.got]).toEqual([[2], [2, 3], [2, 3]]);
  expect(c.sse.getSnapshot().connectionId).toBe("c-2");
});

test("a tab that has received nothing yet takes over from the leader's position", async () => {
  const a = await openTab();
  await server.last.send(connected("c-1"), event(2));
  const b = await openTab();
  expect(b.sse.getSnapshot().lastEventId).toBe("e-2");
  a.close();
  await settle();
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
});

test("a tab that waits for a replay keeps its position when another one joins", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2), event(3));
  const rendered = await openTab({ lastEventId: "e-2" });
  await openTab();
  await server.last.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(rendered.got).toEqual([3]);
});

test("a tab that was rendered at the leader's position needs no replay", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2));
  await openTab({ lastEventId: "e-2" });
  expect(server.calls).toHaveLength(1);
});

test("a leader takes nothing from the one before, whose words may come late", async () => {
  const leader = await openTab();
  await server.last.send(connected("c-1"), event(2));
  const late = new BroadcastChannel(browser.names()[0] as string);
  late.postMessage({ events: [{ id: "e-3", type: "message", data: "3" }], position: "e-3" });
  await settle();
  expect(leader.got).toEqual([2]);
  await server.last.send(event(3));
  expect(leader.got).toEqual([2, 3]);
});

test("an idle stream's position goes to the followers", async () => {
  const a = await openTab();
  await openTab();
  await server.last.send(connected("c-1"), "id: e-90\n\n");
  a.close();
  await settle();
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-90");
});

test("a tab that knows an earlier position gets what it missed, the others nothing twice", async () => {
  const a = await openTab();
  const b = await openTab();
  await server.last.send(connected("c-1"), event(2), event(3), event(4));
  const rendered = await openTab({ lastEventId: "e-2" });
  expect(server.calls).toHaveLength(2);
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
  await server.last.send(connected("c-2").replace("e-1", "e-2"), event(3), event(4), event(5));
  expect([a.got, b.got]).toEqual([
    [2, 3, 4, 5],
    [2, 3, 4, 5],
  ]);
  expect(rendered.got).toEqual([3, 4, 5]);
});

test("identities are apart", async () => {
  await openTab();
  await openTab({ identity: "bob" } as Partial<SSEOptions>);
  expect(server.calls).toHaveLength(2);
  expect(browser.names()).toHaveLength(2);
});

test("a gap, an error and a failure are told to all", async () => {
  const onError = vi.fn();
  await openTab();
  const follower = await openTab({ onError });
  await server.last.send(connected("c-1"), 'event: sse.gap\ndata: {"reason":"epoch"}\nid: f-1\n\n');
  expect(follower.gaps).toEqual(["epoch"]);
  await server.last.send('event: sse.closing\ndata: {"reason":"hub_closed","retryMs":1}\n\n');
  expect(follower.sse.getSnapshot().connectionStatus).toBe("reconnecting");
  expect(onError).toHaveBeenCalledExactlyOnceWith(
    expect.objectContaining({ type: "terminated", reason: "hub_closed" }),
  );
});

test("a follower's reconnect() is the leader's", async () => {
  await openTab();
  const follower = await openTab();
  await server.last.send(connected("c-1"));
  follower.sse.reconnect();
  await settle();
  expect(server.calls).toHaveLength(2);
});

test("a page without the lock's storage has a stream of its own", async () => {
  vi.stubGlobal("navigator", {
    locks: { request: async () => Promise.reject(new Error("denied")) },
  });
  const tab = await openTab();
  await server.last.send(connected("c-1"), event(2));
  expect(tab.got).toEqual([2]);
});

describe("isSeen", () => {
  for (const [id, position, want] of [
    ["e-1", "e-2", true],
    ["e-2", "e-2", true],
    ["e-3", "e-2", false],
    ["e-10", "e-9", false],
    ["e-9", "e-10", true],
    ["f-1", "e-2", false],
    ["e-1", "", false],
    ["", "e-1", false],
    ["abc", "abc", false],
    ["a-b-1", "a-b-2", true],
    ["a-b-1", "a-c-2", false],
    ["x-y", "x-y", false],
  ] as const) {
    test(`${JSON.stringify(id)} at ${JSON.stringify(position)}: ${want}`, () =>
      expect(isSeen(id, position)).toBe(want));
  }
});
