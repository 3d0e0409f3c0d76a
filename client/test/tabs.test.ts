import { expect, test, vi } from "vitest";
import type { SSEOptions } from "../src/types.js";
import { connected, settle } from "./fake-server.js";
import { browser, event, openTab, server } from "./tabs-setup.js";

test("eight tabs share one stream, and each gets all events", async () => {
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

test("a tab that joins later gets the state of the stream", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2));
  const late = await openTab();
  expect(late.sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-1" });
  await server.last.send(event(3));
  expect(late.got).toEqual([3]);
  expect(server.calls).toHaveLength(1);
});

test("a tab that waits for a replay keeps its position when another one joins", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2), event(3));
  const rendered = await openTab({ lastEventId: "e-2" });
  const own = server.last;
  await openTab();
  await own.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(rendered.got).toEqual([3]);
});

test("a tab that starts at the leader's position needs no replay", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2));
  await openTab({ lastEventId: "e-2" });
  expect(server.calls).toHaveLength(1);
});

test("a tab with an earlier position gets the events it missed, and other tabs get nothing twice", async () => {
  const a = await openTab();
  const b = await openTab();
  await server.last.send(connected("c-1"), event(2), event(3), event(4));
  const shared = server.last;
  const rendered = await openTab({ lastEventId: "e-2" });
  const own = server.last;
  expect(server.calls).toHaveLength(2);
  expect(own.headers.get("Last-Event-ID")).toBe("e-2");
  expect(own.url.searchParams.has("previous")).toBe(false);
  await own.send(connected("c-2").replace("e-1", "e-2"), event(3));
  await shared.send(event(5));
  expect(rendered.got).toEqual([3]);
  await own.send(event(4), event(5));
  expect(own.aborted).toBe(true);
  await shared.send(event(6));
  expect([a.got, b.got]).toEqual([
    [2, 3, 4, 5, 6],
    [2, 3, 4, 5, 6],
  ]);
  expect(rendered.got).toEqual([3, 4, 5, 6]);
  expect(rendered.sse.getSnapshot()).toMatchObject({
    connectionStatus: "open",
    connectionId: "c-1",
  });
  expect(server.calls).toHaveLength(2);
});

for (const from of ["earliest", "d-7", "d-7-abcd", "e-4-zzzz", "not one of ours"]) {
  test(`a tab at ${from} gets its gap and its history, and other tabs do not`, async () => {
    const a = await openTab();
    await server.last.send(connected("c-1"), "data: 4\nid: e-4-aaaa\n\n");
    const late = await openTab({ lastEventId: from });
    const own = server.last;
    expect(server.calls).toHaveLength(2);
    expect(own.headers.get("Last-Event-ID")).toBe(from);
    await own.send(
      'event: sse.connected\ndata: {"connectionId":"c-2","user":"alice","heartbeat":15000}\n\n',
    );
    expect(own.aborted).toBe(false);
    await own.send('event: sse.gap\ndata: {"reason":"epoch"}\nid: e-2-aaaa\n\n');
    expect(own.aborted).toBe(false);
    await own.send("data: 4\nid: e-4-aaaa\n\n");
    expect(own.aborted).toBe(true);
    await server.calls[0]?.send("data: 5\nid: e-5-aaaa\n\n");
    expect([a.gaps, a.got]).toEqual([[], [4, 5]]);
    expect([late.gaps, late.got]).toEqual([["epoch"], [4, 5]]);
  });
}

test("a tab gets a gap and shares if the server refuses a second connection", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2), event(3));
  const rendered = await openTab({ lastEventId: "e-2" });
  await server.last.send(
    'event: sse.rejected\ndata: {"reason":"max_connections_per_user","retryMs":60000}\n\n',
  );
  expect(rendered.gaps).toEqual(["max_connections_per_user"]);
  await server.calls[0]?.send(event(4));
  expect(rendered.got).toEqual([4]);
  expect(server.calls).toHaveLength(2);
});

test("an error that cannot be cloned or written as JSON reaches the other tabs, too", async () => {
  const onError = vi.fn();
  const cause = Object.assign(new Error("no token"), { self: {}, fn() {}, big: 1n });
  cause.self = cause;
  await openTab({
    onError,
    headers: () => {
      throw cause;
    },
  });
  const onError2 = vi.fn();
  const follower = await openTab({ onError: onError2 });
  expect(onError).toHaveBeenCalledWith(expect.objectContaining({ type: "network", cause }));
  expect(follower.sse.getSnapshot()).toMatchObject({
    connectionStatus: "reconnecting",
    error: { type: "network", message: "Error: no token" },
  });
});

test("tabs with different identities do not share", async () => {
  await openTab();
  await openTab({ identity: "bob" } as Partial<SSEOptions>);
  expect(server.calls).toHaveLength(2);
  expect(browser.names()).toHaveLength(2);
});

test("all tabs get a gap, an error and a failure", async () => {
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

test("a page without access to locks has its own stream", async () => {
  vi.stubGlobal("navigator", {
    locks: { request: async () => Promise.reject(new Error("denied")) },
  });
  const tab = await openTab();
  await server.last.send(connected("c-1"), event(2));
  expect(tab.got).toEqual([2]);
});

test("a tab that calls reconnect() before pageshow comes back once", async () => {
  const page = new EventTarget();
  vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
  vi.stubGlobal("removeEventListener", page.removeEventListener.bind(page));
  const fire = (type: string) =>
    page.dispatchEvent(Object.assign(new Event(type), { persisted: true }));
  const { BroadcastChannel } = globalThis;
  vi.stubGlobal(
    "BroadcastChannel",
    class extends BroadcastChannel {
      #closed = false;
      override postMessage(data: unknown) {
        if (this.#closed) throw new Error("InvalidStateError");
        super.postMessage(data);
      }
      override close() {
        this.#closed = true;
        super.close();
      }
    },
  );
  const tab = await openTab();
  await server.last.send(connected("c-1"), event(2));
  for (const n of [3, 4]) {
    fire("pagehide");
    await settle();
    const calls = server.calls.length;
    expect(() => tab.sse.reconnect()).not.toThrow();
    await settle();
    expect(server.calls).toHaveLength(calls);
    fire("pageshow");
    await settle();
    expect(server.calls.filter(({ aborted }) => !aborted)).toHaveLength(1);
    await server.last.send(connected(`c-${n}`).replace("e-1", `e-${n - 1}`), event(n));
  }
  expect(tab.got).toEqual([2, 3, 4]);
});

test("a page without access to channels has its own stream", async () => {
  vi.stubGlobal(
    "BroadcastChannel",
    class {
      constructor() {
        throw new Error("The operation is insecure.");
      }
    },
  );
  const tab = await openTab();
  await server.last.send(connected("c-1"), event(2));
  expect(tab.got).toEqual([2]);
  tab.close();
  await settle();
  expect(server.last.aborted).toBe(true);
});

test("a client with other topics than before ends no stream that another tab uses", async () => {
  await openTab();
  const follower = await openTab();
  await server.last.send(connected("c-1"), event(2));
  follower.sse.close();
  follower.sse.setTopics(["a"]);
  follower.sse.reconnect();
  await settle();
  expect(server.calls).toHaveLength(2);
  expect(server.last.url.searchParams.has("previous")).toBe(false);
});
