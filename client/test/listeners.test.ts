// The snapshot always has the events delivered so far, no matter what a listener does.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createSSE } from "../src/index.js";
import { connected, fakeServer, settle } from "./fake-server.js";
import { pick, randomFrom } from "./random.js";

type Any = Record<string, unknown>;
const URL_ = "https://example.com/events";

let server: ReturnType<typeof fakeServer>;
const thrown: unknown[] = [];
const caught = (error: unknown) => thrown.push(error);
beforeEach(() => {
  vi.useFakeTimers();
  server = fakeServer();
  thrown.length = 0;
  process.on("uncaughtException", caught);
});
afterEach(async () => {
  await settle();
  process.off("uncaughtException", caught);
  vi.useRealTimers();
});

test("a listener finds the message it is called with in the snapshot, and later messages are not lost", async () => {
  const sse = createSSE<Any>(URL_, { fetch: server.fetch });
  const seen: [number, string][] = [];
  const off = sse.on("b", () => {
    const { messages, lastEventId } = sse.getSnapshot();
    seen.push([messages.length, lastEventId]);
  });
  await settle();
  await server.last.send(connected("c-1"));
  await server.last.send([2, 3, 4].map((n) => `event: b\ndata: ${n}\nid: e-${n}\n\n`).join(""));
  expect(seen).toEqual([
    [1, "e-2"],
    [2, "e-3"],
    [3, "e-4"],
  ]);
  expect(sse.getSnapshot()).toMatchObject({ lastEventId: "e-4" });
  expect(sse.getSnapshot().messages).toHaveLength(3);
  off();
});

test("a listener of all types gets an event of the type * once", async () => {
  const sse = createSSE<Any>(URL_, { fetch: server.fetch });
  const seen: unknown[] = [];
  const off = sse.on("*", ({ data }) => seen.push(data));
  await settle();
  await server.last.send(connected("c-1"), "event: *\ndata: 2\nid: e-2\n\n");
  expect(seen).toEqual([2]);
  off();
});

test("malformed events are in the snapshot that onError reads", async () => {
  const counts: number[] = [];
  const sse = createSSE<Any>(URL_, {
    fetch: server.fetch,
    onError: () => counts.push(sse.getSnapshot().malformed),
  });
  const off = sse.subscribe(() => {});
  await settle();
  await server.last.send("data: {\n\ndata: [\n\n");
  expect(counts).toEqual([1, 2]);
  off();
});

test("onError is called even if onGap throws", async () => {
  const onError = vi.fn();
  const sse = createSSE<Any>(URL_, {
    fetch: server.fetch,
    onError,
    onGap: () => {
      throw new Error("mine");
    },
  });
  const off = sse.subscribe(() => {});
  await settle();
  await server.last.send('event: sse.gap\ndata: {"reason":"epoch"}\nid: f-1\n\ndata: {\n\n');
  expect(onError).toHaveBeenCalledTimes(1);
  expect(thrown).toHaveLength(1);
  off();
});

/** One client whose listeners act at random, on a server that sends each event after a position once. */
async function run(seed: number) {
  const random = randomFrom(seed);
  const want = fakeServer();
  server = want;
  const sse = createSSE<Any>(`${URL_}?seed=${seed}`, { fetch: want.fetch, maxMessages: 1e9 });
  // The model: the events of the first listener, which is never removed.
  let taken: number[] = [];
  let malformed = 0;
  let position = "";
  const extra: (() => void)[] = [];
  const check = () => {
    const snapshot = sse.getSnapshot();
    expect(snapshot.messages.map(({ data }) => data)).toEqual(taken);
    expect(snapshot.malformed).toBe(malformed);
    if (position) expect(snapshot.lastEventId).toBe(position);
  };
  const actions: (() => void)[] = [
    check,
    check,
    () => void extra.push(sse.on("*", check)),
    () => void extra.push(sse.subscribe(check)),
    () => extra.shift()?.(),
    () => {
      throw new Error("mine");
    },
    () => {
      sse.clear();
      taken = [];
      malformed = 0;
    },
    () => sse.reconnect(),
    () => {
      sse.close();
      sse.reconnect();
    },
    () => {
      sse.close();
      queueMicrotask(() => sse.reconnect());
    },
  ];
  const all: number[] = [];
  const off = sse.on("*", ({ data, id }) => {
    taken.push(data as number);
    all.push(data as number);
    position = id;
    if (random() < 0.4) pick(random, actions)();
  });
  extra.push(sse.on("*", check));
  await settle();

  const log: string[] = [];
  const sent = new Map<object, number>();
  for (let step = 0; step < 12; step++) {
    for (let i = 0; i < random() * 5; i++) log.push(`data: ${log.length}\nid: e-${log.length}\n\n`);
    // Every connection gets the events after its position, as from the real server.
    for (const call of [...want.calls]) {
      if (call.aborted) continue;
      const from = call.headers.get("Last-Event-ID");
      const at = sent.get(call) ?? (from === null ? 0 : Number(from.slice(2)) + 1);
      sent.set(call, log.length);
      const hello = `event: sse.connected\ndata: {"connectionId":"c","user":"a","heartbeat":0}\nid: ${from ?? "e--1"}\n\n`;
      const chunk = (sent.has(call) && at === log.length ? "" : hello) + log.slice(at).join("");
      if (chunk) await call.send(chunk).catch(() => {});
    }
    await settle();
    check();
  }
  await vi.advanceTimersByTimeAsync(60_000);
  off();
  for (const stop of extra) stop();
  await settle();
  return all;
}

test("the snapshot has the events delivered so far, for random actions of listeners", async () => {
  for (let seed = 1; seed <= 200; seed++) {
    const all = await run(seed).catch((error) => {
      throw new Error(`seed ${seed}: ${error.message}`);
    });
    expect(all, `seed ${seed}: once and in order`).toEqual(
      Array.from(all, (_, i) => (all[0] ?? 0) + i),
    );
    const unexpected = thrown.filter((error) => (error as Error).message !== "mine");
    expect(unexpected, `seed ${seed}`).toEqual([]);
  }
});
