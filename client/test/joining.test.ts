// Clients join, leave, come back and lead, on servers that restart, forget and are restored, and on pages that
// sleep, go offline and go to the back/forward cache. Each client gets every event after its position once and in
// order, or a gap, no matter which clients share its stream.
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { SSEOptions } from "../src/index.js";
import { fakeBrowser } from "./fake-browser.js";
import { settle } from "./fake-server.js";
import { historyServer, type Rec } from "./history-server.js";
import { pick, randomFrom } from "./random.js";

type Any = Record<string, unknown>;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

const steps = { calm: 40, disasters: 40 };

async function run(
  seed: number,
  share: "page" | "tabs",
  kind: keyof typeof steps,
  pages: typeof import("../src/index.js")[],
) {
  const random = randomFrom(seed);
  vi.spyOn(Math, "random").mockImplementation(random);
  const browser = fakeBrowser();
  const server = historyServer(random);
  const listeners = new Map<(event: object) => void, string>();
  vi.stubGlobal("document", { visibilityState: "visible", baseURI: "https://example.com/" });
  vi.stubGlobal("addEventListener", (type: string, listener: () => void) =>
    listeners.set(listener, `${listeners.get(listener) ?? ""} ${type}`),
  );
  vi.stubGlobal("removeEventListener", (_: string, listener: () => void) =>
    listeners.delete(listener),
  );
  const fire = (type: string) => {
    for (const [listener, types] of [...listeners])
      if (types.includes(type) && listeners.has(listener)) listener({ type, persisted: true });
  };
  const url = `https://example.com/${share}/${kind}/${seed}`;
  let gaps = 0;
  let wrong = "";

  function open(lastEventId: string) {
    const { createSSE } = pick(random, pages);
    // The last event of this client; undefined if any event may follow.
    let last: Rec | undefined = server.records.get(lastEventId);
    const sse = createSSE<Any>(url, {
      share,
      identity: "a",
      fetch: server.fetch,
      lastEventId,
      onGap() {
        last = undefined;
        gaps++;
      },
    } as SSEOptions);
    const on = () =>
      sse.on("*", ({ id }) => {
        const rec = server.records.get(id) as Rec;
        if (last && !last.next.has(rec)) wrong ||= `${id} after ${last.id}`;
        last = rec;
        if (random() < 0.02) {
          sse.close();
          queueMicrotask(() => sse.reconnect());
        }
      });
    let off = on();
    return {
      sse,
      step() {
        const dice = random();
        if (dice < 0.3) {
          off();
          if (dice < 0.1) off = on();
        } else if (dice < 0.6) {
          off();
          off = on();
        } else if (dice < 0.8) sse.reconnect();
        else sse.close();
      },
      wake() {
        off();
        off = on();
        sse.reconnect();
      },
      stop: () => off(),
    };
  }

  const clients = [open("")];
  async function happenToPage() {
    const dice = random();
    if (dice < 0.2) fire("online");
    else if (dice < 0.4) fire("visibilitychange");
    else if (dice < 0.6) {
      fire("pagehide");
      if (random() < 0.5) server.publish();
      if (random() < 0.5) await vi.advanceTimersByTimeAsync(random() * 50_000);
      if (random() < 0.3) pick(random, clients).step();
      if (random() < 0.3) fire("visibilitychange");
      fire("pageshow");
      // The clock may be set, or go on while the device sleeps.
    } else vi.setSystemTime(Date.now() + (random() < 0.5 ? 1 : -1) * random() * 100_000);
  }
  const positions = () => [...server.records.keys()];
  for (let step = 0; step < steps[kind]; step++) {
    const dice = random();
    if (dice < 0.3) for (let n = 0; n < random() * 4; n++) server.publish();
    else if (dice < 0.45) {
      if (clients.length < 6) {
        const from =
          kind === "calm" ? [server.head, server.head, "", "earliest"] : ["", "earliest"];
        const known = positions();
        if (kind === "disasters") from.push(pick(random, known), pick(random, known));
        clients.push(open(pick(random, from)));
      }
    } else if (dice < 0.6) pick(random, clients).step();
    else if (dice < 0.65) await server.cut();
    else if (dice < 0.7) await happenToPage();
    else if (dice < 0.8 && kind === "disasters") {
      const disaster = random();
      if (disaster < 0.3) await server.restart();
      else if (disaster < 0.6) await server.restore();
      else server.evict();
    } else if (dice < 0.85 && share === "tabs") browser.block(random() < 0.5);
    else await server.deliver();
    await vi.advanceTimersByTimeAsync(random() < 0.5 ? 0 : random() * 3000);
    if (wrong) throw new Error(`step ${step}: ${wrong}`);
  }

  browser.block(false);
  for (const client of clients) client.wake();
  for (let i = 0; i < 30; i++) {
    await server.deliver(true);
    await vi.advanceTimersByTimeAsync(3000);
    if (i === 15) server.publish();
  }
  if (wrong) throw new Error(wrong);
  for (const { sse } of clients) {
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "open", lastEventId: server.head });
  }
  // Clients that were on separate connections share one again.
  const used = server.open;
  if (kind === "calm") expect(gaps).toBe(0);
  for (const { stop } of clients) stop();
  await settle();
  await vi.advanceTimersByTimeAsync(100);
  expect(server.open).toBe(0);
  expect(listeners.size).toBe(0);
  return used;
}

for (const share of ["page", "tabs"] as const) {
  for (const kind of ["calm", "disasters"] as const) {
    test(`share: "${share}", ${kind}: every event after a position once, or a gap`, async () => {
      const pages = [];
      for (let i = 0; i < (share === "tabs" ? 4 : 1); i++) {
        vi.resetModules();
        pages.push(await import("../src/index.js"));
      }
      for (let seed = 1; seed <= 300; seed++) {
        const used = await run(seed, share, kind, pages).catch((error) => {
          throw new Error(`seed ${seed}: ${error.message}`);
        });
        expect(used, `seed ${seed}: connections in the end`).toBe(1);
      }
    }, 300_000);
  }
}
