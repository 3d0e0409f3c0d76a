// Checks the site as it was built: every link, anchor and image of a page must lead to
// something that is there.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, posix } from "node:path";

const dist = new URL("dist/", import.meta.url).pathname;
const base = "/caddy-sse/";

const pages = new Map();
for (const file of readdirSync(dist, { recursive: true })) {
  if (!file.endsWith(".html")) continue;
  const html = readFileSync(join(dist, file), "utf8");
  pages.set(file, { html, ids: new Set(Array.from(html.matchAll(/ id="([^"]+)"/g), (m) => m[1])) });
}

// find returns the file that a server has for a path.
function find(path) {
  const candidates = [path, `${path}.html`, posix.join(path, "index.html")];
  return candidates.find((file) => existsSync(join(dist, file)) && statSync(join(dist, file)).isFile());
}

const problems = new Set();
let links = 0;
for (const [from, { html }] of pages) {
  for (const [, raw] of html.matchAll(/ (?:href|src|srcset)="([^"]*)"/g)) {
    const url = new URL(raw.replaceAll("&amp;", "&"), `http://site${base}${from}`);
    if (url.host !== "site") continue;
    links++;
    const file = url.pathname.startsWith(base) && find(decodeURI(url.pathname.slice(base.length)));
    const id = decodeURIComponent(url.hash.slice(1));
    if (!file) problems.add(`${from}: ${raw} leads nowhere`);
    else if (id && file.endsWith(".html") && !pages.get(file).ids.has(id)) problems.add(`${from}: ${raw}: ${file} has no heading #${id}`);
  }
}
if (pages.size < 10 || links < 100) problems.add(`dist has only ${pages.size} pages with ${links} links`);
for (const problem of problems) console.error(problem);
if (problems.size > 0) process.exit(1);
console.log(`${pages.size} pages with ${links} links: all lead somewhere`);
