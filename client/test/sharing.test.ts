import { beforeEach, describe, expect, test } from "vitest";
import { createSSE, type SSEOptions } from "../src/index.js";
import { type Any, server, URL_, wait } from "./client-setup.js";
import { connected, settle, status } from "./fake-server.js";

describe("sharing on a page", () => {
  const open = (options: SSEOptions = {}, url = URL_) => {
    const sse = createSSE<Any>(url, { fetch: server.fetch, ...options });
    const got: unknown[] = [];
    return { sse, got, off: sse.on("*", ({ data }) => got.push(data)) };
  };

  test("clients with the same URL and identity share a stream, and have their own messages", async () => {
    const a = open();
    await settle();
    await server.last.send(connected("c-1"), "data: 1\n\n");
    const b = open();
    await settle();
    expect(b.sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-1" });
    await server.last.send("data: 2\n\n");
    expect([a.got, b.got]).toEqual([[1, 2], [2]]);
    b.sse.clear();
    expect(a.sse.getSnapshot().messages).toHaveLength(2);
    a.sse.close();
    expect(a.sse.getSnapshot().connectionStatus).toBe("closed");
    await settle();
    await server.last.send("data: 3\n\n");
    expect(b.got).toEqual([2, 3]);
    expect(server.calls).toHaveLength(1);
    for (const { off } of [a, b]) off();
    await settle();
    expect(server.last.aborted).toBe(true);
  });

  test("clients with another URL, identity, credentials or static headers, or with share: false, do not share", async () => {
    const all = [
      open(),
      open({}, `${URL_}?topic=a`),
      open({ identity: "bob" }),
      open({ credentials: "include" }),
      open({ headers: { Authorization: "Bearer a" } }),
      open({ headers: new Headers({ Authorization: "Bearer b" }) }),
      open({ share: false }),
      open({ share: false }),
    ];
    await settle();
    expect(server.calls).toHaveLength(all.length);
    for (const { off } of all) off();
  });

  test("close() and reconnect() join the stream that other clients still use", async () => {
    const a = open();
    const b = open();
    await settle();
    a.sse.close();
    a.sse.reconnect();
    await server.last.send("data: 1\n\n");
    expect([a.got, b.got]).toEqual([[1], [1]]);
    expect(server.calls).toHaveLength(1);
    for (const { off } of [a, b]) off();
  });

  test("a client that joins at an earlier position gets the missed events from a connection of its own", async () => {
    const a = open();
    await settle();
    await server.last.send(connected("c-1"), "data: 2\nid: e-2\n\n", "data: 3\nid: e-3\n\n");
    const shared = server.last;
    const gaps: string[] = [];
    const b = open({ lastEventId: "e-1", onGap: ({ reason }) => gaps.push(reason) });
    const c = open({ lastEventId: "e-1" });
    await settle();
    expect(server.calls).toHaveLength(2);
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-1");
    await server.last.send(connected("c-2"), "data: 2\nid: e-2\n\n", "data: 3\nid: e-3\n\n");
    await shared.send("data: 4\nid: e-4\n\n");
    expect([a.got, b.got, c.got]).toEqual([
      [2, 3, 4],
      [2, 3, 4],
      [2, 3, 4],
    ]);
    expect(gaps).toEqual([]);
    expect(server.calls[1]?.aborted).toBe(true);
    for (const { off } of [a, b, c]) off();
  });

  describe("clients at a position of another history", () => {
    const opened =
      'event: sse.connected\ndata: {"connectionId":"c-2","user":"alice","heartbeat":15000}\n\n';
    const gap = (reason: string) =>
      `event: sse.gap\ndata: ${JSON.stringify({ reason })}\nid: e-5-aaaa\n\n`;
    let gaps: string[];
    const at = (name: string) =>
      open({ lastEventId: "e-7-zzzz", onGap: ({ reason }) => gaps.push(`${name} ${reason}`) });
    let a: ReturnType<typeof open>;
    beforeEach(async () => {
      gaps = [];
      a = open();
      await settle();
      await server.last.send(connected("c-1"), "data: 5\nid: e-5-aaaa\n\n");
    });

    /** Both got their gap, and share the stream of the first client again. */
    async function expectShared(b: ReturnType<typeof open>, c: ReturnType<typeof open>) {
      expect(server.calls.map(({ aborted }) => aborted)).toEqual([false, true]);
      await server.calls[0]?.send("data: 6\nid: e-6-aaaa\n\n");
      expect([a.got, b.got, c.got]).toEqual([[5, 6], [6], [6]]);
      for (const { off } of [a, b, c]) off();
    }

    test("both get the gap", async () => {
      const [b, c] = [at("b"), at("c")];
      await settle();
      await server.last.send(opened, gap("epoch"));
      expect(gaps).toEqual(["b epoch", "c epoch"]);
      await expectShared(b, c);
    });

    test("both get the gap if the second joins between the opening and the gap", async () => {
      const b = at("b");
      await settle();
      await server.last.send(opened);
      const c = at("c");
      await settle();
      await server.calls[0]?.send(":\n");
      await server.last.send(gap("invalid"));
      expect(gaps).toEqual(["b invalid", "c invalid"]);
      await expectShared(b, c);
    });
  });

  test("close() and reconnect() in a listener lose no event of the chunk", async () => {
    for (const later of [false, true]) {
      for (const others of [false, true]) {
        const before = server.calls.length;
        const other = open();
        const a = open();
        if (!others) other.off();
        await settle();
        const stopper = a.sse.on("*", ({ data }) => {
          if (data !== 1) return;
          a.sse.close();
          if (later) queueMicrotask(() => a.sse.reconnect());
          else a.sse.reconnect();
        });
        const chunk = [1, 2, 3].map((n) => `data: ${n}\nid: e-${n}\n\n`);
        await server.last.send(connected("c-1").replace("e-1", "e-0"), chunk.join(""));
        await settle();
        expect(server.calls).toHaveLength(before + 2);
        expect(server.last.headers.get("Last-Event-ID")).toBe("e-1");
        await server.last.send(connected("c-2"), ...chunk.slice(1));
        expect(a.got).toEqual([1, 2, 3]);
        expect(a.sse.getSnapshot().lastEventId).toBe("e-3");
        for (const { off } of [a, other]) off();
        stopper();
        await settle();
      }
    }
  });

  test("the stream uses the options of the newest client that still uses it", async () => {
    const a = open({ headers: () => ({ Authorization: "A" }), identity: "x" });
    const b = open({ headers: () => ({ Authorization: "B" }), identity: "x" });
    const c = open({ headers: () => ({ Authorization: "C" }), identity: "x" });
    await settle();
    const next = async () => {
      await server.last.end();
      await wait(4000);
      return server.last.headers.get("Authorization");
    };
    expect(await next()).toBe("C");
    a.off();
    c.off();
    await settle();
    expect(await next()).toBe("B");
    b.off();
  });

  test("reconnect() restarts a failed stream that other clients still use", async () => {
    server.responses.push(status(403));
    const a = open();
    const b = open();
    await settle();
    a.sse.close();
    a.sse.reconnect();
    await settle();
    await server.last.send(connected("c-1"));
    expect(b.sse.getSnapshot().connectionStatus).toBe("open");
    for (const { off } of [a, b]) off();
  });

  test('share: "tabs" needs an identity, and shares within the page where there are no locks', async () => {
    expect(() => createSSE(URL_, { share: "tabs" } as SSEOptions)).toThrow(TypeError);
    const all = [open({ share: "tabs", identity: "a" }), open({ share: "tabs", identity: "a" })];
    await settle();
    expect(server.calls).toHaveLength(1);
    for (const { off } of all) off();
  });
});
