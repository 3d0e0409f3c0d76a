import { textOf } from "./guard.js";

/** What an endpoint answered. */
export interface Answer {
  status: number;
  text: string;
  retryAfter: string | null;
}

/** One POST below an endpoint. Rejects if there is no answer. */
export type Transport = (
  path: string,
  headers: Record<string, string>,
  body: string,
  signal: AbortSignal,
) => Promise<Answer>;

/** An endpoint, taken apart. `shown` and what a transport throws never hold the credentials. */
export interface Endpoint {
  readonly shown: string;
  /** The `Authorization` of a name and password in the URL. */
  readonly login: string | undefined;
  readonly transport: Transport;
}

/** Reads an endpoint: `http`, `https`, or `unix:///path/of.sock` for an admin API. */
export function readEndpoint(endpoint: string, given?: typeof fetch): Endpoint {
  const url = parse(endpoint);
  const { protocol, username, password } = url;
  const login = username || password ? basic(username, password) : undefined;
  // A URL with credentials is none that `fetch` takes, and errors print it.
  url.username = url.password = "";
  const shown = url.href.replace(/\/+$/, "");
  if (protocol === "unix:") {
    const socketPath = decodeURIComponent(url.pathname);
    return { shown, login, transport: overNode({ socketPath }, "/sse", undefined) };
  }
  // The fetch of Node sends Sec-Fetch-Mode, and Caddy's admin API takes a client that does for a browser,
  // whose Origin must be one of its own: it would refuse this client on another host. Node's own
  // client sends neither.
  const { hostname, port, pathname } = new URL(shown);
  const host = hostname.replace(/^\[|\]$/g, "");
  const transport =
    protocol === "http:" && !given
      ? overNode({ host, port: port || 80 }, pathname.replace(/\/+$/, ""), shown)
      : overFetch(shown, given);
  return { shown, login, transport };
}

function parse(endpoint: string): URL {
  let url: URL | undefined;
  try {
    url = new URL(endpoint);
  } catch {
    // The error would print what was given, with the password in it.
  }
  if (url && /^(https?|unix):$/.test(url.protocol)) return url;
  throw new TypeError(
    "caddy-sse: the endpoint is no address to publish to: want http://, https:// or unix:///path/of.sock",
  );
}

function basic(username: string, password: string): string {
  const bytes = new TextEncoder().encode(
    `${decodeURIComponent(username)}:${decodeURIComponent(password)}`,
  );
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

function overFetch(base: string, given?: typeof fetch): Transport {
  const { protocol, origin } = new URL(base);
  // For an admin API on this host that is reached with Node's `fetch`. Elsewhere a proxy may have changed the host.
  const own = protocol === "http:" && { Origin: origin };
  return async (path, headers, body, signal) => {
    const response = await (given ?? fetch)(base + path, {
      method: "POST",
      headers: { ...own, ...headers },
      body,
      // A redirect leads to a login page, which would be taken for the answer.
      redirect: "manual",
      signal,
    });
    return {
      status: response.status,
      text: await response.text(),
      retryAfter: response.headers.get("Retry-After"),
    };
  };
}

/** With `node:http`, which is loaded when it is used, or `fetch` at `base` where there is no Node. */
function overNode(
  address: { socketPath: string } | { host: string; port: number | string },
  prefix: string,
  base: string | undefined,
): Transport {
  return async (path, headers, body, signal) => {
    const node = await import("node:http").catch((cause: unknown) => textOf(cause));
    if (typeof node === "string") {
      if (base) return overFetch(base)(path, headers, body, signal);
      throw new Error(node);
    }
    return new Promise((resolve, reject) => {
      const options = {
        ...address,
        path: prefix + path,
        method: "POST",
        headers: { ...headers, "Content-Length": new TextEncoder().encode(body).length },
        signal,
      };
      const req = node.request(options, (res) => {
        let text = "";
        res.setEncoding("utf8");
        res.on("data", (chunk: string) => {
          text += chunk;
        });
        res.on("error", reject);
        res.on("end", () =>
          resolve({
            status: res.statusCode ?? 0,
            text,
            retryAfter: res.headers["retry-after"] ?? null,
          }),
        );
      });
      req.on("error", reject);
      req.end(body);
    });
  };
}
