import { expect, test } from "vitest";
import { compare } from "../src/position.js";

for (const [a, b, want] of [
  ["e-1", "e-2", -1],
  ["e-2", "e-2", 0],
  ["e-10", "e-9", 1],
  ["e-9-abcd", "e-10-0000", -1],
  ["e-9-abcd", "e-9-abcd", 0],
  ["e-9-abcd", "e-9", 0],
  ["e-9", "e-9-abcd", 0],
  ["e-9-abcd", "e-9-abce", NaN],
  ["e-9-1234", "e-9-1234", 0],
  ["f-1", "e-2", NaN],
  ["e-1", "", NaN],
  ["", "e-1", NaN],
  ["", "", 0],
  ["earliest", "e-1", NaN],
  ["earliest", "earliest", 0],
  ["e-9-abc", "e-9", NaN],
  ["e-9-ABCD", "e-9", NaN],
  ["x-y", "x-z", NaN],
] as const) {
  test(`${JSON.stringify(a)} and ${JSON.stringify(b)}: ${want}`, () =>
    expect(compare(a, b)).toBe(want));
}
