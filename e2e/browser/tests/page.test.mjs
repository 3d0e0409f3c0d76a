import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, afterEach, before, test } from "node:test";
import { promisify } from "node:util";
import axe from "axe-core";
import { launch, profile, startCaddy } from "../harness.mjs";

let caddy, browser, context, page, pageErrors;
before(async () => {
  [caddy, browser] = await Promise.all([startCaddy(), launch()]);
});
after(async () => {
  await browser?.close();
  await caddy?.stop();
});
afterEach(() => context.close());

async function open(httpCredentials) {
  context = await profile(browser, caddy, null, httpCredentials && { httpCredentials });
  page = await context.newPage();
  pageErrors = [];
  page.on("pageerror", ({ message }) => pageErrors.push(message));
  page.on("console", (message) => {
    if (message.type() === "error") pageErrors.push(message.text());
  });
  return page.goto("/sse-test");
}
const alice = { username: "alice", password: "wonderland" };
const status = (text) =>
  page
    .getByRole("status")
    .and(page.getByText(text, { exact: true }))
    .waitFor();
const button = (name) => page.getByRole("button", { name, exact: true });
const row = (text) => page.getByRole("listitem").filter({ hasText: text });

test("the page requires a login", async () => {
  // A browser that cannot prompt for a password treats 401 as an error.
  await assert.rejects(open(), /ERR_INVALID_AUTH_CREDENTIALS/);
});

test("a signed-in user gets every kind of event", async () => {
  await open(alice);
  await status("open");
  await page.getByText("alice", { exact: true }).waitFor();
  await caddy.send({ user: "alice", type: "order_update", data: { orderId: "123" } });
  await caddy.broadcast({ data: "to everyone" });
  await caddy.send({ user: "alice", type: "fragment", text: "<b>not JSON</b>" });
  await row("order_update").getByText('"orderId": "123"').waitFor();
  await row("to everyone").waitFor();
  await row("<b>not JSON</b>").getByText("text", { exact: true }).waitFor();
  await page.getByText("3 received").waitFor();
  assert.deepEqual(pageErrors, []);
});

test("the page works with the password in its address", async () => {
  context = await profile(browser, caddy, null);
  page = await context.newPage();
  await page.goto(`${caddy.origin.replace("//", "//alice:wonderland@")}/sse-test`);
  await status("open");
  await page.getByLabel("Data (JSON)").fill('{"n":1}');
  await button("Send").click();
  await row('"n": 1').waitFor();
});

test("the form sends to me, a user and everyone, and shows a refusal", async () => {
  await open(alice);
  await status("open");
  const data = page.getByLabel("Data (JSON)");
  await data.fill('{"n":1}');
  await button("Send").click();
  await page
    .getByText(/^Accepted as .+, for 1 connection\. It arrived here after \d+ ms\.$/)
    .waitFor();
  await row('"n": 1').waitFor();

  await page.getByRole("combobox", { name: "To" }).selectOption("users");
  await page.getByRole("textbox", { name: "Users" }).fill("bob");
  await data.fill('{"n":2}');
  await button("Send").click();
  await page.getByText("for 0 connections").waitFor();

  await page.getByRole("combobox", { name: "To" }).selectOption("everyone");
  await data.fill('{"n":3}');
  await button("Send").click();
  await row('"n": 3').waitFor();
  assert.equal(await row('"n": 2').count(), 0);

  await page.getByRole("combobox", { name: "Type" }).fill("sse.mine");
  await button("Send").click();
  await page.getByText(/^The server refused it \(400: /).waitFor();
  // The refused request is the only error: no script or style was blocked.
  assert.deepEqual(
    pageErrors.filter((text) => !text.includes("400")),
    [],
  );
});

test("counts down while the server is stopped, and then shows a gap", async () => {
  await open(alice);
  await status("open");
  await caddy.kill();
  await status("reconnecting");
  await page.getByText(/attempt \d+ in \d+\.\d s/).waitFor();
  await caddy.start();
  await status("open");
  await row("gap: epoch").waitFor();
});

test("Disconnect and Reconnect", async () => {
  await open(alice);
  await status("open");
  await button("Disconnect").click();
  await status("closed");
  await caddy.settled(0);
  await button("Reconnect").click();
  await status("open");
});

test("starts at the earliest event, after a position and with topics", async () => {
  await caddy.restart();
  for (const n of [1, 2, 3]) await caddy.broadcast({ data: { n } });
  await open(alice);
  await status("open");
  const listen = async (start, position = "", topics = "") => {
    const summary = page.getByText("Start and topics", { exact: true });
    if (!(await page.getByRole("combobox", { name: "Start" }).isVisible())) await summary.click();
    await page.getByRole("combobox", { name: "Start" }).selectOption(start);
    if (position) await page.getByRole("textbox", { name: "Position" }).fill(position);
    await page.getByRole("textbox", { name: "Topics" }).fill(topics);
    await button("Connect like this").click();
  };
  await listen("earliest");
  await page.getByText("3 received").waitFor();
  const second = await row('"n": 2').locator("code").first().textContent();
  await listen("position", second);
  await page.getByText("1 received").waitFor();
  await row('"n": 3').waitFor();
  for (const n of [4, 5]) await caddy.broadcast({ data: { n }, slot: "n" });
  await listen("state");
  await row('"n": 5').waitFor();
  await page.getByText("1 received").waitFor();
  await listen("now", "", "secret");
  await page.getByText(/Not allowed \(403\)/).waitFor();
});

test("sends a text with a key and a ttl, and reports a duplicate key", async () => {
  await open(alice);
  await status("open");
  await page.locator(".sse-send").getByText("Text", { exact: true }).click();
  await page.getByLabel("Text", { exact: true }).last().fill("<li>hi</li>");
  await page.getByText("Key, ttl and slot").click();
  await page.getByLabel("Key", { exact: true }).fill("k-1");
  await page.getByLabel("Deliver within (ttl)").fill("10m");
  await button("Send").click();
  await row("<li>hi</li>").waitFor();
  await button("Send").click();
  await page.getByText("An event with this key was sent before").waitFor();
  assert.equal(await row("<li>hi</li>").count(), 1);
});

test("both curl commands do the same as the page", async () => {
  await open(alice);
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await status("open");
  const copied = () => page.evaluate(() => navigator.clipboard.readText());
  await page.getByLabel("Data (JSON)").fill(`{"it's":"curl"}`);
  await button("Copy as curl: this event").click();
  await page.getByText("Copied").waitFor();
  const curl = async (command, ...more) =>
    promisify(execFile)("sh", ["-c", `${command} -sS -u alice:wonderland ${more.join(" ")}`]);
  assert.match((await curl(await copied())).stdout, /"connections":1/);
  await row(`"it's": "curl"`).waitFor();
  await button("Copy as curl: the stream").click();
  const position = await page.locator(".sse-id code").last().textContent();
  await page.waitForFunction(
    async (position) => (await navigator.clipboard.readText()).includes(position),
    position,
  );
  const { stdout } = await curl(await copied(), "--max-time 1 || true");
  assert.match(stdout, /event: sse.connected\ndata: .*"resumed":true/);
});

test("lists the connections, and disconnects one", async () => {
  await open(alice);
  await status("open");
  await page.getByText("Connections", { exact: true }).click();
  await page.getByText("1 open", { exact: true }).waitFor();
  await page.getByText("this page").waitFor();
  await page.getByRole("button", { name: /^Disconnect alice, / }).click();
  await page.getByText("Disconnected alice.").waitFor();
  await status("open"); // a disconnected client reconnects once
});

test("an empty list shows a command, which sends an event", async () => {
  await open(alice);
  await status("open");
  const command = await page.locator(".sse-empty pre").textContent();
  const { stdout } = await promisify(execFile)("sh", [
    "-c",
    command.replace("http://localhost:2019/sse", caddy.api),
  ]);
  assert.match(stdout, /"connections":1/);
  await row("Hello").waitFor();
});

test("on a small screen a sent event is visible", async () => {
  await open(alice);
  await page.setViewportSize({ width: 390, height: 844 });
  await status("open");
  for (let i = 0; i < 3; i++) {
    await button("Send").click();
    await page.getByText(`${i + 1} received`).waitFor();
  }
  await page.waitForFunction(() => {
    const { top, bottom } = document.querySelector(".sse-list li").getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.equal(wide, 390);
});

test("long names stay inside the page", async () => {
  await open(alice);
  await page.setViewportSize({ width: 360, height: 740 });
  await status("open");
  const name = "n".repeat(200);
  const sent = await fetch(`${caddy.api}/connections?user=alice`, {
    method: "PATCH",
    headers: { "Content-Type": "application/json", Origin: new URL(caddy.api).origin },
    body: JSON.stringify({ add: [name] }),
  });
  assert.equal(sent.status, 200);
  await caddy.send({ topic: name, type: name, data: {} });
  await page.locator("[data-kind=event]").waitFor();
  await page.getByText("Connections", { exact: true }).click();
  await page.getByText(`topics: ${name}`).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
});

test("the keyboard alone sends an event", async () => {
  await open(alice);
  await status("open");
  await page.getByLabel("Data (JSON)").focus();
  await page.keyboard.press("Tab");
  for (
    let i = 0;
    i < 4 && !(await button("Send").evaluate((b) => b === document.activeElement));
    i++
  ) {
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  await page.getByText("1 received").waitFor();
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [1280, 390]) {
    test(`axe finds nothing: ${colorScheme}, ${width} px; empty, full and failing`, async () => {
      await open(alice);
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 844 });
      await status("open");
      const check = async (state) => {
        await page.evaluate(axe.source);
        const { violations } = await page.evaluate(() => window.axe.run());
        assert.deepEqual(
          violations.map(({ id, nodes }) => [state, id, nodes.map(({ html }) => html)]),
          [],
        );
        await shoot(`${state}-${colorScheme}-${width}`);
      };
      await check("empty");
      for (const text of ["Start and topics", "Key, ttl and slot"])
        await page.getByText(text).click();
      await page.getByText("Connections", { exact: true }).click();
      await caddy.send({
        user: "alice",
        type: "order_update",
        data: { orderId: "123", status: "shipped" },
      });
      await caddy.broadcast({ type: "item", text: "<li>New in the shop</li>" });
      await button("Send").click();
      await page.getByText("3 received").waitFor();
      await check("full");
      await page.getByLabel("Data (JSON)").fill("{");
      await button("Send").click();
      await page.getByText(/This is not JSON/).waitFor();
      await page.route("**/signed/events**", (route) => route.fulfill({ status: 401 }));
      await button("Reconnect").click();
      await status("failed");
      await check("failing");
    });
  }
}

/** Takes a picture if SHOTS names a directory. */
async function shoot(name) {
  if (process.env.SHOTS)
    await page.screenshot({ path: `${process.env.SHOTS}/${name}.png`, fullPage: true });
}
