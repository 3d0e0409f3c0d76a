import { textOf } from "./guard.js";

/** The answer of an endpoint. */
export interface Answer {
  status: number;
  text: string;
  retryAfter: string | null;
}

/** Sends one POST to a path below an endpoint. Rejects if there is no answer. */
export type Transport = (
  path: string,
  headers: Record<string, string>,
  body: string,
  signal: AbortSignal,
) => Promise<Answer>;

/** A parsed endpoint. `shown` and the errors of the transport never contain the credentials. */
export interface Endpoint {
  readonly shown: string;
  /** The `Authorization` header for a name and password in the URL. */
  readonly login: string | undefined;
  readonly transport: Transport;
}

/** Parses an endpoint: `http`, `https`, or `unix:///path/of.sock` for an admin API. Throws a TypeError for others. */
export function readEndpoint(endpoint: string, given?: typeof fetch): Endpoint {
  const url = parse(endpoint);
  const { protocol, username, password } = url;
  const login = username || password ? basic(username, password) : undefined;
  // `fetch` rejects a URL with credentials, and errors print it.
  url.username = url.password = "";
  const shown = url.href.replace(/\/+$/, "");
  if (protocol === "unix:") {
    const socketPath = decode(url.pathname);
    return { shown, login, transport: overNode({ socketPath }, "/sse", undefined) };
  }
  // Node's `fetch` sends Sec-Fetch-Mode. Caddy's admin API takes such a client for a browser and requires an
  // Origin of its own, so it refuses this client on another host. `node:http` sends no such header.
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
    // The error would print the endpoint with its password.
  }
  // A query would be lost, and the events go to another hub.
  if (url && /^(https?|unix):$/.test(url.protocol) && !/[?#]/.test(endpoint)) return url;
  throw new TypeError(
    "caddy-sse: invalid endpoint: it must begin with http:// or https://, or be unix:///path/of.sock, without ? (the option `hub` chooses the hub)",
  );
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new TypeError("caddy-sse: invalid endpoint: write % in a name, password or path as %25");
  }
}

function basic(username: string, password: string): string {
  const bytes = new TextEncoder().encode(`${decode(username)}:${decode(password)}`);
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

function overFetch(base: string, given?: typeof fetch): Transport {
  const { protocol, origin } = new URL(base);
  // Caddy's admin API requires this from Node's `fetch`. Not for https: there a proxy may have changed the host.
  const own = protocol === "http:" && { Origin: origin };
  return async (path, headers, body, signal) => {
    const response = await (given ?? fetch)(base + path, {
      method: "POST",
      headers: { ...own, ...headers },
      body,
      // A redirect often leads to a login page, whose 200 would look like the answer.
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

/** A transport over `node:http`, loaded on first use. Where there is no Node it uses `fetch` with `base`. */
function overNode(
  address: { socketPath: string } | { host: string; port: number | string },
  prefix: string,
  base: string | undefined,
): Transport {
  return async (path, headers, body, signal) => {
    // webpack cannot build this import for a browser or an edge runtime, where the module is absent.
    const node = await import(/* webpackIgnore: true */ "node:http").catch((cause: unknown) =>
      textOf(cause),
    );
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
      // Deno ignores the signal on a connection that it uses again.
      signal.addEventListener("abort", () => req.destroy());
      req.end(body);
    });
  };
}
