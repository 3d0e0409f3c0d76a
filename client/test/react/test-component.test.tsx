import { act } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { SSETestComponent } from "../../src/test-component/index.js";
import { connected, fakeServer, settle, status } from "../fake-server.js";

Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
let server: ReturnType<typeof fakeServer>;
let root: Root;
let box: HTMLElement;

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
  server = fakeServer();
  box = document.body.appendChild(document.createElement("div"));
  root = createRoot(box);
});
afterEach(async () => {
  await act(() => root.unmount());
  await settle();
  box.remove();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

const render = (api?: string) =>
  act(async () => {
    root.render(<SSETestComponent url="/events" api={api} options={{ fetch: server.fetch }} />);
    await settle();
  });
const send = (...chunks: string[]) => act(() => server.last.send(...chunks));
const find = <T extends Element = HTMLElement>(selector: string) =>
  box.querySelector(selector) as T;
const rows = () => [...box.querySelectorAll("li")].map(({ textContent }) => textContent);
const click = (text: string) =>
  act(async () => {
    const all = [...box.querySelectorAll<HTMLElement>("button, label")];
    all.find(({ textContent }) => textContent?.startsWith(text))?.click();
    await settle();
  });
/** What React hears as typing. */
const type = (element: HTMLInputElement, value: string) =>
  act(async () => {
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value")?.set?.call(element, value);
    element.dispatchEvent(new Event("input", { bubbles: true }));
  });

test("shows the connection, counts down to the next attempt, and why", async () => {
  server.answers.push(status(503, { "Retry-After": "3" }));
  await render();
  expect(find("[role=status]").textContent).toBe("reconnecting");
  expect(find(".sse-countdown").textContent).toBe("attempt 1 in 3.5 s");
  expect(find(".sse-error").textContent).toBe("The server answered 503.");
  await act(() => vi.advanceTimersByTimeAsync(1000));
  expect(find(".sse-countdown").textContent).toBe("attempt 1 in 2.5 s");
  await act(() => vi.advanceTimersByTimeAsync(2500));
  await send(connected("c-1"));
  expect(find("[role=status]").textContent).toBe("open");
  expect(find("dl").textContent).toContain("alice");
  expect(find("dl").textContent).toContain("c-1");
  await click("Disconnect");
  expect(find("[role=status]").textContent).toBe("closed");
});

test("lists events newest first, gaps, raw and malformed data, and filters", async () => {
  await render();
  await send(
    connected("c-1"),
    'event: sse.gap\ndata: {"reason":"evicted"}\nid: e-1\n\n',
    'event: note\ndata: {"a":1}\nid: e-2\n\ndata: "two"\nid: e-3\n\nevent: html\ndata: <b>\nid: e-4\n\n',
  );
  expect(find(".sse-count").textContent).toBe("3 received");
  expect(rows().map((row) => row?.slice(12))).toEqual([
    'messagee-3"two"',
    'notee-2{\n  "a": 1\n}',
    "gap: evictede-1Events before this position may be missing.",
  ]);
  await click("raw");
  expect(rows()[1]).toContain('event: note\ndata: {"a":1}\nid: e-2');
  await type(find("[type=search]"), "NOTE");
  expect(find(".sse-count").textContent).toBe("1 of 3 received");
  await type(find("[type=search]"), "");
  await click("malformed (1)");
  expect(rows()).toHaveLength(1);
  expect(rows()[0]).toContain("<b>");
  await click("Clear");
  expect(rows()).toEqual([]);
});

test("sends to whom it is told, and shows the receipt or the refusal", async () => {
  const posts: [string, unknown][] = [];
  const answers = [
    Response.json({ id: "e-9", connections: 1 }),
    Response.json({ error: "no" }, { status: 400 }),
  ];
  vi.stubGlobal("fetch", async (url: string, { body }: { body: string }) => {
    posts.push([url, JSON.parse(body)]);
    return answers.shift();
  });
  await render("/internal/sse");
  await send(connected("c-1"));
  await click("Send");
  expect(posts[0]).toEqual([
    "/internal/sse/send",
    {
      user: "alice",
      type: "notification",
      data: { message: "Hello from the test page", type: "info" },
    },
  ]);
  expect(find("output").textContent).toBe("Accepted as e-9, for 1 connection.");
  await act(async () => {
    const select = find<HTMLSelectElement>("select");
    select.value = "all";
    select.dispatchEvent(new Event("change", { bubbles: true }));
  });
  await click("Send");
  expect(posts[1]?.[0]).toBe("/internal/sse/broadcast");
  expect(posts[1]?.[1]).not.toHaveProperty("user");
  expect(find("output").textContent).toBe("400: no");
});

test("without an address the form is disabled and says why", async () => {
  await render();
  expect(find<HTMLFieldSetElement>("form fieldset").disabled).toBe(true);
  expect(find(".sse-send").textContent).toContain("No address to send to");
});
