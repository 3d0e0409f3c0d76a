import { describe, expect, test, vi } from "vitest";
import { createSSE } from "../src/index.js";
import { type Any, errors, server, setStop, start, statusOf, URL_, wait } from "./client-setup.js";
import { connected, settle, status } from "./fake-server.js";

describe("requests", () => {
  test("a request accepts an event stream, and is not cached", async () => {
    await start();
    expect(server.last.headers.get("Accept")).toBe("text/event-stream");
    expect(server.last.headers.has("Last-Event-ID")).toBe(false);
    expect(server.last.init).toMatchObject({ cache: "no-store", credentials: "same-origin" });
  });

  test("a reconnect sends Last-Event-ID and the id of the previous connection", async () => {
    await start();
    await server.last.send(connected("c-1"), "id: e-5\ndata: 1\n\n", "id: e-9\n\n");
    await server.last.cut();
    await wait(2000);
    expect(server.calls).toHaveLength(2);
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-9");
    expect(server.last.url.searchParams.get("previous")).toBe("c-1");
  });

  test("the first request has the position of the option", async () => {
    await start({ lastEventId: "e-3" });
    expect(server.last.headers.get("Last-Event-ID")).toBe("e-3");
  });

  test("an id is sent as UTF-8", async () => {
    await start({ lastEventId: "é" });
    expect(server.last.headers.get("Last-Event-ID")).toBe("\xC3\xA9");
  });

  test("a password in the address of the page is no part of a request, since fetch refuses it", async () => {
    vi.stubGlobal("location", new URL("https://alice:p%40ss@app.example.com/a/@b"));
    const sse = createSSE("events/@c", { fetch: server.fetch });
    setStop(sse.subscribe(() => {}));
    await settle();
    expect(server.last.url.href).toBe("https://app.example.com/a/events/@c");
  });

  test("across origins the position is in the query, so that there is no preflight request", async () => {
    vi.stubGlobal("location", new URL("https://app.example.com/"));
    await start({ lastEventId: "e-3" });
    expect(server.last.headers.has("Last-Event-ID")).toBe(false);
    expect(server.last.url.searchParams.get("last_event_id")).toBe("e-3");
  });

  test("a URL is relative to the page", async () => {
    vi.stubGlobal("location", new URL("https://app.example.com/a/"));
    const sse = createSSE("events?topic=news", { fetch: server.fetch });
    setStop(sse.subscribe(() => {}));
    await settle();
    expect(server.last.url.href).toBe("https://app.example.com/a/events?topic=news");
  });

  test("a headers function is called for every attempt", async () => {
    let n = 0;
    await start({ headers: async () => ({ Authorization: `Bearer ${++n}` }) });
    await server.last.cut();
    await wait(500);
    expect(server.calls.map(({ headers }) => headers.get("Authorization"))).toEqual([
      "Bearer 1",
      "Bearer 2",
    ]);
  });

  test("an attempt whose headers function throws is repeated", async () => {
    let n = 0;
    await start({
      headers: () => {
        if (++n === 1) throw new Error("token endpoint down");
        return {};
      },
    });
    expect(errors).toEqual([expect.objectContaining({ type: "network" })]);
    await wait(500);
    expect(server.calls).toHaveLength(1);
  });
});

describe("responses", () => {
  for (const code of [408, 425, 429, 500, 502, 503, 504]) {
    test(`${code} is retried`, async () => {
      server.responses.push(status(code));
      const sse = await start();
      expect(statusOf(sse)).toBe("reconnecting");
      expect(errors).toEqual([expect.objectContaining({ type: "http", status: code })]);
      await wait(500);
      expect(server.calls).toHaveLength(2);
    });
  }
  for (const code of [400, 401, 403, 404, 405, 410]) {
    test(`${code} is final`, async () => {
      server.responses.push(status(code));
      const sse = await start();
      expect(statusOf(sse)).toBe("failed");
      expect(sse.getSnapshot().error).toMatchObject({ type: "http", status: code });
      await wait(120_000);
      expect(server.calls).toHaveLength(1);
    });
  }
  test("204 closes the client", async () => {
    server.responses.push(status(204));
    const sse = await start();
    expect(statusOf(sse)).toBe("closed");
    expect(errors).toEqual([]);
    await wait(120_000);
    expect(server.calls).toHaveLength(1);
  });
  test("an HTML page instead of a stream is final", async () => {
    server.responses.push(
      () => new Response("<html>", { headers: { "Content-Type": "text/html" } }),
    );
    const sse = await start();
    expect(sse.getSnapshot()).toMatchObject({
      connectionStatus: "failed",
      error: { type: "content-type", contentType: "text/html" },
    });
  });
  for (const type of [
    "text/event-stream; charset=utf-8",
    "text/event-stream;charset=UTF-8",
    "Text/Event-Stream",
  ]) {
    test(`the content type ${type} is accepted`, async () => {
      server.responses.push(
        () => new Response("data: 1\n\n", { headers: { "Content-Type": type } }),
      );
      const sse = await start();
      expect(sse.getSnapshot().messages).toHaveLength(1);
    });
  }
  test("the content type text/event-streamish is final", async () => {
    server.responses.push(
      () => new Response("", { headers: { "Content-Type": "text/event-streamish" } }),
    );
    expect(statusOf(await start())).toBe("failed");
  });
  test("401 with a headers function is retried once with new headers, and then final", async () => {
    server.responses.push(status(401), status(401));
    const headers = vi.fn(() => ({}));
    const sse = await start({ headers });
    expect(headers).toHaveBeenCalledTimes(2);
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "failed", error: { status: 401 } });
  });
  test("after a stream was open, 401 is retried again", async () => {
    server.responses.push(status(401));
    const sse = await start({ headers: () => ({}) });
    await server.last.send(connected("c-1"));
    expect(statusOf(sse)).toBe("open");
    server.responses.push(status(401));
    await server.last.end();
    await wait(2000);
    await server.last.send(connected("c-2"));
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "open", connectionId: "c-2" });
  });
  test("reconnect() restarts a failed client", async () => {
    server.responses.push(status(403));
    const sse = await start();
    sse.reconnect();
    await settle();
    await server.last.send(connected("c-1"));
    expect(statusOf(sse)).toBe("open");
  });
  test("404 after a stream was open is retried slowly", async () => {
    const sse = await start();
    await server.last.send(connected("c-1"));
    server.responses.push(status(404));
    await server.last.end();
    await wait(2000);
    expect(sse.getSnapshot()).toMatchObject({
      connectionStatus: "reconnecting",
      error: { type: "http", status: 404 },
    });
    await wait(60_000);
    expect(server.calls).toHaveLength(3);
  });
  for (const [name, url, options] of [
    ["a password in the URL", "https://u:geheim@example.com/events", {}],
    ["an invalid header", URL_, { headers: { Authorization: "a\nb" } }],
    ["an invalid header from a function", URL_, { headers: () => ({ Authorization: "a\nb" }) }],
  ] as const) {
    test(`${name} is final, because every attempt would fail`, async () => {
      const sse = createSSE<Any>(url, { fetch: server.fetch, ...options });
      setStop(sse.subscribe(() => {}));
      await wait(60_000);
      expect(server.calls).toHaveLength(0);
      expect(sse.getSnapshot()).toMatchObject({
        connectionStatus: "failed",
        error: { type: "request" },
      });
    });
  }
  for (const thrown of [new Error("mine"), Object.create(null)]) {
    test(`an error thrown by shouldReconnect is reported, and counts as true (${typeof thrown.message})`, async () => {
      const reported: unknown[] = [];
      const caught = (error: unknown) => reported.push(error);
      process.on("uncaughtException", caught);
      const sse = await start({
        shouldReconnect: () => {
          throw thrown;
        },
      });
      await server.last.send(connected("c-1"));
      await server.last.cut();
      expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "reconnecting" });
      expect(errors).toHaveLength(1);
      await wait(2000);
      expect(server.calls).toHaveLength(2);
      process.off("uncaughtException", caught);
      expect(reported).toEqual([thrown]);
    });
    test(`any error thrown by headers is retried (${typeof thrown.message})`, async () => {
      let n = 0;
      await start({
        headers: () => {
          if (!n++) throw thrown;
          return {};
        },
      });
      expect(errors).toEqual([expect.objectContaining({ type: "network" })]);
      await wait(500);
      expect(server.calls).toHaveLength(1);
    });
  }
  test("shouldReconnect may stop the retries", async () => {
    server.responses.push(status(503), status(503), status(503));
    const sse = await start({ shouldReconnect: (_, attempts) => attempts < 2 });
    await wait(60_000);
    expect(server.calls).toHaveLength(3);
    expect(sse.getSnapshot()).toMatchObject({ connectionStatus: "failed", error: { status: 503 } });
  });
});
