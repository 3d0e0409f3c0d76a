// Takes the pictures of the docs: CADDY_BIN=caddy node screenshots.mjs
import { fileURLToPath } from "node:url";
import { launch, profile, startCaddy } from "./harness.mjs";

const caddy = await startCaddy();
const browser = await launch();
for (const [name, colorScheme, width, height] of [
  ["sse-test", "light", 1280, 860],
  ["sse-test-dark", "dark", 390, 844],
]) {
  const options = {
    httpCredentials: { username: "alice", password: "wonderland" },
    colorScheme,
    viewport: { width, height },
    deviceScaleFactor: 2,
  };
  const context = await profile(browser, caddy, null, options);
  const page = await context.newPage();
  await page.goto("/sse-test");
  await page.getByText("open", { exact: true }).waitFor();
  await caddy.broadcast({ type: "item", text: "<li>New in the shop</li>" });
  const data = { orderId: "123", status: "shipped" };
  await caddy.send({ user: "alice", type: "order_update", data });
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await page.getByText(/It arrived here after/).waitFor();
  const path = fileURLToPath(new URL(`../../docs/${name}.png`, import.meta.url));
  await page.screenshot({ path });
  await context.close();
}
await browser.close();
await caddy.stop();
