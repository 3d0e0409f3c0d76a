import { expect, test, vi } from "vitest";
import { type Call, connected, settle, status } from "./fake-server.js";
import {
  type Any,
  browser,
  event,
  openTab,
  ownStream,
  server,
  type Tab,
  URL_,
} from "./tabs-setup.js";

test("when the leader closes, the next one resumes where it was", async () => {
  const [a, b, c] = [await openTab(), await openTab(), await openTab()];
  await server.last.send(connected("c-1"), event(2));
  const first = server.last;
  a.close();
  await settle();
  expect(first.aborted).toBe(true);
  expect(server.calls).toHaveLength(2);
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
  expect(server.last.url.searchParams.get("previous")).toBe("c-1");
  await server.last.send(connected("c-2", {}).replace("e-1", "e-2"), event(3));
  expect([a.got, b.got, c.got]).toEqual([[2], [2, 3], [2, 3]]);
  expect(c.sse.getSnapshot().connectionId).toBe("c-2");
});

test("a tab that has received nothing yet takes over from the leader's position", async () => {
  const a = await openTab();
  await server.last.send(connected("c-1"), event(2));
  const b = await openTab();
  expect(b.sse.getSnapshot().lastEventId).toBe("e-2");
  a.close();
  await settle();
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-2");
});

test("a new leader ignores late messages of the previous leader", async () => {
  const leader = await openTab();
  await server.last.send(connected("c-1"), event(2));
  const late = new BroadcastChannel(browser.names()[0] as string);
  late.postMessage({ events: [{ id: "e-3", type: "message", data: "3" }], position: "e-3" });
  await settle();
  expect(leader.got).toEqual([2]);
  await server.last.send(event(3));
  expect(leader.got).toEqual([2, 3]);
});

test("followers get the position of an idle stream", async () => {
  const a = await openTab();
  await openTab();
  await server.last.send(connected("c-1"), "id: e-90\n\n");
  a.close();
  await settle();
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-90");
});

test("a tab that joins a failed or closed leader makes it try once", async () => {
  for (const code of [401, 204]) {
    server.responses.push(status(code));
    const leader = await openTab();
    const before = server.calls.length;
    const next = await openTab();
    expect(server.calls).toHaveLength(before + 1);
    await server.last.send(connected("c-1"), event(2));
    expect(next.sse.getSnapshot().connectionStatus).toBe("open");
    expect(leader.got).toEqual([2]);
    next.close();
    leader.close();
    await settle();
  }
});

test("a follower opens its own stream if its leader is silent", async () => {
  await openTab();
  const follower = await openTab();
  await server.last.send(connected("c-1", { heartbeat: 4000 }), event(2));
  const shared = server.last;
  // Heartbeats without a new position show that the leader is alive.
  for (let i = 0; i < 5; i++) {
    await vi.advanceTimersByTimeAsync(4000);
    await shared.send(":\n");
  }
  expect(server.calls).toHaveLength(1);
  browser.block();
  await vi.advanceTimersByTimeAsync(12_900);
  expect(ownStream()).toBe(shared);
  await vi.advanceTimersByTimeAsync(200);
  const own = ownStream();
  expect(own?.headers.get("Last-Event-ID")).toBe("e-2");
  await own?.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(follower.got).toEqual([2, 3]);
  expect(follower.sse.getSnapshot().connectionStatus).toBe("open");
  // The leader's page wakes up, and the follower already has its events.
  browser.block(false);
  await vi.advanceTimersByTimeAsync(2000);
  const leaders = server.calls.findLast(({ url }) => url.searchParams.has("previous")) as Call;
  await leaders.send(connected("c-3").replace("e-1", "e-2"), event(3));
  expect(own?.aborted).toBe(true);
  await leaders.send(event(4));
  await leaders.send(event(5));
  expect(follower.got).toEqual([2, 3, 4, 5]);
  expect(follower.sse.getSnapshot()).toMatchObject({
    connectionStatus: "open",
    connectionId: "c-3",
  });
});

test("while the leader's page is busy, followers wait for its answer and share its next connection", async () => {
  const tabs: Tab[] = [];
  for (let i = 0; i < 8; i++) tabs.push(await openTab());
  await server.last.send(connected("c-1", { heartbeat: 4000 }), event(2));
  const first = server.last;
  // The connection is dead. What the leader says of it comes late.
  await vi.advanceTimersByTimeAsync(9900);
  browser.block();
  await vi.advanceTimersByTimeAsync(3000);
  browser.block(false);
  await vi.advanceTimersByTimeAsync(2000);
  await server.last.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(ownStream()).toBe(first);
  for (const { got } of tabs) expect(got).toEqual([2, 3]);
});

test("a tab that opens wakes a leader whose connection died while the device slept", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2));
  vi.setSystemTime(Date.now() + 60_000);
  const late = await openTab();
  expect(server.calls).toHaveLength(2);
  await server.last.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(late.got).toEqual([3]);
});

test("reconnect() of a follower reconnects the leader", async () => {
  await openTab();
  const follower = await openTab();
  await server.last.send(connected("c-1"));
  follower.sse.reconnect();
  await settle();
  expect(server.calls).toHaveLength(2);
});

test("a tab that opens while the leader's page is blocked has its own stream, until the leader answers", async () => {
  await openTab();
  await server.last.send(connected("c-1"), event(2));
  const shared = server.last;
  browser.block();
  const late = await openTab();
  expect(server.calls).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(3500);
  expect(server.calls).toHaveLength(2);
  const own = server.last;
  await own.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(late.got).toEqual([3]);
  expect(late.sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-2" });
  browser.block(false);
  await shared.send(event(3));
  await shared.send(event(4));
  expect(own.aborted).toBe(true);
  await shared.send(event(5));
  expect(late.got).toEqual([3, 4, 5]);
});

test("a component that joins while the leader is silent has a stream, too", async () => {
  await openTab();
  const follower = await openTab();
  await server.last.send(connected("c-1", { heartbeat: 4000 }), event(2));
  browser.block();
  await vi.advanceTimersByTimeAsync(13_100);
  await ownStream()?.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(follower.got).toEqual([2, 3]);
  const before = server.calls.length;
  const got: unknown[] = [];
  const second = follower.createSSE<Any>(URL_, follower.options);
  second.on("*", ({ data }) => got.push(data));
  await settle();
  expect(server.calls).toHaveLength(before + 1);
  await server.last.send(connected("c-3").replace("e-1", "e-3"), event(4));
  expect(got).toEqual([4]);
});

test("a follower opens its own stream if its leader is silent while it reconnects", async () => {
  await openTab();
  const follower = await openTab();
  await server.last.send(connected("c-1"), event(2));
  await server.last.cut();
  expect(follower.sse.getSnapshot().connectionStatus).toBe("reconnecting");
  browser.block();
  await vi.advanceTimersByTimeAsync(45_000);
  const own = ownStream();
  expect(own?.headers.get("Last-Event-ID")).toBe("e-2");
  await own?.send(connected("c-2").replace("e-1", "e-2"), event(3));
  expect(follower.got).toEqual([2, 3]);
});

for (const how of ["returns", "throws"]) {
  test(`a tab that leaves while it becomes the leader keeps nothing: headers ${how}`, async () => {
    const first = await openTab();
    let leads = false;
    const leaver: Tab = await openTab({
      headers() {
        if (!leads) return {};
        leads = false;
        // With other topics the tab leaves the shared stream at once.
        leaver.sse.setTopics(["news"]);
        if (how === "throws") throw new Error("no token");
        return {};
      },
    });
    const third = await openTab();
    await server.last.send(connected("c-1"), event(2));
    leads = true;
    first.close();
    await settle();
    const shared = server.calls.filter(
      (call) => !call.aborted && !call.url.search.includes("topic"),
    );
    expect(shared).toHaveLength(1);
    await shared[0]?.send(connected("c-2").replace("e-1", "e-2"), event(3));
    expect(third.got).toEqual([2, 3]);
  });
}

test("a follower waits for a leader that waits, or that needs no heartbeats", async () => {
  await openTab();
  await openTab();
  await server.last.send(connected("c-1", { heartbeat: 0 }), event(2));
  await vi.advanceTimersByTimeAsync(3600_000);
  expect(server.calls).toHaveLength(1);
  await server.last.send('event: sse.closing\ndata: {"reason":"shutdown","retryMs":300000}\n\n');
  await vi.advanceTimersByTimeAsync(299_000);
  expect(server.calls).toHaveLength(1);
});

test("a follower that becomes visible wakes the leader, whose page is hidden", async () => {
  const openPage = async () => {
    const page = new EventTarget();
    vi.stubGlobal("document", { visibilityState: "visible", baseURI: URL_ });
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    await openTab();
    return page;
  };
  await openPage();
  const page = await openPage();
  const show = async () => {
    page.dispatchEvent(new Event("visibilitychange"));
    await settle();
  };
  await server.last.send(connected("c-1"), event(2));
  // While the device sleeps, the clock continues and the timers stop.
  vi.setSystemTime(Date.now() + 30_000);
  await show();
  expect(server.calls).toHaveLength(1);
  vi.setSystemTime(Date.now() + 30_000);
  await show();
  expect(server.calls).toHaveLength(2);
  expect(server.last.headers.get("Last-Event-ID") ?? `${server.last.url}`).toContain("e-2");
  await server.last.cut();
  expect(server.calls).toHaveLength(2);
  await show();
  expect(server.calls).toHaveLength(3);
});

test("messages of another release that are not known change nothing", async () => {
  const [leader, follower] = [await openTab(), await openTab()];
  await server.last.send(connected("c-1"), event(2));
  const other = new BroadcastChannel(browser.names()[0] as string);
  const post = async () => {
    for (const message of [
      {},
      { ask: "more" },
      { ask: "close" },
      { ask: 1 },
      { later: [1] },
      "text",
    ]) {
      other.postMessage(message);
    }
    await settle();
  };
  await post();
  await server.last.send(event(3));
  expect([leader.got, follower.got]).toEqual([
    [2, 3],
    [2, 3],
  ]);
  expect(follower.sse.getSnapshot()).toMatchObject({
    connectionStatus: "open",
    lastEventId: "e-3",
  });
  server.responses.push(status(403));
  leader.sse.reconnect();
  await settle();
  const before = server.calls.length;
  await post();
  expect(server.calls).toHaveLength(before);
  expect(follower.sse.getSnapshot().connectionStatus).toBe("failed");
});
