import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, profile, startCaddy } from "../harness.mjs";

let caddy, browser, context, page, complaints;
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
  complaints = [];
  page.on("pageerror", ({ message }) => complaints.push(message));
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  return page.goto("/sse-test");
}
const alice = { username: "alice", password: "wonderland" };
const status = (text) =>
  page
    .getByRole("status")
    .and(page.getByText(text, { exact: true }))
    .waitFor();
const row = (text) => page.getByRole("listitem").filter({ hasText: text });

test("without a login there is no page", async () => {
  // A browser without a person to ask takes a 401 for an error.
  await assert.rejects(open(), /ERR_INVALID_AUTH_CREDENTIALS/);
});

test("signed in: open, and every kind of event arrives", async () => {
  await open(alice);
  await status("open");
  await page.getByText("alice", { exact: true }).waitFor();
  await caddy.send({ user: "alice", type: "order_update", data: { orderId: "123" } });
  await caddy.broadcast({ data: "to everyone" });
  await caddy.send({ user: "alice", type: "fragment", text: "<b>not JSON</b>" });
  await row("order_update").getByText('"orderId": "123"').waitFor();
  await row("to everyone").waitFor();
  await page.getByText("malformed (1)").click();
  await row("<b>not JSON</b>").waitFor();
  assert.deepEqual(complaints, []);
});

test("the form sends to me, a user and everyone, and shows a refusal", async () => {
  await open(alice);
  await status("open");
  const data = page.getByLabel("Data (JSON)");
  await data.fill('{"n":1}');
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByText(/^Accepted as .+, for 1 connection\.$/).waitFor();
  await row('"n": 1').waitFor();

  await page.getByRole("combobox", { name: "To" }).selectOption("a user");
  await page.getByLabel("User", { exact: true }).fill("bob");
  await data.fill('{"n":2}');
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByText("for 0 connections").waitFor();

  await page.getByRole("combobox", { name: "To" }).selectOption("everyone");
  await data.fill('{"n":3}');
  await page.getByRole("button", { name: "Send" }).click();
  await row('"n": 3').waitFor();
  assert.equal(await row('"n": 2').count(), 0);

  await page.getByRole("combobox", { name: "Type" }).fill("sse.mine");
  await page.getByRole("button", { name: "Send" }).click();
  await page.getByText(/^400: /).waitFor();
  // The refused request is the one complaint: no script or style was blocked.
  assert.deepEqual(
    complaints.filter((text) => !text.includes("400")),
    [],
  );
});

test("counts down while the server is away, and comes back with a gap", async () => {
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
  await page.getByRole("button", { name: "Disconnect" }).click();
  await status("closed");
  await caddy.settled(0);
  await page.getByRole("button", { name: "Reconnect" }).click();
  await status("open");
});
