import { describe, expect, test, vi } from "vitest";
import { createSSE } from "../src/index.js";
import { type Any, server, setStop, start, statusOf, stop, URL_, wait } from "./client-setup.js";
import { connected, settle } from "./fake-server.js";

describe("the life of a client", () => {
  test("a listener that replaces itself while it is called gets each event once", async () => {
    const sse = createSSE<Any>(URL_, { fetch: server.fetch });
    const got: string[] = [];
    let off = sse.on("n", swap);
    setStop(() => off());
    function swap({ data }: { data: unknown }) {
      got.push(String(data));
      off();
      off = sse.on("n", swap);
    }
    await settle();
    await server.last.send(connected("c-1"));
    await server.last.send([1, 2, 3].map((n) => `event: n\ndata: ${n}\nid: e-${n}\n\n`).join(""));
    expect(got).toEqual(["1", "2", "3"]);
  });

  test("the status is idle, connecting, open, reconnecting, closed", async () => {
    const sse = createSSE<Any>(URL_, { fetch: server.fetch });
    expect(statusOf(sse)).toBe("idle");
    expect(server.calls).toHaveLength(0);
    setStop(sse.subscribe(() => {}));
    expect(statusOf(sse)).toBe("connecting");
    await settle();
    await server.last.send(connected("c-1"));
    expect(sse.getSnapshot()).toMatchObject({
      connectionStatus: "open",
      connectionId: "c-1",
      user: "alice",
      error: null,
    });
    await server.last.end();
    expect(statusOf(sse)).toBe("reconnecting");
    sse.close();
    expect(statusOf(sse)).toBe("closed");
    await wait(60_000);
    expect(server.calls).toHaveLength(1);
    sse.reconnect();
    await settle();
    await server.last.send(connected("c-2"));
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-2" });
  });

  test("the connection closes when the last listener is removed", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    const off = sse.on("*", () => {});
    stop();
    await settle();
    expect(server.last.aborted).toBe(false);
    off();
    await settle();
    expect(server.last.aborted).toBe(true);
    expect(statusOf(sse)).toBe("idle");
  });

  test("removing and adding a listener at once keeps the connection", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    stop();
    setStop(sse.subscribe(() => {}));
    await wait(1000);
    expect(server.calls).toHaveLength(1);
    expect(server.last.aborted).toBe(false);
  });

  test("snapshots are frozen, and the same object until something changes", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), "data: 1\n\n");
    const snapshot = sse.getSnapshot();
    expect(sse.getSnapshot()).toBe(snapshot);
    expect(Object.isFrozen(snapshot) && Object.isFrozen(snapshot.messages)).toBe(true);
    await server.last.send("data: 2\n\n");
    expect(sse.getSnapshot()).not.toBe(snapshot);
    expect(snapshot.messages).toHaveLength(1);
  });

  test("subscribers are called once for a chunk of many events", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    const onChange = vi.fn();
    const off = sse.subscribe(onChange);
    await settle();
    onChange.mockClear();
    await server.last.send("data: 1\n\n".repeat(500));
    expect(onChange).toHaveBeenCalledTimes(1);
    off();
  });

  test("a snapshot keeps the latest maxMessages, and listeners get all", async () => {
    const sse = await start({ maxMessages: 3 });
    const got: unknown[] = [];
    const off = sse.on("*", ({ data }) => got.push(data));
    for (let i = 1; i <= 10; i++) await server.last.send(`data: ${i}\n\n`);
    expect(sse.getSnapshot().messages.map(({ data }) => data)).toEqual([8, 9, 10]);
    expect(got).toHaveLength(10);
    sse.clear();
    expect(sse.getSnapshot().messages).toEqual([]);
    off();
  });

  test("with maxMessages 0 a snapshot keeps no messages", async () => {
    const sse = await start({ maxMessages: 0 });
    await server.last.send("data: 1\n\n");
    expect(sse.getSnapshot().messages).toEqual([]);
  });

  test("listeners of a type get only their type, and one that throws does not affect others", async () => {
    const sse = await start();
    const thrown: unknown[] = [];
    const caught = (error: unknown) => thrown.push(error);
    process.on("uncaughtException", caught);
    const notes: unknown[] = [];
    const offs = [
      sse.on("note", () => {
        throw new Error("mine");
      }),
      sse.on("note", ({ data }) => notes.push(data)),
    ];
    await server.last.send("event: note\ndata: 1\n\nevent: other\ndata: 2\n\n");
    expect(notes).toEqual([1]);
    expect(sse.getSnapshot().messages).toHaveLength(2);
    process.off("uncaughtException", caught);
    expect(thrown).toHaveLength(1);
    for (const off of offs) off();
  });

  test("a listener may close in the middle of a chunk", async () => {
    const sse = await start();
    const got: unknown[] = [];
    const off = sse.on("*", ({ data }) => {
      got.push(data);
      sse.close();
    });
    await server.last.send("id: e-1\ndata: 1\n\nid: e-2\ndata: 2\n\n");
    expect(got).toEqual([1]);
    expect(sse.getSnapshot().lastEventId).toBe("e-1");
    off();
  });
});

describe("after the end of a stream", () => {
  test("the rest of its chunk is ignored", async () => {
    const sse = await start();
    const off = sse.on("*", () => {});
    await server.last.send(
      connected("c-1"),
      'event: sse.closing\ndata: {"reason":"shutdown","retryMs":100}\n\ndata: 1\nid: e-99\n\n',
    );
    await wait(100);
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-1");
    expect(sse.getSnapshot().messages).toEqual([]);
    off();
  });

  test("an attempt that was replaced while it waited for its headers sends no request", async () => {
    const waiting: (() => void)[] = [];
    const headers = () => new Promise<HeadersInit>((resolve) => waiting.push(() => resolve({})));
    const sse = await start({ headers });
    sse.reconnect();
    for (const resolve of waiting) resolve();
    await settle();
    expect(server.calls).toHaveLength(1);
  });

  test("reconnect() resets the backoff", async () => {
    const sse = await start({ backoff: { minMs: 1000 } });
    for (const _ of [1, 2, 3]) {
      await server.last.cut();
      await wait(8000);
    }
    sse.reconnect();
    await settle();
    await server.last.cut();
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(1000);
  });

  test("a closed client stays closed when its listeners are removed", async () => {
    const sse = await start();
    sse.close();
    stop();
    await settle();
    expect(statusOf(sse)).toBe("closed");
  });

  test("another user after a pause without listeners does not see the messages of the first", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), "data: 1\n\n");
    stop();
    await settle();
    setStop(sse.subscribe(() => {}));
    await settle();
    expect(sse.getSnapshot().messages).toHaveLength(1);
    await server.last.send(connected("c-2", { user: "bob" }));
    expect(sse.getSnapshot().messages).toEqual([]);
  });
});
