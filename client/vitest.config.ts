import { defineConfig, type ViteUserConfig } from "vitest/config";

// React 18 is installed beside 19 under other names; its tests see it as `react`.
const react18 = { react: "react18", "react-dom": "react-dom18" };

// A busy machine is many times slower.
const testTimeout = 60_000;

const config: ViteUserConfig = defineConfig({
  test: {
    projects: [
      {
        test: {
          testTimeout,
          name: "core",
          include: ["test/*.test.ts"],
          environment: "node",
          typecheck: { enabled: true, include: ["test/*.test-d.ts"] },
        },
      },
      {
        test: {
          testTimeout,
          name: "react19",
          include: ["test/react/*.test.tsx"],
          environment: "jsdom",
        },
      },
      {
        resolve: { alias: react18 },
        test: {
          testTimeout,
          name: "react18",
          include: ["test/react/*.test.tsx"],
          environment: "jsdom",
          setupFiles: ["test/react/react18.ts"],
        },
      },
    ],
  },
});

export default config;
