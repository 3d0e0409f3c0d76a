import { act, StrictMode, version } from "react";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type UseSSEOptions, type UseSSEResult, useSSE } from "../../src/react.js";
import { connected, fakeServer, settle } from "../fake-server.js";

type Any = Record<string, unknown>;

Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
let server: ReturnType<typeof fakeServer>;
let root: Root;
let box: HTMLElement;
let state: UseSSEResult<Any>;
let renders: number;

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  server = fakeServer();
  renders = 0;
  box = document.createElement("div");
  root = createRoot(box);
});
afterEach(async () => {
  await act(() => root.unmount());
  await settle();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

type Props = { url?: string | null; options?: UseSSEOptions<Any> };
function Probe({ url = "/events", options = {} }: Props) {
  state = useSSE<Any>(url, { fetch: server.fetch, ...options });
  renders++;
  return <p>{state.connectionStatus}</p>;
}
const render = (node: React.ReactNode) =>
  act(async () => {
    root.render(node);
    await settle();
  });
const send = (...chunks: string[]) => act(() => server.last.send(...chunks));

test("the React that is meant", ({ task }) => {
  const project = task.file.projectName;
  expect(version.split(".")[0]).toBe(project === "react18" ? "18" : "19");
});

test("StrictMode: two hooks, one connection, closed by the unmount", async () => {
  await render(
    <StrictMode>
      <Probe />
      <Probe />
    </StrictMode>,
  );
  await send(connected("c-1"), "data: 1\n\n");
  expect(server.calls).toHaveLength(1);
  expect(box.textContent).toBe("openopen");
  expect(state).toMatchObject({ connectionId: "c-1", malformed: 0, error: null });
  expect(state.messages.map(({ data }) => data)).toEqual([1]);
  await render(null);
  await settle();
  expect(server.last.aborted).toBe(true);
});

test("a burst of 2,000 events and one malformed: all kept, a few renders, onMessage once each", async () => {
  const onMessage = vi.fn();
  await render(
    <StrictMode>
      <Probe options={{ maxMessages: 10_000, onMessage }} />
    </StrictMode>,
  );
  await send(connected("c-1"));
  const before = renders;
  const events = Array.from({ length: 2000 }, (_, i) => `data: ${i}\n\n`);
  events.splice(1000, 0, "data: {\n\n");
  await send(events.join(""));
  expect(state.messages).toHaveLength(2000);
  expect(state.malformed).toBe(1);
  expect(renders - before).toBeLessThanOrEqual(2); // StrictMode renders twice
  expect(onMessage).toHaveBeenCalledTimes(2000);
});

test("new options do not reconnect, and the latest functions are called", async () => {
  const first = vi.fn();
  const second = vi.fn();
  const headers = (token: string) => () => ({ Authorization: token });
  await render(<Probe options={{ onMessage: first, headers: headers("a") }} />);
  await send(connected("c-1"), "data: 1\n\n");
  await render(<Probe options={{ onMessage: second, headers: headers("b") }} />);
  await send("data: 2\n\n");
  expect(server.calls).toHaveLength(1);
  expect([first.mock.calls.length, second.mock.calls.length]).toEqual([1, 1]);
  await act(() => server.last.end());
  await act(() => vi.advanceTimersByTimeAsync(2000));
  expect(server.calls.map((call) => call.headers.get("Authorization"))).toEqual(["a", "b"]);
});

test("an option that is no longer given is gone", async () => {
  const onMessage = vi.fn();
  await render(<Probe options={{ onMessage }} />);
  await render(<Probe />);
  await send("data: 1\n\n");
  expect(onMessage).not.toHaveBeenCalled();
});

test("another query goes on from the position, another path starts again", async () => {
  await render(<Probe url="/events?topic=a" />);
  const first = server.last;
  await send(connected("c-1"), "data: 1\nid: e-4\n\n");
  await render(<Probe url="/events?topic=b" />);
  await settle();
  expect(first.aborted).toBe(true);
  expect(server.last.url.search).toBe("?topic=b");
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-4");
  expect(state.messages).toEqual([]);
  await render(<Probe url="/events?topic=c" />);
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-4");
  await render(<Probe url="/other" />);
  expect(server.last.headers.has("Last-Event-ID")).toBe(false);
});

test("other topics go on from the position, and keep the messages", async () => {
  await render(<Probe options={{ topics: ["a"] }} />);
  expect(server.last.url.search).toBe("?topic=a");
  await send(connected("c-1"), "data: 1\nid: e-4\n\n");
  await render(<Probe options={{ topics: ["a"] }} />);
  expect(server.calls).toHaveLength(1);
  await render(<Probe options={{ topics: ["b"] }} />);
  expect(server.calls).toHaveLength(2);
  expect(server.last.url.search).toBe("?topic=b&previous=c-1");
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-4");
  expect(state.messages).toHaveLength(1);
});

test("another identity connects again and shows nothing of the first", async () => {
  await render(<Probe options={{ identity: "alice" }} />);
  await send(connected("c-1"), "data: 1\n\n");
  await render(<Probe options={{ identity: "bob" }} />);
  expect(server.calls).toHaveLength(2);
  expect(state.messages).toEqual([]);
  expect(state.connectionId).toBeNull();
});

test("null is off, and its functions do nothing", async () => {
  await render(<Probe url={null} />);
  expect(box.textContent).toBe("idle");
  state.reconnect();
  state.close();
  state.clear();
  expect(server.calls).toHaveLength(0);
  await render(<Probe />);
  expect(server.calls).toHaveLength(1);
});

test("close, reconnect and clear", async () => {
  await render(<Probe />);
  await send(connected("c-1"), "data: 1\n\n");
  await act(async () => state.clear());
  expect(state.messages).toEqual([]);
  await act(async () => state.close());
  expect(box.textContent).toBe("closed");
  await act(async () => {
    state.reconnect();
    await settle();
  });
  await send(connected("c-2"));
  expect(box.textContent).toBe("open");
});

test("functions stay the same from render to render", async () => {
  await render(<Probe />);
  const { reconnect, close, clear } = state;
  await render(<Probe options={{ maxMessages: 1 }} />);
  expect(state).toMatchObject({ reconnect, close, clear });
});

test("renders on a server without connecting, and hydrates", async () => {
  const page = document.createElement("div");
  const html = renderToString(<Probe />);
  expect(html).toBe("<p>idle</p>");
  expect(server.calls).toHaveLength(0);
  page.innerHTML = html;
  const wrong = vi.spyOn(console, "error").mockImplementation(() => {});
  const hydrated = await act(async () => hydrateRoot(page, <Probe />));
  await act(settle);
  await send(connected("c-1"));
  expect(page.textContent).toBe("open");
  expect(wrong).not.toHaveBeenCalled();
  await act(() => hydrated.unmount());
});
