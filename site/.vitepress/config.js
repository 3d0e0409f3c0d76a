import { copyFileSync } from "node:fs";
import { join, relative } from "node:path";
import { slug } from "github-slugger";
import { defineConfig } from "vitepress";
import { noPages, repository, resolve, root, sidebar, sitePath } from "../pages.js";

// links makes the links of the Markdown, which are right on GitHub, right here.
function links(md) {
  md.core.ruler.push("links", ({ tokens, env }) => {
    const from = relative(root, env.realPath ?? env.path);
    for (const token of tokens.flatMap((t) => [t, ...(t.children ?? [])])) {
      if (token.type === "link_open" && token.attrGet("class") !== "header-anchor") {
        token.attrSet("href", resolve(token.attrGet("href"), from));
      }
      // Vite takes only those files along whose path begins with a dot.
      if (token.type.startsWith("html_")) {
        token.content = token.content.replaceAll(/\b(src|srcset)="(?!\.|\/|[a-z]+:)/g, '$1="./');
      }
    }
  });
}

// The pages lie outside of this folder, so Vite does not find Vue for them. Node does,
// since it runs what is built here.
const vue = {
  name: "vue-of-the-site",
  config: (_, { isSsrBuild }) => isSsrBuild && { build: { rollupOptions: { external: ["vue", "vue/server-renderer"] } } },
};

export default defineConfig({
  title: "caddy-sse",
  description: "Server-Sent Events from Caddy: each event once and in order, through reconnects, reloads and restarts.",
  lang: "en",
  base: "/caddy-sse/",
  srcDir: "..",
  srcExclude: noPages,
  rewrites: sitePath,
  outDir: "dist",
  cacheDir: "node_modules/.vitepress",
  cleanUrls: true,
  // Links of examples, such as http://localhost:8080.
  ignoreDeadLinks: "localhostLinks",
  markdown: {
    anchor: { slugify: slug },
    // GitHub shows {braces} as they are.
    attrs: { disable: true },
    config: links,
    languageAlias: { caddyfile: "nginx", haproxy: "nginx", nats: "nginx" },
  },
  vite: { publicDir: false, plugins: [vue] },
  transformPageData: ({ filePath, frontmatter }) => filePath.startsWith("site/pages/") && { frontmatter: { ...frontmatter, editLink: false } },
  buildEnd: ({ outDir }) => copyFileSync(join(root, "docs/openapi.yaml"), join(outDir, "openapi.yaml")),
  themeConfig: {
    sidebar: sidebar(),
    outline: [2, 3],
    nav: [
      { text: "Docs", link: "/docs/" },
      { text: "OpenAPI", link: "/openapi" },
      { text: "npm", link: "/client/" },
      { text: "Go", link: "https://pkg.go.dev/github.com/ea766355/caddy-sse" },
    ],
    search: { provider: "local" },
    socialLinks: [{ icon: "github", link: repository }],
    editLink: { text: "Edit this page", pattern: `${repository}/edit/main/:path` },
  },
});
