// A real Caddy with this module, a real browser, and the fixtures for both.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, request } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const caddy = process.env.CADDY_BIN;
if (!caddy)
  throw new Error("set CADDY_BIN to a Caddy with this module: go build -o /tmp/caddy ./cmd/caddy");

/** Waits until `probe` returns a true value. Fails with the last value. */
export async function until(probe, what, ms = 60_000) {
  const end = Date.now() + ms;
  for (;;) {
    const got = await probe();
    if (got) return got;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** The password of alice is wonderland, that of bob is builder. The hashes are weak, so that requests are fast. */
const users = {};
for (const [name, password] of [
  ["alice", "wonderland"],
  ["bob", "builder"],
]) {
  const args = [
    "hash-password",
    "--algorithm",
    "bcrypt",
    "--bcrypt-cost",
    "4",
    "--plaintext",
    password,
  ];
  users[name] = spawnSync(caddy, args, { encoding: "utf8" }).stdout.trim();
}
const login = `basic_auth {\n${Object.entries(users)
  .map(([name, hash]) => `\t\t\t${name} ${hash}`)
  .join("\n")}\n\t\t}`;

/**
 * Starts Caddy on its own ports. /events takes the user from the cookie `user`. /signed/events, /signed/internal
 * and /sse-test require a login. All other paths are fixtures. `sites` are further sites.
 */
export async function startCaddy({
  heartbeat = "1s",
  retry = "100ms 200ms",
  globals = "",
  sites = "",
} = {}) {
  const dir = mkdtempSync(join(tmpdir(), "caddy-sse-"));
  const [port, admin] = [await freePort(), await freePort()];
  await bundle(dir);
  const sse = `heartbeat ${heartbeat}\n\t\tretry ${retry}`;
  writeFileSync(
    join(dir, "Caddyfile"),
    `{
	admin 127.0.0.1:${admin}
	persist_config off
	grace_period 1s
	skip_install_trust
	storage file_system ${dir}/storage
	${globals}
	sse {
		history 30000
	}
}
http://127.0.0.1:${port} {
	handle /events {
		sse {
			user {http.request.cookie.user}
			anonymous
			topics news user/{http.request.cookie.user}/*
			${sse}
		}
	}
	@signed path /signed/* /sse-test /sse-test/*
	handle @signed {
		${login}
		handle_path /signed/internal/* {
			sse_api
		}
		handle /signed/events {
			sse {
				${sse}
			}
		}
		sse_test /sse-test {
			stream /signed/events
			api /signed/internal/sse
		}
	}
	handle {
		root ${join(dir, "www")}
		file_server
	}
}
${sites}
`,
  );

  const origin = `http://127.0.0.1:${port}`;
  const api = `http://127.0.0.1:${admin}/sse`;
  let child;
  process.on("exit", () => child?.kill("SIGKILL"));
  async function start() {
    child = spawn(caddy, ["run", "--config", join(dir, "Caddyfile")], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let log = "";
    child.stderr.on("data", (chunk) => {
      log = (log + chunk).slice(-20_000);
    });
    const exited = once(child, "exit");
    await Promise.race([
      until(() => call("GET", "/status").catch(() => false), "Caddy answers"),
      exited.then(() => {
        throw new Error(`Caddy ended:\n${log}`);
      }),
    ]);
  }
  async function end(signal) {
    const exited = once(child, "exit");
    child.kill(signal);
    await exited;
  }
  async function call(method, path, body, type = "application/json") {
    const response = await fetch(api + path, {
      method,
      // Node's fetch looks like a browser's, from which the admin API requires its own origin.
      headers: { Origin: new URL(api).origin, ...(body !== undefined && { "Content-Type": type }) },
      ...(body !== undefined && { body }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return type === "application/json" ? JSON.parse(text) : text;
  }
  const connections = async (query = "") => (await call("GET", `/connections${query}`)).connections;

  await start();
  return {
    origin,
    api,
    www: join(dir, "www"),
    /** Of the authority that signed the certificates of further sites: "root" or "intermediate". */
    authority: (name) => join(dir, "storage/pki/authorities/local", `${name}.crt`),
    send: (event) => call("POST", "/send", JSON.stringify(event)),
    broadcast: (event) => call("POST", "/broadcast", JSON.stringify(event)),
    /** In batches of a thousand, the most that the API accepts. */
    async burst(events) {
      for (let i = 0; i < events.length; i += 1000) {
        const lines = events.slice(i, i + 1000).map((event) => JSON.stringify(event));
        await call("POST", "/broadcast", lines.join("\n"), "application/x-ndjson");
      }
    },
    connections,
    /** Waits for exactly `n` open connections. */
    settled: (n, query) =>
      until(async () => (await connections(query)).length === n, `${n} connections${query ?? ""}`),
    changeTopics: (query, change) => call("PATCH", `/connections?${query}`, JSON.stringify(change)),
    disconnect: (query) => call("DELETE", `/connections${query}`),
    head: async () => (await call("GET", "/status")).hubs.default.head,
    restart: async (signal = "SIGKILL") => {
      await end(signal);
      await start();
    },
    kill: () => end("SIGKILL"),
    start,
    freeze: () => child.kill("SIGSTOP"),
    thaw: () => child.kill("SIGCONT"),
    async stop() {
      child.kill("SIGCONT");
      await end("SIGKILL");
      rmSync(dir, { recursive: true });
    },
  };
}

/** A Caddy with this address of the admin endpoint. */
export async function startWithAdmin(admin) {
  const dir = mkdtempSync(join(tmpdir(), "caddy-sse-"));
  const config = join(dir, "Caddyfile");
  const port = await freePort();
  writeFileSync(
    config,
    `{
	admin ${admin}
	persist_config off
}
http://127.0.0.1:${port} {
	sse /events
}
`,
  );
  const child = spawn(caddy, ["run", "--config", config], { stdio: "ignore" });
  process.on("exit", () => child.kill("SIGKILL"));
  await until(() => fetch(`http://127.0.0.1:${port}/`).catch(() => false), "Caddy answers");
  return {
    async stop() {
      const exited = once(child, "exit");
      child.kill("SIGKILL");
      await exited;
      rmSync(dir, { recursive: true });
    },
  };
}

/**
 * A proxy in front of a site. With `hold` it passes a body on when it has ended. With `cut` it ends every answer
 * after this many milliseconds. It records the requests for the stream.
 */
export async function startProxy(origin, { hold = false, cut = Infinity } = {}) {
  const seen = [];
  const server = createHttpServer((req, res) => {
    const { pathname } = new URL(req.url, origin);
    if (pathname === "/events") seen.push({ url: req.url, position: req.headers["last-event-id"] });
    const headers = { ...req.headers, connection: "close" };
    const upstream = request(origin + req.url, { method: req.method, headers }, (answer) => {
      const { "transfer-encoding": _, connection: __, ...kept } = answer.headers;
      const parts = [];
      if (!hold) {
        res.writeHead(answer.statusCode, kept);
        res.flushHeaders();
      }
      answer.on("data", (chunk) => (hold ? parts.push(chunk) : res.write(chunk)));
      answer.on("end", () => {
        if (hold) res.writeHead(answer.statusCode, kept);
        res.end(Buffer.concat(parts));
      });
      answer.on("error", () => res.destroy());
    });
    upstream.on("error", () => res.destroy());
    res.on("close", () => upstream.destroy());
    if (cut < Infinity) setTimeout(() => res.destroy(), cut).unref();
    req.pipe(upstream);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    seen,
    stop() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/**
 * Debian's nginx in front of a site. It buffers and ignores X-Accel-Buffering. With `gzip` it also compresses the
 * stream, and holds it back until a block is full.
 */
export async function startNginx(origin, { gzip = false } = {}) {
  const dir = mkdtempSync(join(tmpdir(), "nginx-"));
  const port = await freePort();
  writeFileSync(
    join(dir, "nginx.conf"),
    `daemon off;
pid ${dir}/pid;
error_log ${dir}/error.log;
events {}
http {
	access_log off;
	gzip ${gzip ? "on" : "off"};
	gzip_proxied any;
	gzip_min_length 0;
	gzip_types text/event-stream;
	client_body_temp_path ${dir}/body;
	proxy_temp_path ${dir}/proxy;
	fastcgi_temp_path ${dir}/fastcgi;
	uwsgi_temp_path ${dir}/uwsgi;
	scgi_temp_path ${dir}/scgi;
	server {
		listen 127.0.0.1:${port};
		location / {
			proxy_pass ${origin};
			proxy_http_version 1.1;
			proxy_set_header Host $host:$server_port;
			proxy_set_header Connection "";
			proxy_buffering on;
			proxy_ignore_headers X-Accel-Buffering;
		}
	}
}
`,
  );
  const child = spawn("nginx", ["-c", join(dir, "nginx.conf"), "-p", dir], { stdio: "ignore" });
  process.on("exit", () => child.kill("SIGKILL"));
  await until(
    () => fetch(`http://127.0.0.1:${port}/blank.html`).catch(() => false),
    "nginx answers",
  );
  return {
    origin: `http://127.0.0.1:${port}`,
    async stop() {
      const exited = once(child, "exit");
      child.kill("SIGTERM");
      await exited;
      rmSync(dir, { recursive: true });
    },
  };
}

/** Bundles the fixtures with the built package, like a user's bundler. */
async function bundle(dir) {
  await build({
    entryPoints: [
      here("fixtures/app.tsx"),
      here("fixtures/guests.js"),
      here("fixtures/htmx.js"),
      here("fixtures/turbo.js"),
    ],
    outdir: join(dir, "www"),
    bundle: true,
    format: "esm",
    jsx: "automatic",
    target: "es2022",
    define: { "process.env.NODE_ENV": '"production"' },
    alias: {
      "caddy-sse": here("../../client/dist/index.js"),
      "caddy-sse/react": here("../../client/dist/react.js"),
      // Use one React: that of the package's build.
      react: here("../../client/node_modules/react"),
      "react-dom": here("../../client/node_modules/react-dom"),
    },
  });
  for (const name of ["app", "guests"]) {
    writeFileSync(
      join(dir, "www", `${name}.html`),
      `<!doctype html><title>${name}</title><div id="root"></div><script type="module" src="${name}.js"></script>`,
    );
  }
  writeFileSync(join(dir, "www/blank.html"), "<!doctype html><title>blank</title>");
  writeFileSync(
    join(dir, "www/htmx.html"),
    `<!doctype html><title>htmx</title>
<div hx-ext="sse" sse-connect="/events"><ul id="list" sse-swap="item" hx-swap="beforeend"></ul></div>
<script type="module" src="htmx.js"></script>`,
  );
  writeFileSync(
    join(dir, "www/turbo.html"),
    `<!doctype html><title>Turbo</title>
<turbo-stream-source src="/events"></turbo-stream-source><ul id="list"></ul>
<script type="module" src="turbo.js"></script>`,
  );
}

/** Debian's Chromium with the back/forward cache, which Playwright disables by default. */
export const launch = () => chromium.launch(chromiumWith(["--disable-quic"]));

/** The same with a profile in a folder. */
export const launchProfile = (dir, args) =>
  chromium.launchPersistentContext(dir, chromiumWith(args));

const chromiumWith = (args) => ({
  executablePath: process.env.CHROMIUM_BIN ?? "/usr/bin/chromium",
  ignoreDefaultArgs: ["--disable-back-forward-cache"],
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    ...args,
  ],
});

/** A browser profile in which `user` is signed in to /events. */
export async function profile(browser, { origin }, user, options = {}) {
  const context = await browser.newContext({ baseURL: origin, ...options });
  context.setDefaultTimeout(60_000);
  context.on("weberror", (error) => console.error("in the page:", error.error()));
  if (user) await context.addCookies([{ name: "user", value: user, url: origin }]);
  return context;
}

/** Opens the fixture that uses the hook, and waits for its stream. */
export async function openApp(context, query = "") {
  const page = await context.newPage();
  await page.goto(`/app.html${query}`);
  await opened(page);
  return page;
}

export const opened = (page) => page.waitForFunction(() => window.sse?.connectionStatus === "open");

/** The data of all messages that the page's onMessage got. */
export const got = (page) => page.evaluate(() => window.got);

/** Waits until the page has received this many messages, and returns them. */
export async function received(page, n) {
  await page.waitForFunction((n) => window.got.length >= n, n);
  return got(page);
}
