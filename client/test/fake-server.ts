import { vi } from "vitest";

/** One request that the server has received, and the stream of its response. */
export interface Call {
  url: URL;
  headers: Headers;
  init: RequestInit;
  /** Whether the client has aborted the request. */
  readonly aborted: boolean;
  send(...chunks: (string | Uint8Array)[]): Promise<void>;
  end(): Promise<void>;
  cut(): Promise<void>;
}

type Respond = () => Response | Promise<Response>;

/** Runs everything that waits only for promises. */
export const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

/** The first block of a stream as caddy-sse writes it. */
export const connected = (id: string, more: object = {}): string =>
  `retry: 2000\nevent: sse.connected\ndata: ${JSON.stringify({ connectionId: id, user: "alice", heartbeat: 15000, ...more })}\nid: e-1\n\n`;

/** A `fetch` that records its calls. It returns the next queued response, or a stream that the test writes. */
export function fakeServer(): {
  fetch: typeof fetch;
  calls: Call[];
  responses: Respond[];
  last: Call;
} {
  const calls: Call[] = [];
  const responses: Respond[] = [];
  const encoder = new TextEncoder();
  return {
    calls,
    responses,
    get last() {
      return calls.at(-1) as Call;
    },
    async fetch(input: RequestInfo | URL, init: RequestInit = {}) {
      const body = new TransformStream<Uint8Array, Uint8Array>(
        undefined,
        { highWaterMark: 1e6 },
        { highWaterMark: 1e6 },
      );
      const writer = body.writable.getWriter();
      writer.closed.catch(() => {});
      init.signal?.addEventListener(
        "abort",
        () => void writer.abort(init.signal?.reason).catch(() => {}),
      );
      calls.push({
        url: new URL(String(input)),
        headers: new Headers(init.headers),
        init,
        get aborted() {
          return init.signal?.aborted ?? false;
        },
        async send(...chunks) {
          for (const chunk of chunks) {
            await writer.write(typeof chunk === "string" ? encoder.encode(chunk) : chunk);
          }
          await settle();
        },
        async end() {
          await writer.close();
          await settle();
        },
        async cut() {
          await writer.abort(new TypeError("network error"));
          await settle();
        },
      });
      const respond = responses.shift();
      if (respond) return respond();
      return new Response(body.readable, { headers: { "Content-Type": "text/event-stream" } });
    },
  };
}

export const status =
  (code: number, headers: Record<string, string> = {}): Respond =>
  () =>
    new Response(code === 204 ? null : "no", { status: code, headers });
