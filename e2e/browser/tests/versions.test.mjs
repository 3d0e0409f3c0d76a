// Tests which version of HTTP a stream uses in browsers that support all versions. The Caddyfiles
// and the code come from docs/http-versions.md. ENGINE=firefox runs one of the browsers.
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

/** The app that tells Caddy the user, and serves the pages. */
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

/** Serves a Caddyfile of the page with its hosts on free ports. */
async function serve(caddyfile) {
  let caddy;
  const app = await startApp(() => caddy.www);
  const [pages, events] = [await freePort(), await freePort()];
  const [, globals = "", sites] = /^(?:\{\n([\s\S]*?)\n\}\n)?([\s\S]*)$/.exec(caddyfile);
  const localize = (text) =>
    text
      .replaceAll("localhost:3000", app.address)
      .replace("servers :8443 {", `servers 127.0.0.1:${events} {`)
      .replaceAll(":8443", `:${events}`)
      .replaceAll(/^([\w*]+\.)?example\.com \{$/gm, `$1example.com:${pages} {`)
      .replaceAll(/^(\tsse_cors https:\/\/[\w.]+)$/gm, `$1:${pages}`)
      // The pages of the fixtures have their own server.
      .replace("servers {", `servers 127.0.0.1:${pages} {`);
  caddy = await startCaddy({
    globals: `local_certs\ndefault_bind 127.0.0.1\n${localize(globals)}`,
    sites: localize(sites),
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
 * Opens streams with the package, with two tabs that share one and with EventSource, and repeats this after reloads of
 * the page and a restart of the browser. Returns the protocols that the server has seen, in order and each once.
 */
async function protocolsSeen(engine, site, host, pageHost) {
  const profile = mkdtempSync(join(tmpdir(), `${engine}-`));
  const protocols = [];
  const record = async () => {
    const [{ protocol, user }] = await site.caddy.settled(1).then(() => site.caddy.connections());
    assert.equal(user, "alice");
    protocols.push(protocol);
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
      // Another response of the same host that is not a stream: a 404.
      await first.evaluate(`fetch("${url}/nothing", { mode: "no-cors" }).then(() => true)`);
      for (let reload = 0; reload < 2; reload++) {
        if (reload) await first.goto(app);
        await waitFor(first, `window.sse?.connectionStatus === "open"`);
        await record();
        assert.equal(await first.evaluate("window.sse.protocol"), protocols.at(-1));
      }
      const second = await browser.open(app);
      await waitFor(second, `window.sse?.connectionStatus === "open"`);
      await record();
      await site.caddy.send({ user: "alice", data: run });
      for (const tab of [first, second])
        await waitFor(tab, `JSON.stringify(window.got) === "[${run}]"`);
      await second.close();
      await first.goto(site.page(pageHost, "/blank.html"));
      await site.caddy.settled(0);

      const native = recipe.native.replace(/"https:[^"]*"/, JSON.stringify(url));
      await first.evaluate(`(() => { ${native}; window.events = events; })()`);
      await record();
      await waitFor(first, "window.events.readyState === 1");
      await first.evaluate("window.events.close()");
      await site.caddy.settled(0);

      await first.goto(site.page(pageHost, "/recipes/client.html"));
      await record();
      await first.goto(site.page(pageHost, "/blank.html"));
      await site.caddy.settled(0);
      await browser.quit();
      browser = undefined;
    }
  } finally {
    await browser?.quit();
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  }
  console.log(`# ${engine}: ${protocols.join(" ")}`);
  return [...new Set(protocols)];
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
// Without these lines of the page the same browsers switch to another version. So the tests above
// do not pass just because a browser cannot switch.
const withoutLines = {
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
    for (const [name, { text, host, page, want }] of Object.entries({
      ...forms,
      ...withoutLines,
    })) {
      test(`${name}${want ? ` keeps streams on ${want}` : " does not keep streams on h1"}`, async () => {
        const site = await serve(text);
        try {
          const code = recipe.client.replace(/"https:[^"]*"/, JSON.stringify(site.stream(host)));
          await buildRecipe(site.caddy.www, "client", { language: "js", code });
          const protocols = await protocolsSeen(engine, site, host, page);
          if (want) assert.deepEqual(protocols, want);
          else assert.ok(protocols.includes("h2") || protocols.includes("h3"), protocols.join());
        } finally {
          await site.stop();
        }
      });
    }
  });
}
