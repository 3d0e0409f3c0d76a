import { createParser as createOracle } from "eventsource-parser";
import { expect, test } from "vitest";
import { createParser } from "../src/parser.js";
import { pick, randomFrom } from "./random.js";

const PIECES = [
  "data",
  "data:",
  "data: x",
  "data:  two",
  "data: ünï🎉",
  "data: a:b",
  "event: note",
  "event:",
  "event",
  "id: e-1",
  "id",
  "id:",
  "id: a\0b",
  "retry: 1000",
  "retry: 1e3",
  "retry:",
  "retry",
  ": comment",
  ":",
  "other: x",
  "datax: y",
  " data: z",
];

test("parses the same as the npm package eventsource-parser, for any chunks", () => {
  for (let seed = 1; seed <= 20_000; seed++) {
    const random = randomFrom(seed);
    let stream = "";
    for (let i = 0; i < 1 + random() * 14; i++) {
      stream += random() < 0.6 ? pick(random, PIECES) : "";
      stream += pick(random, ["\n", "\n", "\r\n", "\r"]);
    }
    if (random() < 0.3) stream += pick(random, PIECES);

    const want: unknown[] = [];
    const oracle = createOracle({
      onId: (id) => want.push(["id", id]),
      onRetry: (ms) => want.push(["retry", ms]),
      onEvent: ({ event = "message", data }) => want.push([event, data]),
    });
    oracle.feed(stream);
    // A last line that ended with a carriage return may be reported now or later.
    if (stream.endsWith("\r")) oracle.feed("\n");

    const got: unknown[] = [];
    const feed = createParser(
      1e6,
      (id) => got.push(["id", id]),
      (type, data) => got.push([type, data]),
      (ms) => got.push(["retry", ms]),
    );
    const most = pick(random, [1, 2, 5, 40]);
    for (let at = 0; at < stream.length; ) {
      const size = Math.floor(random() * (most + 1));
      feed(stream.slice(at, at + size));
      at += size;
    }
    expect(got, `seed ${seed}: ${JSON.stringify(stream)}`).toEqual(want);
  }
});

test("the cost of a long line in many chunks is linear in its length", () => {
  let got = "";
  const nothing = () => {};
  const feed = createParser(2 ** 24, nothing, (_, data) => (got = data), nothing);
  const before = performance.now();
  feed("data: ");
  for (let i = 0; i < 200_000; i++) feed("0123456789");
  feed("\n\n");
  expect(got).toHaveLength(2_000_000);
  expect(performance.now() - before).toBeLessThan(5000);
});

test("an event over the limit is an error, in one line or in many", () => {
  for (const text of ["x".repeat(101), "data: 0123456789\n".repeat(11)]) {
    const nothing = () => {};
    const feed = createParser(100, nothing, nothing, nothing);
    expect(() => feed(text)).toThrow("more than 100 characters");
  }
});
