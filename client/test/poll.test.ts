// Some networks hold a stream back. The client detects this and polls.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createSSE, type SSEError, type SSEOptions } from "../src/index.js";
import { type Call, connected, fakeServer, settle, status } from "./fake-server.js";

type Any = Record<string, unknown>;
const URL_ = "https://example.com/events";

let server: ReturnType<typeof fakeServer>;
let errors: SSEError[];
let off: () => void;
beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  server = fakeServer();
  errors = [];
});
afterEach(async () => {
  off();
  await settle();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});
const wait = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const event = (n: number) => `data: ${n}\nid: e-${n}\n\n`;
const isPoll = (call: Call) => call.url.searchParams.get("poll") === "1";
const polls = () => server.calls.filter(isPoll);
const streams = () => server.calls.filter((call) => !isPoll(call));
const from = (call: Call | undefined) => call?.headers.get("Last-Event-ID");

async function start(options: SSEOptions = {}) {
  const sse = createSSE<Any>(URL_, {
    fetch: server.fetch,
    onError: (error) => errors.push(error),
    ...options,
  });
  const got: unknown[] = [];
  off = sse.on("*", ({ data }) => got.push(data));
  await settle();
  return { sse, got };
}
/** Responds to a poll in one piece, like a proxy that buffers. */
async function respond(call: Call | undefined, ...blocks: string[]) {
  await call?.send(connected("c").replace("e-1", from(call) ?? "e-1") + blocks.join(""));
  await call?.end();
}

test("the client polls from its position if a stream is held back while a poll gets a response", async () => {
  const { sse, got } = await start();
  await wait(999);
  expect(polls()).toHaveLength(0);
  await wait(1);
  expect(server.calls).toHaveLength(2);
  await respond(polls()[0], event(2));
  await wait(260);
  expect(streams()[0]?.aborted).toBe(true);
  expect(got).toEqual([2]);
  expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "open", transport: "poll" });
  for (let n = 3; n < 20; n++) {
    expect(from(polls().at(-1))).toBe(`e-${n - 1}`);
    expect(polls()).toHaveLength(n - 1);
    await wait(150);
    await respond(polls().at(-1), event(n));
    await wait(10);
  }
  expect(got).toEqual(Array.from({ length: 18 }, (_, i) => i + 2));
  expect(streams()).toHaveLength(1);
  expect(errors).toEqual([]);
});

test("polls go on without a pause, however many there were before", async () => {
  const { got } = await start();
  await wait(1000);
  await respond(polls()[0], event(2));
  await wait(260);
  // They go on for longer than 2.5 heartbeats.
  for (let n = 3; n < 63; n++) {
    await polls()
      .at(-1)
      ?.send(connected("c", { heartbeat: 1000 }).replace("e-1", `e-${n - 1}`));
    await polls().at(-1)?.send(event(n));
    await polls().at(-1)?.end();
    await wait(100);
  }
  expect(got).toHaveLength(61);
  expect(errors).toEqual([]);
});

test("polls leave no timers behind", async () => {
  await start();
  await wait(1000);
  await respond(polls()[0], event(2));
  await wait(260);
  const before = vi.getTimerCount();
  for (let n = 3; n < 8; n++) {
    await respond(polls().at(-1), event(n));
    await wait(100);
  }
  expect(vi.getTimerCount()).toBe(before);
});

test("after empty polls the client polls again, and its status stays open", async () => {
  const { sse } = await start();
  const seen = new Set<string>();
  const first = off;
  const stop = sse.subscribe(() => seen.add(sse.getSnapshot().connectionStatus));
  off = () => {
    first();
    stop();
  };
  await wait(1000);
  for (let i = 0; i < 10; i++) {
    const poll = polls()[i];
    await wait(15_000);
    await respond(poll);
    await wait(260);
  }
  expect(polls()).toHaveLength(11);
  expect([...seen]).toEqual(["open"]);
  expect(errors).toEqual([]);
});

test("the client does not poll if only the server is slow", async () => {
  const { sse, got } = await start();
  await wait(5000);
  expect(server.calls).toHaveLength(2);
  await streams()[0]?.send(connected("c-1"), event(2));
  expect(polls()[0]?.aborted).toBe(true);
  await wait(60);
  expect(sse.getSnapshot().transport).toBe("stream");
  expect(got).toEqual([2]);
  expect(server.calls).toHaveLength(2);
});

test("the client does not poll if the stream's response comes shortly after the poll's", async () => {
  const { sse, got } = await start();
  await wait(3000);
  await respond(polls()[0], event(2));
  await wait(200);
  await streams()[0]?.send(connected("c-1"), event(2));
  await wait(1000);
  expect(sse.getSnapshot().transport).toBe("stream");
  expect(got).toEqual([2]);
});

test("the client does not test a network again that let a stream through, but tests a new one", async () => {
  const page = Object.assign(new EventTarget(), { visibilityState: "visible", baseURI: URL_ });
  vi.stubGlobal("document", page);
  vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
  vi.stubGlobal("removeEventListener", page.removeEventListener.bind(page));
  await start();
  await server.last.send(connected("c-1"));
  await server.last.cut();
  await wait(10_000);
  expect(streams()).toHaveLength(2);
  expect(polls()).toHaveLength(0);
  page.dispatchEvent(new Event("online"));
  await wait(1000);
  expect(polls()).toHaveLength(1);
});

test("a silent attempt makes the network unknown again", async () => {
  await start();
  await server.last.send(connected("c-1"));
  await server.last.cut();
  await wait(2000 + 37_500 + 4000 + 1000);
  expect(polls()).toHaveLength(1);
});

test("while the client polls, it tries to stream with growing waits", async () => {
  const { sse, got } = await start();
  await wait(1000);
  const tried: number[] = [];
  const began = Date.now();
  for (let n = 2; n < 400; n++) {
    const before = streams().length;
    await wait(15_000);
    await respond(polls().at(-1), n % 2 ? event(n) : "");
    await wait(260);
    if (streams().length > before) tried.push(Math.round((Date.now() - began) / 60_000));
  }
  expect(tried).toEqual([5, 16, 36, 76]);
  for (const before = streams().length; streams().length === before; ) {
    await wait(15_000);
    await respond(polls().at(-1));
    await wait(260);
  }
  const stream = streams().at(-1);
  const last = got.length;
  await stream?.send(connected("c").replace("e-1", String(from(stream))), event(500));
  expect(sse.getSnapshot()).toMatchObject({ transport: "stream", connectionStatus: "open" });
  expect(polls().at(-1)?.aborted).toBe(true);
  expect(got.slice(last)).toEqual([500]);
});

test("polls are shorter if connections were cut twice at the same age", async () => {
  const { sse, got } = await start();
  for (let i = 0; i < 2; i++) {
    await server.last.send(connected("c-1").replace("e-1", `e-${i}`));
    await wait(15_000);
    await server.last.send(":\n");
    await wait(15_000);
    expect(sse.getSnapshot().transport).toBe("stream");
    await server.last.cut();
    await wait(2000);
  }
  expect(isPoll(server.last)).toBe(true);
  await respond(server.last, event(2));
  expect(got).toEqual([2]);
  expect(sse.getSnapshot().transport).toBe("poll");
});

test("cuts at different ages do not shorten polls", async () => {
  await start();
  for (const age of [30_000, 50_000, 34_000, 20_000]) {
    await server.last.send(connected("c-1", { heartbeat: 0 }));
    await wait(age);
    await server.last.cut();
    await wait(4000);
  }
  expect(polls()).toHaveLength(0);
});

test("a server that ends polls at once with no events gets fewer and fewer requests", async () => {
  await start();
  await wait(1000);
  await respond(polls()[0], event(2));
  for (let i = 0; i < 300; i++) {
    for (let j = 0; j < 10; j++) {
      if (!server.last.aborted) await server.last.end().catch(() => {});
      await wait(100);
    }
  }
  expect(polls().length).toBeLessThan(40);
  expect(errors[0]).toMatchObject({ type: "network" });
});

test("the client polls if fetch has no streams, as in React Native", async () => {
  const { sse, got } = await start({
    // It resolves when the whole response has arrived.
    fetch: async (input, init) => {
      const response = await server.fetch(input, init);
      const text = await response.text();
      const { status, headers } = response;
      return { status, headers, body: null, text: async () => text } as Response;
    },
  });
  await wait(1000);
  await respond(polls()[0], event(2));
  await wait(260);
  await respond(polls()[1], event(3));
  expect(got).toEqual([2, 3]);
  expect(sse.getSnapshot().transport).toBe("poll");
});

test("a refused poll does not affect the stream beside it", async () => {
  for (const code of [400, 404, 204, 503]) {
    server.responses.length = 0;
    const before = server.calls.length;
    const { sse } = await start();
    const stream = server.last;
    server.responses.push(status(code));
    await wait(1000);
    expect(server.calls).toHaveLength(before + 2);
    expect(sse.getSnapshot().connectionStatus).toBe("connecting");
    await stream.send(connected("c-1"));
    expect(sse.getSnapshot().connectionStatus).toBe("open");
    off();
    await settle();
  }
  expect(errors).toEqual([]);
});

test("a poll handles control events like a stream", async () => {
  const onGap = vi.fn();
  const { sse, got } = await start({ onGap });
  await wait(1000);
  await polls()[0]?.send(
    'event: sse.connected\ndata: {"connectionId":"c","heartbeat":15000}\n\n',
    'event: sse.gap\ndata: {"reason":"evicted"}\nid: e-50\n\n',
    event(51),
  );
  await polls()[0]?.end();
  await wait(260);
  expect(onGap).toHaveBeenCalledExactlyOnceWith({ reason: "evicted", id: "e-50" });
  expect(got).toEqual([51]);
  await server.last.send('event: sse.closing\ndata: {"reason":"shutdown","retryMs":4000}\n\n');
  expect(sse.getSnapshot()).toMatchObject({
    connectionStatus: "reconnecting",
    error: { type: "terminated", reason: "shutdown" },
  });
  await wait(4000);
  expect(isPoll(server.last)).toBe(true);
  expect(from(server.last)).toBe("e-51");
});

test("close() ends the stream, the poll and their timers", async () => {
  const { sse } = await start();
  await wait(1000);
  sse.close();
  await settle();
  expect(server.calls.every((call) => call.aborted)).toBe(true);
  await wait(120_000);
  expect(server.calls).toHaveLength(2);
});

for (const what of ["setTopics", "reconnect"] as const) {
  for (const answer of [true, false]) {
    test(`shouldReconnect may call ${what} itself, and return ${answer}`, async () => {
      const { sse } = await start({
        shouldReconnect: () => {
          if (what === "reconnect") sse.reconnect();
          else sse.setTopics(["a"]);
          return answer;
        },
      });
      await server.last.send(connected("c-1"));
      await server.last.cut();
      await server.last.send(connected("c-2"));
      await wait(30_000);
      expect(server.calls).toHaveLength(2);
      expect(sse.getSnapshot().connectionStatus).toBe("open");
    });
  }
}

test("polls go on if the clock is set back during one", async () => {
  const { got } = await start();
  await wait(1000);
  await respond(polls()[0], event(2));
  await wait(260);
  vi.setSystemTime(Date.now() - 3600_000);
  await respond(polls()[1], event(3));
  await wait(100);
  expect(polls()).toHaveLength(3);
  await respond(polls()[2], event(4));
  expect(got).toEqual([2, 3, 4]);
});

test("events before one that is too large are delivered, also if all come in one piece", async () => {
  const { got } = await start();
  await wait(1000);
  await respond(polls()[0], event(2));
  await wait(260);
  const large = `data: ${"x".repeat(2 ** 24 + 1)}\n`;
  await polls()[1]?.send(connected("c").replace("e-1", "e-2") + event(3) + large);
  expect(errors.map(({ type }) => type)).toEqual(["network"]);
  expect(got).toEqual([2, 3]);
});
