import assert from "node:assert/strict";
import { test } from "node:test";
import { openApp, received } from "../harness.mjs";
import { caddy, context, signIn } from "../setup.mjs";

const shared = (identity) =>
  `?options=${encodeURIComponent(JSON.stringify({ share: "tabs", identity }))}`;

test("eight tabs over HTTP/1.1 share one stream, and continue after the leader is closed", async () => {
  await signIn("alice");
  const tabs = [];
  // The tabs open one after the other, and the first leads. Eight streams would be two more than
  // HTTP/1.1 allows.
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
  await signIn("alice");
  const leader = await openApp(context, shared("alice"));
  const follower = await openApp(context, shared("alice"));
  await caddy.settled(1);
  const crashed = leader.waitForEvent("crash");
  leader.goto("chrome://crash").catch(() => {});
  await crashed;
  for (const data of [1, 2, 3]) await caddy.send({ user: "alice", data });
  assert.deepEqual(await received(follower, 3), [1, 2, 3]);
});

test("a tab from the back/forward cache gets the missed events, and other tabs get nothing twice", async () => {
  await signIn("alice");
  const cached = await openApp(context, shared("alice"));
  const visible = await openApp(context, shared("alice"));
  await cached.goto("about:blank");
  await caddy.settled(1);
  for (const data of [1, 2]) await caddy.send({ user: "alice", data });
  await received(visible, 2);
  await cached.goBack({ waitUntil: "commit" });
  assert.deepEqual(await received(cached, 2), [1, 2]);
  await caddy.send({ user: "alice", data: 3 });
  assert.deepEqual(await received(cached, 3), [1, 2, 3]);
  assert.deepEqual(await received(visible, 3), [1, 2, 3]);
});

test("a tab of another user has its own stream, and gets no events of the first user", async () => {
  await signIn("alice");
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
