import { defineConfig, type UserConfig } from "vite";

// The test page, which the Caddy module embeds. The same sources give the same bytes.
const config: UserConfig = defineConfig({
  root: "testpage",
  base: "./", // served below any path

  build: {
    outDir: "../../testpage/dist",
    emptyOutDir: true,
    target: "es2022",
    // Nothing inline: the page's Content-Security-Policy allows scripts and styles of its own origin only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      // "use client" is for frameworks that render on the server. This page has no server part.
      onLog(level, log, report) {
        if (log.code !== "MODULE_LEVEL_DIRECTIVE") report(level, log);
      },
    },
  },
});

export default config;
