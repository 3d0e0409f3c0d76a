import { afterEach, beforeEach, vi } from "vitest";
import type { ConnectionStatus, SSEClient, SSEOptions } from "../src/types.js";
import { fakeBrowser } from "./fake-browser.js";
import { type Call, fakeServer, settle } from "./fake-server.js";

/** The address of the stream in the tests of tabs. */
export const URL_ = "https://example.com/events";
export type Any = Record<string, unknown>;

/** The server and the browser of the current test. */
export let server: ReturnType<typeof fakeServer>;
export let browser: ReturnType<typeof fakeBrowser>;
beforeEach(() => {
  vi.useFakeTimers();
  server = fakeServer();
  browser = fakeBrowser();
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

export interface Tab {
  sse: SSEClient<Any>;
  got: unknown[];
  gaps: string[];
  statuses: ConnectionStatus[];
  off: () => void;
  close: () => void;
  createSSE: typeof import("../src/index.js").createSSE;
  options: SSEOptions;
}

/** Opens a tab. It loads the modules again, so tabs share only the browser. */
export async function openTab(options: Partial<SSEOptions> = {}): Promise<Tab> {
  vi.resetModules();
  const { createSSE } = await import("../src/index.js");
  const gaps: string[] = [];
  const all = {
    share: "tabs",
    identity: "alice",
    fetch: server.fetch,
    onGap: ({ reason }) => gaps.push(reason),
    ...options,
  } as SSEOptions;
  const sse = createSSE<Any>(URL_, all);
  const got: unknown[] = [];
  const statuses: ConnectionStatus[] = [];
  sse.subscribe(() => statuses.push(sse.getSnapshot().connectionStatus));
  const off = sse.on("*", ({ data }) => got.push(data));
  await settle();
  return { sse, got, gaps, statuses, off, close: sse.close, createSSE, options: all };
}
/** The latest stream of a follower. A request of the leader names its connection before. */
export const ownStream = (): Call | undefined =>
  server.calls.findLast(
    ({ url }) => !url.searchParams.has("previous") && !url.searchParams.has("poll"),
  );
export const event = (n: number): string => `data: ${n}\nid: e-${n}\n\n`;
