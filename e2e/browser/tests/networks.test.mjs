// Behind networks that buffer or cut streams, every event arrives once and on time.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { got, launch, profile, startCaddy, startNginx, startProxy, until } from "../harness.mjs";

let caddy, browser, context;
before(async () => {
  [caddy, browser] = await Promise.all([
    startCaddy({ heartbeat: "15s", retry: "1s 5s" }),
    launch(),
  ]);
});
after(async () => {
  await browser?.close();
  await caddy?.stop();
});
afterEach(() => context.close());

/** Opens the page behind a proxy, and records when each event arrives. */
async function open(origin) {
  context = await profile(browser, { origin }, "alice");
  const page = await context.newPage();
  await page.goto(`${origin}/app.html`);
  await page.evaluate(() => {
    window.at = {};
    const push = window.got.push;
    window.got.push = function (n) {
      window.at[n] = Date.now();
      return push.call(this, n);
    };
  });
  return page;
}
const send = async (n) => {
  const at = Date.now();
  await caddy.send({ user: "alice", type: "n", data: n });
  return at;
};
const arrived = (page, n) =>
  page.waitForFunction((n) => window.at[n], n, { polling: 5 }).then((handle) => handle.jsonValue());
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const median = (all) => all.toSorted((a, b) => a - b)[all.length >> 1];

for (const [name, start, transport] of [
  ["nginx that buffers", () => startNginx(caddy.origin), "stream"],
  ["nginx that buffers and compresses", () => startNginx(caddy.origin, { gzip: true }), "poll"],
  [
    "a proxy that holds bodies until they end",
    () => startProxy(caddy.origin, { hold: true }),
    "poll",
  ],
]) {
  test(`behind ${name}: the first event within 3 s, later events at once, each event once`, async (t) => {
    const proxy = await start();
    try {
      const began = Date.now();
      const page = await open(proxy.origin);
      // An event is sent every 100 ms from the start. The first received event was sent after the
      // page was open.
      const sent = [];
      const first = page.waitForFunction(() => window.got[0], undefined, { polling: 5 });
      let received;
      void first.then((handle) => handle.jsonValue()).then((n) => (received = n));
      for (let n = 1; !received && n < 200; n++) {
        sent[n] = await send(n);
        await sleep(100);
      }
      const took = (await page.evaluate((n) => window.at[n], received)) - began;
      t.diagnostic(`first event ${took} ms after the request for the page`);
      assert.ok(took < 3000, `first event after ${took} ms, want less than 3000`);
      assert.equal(await page.evaluate(() => window.sse.transport), transport);

      const late = [];
      for (let i = 0; i < 50; i++) {
        const n = sent.length;
        sent[n] = await send(n);
        late.push((await arrived(page, n)) - sent[n]);
        await sleep((i * 37) % 200);
      }
      t.diagnostic(`later events: median ${median(late)} ms, slowest ${Math.max(...late)} ms`);
      assert.ok(median(late) < 100, `median delay ${median(late)} ms, want less than 100`);
      // A burst, during which responses are on their way.
      for (let i = 0; i < 300; i++) {
        const n = sent.length;
        sent[n] = await send(n);
      }
      await arrived(page, sent.length - 1);
      const want = sent.map((_, n) => n).slice(received);
      assert.deepEqual(await got(page), want);
      assert.deepEqual(await page.evaluate(() => window.gaps), []);
    } finally {
      proxy.stop();
    }
  });
}

test("behind a proxy that cuts every response at the same age: the client polls after the second cut", async (t) => {
  const proxy = await startProxy(caddy.origin, { cut: 4000 });
  try {
    const page = await open(proxy.origin);
    await page.waitForFunction(() => window.sse.connectionStatus === "open");
    let n = 0;
    const sending = until(
      async () => {
        await send(++n);
        await sleep(50);
        return page.evaluate(() => window.sse.transport === "poll");
      },
      "polling",
      60_000,
    );
    await sending;
    const late = [];
    for (let i = 0; i < 40; i++) {
      const at = await send(++n);
      late.push((await arrived(page, n)) - at);
      await sleep(200);
    }
    t.diagnostic(
      `after the second cut: median ${median(late)} ms, slowest ${Math.max(...late)} ms`,
    );
    assert.ok(median(late) < 100, `median delay ${median(late)} ms, want less than 100`);
    assert.deepEqual(
      await got(page),
      Array.from({ length: n }, (_, i) => i + 1),
    );
    assert.deepEqual(await page.evaluate(() => window.gaps), []);
  } finally {
    proxy.stop();
  }
});

test("a client streams from a server that is slow to respond", async () => {
  const proxy = await startProxy(caddy.origin);
  try {
    context = await profile(browser, proxy, "alice");
    const page = await context.newPage();
    await page.route("**/events**", async (route) => {
      await sleep(4000);
      await route.continue();
    });
    await page.goto(`${proxy.origin}/app.html`);
    await page.waitForFunction(() => window.sse.connectionStatus === "open");
    await send(1);
    await page.waitForFunction(() => window.got.length === 1);
    assert.equal(await page.evaluate(() => window.sse.transport), "stream");
    await caddy.settled(1);
  } finally {
    proxy.stop();
  }
});
