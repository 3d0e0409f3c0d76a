import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build, type Rolldown } from "vite";
import { expect, test } from "vitest";

/** Builds an entry, and returns its code, and every module and package that it loads, at once or later. */
async function bundle(entry: string): Promise<{ code: string; loaded: string[] }> {
  const loaded = new Set<string>();
  const output = await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      minify: false,
      lib: { entry: fileURLToPath(new URL(`../src/${entry}`, import.meta.url)), formats: ["es"] },
      rolldownOptions: { external: (id) => !/^[./]/.test(id) && Boolean(loaded.add(id)) },
    },
  });
  const [{ output: chunks }] = output as [Rolldown.RolldownOutput];
  return { code: chunks[0].code, loaded: [...loaded].sort() };
}
const graph = async (entry: string) => (await bundle(entry)).loaded;

test(". loads no other module", async () => expect(await graph("index.ts")).toEqual([]));

test("./server loads only node:http, and only when it is used", async () =>
  expect(await graph("server.ts")).toEqual(["node:http"]));

test("./server hides node:http from webpack, which cannot build it for a browser or an edge runtime", async () =>
  expect(/webpackIgnore: true \*\/\s*"node:http/.test((await bundle("server.ts")).code)).toBe(
    true,
  ));

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
