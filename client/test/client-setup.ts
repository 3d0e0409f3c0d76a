import { afterEach, beforeEach, vi } from "vitest";
import { createSSE, type SSEClient, type SSEError, type SSEOptions } from "../src/index.js";
import { fakeServer, settle } from "./fake-server.js";

/** The address of the stream in the tests of one client. */
export const URL_ = "https://example.com/events";
export type Any = Record<string, unknown>;

/** The server of the current test. */
export let server: ReturnType<typeof fakeServer>;
/** The errors that the client of `start` has reported in the current test. */
export let errors: SSEError[];
let unsubscribe: (() => void) | undefined;

beforeEach(() => {
  vi.useFakeTimers();
  // Every random delay is at its upper bound, so the tests know the waits.
  vi.spyOn(Math, "random").mockReturnValue(1);
  server = fakeServer();
  errors = [];
});
afterEach(async () => {
  unsubscribe?.();
  await settle();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

/** Sets what `stop`, and the end of the test, call. */
export const setStop = (f: () => void): void => {
  unsubscribe = f;
};
/** Removes the listener of the current test. */
export const stop = (): void => unsubscribe?.();

/** Starts a client with one listener. */
export async function start(options: SSEOptions = {}): Promise<SSEClient<Any>> {
  const sse = createSSE<Any>(URL_, {
    fetch: server.fetch,
    onError: (error) => void errors.push(error),
    ...options,
  });
  setStop(sse.subscribe(() => {}));
  await settle();
  return sse;
}
export const statusOf = (sse: SSEClient<Any>): string => sse.getSnapshot().connectionStatus;
export const wait = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);
