// Other clients receive and resume, too.
import assert from "node:assert/strict";
import { test } from "node:test";
import { caddy, context, signIn } from "../setup.mjs";

async function open(path) {
  await signIn("alice");
  const page = await context.newPage();
  await page.goto(path);
  await caddy.settled(1);
  return page;
}
const [first, second, third] = [0, 20, 40].map((from) =>
  Array.from({ length: 20 }, (_, i) => from + i),
);

/** Ends the connection on the server and sends while the client is not connected. */
async function cut(send, ns) {
  const [{ id }] = await caddy.connections();
  await caddy.disconnect(`/${id}`);
  for (const n of ns) await send(n);
}

for (const name of ["native", "eventsource", "fetchEventSource", "reconnecting"]) {
  test(`${name} receives named events and resumes`, async () => {
    const page = await open(`/guests.html#${name}`);
    const send = (n) => caddy.send({ user: "alice", type: "order", data: { n } });
    const seen = async (want) => {
      await page.waitForFunction((n) => window.seen.data.length >= n, want.length);
      assert.deepEqual(await page.evaluate(() => window.seen.data), want);
    };
    for (const n of first) await send(n);
    await seen(first);
    await cut(send, second);
    await seen([...first, ...second]);
    await caddy.settled(1);
    await cut(send, third);
    await seen([...first, ...second, ...third]);
    const ids = await page.evaluate(() => window.seen.ids);
    assert.equal(new Set(ids).size, 60);
  });
}

test("htmx swaps fragments in and resumes", async () => {
  const page = await open("/htmx.html");
  const send = (n) => caddy.send({ user: "alice", type: "item", text: `<li>${n}</li>` });
  for (const n of first) await send(n);
  const items = page.locator("#list > li");
  await items.nth(19).waitFor();
  await cut(send, second);
  await items.nth(39).waitFor();
  assert.deepEqual(await items.allTextContents(), [...first, ...second].map(String));
});

test("Turbo renders streams and resumes", async () => {
  const page = await open("/turbo.html");
  const send = (n) =>
    caddy.send({
      user: "alice",
      text: `<turbo-stream action="append" target="list"><template><li>${n}</li></template></turbo-stream>`,
    });
  for (const n of first) await send(n);
  const items = page.locator("#list > li");
  await items.nth(19).waitFor();
  await cut(send, second);
  await items.nth(39).waitFor();
  assert.deepEqual(await items.allTextContents(), [...first, ...second].map(String));
});
