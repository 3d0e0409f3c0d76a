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
const change = (select: HTMLSelectElement, value: string) =>
  act(async () => {
    select.value = value;
    select.dispatchEvent(new Event("change", { bubbles: true }));
  });
/** Types into an input so that React notices. */
const type = (element: HTMLInputElement, value: string) =>
  act(async () => {
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value")?.set?.call(element, value);
    element.dispatchEvent(new Event("input", { bubbles: true }));
  });

test("shows the connection, counts down to the next attempt, and why", async () => {
  server.responses.push(status(503, { "Retry-After": "3" }));
  await render();
  expect(find("[role=status]").textContent).toBe("reconnecting");
  expect(find(".sse-countdown").textContent).toBe("attempt 1 in 3.5 s");
  expect(find(".sse-connection .sse-error").textContent).toBe(
    "The server could not answer (503). The page reconnects by itself.",
  );
  await act(() => vi.advanceTimersByTimeAsync(1000));
  expect(find(".sse-countdown").textContent).toBe("attempt 1 in 2.5 s");
  await act(() => vi.advanceTimersByTimeAsync(2500));
  await send(connected("c-1", { protocol: "h3" }));
  expect(find("[role=status]").textContent).toBe("open");
  expect(find(".sse-status").textContent).toContain("streaming, HTTP/3");
  expect(find("dl").textContent).toContain("alice");
  expect(find("dl").textContent).toContain("c-1");
  await click("Disconnect");
  expect(find("[role=status]").textContent).toBe("closed");
});

test("lists events newest first, gaps, text and raw data, and filters", async () => {
  await render();
  expect(find(".sse-empty").textContent).toContain("http://localhost:2019/sse/broadcast");
  await send(
    connected("c-1"),
    'event: sse.gap\ndata: {"reason":"evicted"}\nid: e-1\n\n',
    'event: note\ndata: {"a":1}\nid: e-2\n\ndata: "two"\nid: e-3\n\nevent: html\ndata: <b>\nid: e-4\n\n',
  );
  expect(find(".sse-count").textContent).toBe("4 received");
  expect(rows().map((row) => row?.slice(12))).toEqual([
    "htmltexte-4<b>",
    'messagee-3"two"',
    'notee-2{\n  "a": 1\n}',
    "gap: evictede-1Events before this position may be missing. An app must load its data again here.",
  ]);
  await click("Raw");
  expect(rows()[2]).toContain('event: note\ndata: {"a":1}\nid: e-2');
  await type(find("[type=search]"), "NOTE");
  expect(find(".sse-count").textContent).toBe("1 of 4 received");
  await type(find("[type=search]"), "");
  await click("Clear");
  expect(rows()).toEqual([]);
});

test("starts from a position, and asks for topics", async () => {
  await render();
  await send(connected("c-1"));
  await change(find(".sse-listen select"), "position");
  await type(find(".sse-listen input"), "e-40");
  await type(find(".sse-listen .sse-full input"), "news, chat");
  await click("Connect like this");
  expect(server.last.url.search).toBe("?topic=chat&topic=news");
  expect(server.last.headers.get("Last-Event-ID")).toBe("e-40");
  const copied: string[] = [];
  vi.stubGlobal("navigator", { clipboard: { writeText: async (s: string) => copied.push(s) } });
  await click("Copy as curl");
  expect(copied[0]).toContain("/events?topic=news&topic=chat'");
  expect(copied[0]).toContain("Last-Event-ID: e-40");
});

test("copies nothing if the payload is no JSON", async () => {
  await render("/internal/sse");
  await send(connected("c-1"));
  const copied: string[] = [];
  vi.stubGlobal("navigator", { clipboard: { writeText: async (s: string) => copied.push(s) } });
  const copy = () =>
    act(async () => {
      find("button[aria-label='Copy as curl: this event']").click();
      await settle();
    });
  await copy();
  expect(copied).toHaveLength(1);
  await act(() => vi.advanceTimersByTimeAsync(2000));
  const area = find<HTMLTextAreaElement>("textarea");
  await act(async () => {
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value")?.set?.call(area, "{");
    area.dispatchEvent(new Event("input", { bubbles: true }));
  });
  await copy();
  expect(copied).toHaveLength(1);
  expect(find(".sse-send .sse-said").textContent).toBe("");
  expect(find(".sse-send [role=alert]").textContent).toContain("This is not JSON");
});

test("says that a request that cannot be sent is final", async () => {
  await act(async () => {
    root.render(<SSETestComponent url="https://u:secret@example.com/events" />);
    await settle();
  });
  expect(find("[role=status]").textContent).toBe("failed");
  const text = find(".sse-connection .sse-error").textContent;
  expect(text).toContain("Check the address");
  expect(text).not.toContain("secret");
});

test("starts with the state, and sends to a slot", async () => {
  await render("/internal/sse");
  await change(find(".sse-listen select"), "state");
  await click("Connect like this");
  expect(server.last.url.search).toBe("?state=1");
  await send(connected("c-1"));
  const posts: unknown[] = [];
  vi.stubGlobal("fetch", async (_: string, { body }: { body: string }) => {
    posts.push(JSON.parse(body));
    return Response.json({ id: "e-9", connections: 1 });
  });
  await type(find("input[placeholder^='none, or price']"), "price/A");
  await click("Send");
  expect(posts[0]).toMatchObject({ slot: "price/A" });
});

test("shows how the topics change", async () => {
  await render();
  await send(
    connected("c-1"),
    'event: sse.topics\ndata: {"added":["room/2"],"removed":["room/1","x"]}\nid: e-3\n\n',
  );
  expect(rows()).toHaveLength(1);
  expect(rows()[0]).toContain("topics: + room/2, − room/1, − xe-3");
});

test("sends to whom it is told, and shows the receipt or the refusal", async () => {
  const posts: [string, unknown][] = [];
  const answers = [
    Response.json({ id: "e-9", connections: 1 }),
    Response.json({ error: "no" }, { status: 400 }),
  ];
  vi.stubGlobal("fetch", async (url: URL, { body }: { body: string }) => {
    posts.push([url.pathname, JSON.parse(body)]);
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
  await send("event: notification\ndata: {}\nid: e-9\n\n");
  expect(find("output").textContent).toMatch(/It arrived here after \d+ ms\.$/);
  await change(find(".sse-send select"), "all");
  await click("Text");
  await click("Send");
  expect(posts[1]?.[0]).toBe("/internal/sse/broadcast");
  expect(posts[1]?.[1]).not.toHaveProperty("user");
  expect(posts[1]?.[1]).toEqual({ type: "notification", text: "<p>Hello</p>" });
  expect(find("output").textContent).toBe("The server refused it (400: no).");
});

test("data that is no JSON is not sent: the field says what to do", async () => {
  const post = vi.fn();
  vi.stubGlobal("fetch", post);
  await render("/internal/sse");
  await send(connected("c-1"));
  await act(async () => {
    const area = find<HTMLTextAreaElement>("textarea");
    const { set } = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value") ?? {};
    set?.call(area, '{"a"');
    area.dispatchEvent(new Event("input", { bubbles: true }));
  });
  await click("Send");
  expect(post).not.toHaveBeenCalled();
  expect(find("textarea").getAttribute("aria-invalid")).toBe("true");
  expect(find("[role=alert]").textContent).toMatch(
    /^This is not JSON( near character \d+)?\. Correct it, or send it as text\.$/,
  );
});

test("lists the connections and disconnects one", async () => {
  const calls: string[] = [];
  vi.stubGlobal("fetch", async (url: URL, { method }: { method: string }) => {
    calls.push(`${method} ${url.pathname}`);
    const since = new Date(0).toISOString();
    const one = { id: "c/2", user: "bob", protocol: "h2", remote: "::1", since, lag: 0 };
    return Response.json(method === "GET" ? { count: 1, connections: [one] } : { disconnected: 1 });
  });
  await render("/internal/sse");
  await send(connected("c-1"));
  await act(async () => {
    find<HTMLDetailsElement>(".sse-connections details").open = true;
    await settle();
  });
  await act(() => vi.advanceTimersByTimeAsync(10));
  expect(rows()).toHaveLength(1);
  await act(async () => {
    find<HTMLButtonElement>(".sse-connections li button").click();
    await settle();
  });
  expect(calls).toContain("DELETE /internal/sse/connections/c%2F2");
  expect(find(".sse-connections [role=status]").textContent).toBe("Disconnected bob.");
});

test("without an address the form is disabled and says why", async () => {
  await render();
  expect(find<HTMLFieldSetElement>("form fieldset").disabled).toBe(true);
  expect(find(".sse-send").textContent).toContain("This page cannot send");
  expect(find(".sse-empty").textContent).toContain("Send a test event from a shell");
});
