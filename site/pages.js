// The pages of the site: which files they are, where they are served, and where the
// links in them lead.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, posix } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));
export const repository = "https://github.com/ea766355/caddy-sse";

// Globs of files that are not pages, relative to the repository.
export const noPages = ["!(docs|client|site)/**/*", "client/!(README.md)", "client/*/**", "site/*.md", "site/!(pages)/**"];

const isPage = (file) => /^([A-Z]+\.md|client\/README\.md|docs\/.*\.md|site\/pages\/.*\.md)$/.test(file);

const read = (file) => readFileSync(join(root, file), "utf8");

// sitePath returns where a file would be if the site were not built from a repository.
export function sitePath(file) {
  return file.replace(/^site\/pages\//, "").replace(/README\.md$/, "index.md");
}

export function address(file) {
  return `/${sitePath(file)}`.replace(/(index)?\.md$/, "");
}

// resolve turns a link of a file into a link of the site, or of GitHub if it leads to a
// file that is no page.
export function resolve(link, from) {
  if (/^([a-z]+:|#|\/)/i.test(link)) return link;
  const [, path, hash] = link.match(/^([^#]*)(.*)$/);
  const file = posix.join(posix.dirname(from), decodeURI(path));
  if (!existsSync(join(root, file))) throw new Error(`${from}: ${link} leads to ${file}, which does not exist`);
  if (file === "docs/openapi.yaml") return "/openapi";
  if (isPage(file)) return address(file) + hash;
  return `${repository}/${statSync(join(root, file)).isDirectory() ? "tree" : "blob"}/main/${file}${hash}`;
}

const title = (file) => read(file).match(/^# (.*)$/m)[1].replaceAll(/[`\\]/g, "");
const item = (file) => ({ text: title(file), link: address(file) });

// sidebar has the groups of docs/README.md, in its order: a group for each heading, an
// item for each link to a page. A page that is missing there is below "More".
export function sidebar() {
  const groups = [];
  const listed = new Set(["README.md", "docs/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]);
  const index = "docs/README.md";
  const text = existsSync(join(root, index)) ? read(index) : "";
  for (const [, heading, label, link] of text.matchAll(/^## (.*)$|\[([^\]]+)\]\(([^)#:]+\.md)\)/gm)) {
    if (heading) groups.push({ text: heading, items: [] });
    const file = link && posix.join("docs", link);
    if (!file || !isPage(file) || listed.has(file) || groups.length === 0) continue;
    listed.add(file);
    groups.at(-1).items.push({ text: label.replaceAll("`", ""), link: address(file) });
  }
  const rest = readdirSync(join(root, "docs"), { recursive: true })
    .map((name) => posix.join("docs", name))
    .concat("client/README.md")
    .filter((file) => isPage(file) && !listed.has(file))
    .sort();
  return [
    ...groups,
    { text: "More", items: rest.map((file) => item(file)) },
    {
      text: "Generated references",
      items: [
        item("site/pages/openapi.md"),
        ...["index", "react", "server", "test-component"].map((module) => item(`site/pages/npm/${module}.md`)),
        { text: "Go packages", link: "https://pkg.go.dev/github.com/ea766355/caddy-sse" },
      ],
    },
    { text: "The project", items: ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map((file) => item(file)) },
  ].filter((group) => group.items.length > 0);
}
