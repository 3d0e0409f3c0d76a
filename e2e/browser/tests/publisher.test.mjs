// Tests createPublisher with the real API: the admin endpoint, and sse_api behind a login.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createPublisher } from "../../../client/dist/server.js";
import { freePort, startCaddy, startWithAdmin } from "../harness.mjs";

let caddy;
before(async () => {
  caddy = await startCaddy();
});
after(() => caddy?.stop());

const basic = (name, password) => `Basic ${Buffer.from(`${name}:${password}`).toString("base64")}`;

test("over the admin endpoint", async () => {
  const sse = createPublisher({ endpoint: caddy.api });
  const { id, connections } = await sse.notifyUser("alice", "hi");
  assert.match(id, /^[a-z0-9]+-\d+-[0-9a-z]{4}$/);
  assert.equal(connections, 0);
  assert.equal(await caddy.head(), id);
  for (const receipt of [
    await sse.notifyAll("hi", "info", { a: 1 }),
    await sse.sendUpdate("alice", "stock", { left: 3 }),
    await sse.sendAlert("alice", "fire", "critical"),
    await sse.broadcast({ text: "<b>hi</b>" }),
    await sse.send({ user: ["alice", "bob"], type: "x", data: null, ttl: "10m" }),
  ]) {
    assert.equal(receipt.id.split("-")[0], id.split("-")[0]);
  }
});

test("over the admin endpoint's unix socket", async () => {
  const dir = mkdtempSync(join(tmpdir(), "caddy-sse-"));
  const path = join(dir, "admin.sock");
  const { stop } = await startWithAdmin(`unix/${path}`);
  try {
    const sse = createPublisher({ endpoint: `unix://${path}` });
    const first = await sse.notifyAll("hi");
    const second = await sse.send({ user: "alice", data: 1, key: "k" });
    assert.equal(second.id.split("-")[0], first.id.split("-")[0]);
    assert.equal((await sse.send({ user: "alice", data: 1, key: "k" })).duplicate, true);
    await assert.rejects(sse.broadcast({}), { status: 400 });
  } finally {
    await stop();
    rmSync(dir, { recursive: true });
  }
});

test("over the admin endpoint of another host, which refuses Node's fetch like a browser", async () => {
  const port = await freePort();
  const { stop } = await startWithAdmin(`0.0.0.0:${port}`);
  try {
    // The admin endpoint does not know this address as its own, like the name of a container.
    const endpoint = `http://127.0.0.2:${port}/sse`;
    assert.equal((await createPublisher({ endpoint }).notifyAll("hi")).connections, 0);
    await assert.rejects(createPublisher({ endpoint, fetch }).notifyAll("hi"), { status: 403 });
  } finally {
    await stop();
  }
});

test("if one of many events is refused, the others are published in order", async () => {
  const sse = createPublisher({ endpoint: caddy.api });
  const sends = Array.from({ length: 2500 }, (_, n) =>
    sse.broadcast({ data: n, ...(n === 1234 && { type: "sse.mine" }) }),
  );
  const settled = await Promise.allSettled(sends);
  const seqs = settled.flatMap(({ value }) => (value ? Number(value.id.split("-")[1]) : []));
  assert.equal(seqs.length, 2499);
  assert.deepEqual(
    seqs,
    seqs.map((_, i) => seqs[0] + i),
  );
  const { reason } = settled[1234];
  assert.equal(reason.name, "PublishError");
  assert.equal(reason.status, 400);
  assert.match(reason.message, /sse\./);
});

test("the same key is published once", async () => {
  const sse = createPublisher({ endpoint: caddy.api });
  const first = await sse.broadcast({ data: 1, key: "order-1" });
  assert.deepEqual(await sse.broadcast({ data: 1, key: "order-1" }), { ...first, duplicate: true });
});

test("over sse_api with a login, and refused without one", async () => {
  const endpoint = `${caddy.origin}/signed/internal/sse`;
  const sse = createPublisher({ endpoint, auth: basic("alice", "wonderland") });
  assert.equal((await sse.notifyAll("hi")).connections, 0);
  await assert.rejects(createPublisher({ endpoint }).notifyAll("hi"), {
    status: 401,
    retryable: false,
  });
});

test("a refusal has the reason", async () => {
  const sse = createPublisher({ endpoint: caddy.api });
  await assert.rejects(sse.broadcast({ type: "sse.mine", data: 1 }), (error) => {
    assert.equal(error.status, 400);
    assert.match(error.message, /sse\./);
    return true;
  });
});

test("an event is retried over a restart of the server", async () => {
  const sse = createPublisher({ endpoint: caddy.api, retries: 10 });
  await caddy.kill();
  const publishing = sse.notifyAll("hi");
  await caddy.start();
  assert.ok((await publishing).id);
});
