import assert from "node:assert/strict";
import { test } from "node:test";
import { got, openApp, opened, received, until } from "../harness.mjs";
import { caddy, context, signIn } from "../setup.mjs";

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const sendAll = async (user, ns) => {
  for (const n of ns) await caddy.send({ user, type: "n", data: n });
};

test("StrictMode and three hooks: one connection", async () => {
  await signIn("alice");
  const page = await openApp(context, `?options=${encodeURIComponent('{"hooks":3}')}`);
  await sendAll("alice", [1, 2]);
  await received(page, 2);
  assert.equal((await caddy.connections()).length, 1);
  const texts = await page.locator("p").allTextContents();
  assert.deepEqual(texts, Array(3).fill("open: 1 2"));
});

test("a disconnected client reconnects and gets each event once", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await sendAll("alice", numbers(1, 10));
  await received(page, 10);
  const id = await page.evaluate(() => window.sse.connectionId);
  await caddy.disconnect(`/${id}`);
  await sendAll("alice", numbers(11, 20));
  assert.deepEqual(await received(page, 20), numbers(1, 20));
  assert.notEqual(await page.evaluate(() => window.sse.connectionId), id);
});

test("a client reconnects after the server is killed and restarted, and gets a gap", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await sendAll("alice", [1]);
  await received(page, 1);
  await caddy.kill();
  await page.waitForFunction(() => window.sse.connectionStatus === "reconnecting");
  await caddy.start();
  await opened(page);
  await page.waitForFunction(() => window.gaps.length > 0);
  assert.deepEqual(await page.evaluate(() => window.gaps), ["epoch"]);
  await sendAll("alice", [2]);
  assert.deepEqual(await received(page, 2), [1, 2]);
});

test("a client reconnects after an orderly shutdown of the server", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await caddy.restart("SIGTERM");
  await page.waitForFunction(() => window.gaps.length > 0);
  await sendAll("alice", [1]);
  assert.deepEqual(await received(page, 1), [1]);
});

test("a client detects a stalled server, and loses nothing", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await sendAll("alice", [1]);
  await received(page, 1);
  caddy.freeze();
  await page.waitForFunction(() => window.sse.error?.type === "idle-timeout");
  caddy.thaw();
  await sendAll("alice", [2, 3]);
  assert.deepEqual(await received(page, 3), [1, 2, 3]);
});

test("a client resumes after offline and online", async () => {
  await signIn("alice");
  const page = await openApp(context);
  // The emulation stops only new requests, so the server ends the open one.
  await context.setOffline(true);
  await caddy.disconnect(`/${await page.evaluate(() => window.sse.connectionId)}`);
  await page.waitForFunction(() => window.sse.error?.type === "network");
  await sendAll("alice", [1, 2]);
  await context.setOffline(false);
  assert.deepEqual(await received(page, 2), [1, 2]);
});

test("a reload starts at the head, or at the position of the option", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await sendAll("alice", [1]);
  await received(page, 1);
  const position = await page.evaluate(() => window.sse.lastEventId);
  await page.reload();
  await opened(page);
  await caddy.settled(1);
  await sendAll("alice", [2]);
  assert.deepEqual(await received(page, 1), [2]);
  const options = encodeURIComponent(JSON.stringify({ lastEventId: position }));
  await page.goto(`/app.html?options=${options}`);
  await opened(page);
  await sendAll("alice", [3]);
  assert.deepEqual(await received(page, 2), [2, 3]);
});

test("a tab in the background keeps its stream, and a frozen tab catches up", async () => {
  await signIn("alice");
  const page = await openApp(context);
  const front = await context.newPage();
  await front.bringToFront();
  await sendAll("alice", [1]);
  await received(page, 1);
  const devtools = await context.newCDPSession(page);
  await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
  await sendAll("alice", numbers(2, 50));
  await devtools.send("Page.setWebLifecycleState", { state: "active" });
  assert.deepEqual(await received(page, 50), numbers(1, 50));
});

test("a page from the back/forward cache gets the events of the meantime", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await page.evaluate(() => {
    addEventListener("pageshow", ({ persisted }) => {
      window.persisted = persisted;
    });
  });
  await sendAll("alice", [1]);
  await received(page, 1);
  await page.goto("about:blank");
  await caddy.settled(0);
  await sendAll("alice", [2, 3]);
  // A page from the cache has no load event.
  await page.goBack({ waitUntil: "commit" });
  assert.deepEqual(await received(page, 3), [1, 2, 3]);
  assert.equal(await page.evaluate(() => window.persisted), true);
});

test("a change of topics during publishes loses or repeats no event of a topic that stays", async () => {
  await signIn("alice");
  const page = await openApp(context, `?options=${encodeURIComponent('{"topics":["news"]}')}`);
  let n = 0;
  for (let i = 0; i < 12; i++) {
    const topics = i % 2 ? ["news"] : ["news", "user/alice/orders"];
    for (let j = 0; j < 5; j++) await caddy.send({ topic: "news", data: ++n });
    await page.evaluate((topics) => window.show({ topics }), topics);
    for (let j = 0; j < 5; j++) await caddy.send({ topic: "news", data: ++n });
  }
  assert.deepEqual(await received(page, n), numbers(1, n));
  assert.deepEqual(await page.evaluate(() => window.gaps), []);
  await caddy.settled(1);
  const [{ topics }] = await caddy.connections();
  assert.deepEqual(topics, ["news"]);
});

test("changes of topics by the app are reported in order", async () => {
  await signIn("alice");
  const page = await openApp(context, `?options=${encodeURIComponent('{"topics":["news"]}')}`);
  await caddy.send({ topic: "news", data: 1 });
  const { id } = await caddy.changeTopics("user=alice", {
    add: ["room/1", "news"],
    remove: ["room/2"],
  });
  await caddy.send({ topic: "room/1", data: 2 });
  await received(page, 2);
  await caddy.changeTopics("user=alice", { remove: ["news"] });
  await caddy.send({ topic: "news", data: 3 });
  await caddy.send({ topic: "room/1", data: 4 });
  assert.deepEqual(await received(page, 3), [1, 2, 4]);
  const [first, second] = await page.evaluate(() => window.topics);
  assert.deepEqual(first, { added: ["room/1", "news"], removed: ["room/2"], id });
  assert.deepEqual(second.removed, ["news"]);
  assert.deepEqual(await page.evaluate(() => window.gaps), []);
});

test("the state comes first, also for a later hook on the page", async () => {
  await signIn("alice");
  for (let n = 1; n <= 3; n++) {
    for (const slot of ["a", "b"]) await caddy.send({ user: "alice", slot, data: `${slot}${n}` });
  }
  const page = await openApp(context, `?options=${encodeURIComponent('{"state":true}')}`);
  assert.deepEqual(await received(page, 2), ["a3", "b3"]);
  await page.evaluate(() => window.show({ state: true, hooks: 2 }));
  const later = page.locator("p").nth(1);
  await later.getByText('open: "a3" "b3"', { exact: true }).waitFor();
  await caddy.send({ user: "alice", slot: "a", data: "a4" });
  await later.getByText('open: "a3" "b3" "a4"', { exact: true }).waitFor();
  assert.deepEqual(await received(page, 3), ["a3", "b3", "a4"]);
  await caddy.settled(1);
  assert.deepEqual(await page.evaluate(() => window.gaps), []);
});

test("the messages of the first user are dropped when another signs in", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await caddy.send({ user: "alice", data: "for alice" });
  await received(page, 1);
  await context.clearCookies();
  await context.addCookies([{ name: "user", value: "bob", url: caddy.origin }]);
  await page.evaluate(() => window.sse.reconnect());
  await page.waitForFunction(() => window.sse.user === "bob");
  await caddy.send({ user: "alice", data: "for alice again" });
  await caddy.send({ user: "bob", data: "for bob" });
  assert.deepEqual(await received(page, 2), ["for alice", "for bob"]);
  assert.equal(await page.textContent("p"), 'open: "for bob"');
});

test("a stream with other topics in the query resumes at its position", async () => {
  await signIn("alice");
  const page = await openApp(context);
  await caddy.send({ user: "alice", data: 1 });
  await received(page, 1);
  await page.evaluate(() => window.show({ url: "/events?topic=news" }));
  await until(async () => (await caddy.connections("?topic=news")).length === 1, "subscribed");
  await caddy.send({ topic: "news", data: 2 });
  assert.deepEqual(await received(page, 2), [1, 2]);
});

test("a burst of 10,000 events loses none and does not freeze the page", async () => {
  await signIn("alice");
  const page = await openApp(context, `?options=${encodeURIComponent('{"maxMessages":100}')}`);
  await page.evaluate(() => {
    window.worst = 0;
    let last = performance.now();
    // The delay of a queued task is the time in which the page did not respond.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      const now = performance.now();
      window.worst = Math.max(window.worst, now - last);
      last = now;
      setTimeout(() => port2.postMessage(null), 4);
    };
    port2.postMessage(null);
    window.renders = 0;
  });
  await caddy.burst(numbers(1, 10_000).map((n) => ({ type: "n", data: n })));
  const all = await received(page, 10_000);
  assert.deepEqual(all, numbers(1, 10_000));
  const { worst, renders } = await page.evaluate(() => ({
    worst: window.worst,
    renders: window.renders,
  }));
  assert.ok(worst < 1000, `the page did not respond for ${worst} ms, want less than 1000`);
  assert.ok(renders < 5000, `got ${renders} renders, want less than 5000`);
  console.log(`burst: ${renders} renders, longest task ${worst.toFixed(0)} ms`);
  assert.equal((await got(page)).length, 10_000);
});
