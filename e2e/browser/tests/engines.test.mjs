// Tests of the protocol in three browser engines. ENGINE=firefox runs one of them.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { engines } from "../engines.mjs";
import { startCaddy, startProxy, until } from "../harness.mjs";

let caddy;
before(async () => {
  caddy = await startCaddy();
});
after(() => caddy?.stop());

const app = (options = {}, origin = caddy.origin) =>
  `${origin}/app.html?options=${encodeURIComponent(JSON.stringify(options))}`;
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const sendAll = async (ns) => {
  for (const n of ns) await caddy.send({ user: "alice", type: "n", data: n });
};
const waitFor = (page, expression, what = expression) =>
  until(() => page.evaluate(expression).catch(() => false), what, 30_000);
const opened = (page) => waitFor(page, `window.sse?.connectionStatus === "open"`);
async function got(page, want) {
  await waitFor(page, `window.got?.length >= ${want.length}`, `${want.length} events`).catch(
    () => {},
  );
  assert.deepEqual(await page.evaluate("window.got"), want);
}

const only = process.env.ENGINE?.split(",") ?? Object.keys(engines);
for (const name of only) {
  describe(name, () => {
    let engine;
    before(async () => {
      engine = await engines[name]();
    });
    after(() => engine?.stop());

    /** A profile of its own, in which alice is signed in. */
    const check = (what, body) =>
      test(what, async () => {
        await engine.begin();
        try {
          await body();
        } finally {
          await engine.end();
        }
        await caddy.settled(0);
      });

    check("receives, and resumes after a disconnect", async () => {
      const page = await engine.open(app());
      await opened(page);
      await sendAll(numbers(1, 10));
      await got(page, numbers(1, 10));
      await caddy.disconnect(`/${await page.evaluate("window.sse.connectionId")}`);
      await sendAll(numbers(11, 20));
      await got(page, numbers(1, 20));
    });

    check("gets a gap after a restart of the server", async () => {
      const page = await engine.open(app());
      await opened(page);
      await sendAll([1]);
      await got(page, [1]);
      await caddy.restart();
      await waitFor(page, "window.gaps.length > 0");
      assert.deepEqual(await page.evaluate("window.gaps"), ["epoch"]);
      await sendAll([2]);
      await got(page, [1, 2]);
    });

    check("shares one connection between tabs, and another tab continues it", async () => {
      const options = { share: "tabs", identity: "alice" };
      const first = await engine.open(app(options));
      await opened(first);
      const second = await engine.open(app(options));
      await opened(second);
      await caddy.settled(1);
      await sendAll([1, 2]);
      await got(first, [1, 2]);
      await got(second, [1, 2]);
      await first.close();
      await sendAll([3]);
      await got(second, [1, 2, 3]);
      await caddy.settled(1);
    });

    check("polls behind a proxy that holds the stream back", async () => {
      const proxy = await startProxy(caddy.origin, { hold: true });
      try {
        const page = await engine.open(app({}, proxy.origin));
        await until(() => proxy.seen.some(({ url }) => url.includes("poll=1")), "a poll", 30_000);
        await until(
          async () => (await caddy.connections()).length === 2,
          "the stream and the poll are connected",
        );
        await sendAll([1]);
        await waitFor(page, `window.sse.transport === "poll"`);
        await sendAll(numbers(2, 20));
        await got(page, numbers(1, 20));
      } finally {
        proxy.stop();
      }
    });

    check("reconnects to a server that was stopped, at the event online", async () => {
      const page = await engine.open(app());
      await opened(page);
      await sendAll([1]);
      await got(page, [1]);
      caddy.freeze();
      await waitFor(page, `window.sse.error?.type === "idle-timeout"`);
      caddy.thaw();
      // A browser fires this event when the network is back. Only one of the three engines can be
      // set offline.
      await page.evaluate(`dispatchEvent(new Event("online"))`);
      await sendAll([2, 3]);
      await got(page, [1, 2, 3]);
    });

    check("continues after back and forward", async () => {
      const page = await engine.open(app());
      await opened(page);
      await page.evaluate(`(window.first = true)`);
      await sendAll([1]);
      await got(page, [1]);
      const position = await page.evaluate("window.sse.lastEventId");
      assert.match(position, /^[0-9a-z]+-\d+-[0-9a-z]{4}$/);
      await page.goto(`${caddy.origin}/blank.html`);
      await caddy.settled(0);
      await sendAll([2]);
      await page.back();
      await opened(page);
      // A page from the back/forward cache gets the missed events. A page that is loaded again
      // begins at the head.
      const cached = await page.evaluate("window.first === true");
      console.log(`# ${name}: the page was ${cached ? "cached" : "loaded again"}`);
      await sendAll([3]);
      await got(page, cached ? [1, 2, 3] : [3]);
    });

    check("its own EventSource receives and resumes", async () => {
      const proxy = await startProxy(caddy.origin);
      try {
        const page = await engine.open(`${proxy.origin}/guests.html#native`);
        const send = (n) => caddy.send({ user: "alice", type: "order", data: { n } });
        const seen = async (want) => {
          await waitFor(page, `window.seen.data.length >= ${want.length}`);
          assert.deepEqual(await page.evaluate("window.seen.data"), want);
        };
        await caddy.settled(1);
        for (const n of [1, 2]) await send(n);
        await seen([1, 2]);
        // A block with only an id moves the position past the event for bob.
        const before = await caddy.head();
        await caddy.send({ user: "bob", data: 0 });
        const moved = await caddy.head();
        await new Promise((resolve) => setTimeout(resolve, 2500));
        const [{ id }] = await caddy.connections();
        await caddy.disconnect(`/${id}`);
        await send(3);
        await seen([1, 2, 3]);
        const { position } = proxy.seen.at(-1);
        console.log(
          `# ${name}: blocks with only an id ${position === moved ? "count" : "do not count"}`,
        );
        assert.ok([before, moved].includes(position), position);
      } finally {
        proxy.stop();
      }
    });
  });
}
