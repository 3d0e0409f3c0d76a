// Runs the code for browsers in docs/guides. e2e/recipes runs the commands of these pages.
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { createServer } from "../../../client/node_modules/vite/dist/node/index.js";
import { freePort, until } from "../harness.mjs";
import { buildRecipe, typeCheck } from "../recipes.mjs";
import { caddy, context, signIn } from "../setup.mjs";

let page;
/** A block of a guide, by its name. */
function recipe(guide, name) {
  const file = fileURLToPath(new URL(`../../../docs/guides/${guide}.md`, import.meta.url));
  const [, language, code] =
    readFileSync(file, "utf8").match(
      new RegExp(`^<!-- run: ${name} -->\n\`\`\`(\\w+)\n([\\s\\S]*?)^\`\`\`$`, "m"),
    ) ?? assert.fail(`${guide}.md has no recipe ${name}`);
  return { language, code };
}

let built = 0;
/** Opens a page with a recipe, and counts how often it is loaded. */
async function open(recipe, options, prepare = async () => {}) {
  const name = `guide-${++built}`;
  await buildRecipe(caddy.www, name, recipe, options);
  await signIn("alice");
  page = await context.newPage();
  page.loads = 0;
  page.on("load", () => page.loads++);
  await page.route("**/orders", (route) =>
    route.fulfill({ contentType: "text/html", body: "<li>all of them</li>" }),
  );
  await prepare();
  await page.goto(`/recipes/${name}.html`);
}
// Only one request is refused. Otherwise the page would load itself again forever.
const refuse = (status = 401) =>
  page.route("**/events*", (route) => route.fulfill({ status }), { times: 1 });
const showLogin = () =>
  page.route("**/login", (route) => route.fulfill({ contentType: "text/html", body: "log in" }));
const order = (text) => caddy.send({ user: "alice", type: "order", text: `<li>${text}</li>` });
const fragment = (text) =>
  caddy.send({
    user: "alice",
    text: `<turbo-stream action="append" target="orders"><template><li id="${text}">${text}</li></template></turbo-stream>`,
  });
const listed = (text) => page.locator("#orders > li", { hasText: text }).waitFor();
/** Waits until the page was loaded again. */
const loadedAgain = () => until(() => page.loads > 1, "the page is loaded again", 60_000);
const list = 'document.body.insertAdjacentHTML("beforeend", \'<ul id="orders"></ul>\');\n';

const extension = (head) => {
  const { language, code } = recipe("htmx", "extension");
  return { language, code: code.replace("{{ head }}", head) };
};
const htmx = {
  script: `import "./fixtures/htmx.js";\n${recipe("htmx", "gap").code}\n${recipe("htmx", "lost").code}`,
};

test("htmx, the extension: nothing is lost between rendering and connecting", async () => {
  const head = await caddy.head();
  await order("early");
  await open(extension(head), htmx);
  await listed("early");
  await order("late");
  await listed("late");
});

test("htmx, the extension: after a gap the page is loaded again", async () => {
  await open(extension("no-position"), htmx);
  await loadedAgain();
});

test("htmx, the extension: the page is loaded again when the login ends", async () => {
  await open(extension(await caddy.head()), htmx, () => refuse());
  await loadedAgain();
});

test("htmx, the client: nothing is lost since the page was rendered, and the end of the login", async () => {
  const { code } = recipe("htmx", "client");
  const client = { language: "js", code: `import "./fixtures/htmx.js";\n${list}${code}` };
  const attributes = `data-head="${await caddy.head()}"`;
  await order("early");
  await open(client, { attributes });
  await listed("early");
  await order("shipped");
  await listed("shipped");
  await context.close();
  await open(client, { attributes }, async () => {
    await refuse();
    await showLogin();
  });
  await page.getByText("log in").waitFor();
});

test("htmx, the client: a refusal that no login mends does not load the page again", async () => {
  const { code } = recipe("htmx", "client");
  const client = { language: "js", code: `import "./fixtures/htmx.js";\n${list}${code}` };
  let said;
  await open(client, {}, async () => {
    said = page.waitForEvent("console", (message) => message.text() === "status 403");
    await page.route("**/events*", (route) => route.fulfill({ status: 403 }));
  });
  await said;
  assert.equal(page.loads, 1);
});

const element = (head) => {
  const { language, code } = recipe("turbo", "element");
  return { language, code: code.replace("{{ head }}", head) };
};
const turbo = {
  script: `import * as Turbo from "@hotwired/turbo";\n${recipe("turbo", "gap").code}`,
};

test("Turbo: nothing between rendering and connecting is lost or shown twice", async () => {
  const head = await caddy.head();
  await fragment("early");
  await open(element(head), turbo);
  await listed("early");
  await fragment("early");
  await fragment("late");
  await listed("late");
  assert.equal(await page.locator("#orders > li").count(), 2);
});

for (const [name, head, prepare] of [
  ["after a gap", "no-position", undefined],
  ["when the login ends", "", () => refuse()],
]) {
  test(`Turbo: the page is visited again ${name}`, async () => {
    let visits = 0;
    await open(element(head), turbo, async () => {
      await prepare?.();
      page.on("request", (request) => {
        if (request.url().endsWith(".html")) visits++;
      });
    });
    await until(() => visits > 1, "the page is visited again", 60_000);
  });
}

test("Turbo: a gap before the page is complete is not missed", async () => {
  const { language, code } = element("no-position");
  let visits = 0;
  const images = [];
  const opened = open({ language, code: `${code}<img src="/slow.png">` }, turbo, async () => {
    await page.route("**/slow.png", (route) => void images.push(route));
    page.on("request", (request) => {
      if (request.url().endsWith(".html")) visits++;
    });
  });
  await until(() => visits > 1, "the page is visited again", 60_000);
  for (const image of images) await image.fulfill({ status: 404 });
  await opened.catch(() => {}); // the visit may interrupt it
});

test("Turbo: the page stays while the app is away, and is visited afterwards", async () => {
  let requests = 0;
  await open(element(""), turbo, async () => {
    await refuse(502);
    await page.route("**/guide-*.html", (route) =>
      ++requests === 2 ? route.fulfill({ status: 502 }) : route.continue(),
    );
  });
  // The page, a request that fails, one that does not, and the visit.
  await until(() => requests === 4, "the page is visited again", 60_000);
  await caddy.settled(1);
  await fragment("back");
  await listed("back");
  assert.equal(page.loads, 1);
});

test("Turbo: a page without the element has no error", async () => {
  const errors = [];
  const none = { language: "html", code: "" };
  const script = `${turbo.script}\ndocument.addEventListener("turbo:load", () => (window.loaded = true));`;
  await open(none, { script }, async () => page.on("pageerror", (error) => errors.push(error)));
  await page.waitForFunction(() => window.loaded);
  assert.deepEqual(errors, []);
});

test("Turbo, the client: a classic script with defer will do, and a 401 shows the login", async () => {
  const umd = "../node_modules/@hotwired/turbo/dist/turbo.es2017-umd.js";
  copyFileSync(new URL(umd, import.meta.url), join(caddy.www, "turbo-umd.js"));
  const code = '<ul id="orders"></ul><script defer src="/turbo-umd.js"></script>';
  const client = { script: recipe("turbo", "client").code };
  await open({ language: "html", code }, client);
  await caddy.settled(1);
  await fragment("shipped");
  await listed("shipped");
  await context.close();
  await open({ language: "html", code }, client, async () => {
    await refuse();
    await showLogin();
  });
  await page.getByText("log in").waitFor();
});

test("Turbo, the client: shows fragments", async () => {
  const { code } = recipe("turbo", "client");
  const head = await caddy.head();
  await fragment("early");
  await open(
    {
      language: "html",
      code: '<ul id="orders"></ul><a href="">again</a>',
    },
    {
      script: `import * as Turbo from "@hotwired/turbo";\n${code}`,
      attributes: `data-head="${head}"`,
    },
  );
  await listed("early");
  await fragment("shipped");
  await listed("shipped");
  // An event during a visit: the page that comes was rendered before it.
  await page.route("**/guide-*.html", async (route) => {
    const response = await route.fetch();
    await fragment("during");
    await listed("during");
    await route.fulfill({ response });
  });
  await page.evaluate(() => document.getElementById("orders").append("the old page"));
  await page.getByRole("link", { name: "again" }).click();
  await page.getByText("the old page").waitFor({ state: "detached" });
  await listed("during");
  await listed("shipped");
  assert.equal(await page.locator("#orders > li").count(), 3);
});

test("React: the hook compiles strictly, shows events and the end of the login", async () => {
  const hook = recipe("react", "hook");
  const dir = mkdtempSync(join(tmpdir(), "guides-"));
  try {
    assert.equal(typeCheck(dir, { hook: [hook] }), "");
  } finally {
    rmSync(dir, { recursive: true });
  }
  const component = {
    language: "tsx",
    code: `${hook.code.replace("export function", "function")}\nfunction App() { return <Notifications user="alice" />; }`,
  };
  await open(component);
  await caddy.settled(1);
  await caddy.send({
    user: "alice",
    type: "notification",
    data: { message: "shipped", type: "info" },
  });
  await page.locator("li", { hasText: "shipped" }).waitFor();
  await context.close();
  const login = `${component.code.slice(0, component.code.lastIndexOf("function App"))}
function App() {
  const { reconnect } = useSSE("/events", { identity: "alice" });
  return <><button onClick={reconnect}>Log in</button><Notifications user="alice" /></>;
}`;
  await open({ language: "tsx", code: login }, {}, () => refuse());
  await page.getByText("Sign in again").waitFor();
  await page.getByRole("button").click();
  await page.getByText("Sign in again").waitFor({ state: "detached" });
  await caddy.settled(1);
  await context.close();
  await open(component, {}, () =>
    page.route("**/events*", (route) => route.fulfill({ status: 403 })),
  );
  await page.getByText("No live updates").waitFor();
  assert.equal(await page.getByText("Sign in again").count(), 0);
});

test("React: Vite proxies the stream", async () => {
  const dir = mkdtempSync(join(tmpdir(), "vite-"));
  const port = await freePort();
  const config = recipe("react", "vite").code;
  assert.match(config, /"http:\/\/localhost:8080"/);
  writeFileSync(
    join(dir, "vite.config.mjs"),
    config.replaceAll("http://localhost:8080", caddy.origin),
  );
  const server = await createServer({
    root: dir,
    configFile: join(dir, "vite.config.mjs"),
    logLevel: "silent",
    server: { host: "127.0.0.1", port, strictPort: true },
  });
  const end = new AbortController();
  try {
    await server.listen();
    const response = await fetch(`http://127.0.0.1:${port}/events`, { signal: end.signal });
    const { value } = await response.body.getReader().read();
    assert.match(new TextDecoder().decode(value), /event: sse\.connected/);
  } finally {
    end.abort();
    await server.close();
    rmSync(dir, { recursive: true });
  }
});
