/** One POST below an endpoint. Rejects if there is no answer. */
export type Transport = (
  path: string,
  headers: Record<string, string>,
  body: string,
  signal: AbortSignal,
) => Promise<{ status: number; text: string; retryAfter: string | null }>;

/** The transport for an endpoint: `http`, `https`, or `unix:///path/of.sock` for an admin API. */
export function createTransport(endpoint: string, given?: typeof fetch): Transport {
  const { protocol, pathname, origin } = new URL(endpoint);
  if (protocol === "unix:") return unixTransport(decodeURIComponent(pathname));
  if (protocol !== "http:" && protocol !== "https:") {
    throw new TypeError(`endpoint ${endpoint}: want http://, https:// or unix:///path/of.sock`);
  }
  const base = endpoint.replace(/\/+$/, "");
  // The fetch of Node sends Sec-Fetch-Mode, and Caddy's admin API takes whoever does for a browser, whose
  // Origin must be its own. It is plain http; elsewhere a proxy may have changed the host, so no Origin.
  const own = protocol === "http:" && { Origin: origin };
  return async (path, headers, body, signal) => {
    const response = await (given ?? fetch)(base + path, {
      method: "POST",
      headers: { ...own, ...headers },
      body,
      signal,
    });
    return {
      status: response.status,
      text: await response.text(),
      retryAfter: response.headers.get("Retry-After"),
    };
  };
}

// `fetch` knows no sockets. Loaded when used, so that this module also loads where there is no Node.
function unixTransport(socketPath: string): Transport {
  return async (path, headers, body, signal) => {
    const { request } = await import("node:http");
    return new Promise((resolve, reject) => {
      const req = request(
        { socketPath, path: `/sse${path}`, method: "POST", headers, signal },
        (res) => {
          let text = "";
          res.setEncoding("utf8");
          res.on("data", (chunk: string) => (text += chunk));
          res.on("error", reject);
          res.on("end", () =>
            resolve({
              status: res.statusCode ?? 0,
              text,
              retryAfter: res.headers["retry-after"] ?? null,
            }),
          );
        },
      );
      req.on("error", reject);
      req.end(body);
    });
  };
}
