// The reference of the npm package, as Markdown.
const name = (module) => (module === "index" ? "caddy-sse" : `caddy-sse/${module}`);

export default {
  entryPoints: ["index.ts", "react.ts", "server.ts", "test-component/index.tsx"].map((file) => `../client/src/${file}`),
  tsconfig: "../client/tsconfig.json",
  // The client's own check finds errors of types.
  skipErrorChecking: true,
  validation: { notExported: false },
  disableSources: true,
  plugin: ["typedoc-plugin-markdown"],
  out: "pages/npm",
  name: "npm package",
  readme: "none",
  entryFileName: "modules",
  outputFileStrategy: "modules",
  groupOrder: ["Functions", "*"],
  interfacePropertiesFormat: "table",
  typeAliasPropertiesFormat: "table",
  parametersFormat: "table",
  hideBreadcrumbs: true,
  hidePageHeader: true,
  pageTitleTemplates: { module: (page) => name(page.name) },
};
