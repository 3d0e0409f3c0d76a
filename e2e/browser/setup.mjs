// The setup of most tests: one Caddy and one browser for each file, and a browser profile for each test.
import { after, afterEach, before } from "node:test";
import { launch, profile, startCaddy } from "./harness.mjs";

/** The Caddy of the file. */
export let caddy;
/** The browser profile of the current test. */
export let context;
let browser;

before(async () => {
  [caddy, browser] = await Promise.all([startCaddy(), launch()]);
});
after(async () => {
  await browser?.close();
  await caddy?.stop();
});
afterEach(async () => {
  await context?.close();
  await caddy.settled(0);
});

/** Creates a browser profile in which `user` is signed in. */
export async function signIn(user, options) {
  context = await profile(browser, caddy, user, options);
  return context;
}
