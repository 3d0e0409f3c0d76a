import { describe, expect, test, vi } from "vitest";
import { delayOf, fullJitter } from "../src/backoff.js";
import { server, start, statusOf, wait } from "./client-setup.js";
import { connected, status } from "./fake-server.js";

describe("waits", () => {
  test("waits double up to maxMs, and start at minMs again after resetAfterMs", async () => {
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
      expect(sse.getSnapshot().attempt).toBe(i + 1);
      all.push(Number(sse.getSnapshot().retryAt) - Date.now());
      await wait(all.at(-1) as number);
    }
    expect(all).toEqual([1000, 2000, 4000, 8000]);
  });

  test("waits are random between 100 ms and their bound", async () => {
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

  test("a retry field sets the first bound if it has only digits", async () => {
    const sse = await start();
    await server.last.send("retry: 3000\nretry: 1e3\nretry: -1\nretry:\n\n");
    await server.last.end();
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(3000);
  });

  for (const retry of ["0", "99999999999999999999"]) {
    test(`retry: ${retry} causes no busy loop and no endless wait`, async () => {
      const sse = await start();
      await server.last.send(`retry: ${retry}\n\n`);
      await server.last.end();
      for (let i = 0; i < 1100; i++) {
        const delay = Number(sse.getSnapshot().retryAt) - Date.now();
        expect(delay).toBeGreaterThanOrEqual(100);
        expect(delay).toBeLessThanOrEqual(30_000);
        if (i > 12) expect(delay).toBe(30_000);
        server.responses.push(status(503));
        await wait(delay);
      }
    });
  }
  for (const ms of [0, -5, NaN, Infinity, "soon" as unknown as number]) {
    test(`minMs, maxMs and retryMs of ${ms} give a wait that a timer can have`, async () => {
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

  test("Retry-After in seconds is the minimum of the wait", async () => {
    server.responses.push(status(503, { "Retry-After": "7" }));
    const sse = await start();
    expect(sse.getSnapshot().error).toMatchObject({ retryAfterMs: 7000 });
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(7500);
  });

  test("Retry-After may be a date, and an invalid one is ignored", async () => {
    vi.setSystemTime(new Date("2026-01-01T00:00:00Z"));
    server.responses.push(status(429, { "Retry-After": "Thu, 01 Jan 2026 00:00:20 GMT" }));
    server.responses.push(status(503, { "Retry-After": "soon" }));
    const sse = await start();
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(20_500);
    await wait(20_500);
    expect(Number(sse.getSnapshot().retryAt) - Date.now()).toBe(1000);
  });
});

describe("watchdog", () => {
  test("ends a stream that is silent for two and a half of the announced heartbeats", async () => {
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
  test("any byte resets it", async () => {
    const sse = await start();
    await server.last.send(connected("c-1", { heartbeat: 4000 }));
    for (let i = 0; i < 10; i++) {
      await wait(9000);
      await server.last.send(i % 2 ? ":\n" : "d");
    }
    expect(statusOf(sse)).toBe("open");
    expect(server.calls).toHaveLength(1);
  });
  test("ends an attempt without a response, too", async () => {
    server.responses.push(() => new Promise(() => {}));
    const sse = await start({ idleTimeoutMs: 3000 });
    await wait(3000);
    expect(statusOf(sse)).toBe("reconnecting");
    const before = server.calls.length;
    await wait(500);
    expect(server.calls).toHaveLength(before + 1);
  });
  test("an explicit idleTimeoutMs overrides the announced heartbeat, and Infinity disables it", async () => {
    const sse = await start({ idleTimeoutMs: Infinity });
    await server.last.send(connected("c-1"));
    await wait(100 * 24 * 3600_000);
    expect(statusOf(sse)).toBe("open");
  });
  test("setting the clock back delays it by at most one period", async () => {
    const sse = await start({ idleTimeoutMs: 500 });
    await server.last.send(connected("c-1"));
    vi.setSystemTime(Date.now() - 3600_000);
    await wait(1000);
    expect(sse.getSnapshot().error).toMatchObject({ type: "idle-timeout" });
  });
  test("a heartbeat of 0 disables it", async () => {
    const sse = await start();
    await server.last.send(connected("c-1", { heartbeat: 0 }));
    await wait(3600_000);
    expect(statusOf(sse)).toBe("open");
  });
});
