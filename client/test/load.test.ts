// `load`, and then the stream: in the end the page shows the server's data, no matter what
// happened before.
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { createSSE, type SSEError, type SSEOptions } from "../src/index.js";
import { IDLE, type News, type Sink } from "../src/news.js";
import type { ConnectionStatus } from "../src/types.js";
import { connected, fakeServer, settle } from "./fake-server.js";
import { randomFrom } from "./random.js";

type Any = Record<string, unknown>;
const URL_ = "https://example.com/events";

// For the model: a stream whose events come from the test.
const fake = vi.hoisted(() => ({ open: undefined as ((sink: never) => unknown) | undefined }));
vi.mock("../src/stream.js", async (original) => {
  const real = await original<typeof import("../src/stream.js")>();
  return {
    ...real,
    openStream: (...args: Parameters<typeof real.openStream>) =>
      fake.open ? fake.open(args[1] as never) : real.openStream(...args),
  };
});

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  fake.open = undefined;
  vi.restoreAllMocks();
  vi.useRealTimers();
});

describe("load", () => {
  let server: ReturnType<typeof fakeServer>;
  let order: unknown[];
  let errors: SSEError[];
  let loads: { signal: AbortSignal; done(): void; fail(error: unknown): void }[];
  let off: () => void;
  beforeEach(() => {
    server = fakeServer();
    order = [];
    errors = [];
    loads = [];
  });
  afterEach(async () => {
    off();
    await settle();
  });
  async function start(options: SSEOptions = {}) {
    const sse = createSSE<Any>(URL_, {
      fetch: server.fetch,
      onGap: ({ reason }) => order.push(`gap ${reason}`),
      onError: (error) => errors.push(error),
      load: ({ signal }) =>
        new Promise<void>((resolve, reject) => {
          order.push("load");
          const done = () => {
            order.push("loaded");
            resolve();
          };
          loads.push({ signal, done, fail: reject });
        }),
      ...options,
    });
    off = sse.on("*", ({ data }) => order.push(data));
    await settle();
    return sse;
  }
  const event = (n: number) => `data: ${n}\nid: e-${n}\n\n`;
  const gap = (n: number) => `event: sse.gap\ndata: {"reason":"evicted"}\nid: e-${n}\n\n`;

  test("runs once the stream is open, and events during it are delivered after it", async () => {
    const sse = await start();
    expect(order).toEqual([]);
    await server.last.send(connected("c-1"), event(2), event(3));
    expect(order).toEqual(["load"]);
    expect(sse.getSnapshot()).toMatchObject({ lastEventId: "e-1", messages: [] });
    loads[0]?.done();
    await settle();
    await server.last.send(event(4));
    expect(order).toEqual(["load", "loaded", 2, 3, 4]);
    expect(sse.getSnapshot().lastEventId).toBe("e-4");
  });

  test("runs again after a gap, and events from before the gap are not delivered", async () => {
    await start();
    await server.last.send(connected("c-1"), event(2), gap(50), event(51));
    expect(loads[0]?.signal.aborted).toBe(true);
    loads[0]?.done();
    await settle();
    loads[1]?.done();
    await settle();
    await server.last.send(event(52), gap(60), event(61));
    loads[2]?.done();
    await settle();
    expect(order).toEqual([
      ..."load,gap evicted,load,loaded,loaded".split(","),
      51,
      52,
      ..."gap evicted,load,loaded".split(","),
      61,
    ]);
  });

  test("does not run again after a reconnect that resumes, nor while it runs", async () => {
    await start();
    await server.last.send(connected("c-1"), event(2));
    await server.last.cut();
    await vi.advanceTimersByTimeAsync(2000);
    await server.last.send(connected("c-2").replace("e-1", "e-2"), event(3));
    loads[0]?.done();
    await settle();
    await server.last.cut();
    await vi.advanceTimersByTimeAsync(4000);
    await server.last.send(connected("c-3").replace("e-1", "e-3"), event(4));
    expect(order).toEqual(["load", "loaded", 2, 3, 4]);
  });

  test("runs again after a connection without a position", async () => {
    await start();
    await server.last.send(": hello\n");
    expect(order).toEqual(["load"]);
    await server.last.cut();
    await vi.advanceTimersByTimeAsync(2000);
    await server.last.send(connected("c-2"));
    expect(order).toEqual(["load", "load"]);
  });

  test("runs again for another user", async () => {
    await start();
    await server.last.send(connected("c-1"), event(2));
    loads[0]?.done();
    await server.last.cut();
    await vi.advanceTimersByTimeAsync(2000);
    await server.last.send(connected("c-2", { user: "bob" }));
    expect(loads).toHaveLength(2);
  });

  test("is repeated with growing waits after an error, which is reported", async () => {
    vi.spyOn(Math, "random").mockReturnValue(1);
    await start();
    await server.last.send(connected("c-1"), event(2));
    const cause = new Error("503");
    for (const wait of [500, 1000, 2000]) {
      loads.at(-1)?.fail(cause);
      await vi.advanceTimersByTimeAsync(wait - 1);
      const before = loads.length;
      await vi.advanceTimersByTimeAsync(1);
      expect(loads).toHaveLength(before + 1);
    }
    expect(errors).toEqual(Array(3).fill({ type: "load", message: "Error: 503", cause }));
    loads.at(-1)?.done();
    await settle();
    expect(order.at(-1)).toBe(2);
  });

  test("may throw or return synchronously", async () => {
    let n = 0;
    await start({
      load: () => {
        if (!n++) throw Object.create(null);
      },
    });
    await server.last.send(connected("c-1"), event(2));
    expect(errors).toMatchObject([{ type: "load" }]);
    await vi.advanceTimersByTimeAsync(500);
    expect(order).toEqual([2]);
  });

  test("is aborted by close(), and the buffered events come again", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"), event(2));
    sse.close();
    expect(loads[0]?.signal.aborted).toBe(true);
    await settle();
    sse.reconnect();
    await settle();
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-1");
    await server.last.send(connected("c-2"), event(2));
    loads[0]?.done();
    loads[1]?.done();
    await settle();
    expect(order.at(-1)).toBe(2);
    expect(order.filter((one) => one === 2)).toHaveLength(1);
  });

  test("buffers a bounded number of events, and then reports a gap and runs again", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    await server.last.send("data: 1\nid: e-5\n\n".repeat(100_001));
    expect(order).toEqual(["load", "gap held", "load"]);
    expect(sse.getSnapshot().lastEventId).toBe("e-5");
  });
});

test("100,000 interleavings of load, events, gaps and reconnects: no stale end state", async () => {
  const ticks = async () => {
    for (let i = 0; i < 6; i++) await undefined;
  };
  async function run(seed: number) {
    const random = randomFrom(seed);
    // The server: a value, which is also its version, and the events that set it.
    let version = 0;
    // The stream: the events that it has delivered, and the pending ones.
    let told = "e-0";
    let pending: number[] = [];
    let sink: Sink | undefined;
    let status = "connecting" as ConnectionStatus;
    const tell = (news: News) => sink?.(news);
    const state = (connectionStatus: ConnectionStatus) => {
      status = connectionStatus;
      tell({ state: { ...IDLE, connectionStatus, user: "a" } });
    };
    const lead = (position: string, more: News) => {
      const from = told;
      told = position;
      tell({ from, position, ...more });
    };
    fake.open = (next: Sink) => {
      sink = next;
      // The client sends its last position, and the model's server replays from there.
      const from = sse.getSnapshot().lastEventId;
      told = from || `e-${version}`;
      const seen = from ? Number(from.slice(2)) : version;
      pending = Array.from({ length: version - seen }, (_, i) => seen + 1 + i);
      state("connecting");
      return { reconnect() {}, close: () => (sink = undefined) };
    };

    // The page: the value that it shows.
    let shown = -1;
    let wrong = 0;
    interface Load {
      read?: number;
      go(ok: boolean): void;
    }
    let loads: Load[] = [];
    const sse = createSSE<Any>(`${URL_}?${seed}`, {
      share: false,
      async load({ signal }) {
        const one: Load = { go() {} };
        loads.push(one);
        const ok = await new Promise<boolean>((resolve) => {
          one.go = resolve;
        });
        if (signal.aborted) throw new Error("aborted");
        if (!ok) throw new Error("503");
        shown = one.read as number;
      },
    });
    let last = 0;
    const off = sse.on("*", ({ data }) => {
      if ((data as number) <= last) wrong++;
      last = data as number;
      shown = last;
      if (random() < 0.01) {
        sse.close();
        sse.reconnect();
      }
    });

    const finish = (ok: boolean) => {
      const [one] = loads.splice(Math.floor(random() * loads.length), 1);
      if (!one) return;
      // The server reads the page's data at any time between the request and the response.
      one.read ??= version;
      one.go(ok);
    };
    const steps = 4 + random() * 14;
    for (let step = 0; step < steps; step++) {
      const dice = random();
      if (dice < 0.25) {
        version++;
        pending.push(version);
      } else if (dice < 0.5) {
        if (status === "open") {
          const some = pending.splice(0, 1 + Math.floor(random() * pending.length));
          const events = some.map((n) => ({ id: `e-${n}`, type: "message", data: `${n}` }));
          if (events.length) lead(`e-${some.at(-1)}`, { events });
        } else state("open");
      } else if (dice < 0.6) {
        if (status === "open") {
          // Some pending events are evicted.
          pending = pending.slice(Math.floor(random() * (pending.length + 1)));
          const id = `e-${pending[0] !== undefined ? pending[0] - 1 : version}`;
          lead(id, { gap: { reason: "evicted", id } });
        }
      } else if (dice < 0.7) state(status === "open" ? "reconnecting" : "open");
      else if (dice < 0.8) for (const one of loads) one.read ??= version;
      else if (dice < 0.95) finish(random() < 0.7);
      else {
        sse.close();
        if (random() < 0.5) await ticks();
        sse.reconnect();
      }
      if (random() < 0.5) await ticks();
      if (random() < 0.2) vi.advanceTimersByTime(40_000);
    }

    // All pending events and loads complete.
    for (let i = 0; i < 4; i++) {
      if (status !== "open") state("open");
      const some = pending.splice(0);
      const events = some.map((n) => ({ id: `e-${n}`, type: "message", data: `${n}` }));
      if (events.length) lead(`e-${some.at(-1)}`, { events });
      await ticks();
      while (loads.length) finish(true);
      await ticks();
      vi.advanceTimersByTime(40_000);
      await ticks();
    }
    loads = [];
    off();
    vi.advanceTimersByTime(1);
    if (shown !== version)
      throw new Error(`seed ${seed}: shows ${shown}, the server has ${version}`);
    if (wrong) throw new Error(`seed ${seed}: an event came twice or out of order`);
  }
  for (let seed = 1; seed <= 100_000; seed++) await run(seed);
}, 300_000);
