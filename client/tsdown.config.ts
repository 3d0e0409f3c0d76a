import { defineConfig, type UserConfig } from "tsdown";

const config: UserConfig = defineConfig({
  entry: {
    index: "src/index.ts",
    react: "src/react.ts",
    server: "src/server.ts",
    "test-component": "src/test-component/index.tsx",
  },
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: true,
  sourcemap: true,
  copy: ["src/test-component.css"],
  // The socket transport loads node:http when it is used; nothing else knows of Node.
  deps: { neverBundle: [/^node:/] },
});

export default config;
