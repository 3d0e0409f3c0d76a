import { encode } from "eventsource-encoder";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { createSSE, type SSEOptions } from "../src/index.js";
import { fakeServer, settle } from "./fake-server.js";

const URL_ = "https://example.com/events";
type Any = Record<string, unknown>;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** Returns the messages of a client as [type, data, id], and its last position, after these chunks. */
async function receive(chunks: (string | Uint8Array)[], options: SSEOptions = {}) {
  const server = fakeServer();
  const got: [string, unknown, string][] = [];
  const sse = createSSE<Any>(URL_, {
    share: false,
    parse: (data) => data,
    ...options,
    fetch: server.fetch,
  });
  const off = sse.on("*", ({ type, data, id }) => got.push([type, data, id]));
  await settle();
  await server.last.send(...chunks);
  const { lastEventId, malformed } = sse.getSnapshot();
  off();
  await settle();
  return { got, lastEventId, malformed };
}

const bytes = (text: string) => new TextEncoder().encode(text);
const single = (text: string) => [...bytes(text)].map((byte) => Uint8Array.of(byte));

describe("line ends", () => {
  const lines = [
    "id: 1",
    "event: a",
    "data: one",
    "data: two",
    "",
    ": note",
    "data: three",
    "",
    "",
  ];
  const want = [
    ["a", "one\ntwo", "1"],
    ["message", "three", "1"],
  ];
  for (const [name, eol] of [
    ["LF", "\n"],
    ["CR", "\r"],
    ["CRLF", "\r\n"],
  ] as const) {
    const text = lines.join(eol);
    test(`${name}, in one chunk`, async () => expect((await receive([text])).got).toEqual(want));
    test(`${name}, byte by byte`, async () =>
      expect((await receive(single(text))).got).toEqual(want));
    test(`${name}, split in two at every byte`, async () => {
      for (let i = 1; i < text.length; i++) {
        expect((await receive([text.slice(0, i), text.slice(i)])).got, `at ${i}`).toEqual(want);
      }
    });
  }
  test("may be mixed", async () => {
    const { got } = await receive(["data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\n"]);
    expect(got.map(([, data]) => data)).toEqual(["a\nb\nc", "d"]);
  });
});

describe("byte order mark", () => {
  const mark = [Uint8Array.of(0xef), Uint8Array.of(0xbb), Uint8Array.of(0xbf)];
  test("is dropped, split or whole", async () => {
    expect((await receive(["\uFEFFdata: a\n\n"])).got).toEqual([["message", "a", ""]]);
    expect((await receive([...mark, "data: a\n\n"])).got).toEqual([["message", "a", ""]]);
  });
  test("only the first one is dropped", async () => {
    const { got } = await receive(["\uFEFF\uFEFFdata: a\n\ndata: b\n\n"]);
    expect(got.map(([, data]) => data)).toEqual(["b"]);
  });
  test("is data in the middle of a stream", async () => {
    expect((await receive(["data: \uFEFFa\n\n"])).got[0]?.[1]).toBe("\uFEFFa");
  });
});

describe("text", () => {
  const text = "héllo — 日本語 🎉";
  test("multibyte characters survive every split", async () => {
    const all = bytes(`data: ${text}\n\n`);
    for (let i = 1; i < all.length; i++) {
      const { got } = await receive([all.slice(0, i), all.slice(i)]);
      expect(got, `at ${i}`).toEqual([["message", text, ""]]);
    }
  });
  test("invalid bytes become replacement characters", async () => {
    const { got } = await receive(["data: a", Uint8Array.of(0xff), "b\n\n"]);
    expect(got[0]?.[1]).toBe("a\uFFFDb");
  });
  test("a line of 4 MB in small chunks", async () => {
    const part = "x".repeat(64 * 1024);
    const { got } = await receive(["data: ", ...Array(64).fill(part), "\n\n"]);
    expect(got[0]?.[1]).toHaveLength(4 * 1024 * 1024);
  });
});

describe("fields", () => {
  test("one space after the colon is dropped, no more", async () => {
    const { got } = await receive(["data:a\n\ndata: b\n\ndata:  c\n\n"]);
    expect(got.map(([, data]) => data)).toEqual(["a", "b", " c"]);
  });
  test("comments and unknown fields are ignored", async () => {
    expect((await receive([": c\nfoo: bar\nData: no\ndata: a\n\n"])).got).toHaveLength(1);
  });
  test("a block without data dispatches nothing and forgets its type", async () => {
    expect((await receive(["event: a\n\ndata: b\n\n"])).got).toEqual([["message", "b", ""]]);
  });
  test("an event cut before its blank line is dropped, and so is its id", async () => {
    const server = fakeServer();
    const sse = createSSE<Any>(URL_, { share: false, fetch: server.fetch });
    const got = vi.fn();
    const off = sse.on("*", got);
    await settle();
    await server.last.send("data: 1\nid: e-1\n\ndata: 2\nid: e-2\n");
    await server.last.end();
    expect(got).toHaveBeenCalledTimes(1);
    expect(sse.getSnapshot().lastEventId).toBe("e-1");
    off();
  });
  test("empty data is an event, null as JSON", async () => {
    const json = (data: string) => (data ? JSON.parse(data) : null);
    expect((await receive(["data:\n\ndata\n\n"], { parse: json })).got).toEqual([
      ["message", null, ""],
      ["message", null, ""],
    ]);
  });
});

describe("ids", () => {
  test("an id stays until the next one, an empty one clears it", async () => {
    const { got } = await receive(["id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n"]);
    expect(got.map(([, , id]) => id)).toEqual(["1", "1", ""]);
  });
  test("a block of only an id moves the position and dispatches nothing", async () => {
    const { got, lastEventId } = await receive(["id: e-7\n\n"]);
    expect(got).toEqual([]);
    expect(lastEventId).toBe("e-7");
  });
  test("an id with NUL is ignored", async () => {
    expect((await receive(["id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n"])).lastEventId).toBe("1");
  });
});

describe("malformed data", () => {
  test("is skipped, counted and reported, and the stream goes on", async () => {
    const onError = vi.fn();
    const parse = (data: string) => JSON.parse(data);
    const { got, malformed } = await receive(
      ['data: {"a":1}\n\nevent: x\ndata: {"a":\n\ndata: 2\n\n'],
      { parse, onError },
    );
    expect(got.map(([, data]) => data)).toEqual([{ a: 1 }, 2]);
    expect(malformed).toBe(1);
    expect(onError).toHaveBeenCalledExactlyOnceWith(
      expect.objectContaining({ type: "malformed", raw: '{"a":', eventType: "x" }),
    );
  });
  test("moves the position", async () => {
    const { lastEventId } = await receive(["id: e-3\ndata: {\n\n"], {
      parse: (data) => JSON.parse(data),
    });
    expect(lastEventId).toBe("e-3");
  });
});

describe("fuzz", () => {
  // A small random generator with a seed, so that a failure can be repeated.
  const random = (seed: number) => () => {
    seed = (seed * 1664525 + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
  const pick = <T>(next: () => number, from: readonly T[]): T =>
    from[Math.floor(next() * from.length)] as T;

  for (let seed = 1; seed <= 50; seed++) {
    test(`random events in random chunks, seed ${seed}`, async () => {
      const next = random(seed);
      const want: [string, unknown, string][] = [];
      let text = pick(next, ["", "\uFEFF"]);
      let id = "";
      for (let i = 0; i < 30; i++) {
        const data = pick(next, [
          "x",
          "a\nb",
          "é🎉",
          "",
          "\n",
          " lead",
          "data: y",
          "z".repeat(300),
        ]);
        const event = pick(next, [undefined, "a", "order_update"]);
        const hasId = next() < 0.7;
        if (hasId) id = `e-${i}`;
        if (next() < 0.2) text += ": comment\n";
        if (next() < 0.2) {
          id = `e-${i}h`;
          text += `id: ${id}\n\n`;
          text += encode({ data, ...(event && { event }) });
        } else {
          text += encode({ data, ...(event && { event }), ...(hasId && { id }) });
        }
        want.push([event ?? "message", data, id]);
      }
      const eol = pick(next, ["\n", "\r", "\r\n"]);
      const all = bytes(text.replaceAll("\n", eol));
      const chunks: Uint8Array[] = [];
      for (let at = 0; at < all.length; ) {
        const size = 1 + Math.floor(next() ** 3 * 200);
        chunks.push(all.slice(at, at + size));
        at += size;
      }
      const { got, lastEventId } = await receive(chunks);
      expect(got).toEqual(want);
      expect(lastEventId).toBe(id);
    });
  }
});
