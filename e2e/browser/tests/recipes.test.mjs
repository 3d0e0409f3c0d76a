// Runs the recipes of client/README.md.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { until } from "../harness.mjs";
import { buildRecipe, readRecipes, typeCheck } from "../recipes.mjs";
import { caddy, context, signIn } from "../setup.mjs";

const recipes = readRecipes();
let page;
let orders = {};
let rooms = [];
let answerRooms = (route) => route.fulfill({ json: rooms });
const answerOrders = (route) => route.fulfill({ json: orders });
const tried = new Set();
/** Opens the page of a recipe, and waits for its stream. */
async function open(heading, options = {}, index = 0, answer = answerOrders) {
  tried.add(`${heading} ${index}`);
  assert.ok(recipes[heading]?.[index], `the README has no recipe ${heading}`);
  const name = `recipe-${tried.size}`;
  await buildRecipe(caddy.www, name, recipes[heading][index], options);
  await signIn("alice");
  page = await context.newPage();
  page.on("pageerror", (error) => assert.fail(error));
  await page.route("**/api/orders", answer);
  await page.route("**/api/rooms", (route) => answerRooms(route));
  await page.goto(`/recipes/${name}.html`);
  await caddy.settled(1);
}
const send = (event) => caddy.send({ user: "alice", ...event });
const note = (message) => send({ type: "notification", data: { message, type: "info" } });
const shown = async (want) => {
  await page.waitForFunction((n) => window.shown.length >= n, want.length);
  assert.deepEqual(await page.evaluate(() => window.shown), want);
};
const text = (what) => page.getByText(what).first().waitFor();
const leave = async () => {
  await page.evaluate(() => window.unmount());
  await caddy.settled(0);
};

test("all TypeScript recipes compile, strictly", () => {
  const dir = mkdtempSync(join(tmpdir(), "recipes-"));
  try {
    assert.equal(typeCheck(dir, recipes), "");
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("createSSE takes event types, as its text says", () => {
  const readme = readFileSync(new URL("../../../client/README.md", import.meta.url), "utf8");
  const [, call] = readme.match(/^In TypeScript .*: `(createSSE<Events>\(.*\))`\.$/m);
  const check = (call) => {
    const code = `import { createSSE } from "caddy-sse";
interface Events { order_update: { orderId: string } }
export type { Events };
${call}.on("order_update", ({ data }) => toast(data.orderId));`;
    const dir = mkdtempSync(join(tmpdir(), "recipes-"));
    try {
      return typeCheck(dir, { call: [{ language: "tsx", code }] });
    } finally {
      rmSync(dir, { recursive: true });
    }
  };
  assert.equal(check(call), "");
  assert.match(check(call.replace("<Events>", "")), /order_update/);
});

test("Without a bundler: a page imports the copied dist/", async () => {
  const client = new URL("../../../client/", import.meta.url);
  const readme = readFileSync(new URL("README.md", client), "utf8");
  const [line] = readme.match(/import \{ createSSE \} from "\/caddy-sse\/index\.js"/);
  cpSync(new URL("dist", client), join(caddy.www, "caddy-sse"), { recursive: true });
  writeFileSync(
    join(caddy.www, "unbundled.html"),
    `<!doctype html><script type="module">
${line};
window.shown = [];
createSSE("/events").on("notification", ({ data }) => window.shown.push(data.message));
</script>`,
  );
  await signIn("alice");
  page = await context.newPage();
  await page.goto("/unbundled.html");
  await caddy.settled(1);
  await note("one");
  await shown(["one"]);
});

test("Plain JavaScript", async () => {
  await open("Plain JavaScript");
  await note("one");
  await shown(["one"]);
});

test("Load, then follow", async () => {
  orders = { a: { id: "a", status: "new" } };
  await open("Load, then follow");
  const payload = { id: "a", status: "shipped" };
  await send({ type: "update", data: { updateType: "order", payload } });
  await shown([{ a: payload }]);
  await context.close();
  await open("Load, then follow", {}, 1);
  await text("a: new");
  await send({ type: "update", data: { updateType: "order", payload } });
  await text("a: shipped");
  await leave();
});

test("Rooms that change while the page is away: each new connection loads them", async () => {
  rooms = ["room/1"];
  await open("Rooms that change while the page is away");
  await shown([["room/1"]]);
  rooms = ["room/2"];
  await caddy.disconnect("?user=alice");
  await shown([["room/1"], ["room/2"]]);

  const reconnect = () => page.evaluate(() => void dispatchEvent(new Event("online")));
  // An answer that comes after that of a newer connection is old.
  const answer = answerRooms;
  const old = await new Promise((resolve) => {
    answerRooms = resolve;
    void reconnect();
  });
  answerRooms = answer;
  rooms = ["room/3"];
  await caddy.settled(1);
  await reconnect();
  await shown([["room/1"], ["room/2"], ["room/3"]]);
  await old.fulfill({ json: ["room/2"] });

  // After a lost answer the rooms are loaded at the next change.
  const lost = new Promise((resolve) => {
    answerRooms = (route) => route.abort().then(resolve);
  });
  await reconnect();
  await lost;
  answerRooms = answer;
  rooms = ["room/4"];
  await until(async () => {
    await note("a change");
    return page.evaluate(() => window.shown.length > 3);
  }, "the rooms are loaded");
  await shown([["room/1"], ["room/2"], ["room/3"], ["room/4"]]);
});

test("React, with your own event types: others do not disturb it", async () => {
  await open("React, with your own event types");
  await note("not for it");
  await send({ type: "order_update", data: { orderId: "7", status: "shipped" } });
  await shown(["7: shipped"]);
  assert.deepEqual(await page.locator("li").allTextContents(), ["7"]);
  await leave();
});

for (const heading of ["Vue", "Svelte"]) {
  test(heading, async () => {
    await open(heading);
    await note("one");
    await text('"one"');
    await leave();
  });
}

test("SWR: the latest event, and data that an event invalidates", async () => {
  await open("SWR");
  await note("one");
  await note("two");
  await text("two");
  await leave();
  await context.close();
  orders = { n: 1 };
  await open("SWR", {}, 1);
  await text('{"n":1}');
  orders = { n: 2 };
  await note("changed");
  await text('{"n":2}');
});

test("TanStack Query", async () => {
  orders = { n: 1 };
  await open("TanStack Query");
  await text('{"n":1}');
  orders = { n: 2 };
  await note("changed");
  await text('{"n":2}');
  await leave();
});

for (const [heading, index] of [
  ["SWR", 1],
  ["TanStack Query", 0],
]) {
  test(`${heading}: a change between the first request and the stream is not missed`, async () => {
    orders = { n: 1 };
    let first = true;
    await open(heading, {}, index, async (route) => {
      if (!first) return answerOrders(route);
      first = false;
      const json = orders;
      orders = { n: 2 };
      await caddy.settled(1); // the old orders arrive when the stream is open
      await route.fulfill({ json }).catch(() => {}); // the page may have dropped the request
    });
    await text('{"n":2}');
    await leave();
  });
}

test("A page rendered on the server", async () => {
  const head = await caddy.head();
  await note("between rendering and connecting");
  await open("A page rendered on the server", { attributes: `data-head="${head}"` });
  await text("1 since this page was rendered");
});

test("htmx 2", async () => {
  await open("htmx 2", { script: 'import "./fixtures/htmx.js";' });
  await send({ type: "item", text: "<li>Shipped</li>" });
  await page.locator("ul > li", { hasText: "Shipped" }).waitFor();
});

test("Hotwire Turbo", async () => {
  await open("Hotwire Turbo", { script: 'import "@hotwired/turbo";' });
  await page.evaluate(() =>
    document.body.append(Object.assign(document.createElement("ul"), { id: "list" })),
  );
  await send({
    text: '<turbo-stream action="append" target="list"><template><li>Shipped</li></template></turbo-stream>',
  });
  await page.locator("#list > li", { hasText: "Shipped" }).waitFor();
});

test("@microsoft/fetch-event-source: text on the stream does not disturb it", async () => {
  await open("@microsoft/fetch-event-source");
  await send({ type: "item", text: "<li>no JSON</li>" });
  await send({ type: "notification", data: { n: 1 } });
  const [{ id }] = await caddy.connections();
  await caddy.disconnect(`/${id}`);
  await send({ type: "notification", data: { n: 2 } });
  await shown([{ n: 1 }, { n: 2 }]);
});

test("A test page in your own app", async () => {
  await open("A test page in your own app");
  await page.getByRole("status").filter({ hasText: "open" }).waitFor();
  await note("one");
  await page.getByRole("listitem").filter({ hasText: "one" }).waitFor();
  await leave();
});

test("every recipe has a test", () => {
  const all = Object.entries(recipes).flatMap(([heading, blocks]) =>
    blocks.map((_, i) => `${heading} ${i}`),
  );
  // React Native is not installed here. Its recipe is only compiled.
  assert.deepEqual(
    all.filter((one) => !tried.has(one)),
    ["React Native 0"],
  );
});
