import { beforeEach, describe, expect, test, vi } from "vitest";
import { createSSE } from "../src/index.js";
import { type Any, errors, server, start, stop, URL_, wait } from "./client-setup.js";
import { connected, settle, status } from "./fake-server.js";

describe("wake-up", () => {
  let page: EventTarget & { visibilityState: string; baseURI: string };
  beforeEach(() => {
    page = Object.assign(new EventTarget(), { visibilityState: "visible", baseURI: URL_ });
    vi.stubGlobal("document", page);
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    vi.stubGlobal("removeEventListener", page.removeEventListener.bind(page));
  });
  const fire = (type: string, more: object = {}) =>
    page.dispatchEvent(Object.assign(new Event(type), more));

  test("the event online ends a wait", async () => {
    await start({ backoff: { minMs: 20_000 } });
    await server.last.cut();
    fire("online");
    await settle();
    expect(server.calls).toHaveLength(2);
  });
  test("after a long connection the backoff starts again, even if a wake-up ended it", async () => {
    const sse = await start({ backoff: { minMs: 500, resetAfterMs: 500 } });
    for (let i = 0; i < 10; i++) {
      await server.last.cut();
      await wait(Number(sse.getSnapshot().retryAt) - Date.now());
    }
    await server.last.send(connected("c-1").replace("retry: 2000\n", ""));
    await wait(2500);
    // The event comes before the network works.
    server.responses.push(async () => Promise.reject(new TypeError("no network")));
    fire("online");
    await settle();
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "reconnecting", attempt: 1 });
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(500);
  });
  test("the event online replaces a connection that may be dead", async () => {
    await start();
    await server.last.send(connected("c-1"));
    const first = server.last;
    fire("online");
    await settle();
    expect(first.aborted).toBe(true);
    expect(server.last.url.searchParams.get("previous")).toBe("c-1");
  });
  test("a wake-up does not shorten a wait that the server requested", async () => {
    server.responses.push(status(503, { "Retry-After": "60" }));
    await start();
    fire("online");
    fire("visibilitychange");
    await wait(1000);
    expect(server.calls).toHaveLength(1);
  });
  test("a wait that the server requested is over when the device has slept through it", async () => {
    server.responses.push(status(503, { "Retry-After": "60" }));
    await start();
    // While the device sleeps, the clock continues and the timers stop.
    vi.setSystemTime(Date.now() + 3600_000);
    fire("visibilitychange");
    await settle();
    expect(server.calls).toHaveLength(2);
  });
  test("a page that becomes visible checks the time since the last byte", async () => {
    await start();
    await server.last.send(connected("c-1"));
    // While the device sleeps, the clock continues and the timers stop.
    vi.setSystemTime(Date.now() + 30_000);
    fire("visibilitychange");
    await settle();
    expect(server.calls).toHaveLength(1);
    vi.setSystemTime(Date.now() + 30_000);
    page.visibilityState = "hidden";
    fire("visibilitychange");
    await settle();
    expect(server.calls).toHaveLength(1);
    page.visibilityState = "visible";
    fire("visibilitychange");
    await settle();
    expect(server.calls).toHaveLength(2);
  });
  test("pagehide closes without an error, and pageshow from the cache resumes", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), "id: e-8\ndata: 1\n\n");
    fire("pagehide", { persisted: true });
    page.visibilityState = "hidden";
    fire("visibilitychange");
    await wait(3600_000);
    expect(server.calls).toHaveLength(1);
    expect(server.last.aborted).toBe(true);
    expect(errors).toEqual([]);
    page.visibilityState = "visible";
    fire("visibilitychange");
    fire("pageshow", { persisted: true });
    await settle();
    expect(server.calls).toHaveLength(2);
    expect(
      server.last.headers.get("Last-Event-ID") ?? server.last.url.searchParams.get("last_event_id"),
    ).toBe("e-8");
    expect(server.last.url.searchParams.get("previous")).toBe("c-1");
    await server.last.send(connected("c-2"));
    expect(sse.getSnapshot().messages).toHaveLength(1);
  });
  test("a shared stream resumes at its position after the client that opened it has closed", async () => {
    const opener = await start();
    await server.last.send(connected("c-1"), "data: 1\nid: e-2\n\n");
    const other = createSSE<Any>(URL_, { fetch: server.fetch });
    const off = other.subscribe(() => {});
    opener.close();
    await server.last.send("data: 2\nid: e-3\n\n");
    fire("pagehide", { persisted: true });
    fire("pageshow", { persisted: true });
    await settle();
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-3");
    off();
  });
  for (const final of [false, true]) {
    test(`reconnect() before pageshow leaves one connection, ${final ? "failed" : "open"} before`, async () => {
      const sse = await start();
      await server.last.send(connected("c-1"), "data: 1\nid: e-2\n\n");
      if (final) {
        server.responses.push(status(403));
        sse.reconnect();
        await settle();
      }
      fire("pagehide", { persisted: true });
      // The browser tells that the page is visible before it tells that the page is shown.
      sse.reconnect();
      await settle();
      fire("pageshow", { persisted: true });
      await settle();
      expect(server.calls.filter(({ aborted }) => !aborted)).toHaveLength(1);
      await server.last.send(connected("c-2").replace("e-1", "e-2"), "data: 2\nid: e-3\n\n");
      expect(sse.getSnapshot().messages.map(({ data }) => data)).toEqual([1, 2]);
      stop();
      await wait(10);
      expect(server.last.aborted).toBe(true);
    });
  }
  test("pagehide and pageshow do not restart a failed stream", async () => {
    server.responses.push(status(403));
    await start();
    fire("pagehide", { persisted: true });
    fire("pageshow", { persisted: true });
    fire("online");
    await settle();
    expect(server.calls).toHaveLength(1);
  });
  test("a stopped client has no listeners on the page", async () => {
    const added = vi.spyOn(page, "addEventListener");
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    await start();
    stop();
    await settle();
    fire("online");
    fire("pageshow", { persisted: true });
    await settle();
    expect(added).toHaveBeenCalled();
    expect(server.calls).toHaveLength(1);
  });
});
