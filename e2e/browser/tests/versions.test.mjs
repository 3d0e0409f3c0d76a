// Which version of HTTP a stream comes by, in browsers that speak all of them: the Caddyfiles and the code of
// docs/http-versions.md, from its text. ENGINE=firefox for one of the browsers.
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { withHTTP3 } from "../engines.mjs";
import { freePort, startCaddy, until } from "../harness.mjs";
import { buildRecipe } from "../recipes.mjs";

const page = readFileSync(
  fileURLToPath(new URL("../../../docs/http-versions.md", import.meta.url)),
  "utf8",
);
const recipe = Object.fromEntries(
  [...page.matchAll(/^<!-- run: (\w+) -->\n```\w+\n([\s\S]*?)^```$/gm)].map(([, name, text]) => [
    name,
    text,
  ]),
);
const without = (text, ...lines) =>
  lines.reduce((text, line) => {
    assert.ok(text.includes(`\t${line}\n`), line);
    return text.replace(`\t${line}\n`, "");
  }, text);

const HOSTS = ["example.com", "app.example.com", "events.example.com"];
const APP = "app.example.com";
const EVENTS = "events.example.com";
const misdirected = "respond @newer 421";
const wildcard = "*.example.com {\n\trespond 404\n}\n";

/** The app that answers who is signed in, and has the pages. */
async function startApp(www) {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://app");
    if (pathname === "/events") {
      const user = /(?:^|; )user=(\w+)/.exec(request.headers.cookie ?? "")?.[1];
      return response.writeHead(user ? 204 : 401, user && { "X-SSE-User": user }).end();
    }
    const file = join(www(), pathname.startsWith("/recipes/") ? "recipes" : "", basename(pathname));
    if (pathname === "/" || !existsSync(file)) return response.writeHead(404).end();
    const type = file.endsWith(".js") ? "text/javascript" : "text/html";
    response.writeHead(200, { "Content-Type": type }).end(readFileSync(file));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { address: `127.0.0.1:${server.address().port}`, stop: () => server.close() };
}

/** Serves a Caddyfile of the page; its hosts are on these ports. */
async function serve(caddyfile) {
  let caddy;
  const app = await startApp(() => caddy.www);
  const [pages, events] = [await freePort(), await freePort()];
  const [, globals = "", sites] = /^(?:\{\n([\s\S]*?)\n\}\n)?([\s\S]*)$/.exec(caddyfile);
  const place = (text) =>
    text
      .replaceAll("localhost:3000", app.address)
      .replace("servers :8443 {", `servers 127.0.0.1:${events} {`)
      .replaceAll(":8443", `:${events}`)
      .replaceAll(/^([\w*]+\.)?example\.com \{$/gm, `$1example.com:${pages} {`)
      .replaceAll(/^(\tsse_cors https:\/\/[\w.]+)$/gm, `$1:${pages}`)
      // The pages of the fixtures are on a server of their own.
      .replace("servers {", `servers 127.0.0.1:${pages} {`);
  caddy = await startCaddy({
    globals: `local_certs\ndefault_bind 127.0.0.1\n${place(globals)}`,
    sites: place(sites),
  });
  await until(() => existsSync(caddy.authority("intermediate")), "the authority");
  const shared = caddyfile.includes(":8443") ? events : pages;
  return {
    caddy,
    page: (host, path) => `https://${host}:${pages}${path}`,
    stream: (host) => `https://${host}:${shared}/events`,
    events,
    async stop() {
      await caddy.stop();
      app.stop();
    },
  };
}

/**
 * Opens streams in every way: with the package, with two tabs that share one, with EventSource, over reloads of the
 * page and a restart of the browser. Gives the protocols that the server has seen, in order and each once.
 */
async function protocolsSeen(engine, site, host, pageHost) {
  const profile = mkdtempSync(join(tmpdir(), `${engine}-`));
  const seen = [];
  const look = async () => {
    const [{ protocol, user }] = await site.caddy.settled(1).then(() => site.caddy.connections());
    assert.equal(user, "alice");
    seen.push(protocol);
  };
  const url = site.stream(host);
  const options = JSON.stringify({
    url,
    credentials: "include",
    share: "tabs",
    identity: "alice",
  });
  const app = site.page(pageHost, `/app.html?options=${encodeURIComponent(options)}`);
  let browser;
  try {
    for (let run = 0; run < 2; run++) {
      browser = await withHTTP3[engine]({
        profile,
        hosts: HOSTS,
        authority: site.caddy.authority,
      });
      const waitFor = (tab, expression) =>
        until(() => tab.evaluate(expression).catch(() => false), expression, 30_000);
      const first = await browser.open(app);
      // Another answer of the same host, which is not a stream: a 404.
      await first.evaluate(`fetch("${url}/nothing", { mode: "no-cors" }).then(() => true)`);
      for (let reload = 0; reload < 2; reload++) {
        if (reload) await first.goto(app);
        await waitFor(first, `window.sse?.connectionStatus === "open"`);
        await look();
        assert.equal(await first.evaluate("window.sse.protocol"), seen.at(-1));
      }
      const second = await browser.open(app);
      await waitFor(second, `window.sse?.connectionStatus === "open"`);
      await look();
      await site.caddy.send({ user: "alice", data: run });
      for (const tab of [first, second])
        await waitFor(tab, `JSON.stringify(window.got) === "[${run}]"`);
      await second.close();
      await first.goto(site.page(pageHost, "/blank.html"));
      await site.caddy.settled(0);

      const native = recipe.native.replace(/"https:[^"]*"/, JSON.stringify(url));
      await first.evaluate(`(() => { ${native}; window.events = events; })()`);
      await look();
      await waitFor(first, "window.events.readyState === 1");
      await first.evaluate("window.events.close()");
      await site.caddy.settled(0);

      await first.goto(site.page(pageHost, "/recipes/client.html"));
      await look();
      await first.goto(site.page(pageHost, "/blank.html"));
      await site.caddy.settled(0);
      await browser.quit();
      browser = undefined;
    }
  } finally {
    await browser?.quit();
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  }
  console.log(`# ${engine}: ${seen.join(" ")}`);
  return [...new Set(seen)];
}

const same = "example.com";
const forms = {
  "another port": { text: recipe.port, host: same, page: same, want: ["h1"] },
  "a host of its own": { text: recipe.host, host: EVENTS, page: APP, want: ["h1"] },
  "a host of its own, with a wildcard certificate": {
    text: recipe.host + wildcard,
    host: EVENTS,
    page: APP,
    want: ["h1"],
  },
  "no HTTP/3 at all": { text: recipe.server, host: same, page: same, want: ["h2"] },
};
// Without what the page says the same browsers leave, so what is tested above is not that they cannot.
const controls = {
  "a host with alpn alone": {
    text: without(recipe.host, "header Alt-Svc clear", misdirected),
    host: EVENTS,
    page: APP,
  },
  "a wildcard certificate without the 421": {
    text: without(recipe.host, misdirected) + wildcard,
    host: EVENTS,
    page: APP,
  },
};

for (const engine of process.env.ENGINE?.split(",") ?? Object.keys(withHTTP3)) {
  describe(engine, () => {
    for (const [name, { text, host, page, want }] of Object.entries({ ...forms, ...controls })) {
      test(`${name}${want ? ` keeps it on ${want}` : " does not keep it"}`, async () => {
        const site = await serve(text);
        try {
          const code = recipe.client.replace(/"https:[^"]*"/, JSON.stringify(site.stream(host)));
          await buildRecipe(site.caddy.www, "client", { language: "js", code });
          const seen = await protocolsSeen(engine, site, host, page);
          if (want) assert.deepEqual(seen, want);
          else assert.ok(seen.includes("h2") || seen.includes("h3"), seen.join());
        } finally {
          await site.stop();
        }
      });
    }
  });
}
