import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, openApp, profile, received, startCaddy } from "../harness.mjs";

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

const shared = (identity) =>
  `?options=${encodeURIComponent(JSON.stringify({ share: "tabs", identity }))}`;

test("eight tabs over HTTP/1.1 share one stream, and survive the leader's closing", async () => {
  context = await profile(browser, caddy, "alice");
  const tabs = [];
  // One after the other: the first leads. Eight streams would be two more than HTTP/1.1 allows.
  for (let i = 0; i < 8; i++) tabs.push(await openApp(context, shared("alice")));
  const [{ protocol }] = await caddy.settled(1).then(() => caddy.connections());
  assert.match(protocol, /1/);
  await caddy.send({ user: "alice", data: 1 });
  for (const tab of tabs) assert.deepEqual(await received(tab, 1), [1]);

  const [leader, ...rest] = tabs;
  const ids = new Set(
    await Promise.all(tabs.map((tab) => tab.evaluate(() => window.sse.connectionId))),
  );
  assert.equal(ids.size, 1);
  await leader.close();
  await caddy.send({ user: "alice", data: 2 });
  await caddy.send({ user: "alice", data: 3 });
  for (const tab of rest) assert.deepEqual(await received(tab, 3), [1, 2, 3]);
  await caddy.settled(1);
});

test("a leader that crashes is replaced, and nothing is lost", async () => {
  context = await profile(browser, caddy, "alice");
  const leader = await openApp(context, shared("alice"));
  const follower = await openApp(context, shared("alice"));
  await caddy.settled(1);
  const crashed = leader.waitForEvent("crash");
  leader.goto("chrome://crash").catch(() => {});
  await crashed;
  for (const data of [1, 2, 3]) await caddy.send({ user: "alice", data });
  assert.deepEqual(await received(follower, 3), [1, 2, 3]);
});

test("a tab that comes back from the cache has what the others got meanwhile, they nothing twice", async () => {
  context = await profile(browser, caddy, "alice");
  const away = await openApp(context, shared("alice"));
  const there = await openApp(context, shared("alice"));
  await away.goto("about:blank");
  await caddy.settled(1);
  for (const data of [1, 2]) await caddy.send({ user: "alice", data });
  await received(there, 2);
  await away.goBack({ waitUntil: "commit" });
  assert.deepEqual(await received(away, 2), [1, 2]);
  await caddy.send({ user: "alice", data: 3 });
  assert.deepEqual(await received(away, 3), [1, 2, 3]);
  assert.deepEqual(await received(there, 3), [1, 2, 3]);
});

test("a tab that signs in as another user has a stream of its own and sees nothing of the first", async () => {
  context = await profile(browser, caddy, "alice");
  const alice = await openApp(context, shared("alice"));
  await context.clearCookies();
  await context.addCookies([{ name: "user", value: "bob", url: caddy.origin }]);
  const bob = await openApp(context, shared("bob"));
  await caddy.settled(2);
  await caddy.send({ user: "alice", data: "for alice" });
  await caddy.send({ user: "bob", data: "for bob" });
  assert.deepEqual(await received(alice, 1), ["for alice"]);
  assert.deepEqual(await received(bob, 1), ["for bob"]);
});
