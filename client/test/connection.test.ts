import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { delayOf, fullJitter } from "../src/backoff.js";
import { createSSE, type SSEClient, type SSEError, type SSEOptions } from "../src/index.js";
import { connected, fakeServer, settle, status } from "./fake-server.js";

const URL_ = "https://example.com/events";
type Any = Record<string, unknown>;

let server: ReturnType<typeof fakeServer>;
let errors: SSEError[];
let stop: () => void;

beforeEach(() => {
  vi.useFakeTimers();
  // The upper end of every jitter, so that waits are known.
  vi.spyOn(Math, "random").mockReturnValue(1);
  server = fakeServer();
  errors = [];
});
afterEach(async () => {
  stop?.();
  await settle();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

async function start(options: SSEOptions = {}): Promise<SSEClient<Any>> {
  const sse = createSSE<Any>(URL_, {
    fetch: server.fetch,
    onError: (error) => void errors.push(error),
    ...options,
  });
  stop = sse.subscribe(() => {});
  await settle();
  return sse;
}
const statusOf = (sse: SSEClient<Any>) => sse.getSnapshot().connectionStatus;
const wait = (ms: number) => vi.advanceTimersByTimeAsync(ms);

describe("life", () => {
  test("a listener that is replaced in its own call gets each event once", async () => {
    const sse = createSSE<Any>(URL_, { fetch: server.fetch });
    const got: string[] = [];
    let off = sse.on("n", swap);
    stop = () => off();
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

  test("idle, connecting, open, reconnecting, closed", async () => {
    const sse = createSSE<Any>(URL_, { fetch: server.fetch });
    expect(statusOf(sse)).toBe("idle");
    expect(server.calls).toHaveLength(0);
    stop = sse.subscribe(() => {});
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

  test("closes when the last listener has gone", async () => {
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

  test("a listener that leaves and comes back at once keeps the connection", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    stop();
    stop = sse.subscribe(() => {});
    await wait(1000);
    expect(server.calls).toHaveLength(1);
    expect(server.last.aborted).toBe(false);
  });

  test("snapshots are frozen and the same while nothing changed", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), "data: 1\n\n");
    const snapshot = sse.getSnapshot();
    expect(sse.getSnapshot()).toBe(snapshot);
    expect(Object.isFrozen(snapshot) && Object.isFrozen(snapshot.messages)).toBe(true);
    await server.last.send("data: 2\n\n");
    expect(sse.getSnapshot()).not.toBe(snapshot);
    expect(snapshot.messages).toHaveLength(1);
  });

  test("subscribers are told once for a chunk of many events", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    const told = vi.fn();
    const off = sse.subscribe(told);
    await settle();
    told.mockClear();
    await server.last.send("data: 1\n\n".repeat(500));
    expect(told).toHaveBeenCalledTimes(1);
    off();
  });

  test("keeps the latest maxMessages, listeners get all", async () => {
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

  test("maxMessages 0 keeps none", async () => {
    const sse = await start({ maxMessages: 0 });
    await server.last.send("data: 1\n\n");
    expect(sse.getSnapshot().messages).toEqual([]);
  });

  test("typed listeners get their type only, and a throwing one harms nobody", async () => {
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

describe("after the end of a connection", () => {
  test("what its chunk still holds counts for nothing", async () => {
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

  test("an attempt that was superseded while its headers were made sends nothing", async () => {
    const waiting: (() => void)[] = [];
    const headers = () => new Promise<HeadersInit>((resolve) => waiting.push(() => resolve({})));
    const sse = await start({ headers });
    sse.reconnect();
    for (const go of waiting) go();
    await settle();
    expect(server.calls).toHaveLength(1);
  });

  test("reconnect() lets waits start small again", async () => {
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

  test("a closed client stays closed when its listeners go", async () => {
    const sse = await start();
    sse.close();
    stop();
    expect(statusOf(sse)).toBe("closed");
  });

  test("another user after a pause without listeners sees nothing of the first", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), "data: 1\n\n");
    stop();
    await settle();
    stop = sse.subscribe(() => {});
    await settle();
    expect(sse.getSnapshot().messages).toHaveLength(1);
    await server.last.send(connected("c-2", { user: "bob" }));
    expect(sse.getSnapshot().messages).toEqual([]);
  });
});

describe("requests", () => {
  test("asks for an event stream, uncached", async () => {
    await start();
    expect(server.last.headers.get("Accept")).toBe("text/event-stream");
    expect(server.last.headers.has("Last-Event-ID")).toBe(false);
    expect(server.last.init).toMatchObject({ cache: "no-store", credentials: "same-origin" });
  });

  test("resumes with Last-Event-ID and names the connection it replaces", async () => {
    await start();
    await server.last.send(connected("c-1"), "id: e-5\ndata: 1\n\n", "id: e-9\n\n");
    await server.last.cut();
    await wait(2000);
    expect(server.calls).toHaveLength(2);
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-9");
    expect(server.last.url.searchParams.get("previous")).toBe("c-1");
  });

  test("starts from the position given", async () => {
    await start({ lastEventId: "e-3" });
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-3");
  });

  test("an id goes out as UTF-8", async () => {
    await start({ lastEventId: "é" });
    expect(server.last.headers.get("Last-Event-ID")).toBe("\xC3\xA9");
  });

  test("across origins the position is a query, so that there is no preflight", async () => {
    vi.stubGlobal("location", new URL("https://app.example.com/"));
    await start({ lastEventId: "e-3" });
    expect(server.last.headers.has("Last-Event-ID")).toBe(false);
    expect(server.last.url.searchParams.get("last_event_id")).toBe("e-3");
  });

  test("relative to the page", async () => {
    vi.stubGlobal("location", new URL("https://app.example.com/a/"));
    const sse = createSSE("events?topic=news", { fetch: server.fetch });
    stop = sse.subscribe(() => {});
    await settle();
    expect(server.last.url.href).toBe("https://app.example.com/a/events?topic=news");
  });

  test("headers are asked for at every attempt", async () => {
    let n = 0;
    await start({ headers: async () => ({ Authorization: `Bearer ${++n}` }) });
    await server.last.cut();
    await wait(500);
    expect(server.calls.map(({ headers }) => headers.get("Authorization"))).toEqual([
      "Bearer 1",
      "Bearer 2",
    ]);
  });

  test("a headers function that throws is tried again", async () => {
    let n = 0;
    await start({
      headers: () => {
        if (++n === 1) throw new Error("token endpoint down");
        return {};
      },
    });
    expect(errors).toEqual([expect.objectContaining({ type: "network" })]);
    await wait(500);
    expect(server.calls).toHaveLength(1);
  });
});

describe("status policy", () => {
  for (const code of [408, 425, 429, 500, 502, 503, 504]) {
    test(`${code} is tried again`, async () => {
      server.answers.push(status(code));
      const sse = await start();
      expect(statusOf(sse)).toBe("reconnecting");
      expect(errors).toEqual([expect.objectContaining({ type: "http", status: code })]);
      await wait(500);
      expect(server.calls).toHaveLength(2);
    });
  }
  for (const code of [400, 401, 403, 404, 405, 410]) {
    test(`${code} is final`, async () => {
      server.answers.push(status(code));
      const sse = await start();
      expect(statusOf(sse)).toBe("failed");
      expect(sse.getSnapshot().error).toMatchObject({ type: "http", status: code });
      await wait(120_000);
      expect(server.calls).toHaveLength(1);
    });
  }
  test("204 closes", async () => {
    server.answers.push(status(204));
    const sse = await start();
    expect(statusOf(sse)).toBe("closed");
    expect(errors).toEqual([]);
    await wait(120_000);
    expect(server.calls).toHaveLength(1);
  });
  test("a page instead of a stream is final", async () => {
    server.answers.push(() => new Response("<html>", { headers: { "Content-Type": "text/html" } }));
    const sse = await start();
    expect(sse.getSnapshot()).toMatchObject({
      connectionStatus: "failed",
      error: { type: "content-type", contentType: "text/html" },
    });
  });
  for (const type of [
    "text/event-stream; charset=utf-8",
    "text/event-stream;charset=UTF-8",
    "Text/Event-Stream",
  ]) {
    test(`content type ${type}`, async () => {
      server.answers.push(() => new Response("data: 1\n\n", { headers: { "Content-Type": type } }));
      const sse = await start();
      expect(sse.getSnapshot().messages).toHaveLength(1);
    });
  }
  test("text/event-streamish is none", async () => {
    server.answers.push(
      () => new Response("", { headers: { "Content-Type": "text/event-streamish" } }),
    );
    expect(statusOf(await start())).toBe("failed");
  });
  test("401 with a headers function is tried once more with fresh headers, then failed", async () => {
    server.answers.push(status(401), status(401));
    const headers = vi.fn(() => ({}));
    const sse = await start({ headers });
    expect(headers).toHaveBeenCalledTimes(2);
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "failed", error: { status: 401 } });
  });
  test("each stream that opened may be refreshed again", async () => {
    server.answers.push(status(401));
    const sse = await start({ headers: () => ({}) });
    await server.last.send(connected("c-1"));
    expect(statusOf(sse)).toBe("open");
    server.answers.push(status(401));
    await server.last.end();
    await wait(2000);
    await server.last.send(connected("c-2"));
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-2" });
  });
  test("reconnect() leaves failed", async () => {
    server.answers.push(status(403));
    const sse = await start();
    sse.reconnect();
    await settle();
    await server.last.send(connected("c-1"));
    expect(statusOf(sse)).toBe("open");
  });
  test("404 of a stream that had been open: back slowly", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    server.answers.push(status(404));
    await server.last.end();
    await wait(2000);
    expect(sse.getSnapshot()).toMatchObject({
      connectionStatus: "reconnecting",
      error: { type: "http", status: 404 },
    });
    await wait(60_000);
    expect(server.calls).toHaveLength(3);
  });
  for (const [name, url, options] of [
    ["a password in the URL", "https://u:geheim@example.com/events", {}],
    ["a header that none can be", URL_, { headers: { Authorization: "a\nb" } }],
    ["the same from a function", URL_, { headers: () => ({ Authorization: "a\nb" }) }],
  ] as const) {
    test(`${name}: failed at once, as no attempt would be better`, async () => {
      const sse = createSSE<Any>(url, { fetch: server.fetch, ...options });
      stop = sse.subscribe(() => {});
      await wait(60_000);
      expect(server.calls).toHaveLength(0);
      expect(sse.getSnapshot()).toMatchObject({
        connectionStatus: "failed",
        error: { type: "request" },
      });
    });
  }
  for (const thrown of [new Error("mine"), Object.create(null)]) {
    test(`a shouldReconnect that throws is reported and counts as true (${typeof thrown.message})`, async () => {
      const reported: unknown[] = [];
      const caught = (error: unknown) => reported.push(error);
      process.on("uncaughtException", caught);
      const sse = await start({
        shouldReconnect: () => {
          throw thrown;
        },
      });
      await server.last.send(connected("c-1"));
      await server.last.cut();
      expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "reconnecting" });
      expect(errors).toHaveLength(1);
      await wait(2000);
      expect(server.calls).toHaveLength(2);
      process.off("uncaughtException", caught);
      expect(reported).toEqual([thrown]);
    });
    test(`headers that throw are tried again, whatever they throw (${typeof thrown.message})`, async () => {
      let n = 0;
      await start({
        headers: () => {
          if (!n++) throw thrown;
          return {};
        },
      });
      expect(errors).toEqual([expect.objectContaining({ type: "network" })]);
      await wait(500);
      expect(server.calls).toHaveLength(1);
    });
  }
  test("shouldReconnect may end it", async () => {
    server.answers.push(status(503), status(503), status(503));
    const sse = await start({ shouldReconnect: (_, attempts) => attempts < 2 });
    await wait(60_000);
    expect(server.calls).toHaveLength(3);
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "failed", error: { status: 503 } });
  });
});

describe("waits", () => {
  test("double up to maxMs, and start small again after resetAfterMs", async () => {
    const sse = await start({ backoff: { minMs: 1000, maxMs: 5000, resetAfterMs: 10_000 } });
    const waits = async (n: number) => {
      const all: number[] = [];
      for (let i = 0; i < n; i++) {
        await server.last.cut();
        const { retryAt, attempt } = sse.getSnapshot();
        all.push(Number(retryAt) - Date.now());
        expect(attempt).toBe(i + 1);
        await wait(all.at(-1) as number);
      }
      return all;
    };
    expect(await waits(5)).toEqual([1000, 2000, 4000, 5000, 5000]);
    await server.last.send(": hello\n");
    await wait(10_000);
    expect(await waits(2)).toEqual([1000, 2000]);
  });

  test("a stream that opens and ends at once keeps backing off", async () => {
    const sse = await start({ backoff: { minMs: 1000 } });
    const all: number[] = [];
    for (let i = 0; i < 4; i++) {
      await server.last.send(": hello\n");
      await server.last.end();
      all.push(Number(sse.getSnapshot().retryAt) - Date.now());
      await wait(all.at(-1) as number);
    }
    expect(all).toEqual([1000, 2000, 4000, 8000]);
  });

  test("are jittered between 100 ms and their bound", async () => {
    const sse = await start({ backoff: { minMs: 1000 } });
    for (const [random, want] of [
      [0, 100],
      [0.05, 100],
      [0.5, 2000],
      [0.25, 2000],
    ] as const) {
      vi.mocked(Math.random).mockReturnValue(random);
      await server.last.cut();
      expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(want);
      await wait(want);
    }
  });

  test("retry: sets the first bound, and only digits count", async () => {
    const sse = await start();
    await server.last.send("retry: 3000\nretry: 1e3\nretry: -1\nretry:\n\n");
    await server.last.end();
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(3000);
  });

  for (const retry of ["0", "99999999999999999999"]) {
    test(`retry: ${retry} makes no busy loop and no endless wait`, async () => {
      const sse = await start();
      await server.last.send(`retry: ${retry}\n\n`);
      await server.last.end();
      for (let i = 0; i < 1100; i++) {
        const delay = Number(sse.getSnapshot().retryAt) - Date.now();
        expect(delay).toBeGreaterThanOrEqual(100);
        expect(delay).toBeLessThanOrEqual(30_000);
        if (i > 12) expect(delay).toBe(30_000);
        server.answers.push(status(503));
        await wait(delay);
      }
    });
  }
  for (const ms of [0, -5, NaN, Infinity, "soon" as unknown as number]) {
    test(`minMs, maxMs and retryMs of ${ms} give a wait that a timer takes`, async () => {
      for (const random of [0, 1]) {
        vi.mocked(Math.random).mockReturnValue(random);
        for (const failures of [0, 1, 40, 2000, Infinity]) {
          const jitter = fullJitter(failures, ms, ms);
          for (const delay of [delayOf(jitter), delayOf(ms), delayOf(ms + jitter)]) {
            expect(delay).toBeGreaterThanOrEqual(100);
            expect(delay).toBeLessThan(2 ** 31);
          }
        }
      }
    });
  }

  test("Retry-After in seconds is the least", async () => {
    server.answers.push(status(503, { "Retry-After": "7" }));
    const sse = await start();
    expect(sse.getSnapshot().error).toMatchObject({ retryAfterMs: 7000 });
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(7500);
  });

  test("Retry-After as a date, and one that is unreadable", async () => {
    vi.setSystemTime(new Date("2026-01-01T00:00:00Z"));
    server.answers.push(status(429, { "Retry-After": "Thu, 01 Jan 2026 00:00:20 GMT" }));
    server.answers.push(status(503, { "Retry-After": "soon" }));
    const sse = await start();
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(20_500);
    await wait(20_500);
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(1000);
  });
});

describe("what the server says", () => {
  const closing = (reason: string, retryMs = 4000) =>
    `event: sse.closing\ndata: ${JSON.stringify({ reason, retryMs })}\n\n`;

  for (const reason of ["shutdown", "lifetime", "expired"]) {
    test(`sse.closing ${reason}: back exactly when it said`, async () => {
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
  test("sse.closing expired: with fresh headers", async () => {
    let n = 0;
    await start({ headers: () => ({ Authorization: `${++n}` }) });
    await server.last.send(connected("c-1"), closing("expired", 100));
    await wait(100);
    expect(server.last.headers.get("Authorization")).toBe("2");
  });
  test("sse.closing disconnected: back once", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), closing("disconnected"));
    await wait(4000);
    await server.last.send(connected("c-2"), closing("disconnected"));
    expect(statusOf(sse)).toBe("failed");
    expect(server.calls).toHaveLength(2);
  });
  test("disconnected again at once: failed, however long the stream was open before", async () => {
    const sse = await start({ backoff: { resetAfterMs: 10_000 } });
    await server.last.send(connected("c-1"));
    await wait(12_000);
    await server.last.send(closing("disconnected"));
    await wait(4000);
    await server.last.send(connected("c-2"), closing("disconnected"));
    expect(statusOf(sse)).toBe("failed");
    expect(server.calls).toHaveLength(2);
  });
  test("disconnected hours after a first one: back once", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), closing("disconnected"));
    await wait(4000);
    await server.last.send(connected("c-2", { heartbeat: 0 }));
    await wait(3 * 3600_000);
    await server.last.send(closing("disconnected"));
    expect(statusOf(sse)).toBe("reconnecting");
  });
  test("hub_closed, and then 404 and 410: back slowly, each time later", async () => {
    server.answers.push();
    const sse = await start();
    await server.last.send(connected("c-1"), closing("hub_closed"));
    const waits: number[] = [];
    for (const code of [404, 410, 404, 404, 404]) {
      expect(statusOf(sse)).toBe("reconnecting");
      waits.push(Number(sse.getSnapshot().retryAt) - Date.now());
      server.answers.push(status(code));
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
  test("a slow wait is not cut short by a new network", async () => {
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
  test("a server that sends everybody away at once is asked less and less", async () => {
    await start();
    for (let i = 0; i < 600; i++) {
      if (!server.last.aborted) await server.last.send(connected("c"), closing("shutdown", 1));
      await wait(1000);
    }
    expect(server.calls.length).toBeLessThan(40);
  });
  for (const data of ["no JSON", "null", "[]", '"x"', ""]) {
    test(`another server's sse.note with ${JSON.stringify(data)} ends nothing`, async () => {
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
  test("sse.closing without a delay: back after a jittered one", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), 'event: sse.closing\ndata: {"reason":"shutdown"}\n\n');
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(2000);
  });
  test("sse.rejected: never open, back when it said", async () => {
    const sse = createSSE<Any>(URL_, { fetch: server.fetch });
    const seen = new Set<string>();
    stop = sse.subscribe(() => seen.add(statusOf(sse)));
    await settle();
    await server.last.send(
      'retry: 60000\nevent: sse.rejected\ndata: {"reason":"max_connections","retryMs":45000}\n\n',
    );
    expect(seen).not.toContain("open");
    expect(sse.getSnapshot().error).toMatchObject({
      type: "terminated",
      reason: "max_connections",
    });
    await wait(44_999);
    expect(server.calls).toHaveLength(1);
    await wait(1);
    expect(server.calls).toHaveLength(2);
  });
  test("sse.gap is told, with the position after it", async () => {
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
  test("unknown sse. events are no messages", async () => {
    const sse = await start();
    await server.last.send("event: sse.new\ndata: {}\n\n");
    expect(sse.getSnapshot().messages).toEqual([]);
    expect(statusOf(sse)).toBe("open");
  });
  test("another user's stream drops what the first one received", async () => {
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

describe("watchdog", () => {
  test("gives up after two and a half of the announced heartbeats without a byte", async () => {
    const sse = await start();
    await server.last.send(connected("c-1", { heartbeat: 4000 }));
    await wait(9999);
    expect(statusOf(sse)).toBe("open");
    await wait(1);
    expect(sse.getSnapshot()).toMatchObject({
      connectionStatus: "reconnecting",
      error: { type: "idle-timeout" },
    });
    expect(server.last.aborted).toBe(true);
  });
  test("any byte feeds it", async () => {
    const sse = await start();
    await server.last.send(connected("c-1", { heartbeat: 4000 }));
    for (let i = 0; i < 10; i++) {
      await wait(9000);
      await server.last.send(i % 2 ? ":\n" : "d");
    }
    expect(statusOf(sse)).toBe("open");
    expect(server.calls).toHaveLength(1);
  });
  test("also guards an attempt that is never answered", async () => {
    server.answers.push(() => new Promise(() => {}));
    const sse = await start({ idleTimeoutMs: 3000 });
    await wait(3000);
    expect(statusOf(sse)).toBe("reconnecting");
    const before = server.calls.length;
    await wait(500);
    expect(server.calls).toHaveLength(before + 1);
  });
  test("a set idleTimeoutMs holds against the announcement, Infinity switches it off", async () => {
    const sse = await start({ idleTimeoutMs: Infinity });
    await server.last.send(connected("c-1"));
    await wait(100 * 24 * 3600_000);
    expect(statusOf(sse)).toBe("open");
  });
  test("a clock that is set back delays it by no more than one period", async () => {
    const sse = await start({ idleTimeoutMs: 500 });
    await server.last.send(connected("c-1"));
    vi.setSystemTime(Date.now() - 3600_000);
    await wait(1000);
    expect(sse.getSnapshot().error).toMatchObject({ type: "idle-timeout" });
  });
  test("a heartbeat of 0 switches it off", async () => {
    const sse = await start();
    await server.last.send(connected("c-1", { heartbeat: 0 }));
    await wait(3600_000);
    expect(statusOf(sse)).toBe("open");
  });
});

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

  test("online ends a wait", async () => {
    await start({ backoff: { minMs: 20_000 } });
    await server.last.cut();
    fire("online");
    await settle();
    expect(server.calls).toHaveLength(2);
  });
  test("after a long open connection waits start small, also if a wake-up ended it", async () => {
    const sse = await start({ backoff: { minMs: 500, resetAfterMs: 500 } });
    for (let i = 0; i < 10; i++) {
      await server.last.cut();
      await wait(Number(sse.getSnapshot().retryAt) - Date.now());
    }
    await server.last.send(connected("c-1").replace("retry: 2000\n", ""));
    await wait(2500);
    // The event comes before the network is there.
    server.answers.push(async () => Promise.reject(new TypeError("no network")));
    fire("online");
    await settle();
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "reconnecting", attempt: 1 });
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(500);
  });
  test("online replaces a connection that may be dead", async () => {
    await start();
    await server.last.send(connected("c-1"));
    const first = server.last;
    fire("online");
    await settle();
    expect(first.aborted).toBe(true);
    expect(server.last.url.searchParams.get("previous")).toBe("c-1");
  });
  test("but no wait that the server asked for", async () => {
    server.answers.push(status(503, { "Retry-After": "60" }));
    await start();
    fire("online");
    fire("visibilitychange");
    await wait(1000);
    expect(server.calls).toHaveLength(1);
  });
  test("a page that becomes visible looks at the clock", async () => {
    await start();
    await server.last.send(connected("c-1"));
    // Asleep: the clock went on, the timers did not.
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
  test("pagehide closes quietly, coming back from the cache resumes", async () => {
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
  test("after the opener of a shared stream has left, it resumes where it was", async () => {
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
  test("a failed stream stays failed over it", async () => {
    server.answers.push(status(403));
    await start();
    fire("pagehide", { persisted: true });
    fire("pageshow", { persisted: true });
    fire("online");
    await settle();
    expect(server.calls).toHaveLength(1);
  });
  test("nothing listens after the end", async () => {
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

describe("sharing on a page", () => {
  const open = (options: SSEOptions = {}, url = URL_) => {
    const sse = createSSE<Any>(url, { fetch: server.fetch, ...options });
    const got: unknown[] = [];
    return { sse, got, off: sse.on("*", ({ data }) => got.push(data)) };
  };

  test("one stream for the same URL and identity, each with its own messages", async () => {
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

  test("not for another URL, identity, credentials or static headers, nor with share: false", async () => {
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

  test("closing and reconnecting joins the stream that others kept", async () => {
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

  test("who joins at an earlier position gets what was missed, from a connection of its own", async () => {
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

  test("close() and reconnect() in a listener lose nothing of the chunk", async () => {
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

  test("the stream uses the options of the newest client that is still here", async () => {
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

  test("reconnect() revives a stream that ended and that others still hold", async () => {
    server.answers.push(status(403));
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

  test("tabs needs an identity, and is one stream per page where there are no locks", async () => {
    expect(() => createSSE(URL_, { share: "tabs" } as SSEOptions)).toThrow(TypeError);
    const all = [open({ share: "tabs", identity: "a" }), open({ share: "tabs", identity: "a" })];
    await settle();
    expect(server.calls).toHaveLength(1);
    for (const { off } of all) off();
  });
});
