import { describe, expect, test, vi } from "vitest";
import { createSSE } from "../src/index.js";
import { type Any, server, setStop, start, statusOf, URL_, wait } from "./client-setup.js";
import { connected, settle, status } from "./fake-server.js";

describe("control events", () => {
  const closing = (reason: string, retryMs = 4000) =>
    `event: sse.closing\ndata: ${JSON.stringify({ reason, retryMs })}\n\n`;

  for (const reason of ["shutdown", "lifetime", "expired"]) {
    test(`sse.closing ${reason}: reconnects exactly after retryMs`, async () => {
      const sse = await start();
      await server.last.send(connected("c-1"), closing(reason));
      expect(server.last.aborted).toBe(true);
      expect(sse.getSnapshot()).toMatchObject({
        connectionStatus: "reconnecting",
        error: { type: "terminated", reason },
      });
      await wait(3999);
      expect(server.calls).toHaveLength(1);
      await wait(1);
      expect(server.calls).toHaveLength(2);
      expect(server.last.headers.get("Last-Event-ID")).toBe("e-1");
    });
  }
  test("sse.closing expired: reconnects with new headers", async () => {
    let n = 0;
    await start({ headers: () => ({ Authorization: `${++n}` }) });
    await server.last.send(connected("c-1"), closing("expired", 100));
    await wait(100);
    expect(server.last.headers.get("Authorization")).toBe("2");
  });
  test("sse.closing disconnected: reconnects once", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), closing("disconnected"));
    await wait(4000);
    await server.last.send(connected("c-2"), closing("disconnected"));
    expect(statusOf(sse)).toBe("failed");
    expect(server.calls).toHaveLength(2);
  });
  test("a second disconnected at once is final, even if the first stream was open for long", async () => {
    const sse = await start({ backoff: { resetAfterMs: 10_000 } });
    await server.last.send(connected("c-1"));
    await wait(12_000);
    await server.last.send(closing("disconnected"));
    await wait(4000);
    await server.last.send(connected("c-2"), closing("disconnected"));
    expect(statusOf(sse)).toBe("failed");
    expect(server.calls).toHaveLength(2);
  });
  test("disconnected hours after the first one: reconnects once", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), closing("disconnected"));
    await wait(4000);
    await server.last.send(connected("c-2", { heartbeat: 0 }));
    await wait(3 * 3600_000);
    await server.last.send(closing("disconnected"));
    expect(statusOf(sse)).toBe("reconnecting");
  });
  test("hub_closed, and then 404 and 410: reconnects slowly, with growing waits", async () => {
    server.responses.push();
    const sse = await start();
    await server.last.send(connected("c-1"), closing("hub_closed"));
    const waits: number[] = [];
    for (const code of [404, 410, 404, 404, 404]) {
      expect(statusOf(sse)).toBe("reconnecting");
      waits.push(Number(sse.getSnapshot().retryAt) - Date.now());
      server.responses.push(status(code));
      await wait(waits.at(-1) as number);
      expect(sse.getSnapshot().error).toMatchObject({ type: "http", status: code });
    }
    expect(waits).toEqual([60_000, 120_000, 240_000, 300_000, 300_000]);
    vi.mocked(Math.random).mockReturnValue(0);
    await wait(300_000);
    await server.last.send(connected("c-2", { heartbeat: 0 }));
    await wait(20_000);
    await server.last.send(closing("hub_closed"));
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(30_000);
    await wait(30_000);
    await server.last.send(connected("c-3"));
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-3" });
  });
  test("a new network does not shorten a slow wait", async () => {
    const page = Object.assign(new EventTarget(), { visibilityState: "visible", baseURI: URL_ });
    vi.stubGlobal("document", page);
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    vi.stubGlobal("removeEventListener", page.removeEventListener.bind(page));
    await start();
    await server.last.send(connected("c-1"), closing("hub_closed"));
    page.dispatchEvent(new Event("online"));
    await wait(20_000);
    expect(server.calls).toHaveLength(1);
  });
  test("a server that closes every stream at once gets fewer and fewer requests", async () => {
    await start();
    for (let i = 0; i < 600; i++) {
      if (!server.last.aborted) await server.last.send(connected("c"), closing("shutdown", 1));
      await wait(1000);
    }
    expect(server.calls.length).toBeLessThan(40);
  });
  for (const data of ["no JSON", "null", "[]", '"x"', ""]) {
    test(`an unknown sse.note with ${JSON.stringify(data)} has no effect`, async () => {
      const sse = await start();
      const off = sse.on("*", () => {});
      await server.last.send(`event: sse.note\ndata: ${data}\n\n`, "data: 1\n\n");
      expect(sse.getSnapshot()).toMatchObject({
        connectionStatus: "open",
        messages: [{ data: 1 }],
      });
      off();
    });
  }
  test("sse.closing without retryMs: reconnects after a random wait", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), 'event: sse.closing\ndata: {"reason":"shutdown"}\n\n');
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(2000);
  });
  test("sse.rejected: is never open, and reconnects after retryMs", async () => {
    const sse = createSSE<Any>(URL_, { fetch: server.fetch });
    const statuses = new Set<string>();
    setStop(sse.subscribe(() => statuses.add(statusOf(sse))));
    await settle();
    await server.last.send(
      'retry: 60000\nevent: sse.rejected\ndata: {"reason":"max_connections","retryMs":45000}\n\n',
    );
    expect(statuses).not.toContain("open");
    expect(sse.getSnapshot().error).toMatchObject({
      type: "terminated",
      reason: "max_connections",
    });
    await wait(44_999);
    expect(server.calls).toHaveLength(1);
    await wait(1);
    expect(server.calls).toHaveLength(2);
  });
  test("onGap gets the reason and the position of sse.gap", async () => {
    const onGap = vi.fn();
    await start({ onGap });
    await server.last.send(
      'event: sse.connected\ndata: {"connectionId":"c","heartbeat":15000,"resumed":false}\n\n' +
        'event: sse.gap\ndata: {"reason":"evicted"}\nid: e-50\n\n',
    );
    expect(onGap).toHaveBeenCalledExactlyOnceWith({ reason: "evicted", id: "e-50" });
  });
  test("events before a control event in one chunk arrive before it", async () => {
    const order: string[] = [];
    const sse = await start({ onGap: () => order.push("gap") });
    const off = sse.on("*", ({ data }) => order.push(String(data)));
    await server.last.send('data: 1\n\nevent: sse.gap\ndata: {"reason":"epoch"}\n\ndata: 2\n\n');
    expect(order).toEqual(["1", "gap", "2"]);
    off();
  });
  test("unknown sse. events are not messages", async () => {
    const sse = await start();
    await server.last.send("event: sse.new\ndata: {}\n\n");
    expect(sse.getSnapshot().messages).toEqual([]);
    expect(statusOf(sse)).toBe("open");
  });
  test("a stream of another user drops the messages of the first user", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), "data: 1\n\n");
    await server.last.end();
    expect(sse.getSnapshot().messages).toHaveLength(1);
    await wait(2000);
    await server.last.send(connected("c-2", { user: "bob" }));
    expect(sse.getSnapshot()).toMatchObject({ user: "bob", messages: [] });
    await server.last.end();
    await wait(4000);
    await server.last.send("data: 2\n\n", connected("c-3", { user: "" }));
    expect(sse.getSnapshot()).toMatchObject({ user: "", messages: [] });
  });
});
