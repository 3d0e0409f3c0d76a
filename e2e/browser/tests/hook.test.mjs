import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { got, launch, openApp, opened, profile, received, startCaddy, until } from "../harness.mjs";

let caddy, browser, context;
before(async () => {
  [caddy, browser] = await Promise.all([startCaddy(), launch()]);
});
after(async () => {
  await browser?.close();
  await caddy?.stop();
});
afterEach(async () => {
  await context.close();
  await caddy.settled(0);
});
const as = async (user, options) => {
  context = await profile(browser, caddy, user, options);
};
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const sendAll = async (user, ns) => {
  for (const n of ns) await caddy.send({ user, type: "n", data: n });
};

test("StrictMode and three hooks: one connection", async () => {
  await as("alice");
  const page = await openApp(context, `?options=${encodeURIComponent('{"hooks":3}')}`);
  await sendAll("alice", [1, 2]);
  await received(page, 2);
  assert.equal((await caddy.connections()).length, 1);
  const texts = await page.locator("p").allTextContents();
  assert.deepEqual(texts, Array(3).fill("open: 1 2"));
});

test("a disconnected client comes back and has missed nothing, twice nothing", async () => {
  await as("alice");
  const page = await openApp(context);
  await sendAll("alice", numbers(1, 10));
  await received(page, 10);
  const id = await page.evaluate(() => window.sse.connectionId);
  await caddy.disconnect(`/${id}`);
  await sendAll("alice", numbers(11, 20));
  assert.deepEqual(await received(page, 20), numbers(1, 20));
  assert.notEqual(await page.evaluate(() => window.sse.connectionId), id);
});

test("the server is killed and restarted: back by itself, and told of the gap", async () => {
  await as("alice");
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

test("the server shuts down in order: back when it said", async () => {
  await as("alice");
  const page = await openApp(context);
  await caddy.restart("SIGTERM");
  await page.waitForFunction(() => window.gaps.length > 0);
  await sendAll("alice", [1]);
  assert.deepEqual(await received(page, 1), [1]);
});

test("a stalled server is noticed without a byte, and nothing is lost", async () => {
  await as("alice");
  const page = await openApp(context);
  await sendAll("alice", [1]);
  await received(page, 1);
  caddy.freeze();
  await page.waitForFunction(() => window.sse.error?.type === "idle-timeout");
  caddy.thaw();
  await sendAll("alice", [2, 3]);
  assert.deepEqual(await received(page, 3), [1, 2, 3]);
});

test("offline and online", async () => {
  await as("alice");
  const page = await openApp(context);
  // What is emulated stops new requests only, so the server ends the one that runs.
  await context.setOffline(true);
  await caddy.disconnect(`/${await page.evaluate(() => window.sse.connectionId)}`);
  await page.waitForFunction(() => window.sse.error?.type === "network");
  await sendAll("alice", [1, 2]);
  await context.setOffline(false);
  assert.deepEqual(await received(page, 2), [1, 2]);
});

test("a reload starts at the head; with a position it goes on from there", async () => {
  await as("alice");
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

test("a tab in the background keeps its stream, a frozen one catches up", async () => {
  await as("alice");
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

test("back and forward: from the cache, with what came meanwhile", async () => {
  await as("alice");
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
  // From the cache there is no load event to wait for.
  await page.goBack({ waitUntil: "commit" });
  assert.deepEqual(await received(page, 3), [1, 2, 3]);
  assert.equal(await page.evaluate(() => window.persisted), true);
});

test("topics change while events come: nothing of one that stays is lost, or comes twice", async () => {
  await as("alice");
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

test("the app gives and takes topics: told in their place", async () => {
  await as("alice");
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

test("the state comes first, also for who comes later on the page", async () => {
  await as("alice");
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

test("another user signs in: nothing of the first is left", async () => {
  await as("alice");
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

test("topics: another query goes on where the stream was", async () => {
  await as("alice");
  const page = await openApp(context);
  await caddy.send({ user: "alice", data: 1 });
  await received(page, 1);
  await page.evaluate(() => window.show({ url: "/events?topic=news" }));
  await until(async () => (await caddy.connections("?topic=news")).length === 1, "subscribed");
  await caddy.send({ topic: "news", data: 2 });
  assert.deepEqual(await received(page, 2), [1, 2]);
});

test("a burst of 10,000 events loses none and does not freeze the page", async () => {
  await as("alice");
  const page = await openApp(context, `?options=${encodeURIComponent('{"maxMessages":100}')}`);
  await page.evaluate(() => {
    window.worst = 0;
    let last = performance.now();
    // A task queued now: how late it runs is how long the page did not answer.
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
  assert.ok(worst < 1000, `the page did not answer for ${worst} ms`);
  assert.ok(renders < 5000, `${renders} renders`);
  console.log(`burst: ${renders} renders, longest task ${worst.toFixed(0)} ms`);
  assert.equal((await got(page)).length, 10_000);
});
