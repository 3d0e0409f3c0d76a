// Three browser engines with one small interface: Chromium over Playwright, Firefox over WebDriver BiDi,
// WebKit over WebDriver. Each has a profile, created by `begin` and removed by `end`, in which alice is signed in.
// A page can open a URL, go back, and evaluate an expression that returns JSON.
import { spawn, spawnSync } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket from "ws";
import { freePort, launch, launchProfile, until } from "./harness.mjs";

/** Starts a program and returns the match of its output. */
async function run(command, args, pattern, options = {}) {
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
    ...options,
  });
  // And its children: a driver does not end its browser.
  const kill = () => {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // It has already ended.
    }
  };
  process.on("exit", kill);
  const exited = new Promise((resolve) => child.once("exit", resolve));
  let output = "";
  let failed;
  child.on("error", (error) => (failed = error));
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk) => (output += chunk));
  const found = await until(
    () => {
      if (failed || child.exitCode !== null)
        throw failed ?? new Error(`${command} ended:\n${output}`);
      return pattern ? pattern.exec(output) : true;
    },
    `${command}: ${pattern}`,
    60_000,
  );
  return { found, kill, exited };
}

async function chromium() {
  const browser = await launch();
  let context;
  return {
    async begin() {
      context = await browser.newContext();
    },
    open: tabsOf(() => context.newPage()),
    end: () => context.close(),
    stop: () => browser.close(),
  };
}

/** Opens tabs with Playwright. */
const tabsOf = (newPage) => async (url) => {
  const page = await newPage();
  const goto = (url) => page.goto(url);
  const evaluate = (expression) => page.evaluate(expression);
  await signIn({ goto, evaluate }, url);
  return {
    goto,
    back: () => page.goBack({ waitUntil: "commit" }),
    evaluate,
    close: () => page.close(),
  };
};

async function firefox({ profile = mkdtempSync(join(tmpdir(), "firefox-")), prefs = {} } = {}) {
  writeFileSync(
    join(profile, "user.js"),
    [
      "app.update.enabled",
      "browser.shell.checkDefaultBrowser",
      "datareporting.policy.dataSubmissionEnabled",
      "network.captive-portal-service.enabled",
      "network.connectivity-service.enabled",
      "browser.safebrowsing.downloads.remote.enabled",
    ]
      .map((name) => [name, false])
      .concat(Object.entries(prefs))
      .map(([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});`)
      .join("\n"),
  );
  const { found, kill, exited } = await run(
    process.env.FIREFOX_BIN ?? "firefox-esr",
    ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"],
    /WebDriver BiDi listening on (ws:\S+)/,
    { env: { ...process.env, HOME: profile, MOZ_CRASHREPORTER_DISABLE: "1" } },
  );
  const socket = new WebSocket(`${found[1]}/session`);
  await once(socket, "open");
  const waiting = new Map();
  let last = 0;
  socket.on("message", (data) => {
    const { id, type, result, error, message } = JSON.parse(data);
    if (!waiting.has(id)) return;
    const [resolve, reject] = waiting.get(id);
    waiting.delete(id);
    if (type === "success") resolve(result);
    else reject(new Error(`${error}: ${message}`));
  });
  const call = (method, params = {}) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, [resolve, reject]);
      socket.send(JSON.stringify({ id: last, method, params }));
    });
  await call("session.new", { capabilities: {} });
  let userContext;
  return {
    async begin() {
      ({ userContext } = await call("browser.createUserContext"));
    },
    async open(url) {
      const { context } = await call("browsingContext.create", { type: "tab", userContext });
      const goto = (url) => call("browsingContext.navigate", { context, url, wait: "complete" });
      const evaluate = async (expression) => {
        const { type, result, exceptionDetails } = await call("script.evaluate", {
          expression: `(async () => JSON.stringify(await (${expression})))()`,
          target: { context },
          awaitPromise: true,
        });
        if (type === "exception") throw new Error(exceptionDetails.text);
        return result.value === undefined ? undefined : JSON.parse(result.value);
      };
      await signIn({ goto, evaluate }, url);
      return {
        goto,
        back: () => call("browsingContext.traverseHistory", { context, delta: -1 }),
        evaluate,
        close: () => call("browsingContext.close", { context }),
      };
    },
    end: () => call("browser.removeUserContext", { userContext }),
    stop() {
      socket.close();
      kill();
      rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
    },
    /** Closes the browser properly, so that it saves its profile. */
    async quit() {
      await call("browser.close").catch(() => {});
      await exited;
      socket.close();
    },
  };
}

async function webkit() {
  const port = await freePort();
  const lib = readdirSync("/usr/lib").find((name) => name.endsWith("-linux-gnu"));
  const binary = ["4.1", "4.0", "6.0"]
    .map((version) => `/usr/lib/${lib}/webkit2gtk-${version}/MiniBrowser`)
    .find((path) => {
      try {
        return readdirSync(join(path, "..")).includes("MiniBrowser");
      } catch {
        return false;
      }
    });
  const { kill } = await run(
    "xvfb-run",
    ["-a", "WebKitWebDriver", `--port=${port}`, "--host=127.0.0.1"],
    undefined,
    {
      // Its sandbox needs namespaces, which a container may not create.
      env: {
        ...process.env,
        WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS: "1",
        LIBGL_ALWAYS_SOFTWARE: "1",
      },
    },
  );
  const base = `http://127.0.0.1:${port}`;
  const call = async (method, path, body) => {
    const response = await fetch(base + path, {
      method,
      ...(method === "POST" && { body: JSON.stringify(body ?? {}) }),
    });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${value.error}: ${value.message}`);
    return value;
  };
  await until(() => call("GET", "/status").catch(() => false), "WebKitWebDriver answers", 60_000);
  let session;
  return {
    async begin() {
      const { sessionId } = await call("POST", "/session", {
        capabilities: {
          alwaysMatch: {
            browserName: "MiniBrowser",
            "webkitgtk:browserOptions": { binary, args: ["--automation"] },
          },
        },
      });
      session = `/session/${sessionId}`;
    },
    async open(url) {
      const [first] = await call("GET", `${session}/window/handles`);
      const used = (await call("GET", `${session}/url`)) !== "about:blank";
      const { handle } = used
        ? await call("POST", `${session}/window/new`, { type: "tab" })
        : { handle: first };
      const here = async (method, path, body) => {
        await call("POST", `${session}/window`, { handle });
        return call(method, session + path, body);
      };
      const goto = (url) => here("POST", "/url", { url });
      const evaluate = async (expression) => {
        const script = `const done = arguments[arguments.length - 1];
          (async () => (${expression}))().then((v) => done(JSON.stringify([v])), (e) => done("!" + e));`;
        const text = await here("POST", "/execute/async", { script, args: [] });
        if (text.startsWith("!")) throw new Error(text);
        return JSON.parse(text)[0];
      };
      await signIn({ goto, evaluate }, url);
      return {
        goto,
        back: () => here("POST", "/back"),
        evaluate,
        close: () => here("DELETE", "/window"),
      };
    },
    end: () => call("DELETE", session),
    stop: kill,
  };
}

/**
 * Browsers that use HTTP/3 to these hosts on this machine. An authority of the test has signed the certificates.
 * `profile` is a folder that outlives the browsers: they know it again after a restart.
 */
export const withHTTP3 = {
  async chromium({ profile, hosts, authority }) {
    const { publicKey } = new X509Certificate(readFileSync(authority("intermediate")));
    const spki = publicKey.export({ type: "spki", format: "der" });
    const context = await launchProfile(profile, [
      "--enable-quic",
      `--host-resolver-rules=${hosts.map((host) => `MAP ${host} 127.0.0.1`)}`,
      `--ignore-certificate-errors-spki-list=${createHash("sha256").update(spki).digest("base64")}`,
      // QUIC requires a well-known authority, except for the hosts that are named here. Nothing listens on port 1, so
      // HTTP/3 is not forced on any host.
      `--origin-to-force-quic-on=${hosts.map((host) => `${host}:1`)}`,
    ]);
    return { open: tabsOf(() => context.newPage()), quit: () => context.close() };
  },
  async firefox({ profile, hosts, authority }) {
    if (!existsSync(join(profile, "cert9.db"))) {
      const db = `sql:${profile}`;
      for (const args of [
        ["-N", "-d", db, "--empty-password"],
        ["-A", "-d", db, "-n", "test", "-t", "C,,", "-i", authority("root")],
      ]) {
        const { status, error, stderr } = spawnSync("certutil", args, { encoding: "utf8" });
        if (status !== 0) throw error ?? new Error(stderr);
      }
    }
    const browser = await firefox({
      profile,
      prefs: {
        "network.dns.localDomains": hosts.join(),
        "network.http.http3.disable_when_third_party_roots_found": false,
      },
    });
    await browser.begin();
    return browser;
  },
};

/** A page of the site itself sets the cookie of the user, which every engine allows. */
async function signIn({ goto, evaluate }, url) {
  await goto(new URL("/blank.html", url).href);
  const { hostname } = new URL(url);
  const all = hostname.endsWith("example.com") ? "; domain=example.com" : "";
  await evaluate(`(document.cookie = "user=alice; path=/${all}", true)`);
  await goto(url);
}

export const engines = { chromium, firefox, webkit };
