import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import { expect, test } from "vitest";

/** Every module and package that an entry loads, at once or later. */
async function graph(entry: string): Promise<string[]> {
  const loaded = new Set<string>();
  await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      lib: { entry: fileURLToPath(new URL(`../src/${entry}`, import.meta.url)), formats: ["es"] },
      rolldownOptions: { external: (id) => !/^[./]/.test(id) && Boolean(loaded.add(id)) },
    },
  });
  return [...loaded].sort();
}

test(". loads no other module", async () => expect(await graph("index.ts")).toEqual([]));

test("./server loads only node:http, and only when it is used", async () =>
  expect(await graph("server.ts")).toEqual(["node:http"]));

test("./react loads only React", async () => expect(await graph("react.ts")).toEqual(["react"]));

test("./react and ./test-component are marked for the client", () => {
  for (const file of ["react.ts", "test-component/index.tsx"]) {
    const source = readFileSync(new URL(`../src/${file}`, import.meta.url), "utf8");
    expect(source).toMatch(/^"use client";/);
  }
});

test("the package carries the licence of the repository", () => {
  const read = (path: string) => readFileSync(new URL(path, import.meta.url), "utf8");
  expect(read("../LICENSE")).toBe(read("../../LICENSE"));
});
