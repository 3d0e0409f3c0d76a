// The recipes in the text of client/README.md. Each is type-checked and built into a page.
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { compile } from "svelte/compiler";
import { compileScript, compileTemplate, parse } from "vue/compiler-sfc";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The recipes by heading: the language and the code of each block. */
export function readRecipes() {
  const readme = readFileSync(here("../../client/README.md"), "utf8");
  const text = readme.slice(readme.indexOf("\n## Recipes"), readme.indexOf("\n## Browsers"));
  const recipes = {};
  let heading = "";
  for (const [, title, language, code] of text.matchAll(
    /^### (.+)$|^```(\w+)\n([\s\S]*?)^```$/gm,
  )) {
    if (title) heading = title;
    else recipes[heading] = [...(recipes[heading] ?? []), { language, code }];
  }
  return recipes;
}

/** The functions that the README leaves to the user. Their arguments are recorded in window.shown. */
const YOURS = `window.shown = [];
window.show = window.toast = window.alert = (what) => void window.shown.push(structuredClone(what));
window.refetch = () => window.show("refetch");`;
const YOUR_TYPES = `declare function show(what: unknown): void;
declare function toast(text: string): void;
declare function refetch(): void;
declare module "*.css";
declare module "expo/fetch" { export const fetch: typeof globalThis.fetch }`;

/** Type-checks the TypeScript recipes like an app's strict compiler, and returns the errors. */
export function typeCheck(dir, recipes) {
  mkdirSync(dir, { recursive: true });
  const all = Object.values(recipes).flat();
  for (const [i, { code }] of all.filter(({ language }) => language === "tsx").entries()) {
    writeFileSync(join(dir, `recipe${i}.tsx`), `${code}\nexport {};\n`);
  }
  writeFileSync(join(dir, "yours.d.ts"), YOUR_TYPES);
  const modules = (path) => [
    here(`../../client/node_modules/${path}`),
    here(`node_modules/${path}`),
  ];
  const options = {
    target: "ES2022",
    lib: ["ES2023", "DOM", "DOM.Iterable"],
    module: "ESNext",
    moduleResolution: "bundler",
    jsx: "react-jsx",
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: true,
    noEmit: true,
    types: [],
    paths: {
      "caddy-sse": [here("../../client/dist/index.d.ts")],
      "caddy-sse/*": [here("../../client/dist/*.d.ts")],
      "react/*": modules("@types/react/*"),
      react: modules("@types/react"),
      "*": modules("*"),
    },
  };
  writeFileSync(
    join(dir, "tsconfig.json"),
    JSON.stringify({ compilerOptions: options, include: ["."] }),
  );
  const { stdout } = spawnSync(here("../../client/node_modules/.bin/tsc"), ["-p", dir], {
    encoding: "utf8",
  });
  return stdout;
}

/** A module that renders the recipe's component in the element "root". */
function moduleOf({ language, code }) {
  if (language === "vue") return vue(code);
  if (language === "svelte") return svelte(code);
  const component = language === "tsx" && [...code.matchAll(/^function (\w+)/gm)].at(-1)[1];
  if (!component) return code;
  return `${code}
import { createRoot } from "react-dom/client";
const root = createRoot(document.getElementById("root"));
root.render(<${component} />);
window.unmount = () => root.unmount();`;
}

function vue(code) {
  const { descriptor } = parse(code);
  const script = compileScript(descriptor, { id: "recipe" });
  const { code: render, errors } = compileTemplate({
    id: "recipe",
    filename: "recipe.vue",
    source: descriptor.template.content,
    compilerOptions: { bindingMetadata: script.bindings },
  });
  if (errors.length) throw errors[0];
  return `${script.content.replace("export default", "const component =")}
${render.replace("export function render", "function render")}
import { createApp } from "vue";
const app = createApp({ ...component, render });
app.mount("#root");
window.unmount = () => app.unmount();`;
}

function svelte(code) {
  const { js, warnings } = compile(code, { name: "Recipe", generate: "client" });
  if (warnings.length) throw new Error(warnings[0].message);
  return `${js.code.replace("export default function", "function")}
import { mount, unmount } from "svelte";
const app = mount(Recipe, { target: document.getElementById("root") });
window.unmount = () => unmount(app);`;
}

/** Builds the page of one recipe. `html` and `script` wrap a recipe that is HTML. */
export async function buildRecipe(www, name, recipe, { script = "", attributes = "" } = {}) {
  const dir = join(www, "recipes");
  mkdirSync(dir, { recursive: true });
  const html = recipe.language === "html";
  const client = (path) => here(`../../client/${path}`);
  await build({
    stdin: { contents: html ? script : moduleOf(recipe), loader: "tsx", resolveDir: here(".") },
    outfile: join(dir, `${name}.js`),
    bundle: true,
    format: "esm",
    jsx: "automatic",
    target: "es2022",
    conditions: ["browser"],
    define: {
      "process.env.NODE_ENV": '"production"',
      __VUE_OPTIONS_API__: "true",
      __VUE_PROD_DEVTOOLS__: "false",
      __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
    },
    alias: {
      "caddy-sse": client("dist/index.js"),
      "caddy-sse/react": client("dist/react.js"),
      "caddy-sse/test-component": client("dist/test-component.js"),
      "caddy-sse/test-component.css": client("dist/test-component.css"),
      // Use one React: that of the package's build.
      react: client("node_modules/react"),
      "react-dom": client("node_modules/react-dom"),
    },
  });
  writeFileSync(
    join(dir, `${name}.html`),
    `<!doctype html><title>${name}</title><body ${attributes}><script>${YOURS}</script>
<div id="root"></div>${html ? recipe.code : ""}<script type="module" src="${name}.js"></script></body>`,
  );
}
