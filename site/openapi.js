// Turns docs/openapi.yaml into a page: pages/openapi.md. Then it is searched with the
// others, and needs no viewer.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { slug } from "github-slugger";
import { parse } from "yaml";
import { repository } from "./pages.js";

const file = (path) => new URL(path, import.meta.url);
const api = parse(readFileSync(file("../docs/openapi.yaml"), "utf8"), { merge: true });

// follow returns what a $ref names, with the fields beside it.
function follow(value) {
  if (!value?.$ref) return value ?? {};
  const { $ref, ...beside } = value;
  return { ...follow($ref.slice(2).split("/").reduce((at, key) => at[key.replaceAll("~1", "/")], api)), ...beside };
}

const cell = (text) => (text ?? "").trim().replaceAll("|", "\\|").replaceAll("\n", " ");
const nameOf = (schema) => schema.$ref?.match(/^#\/components\/schemas\/(.*)$/)?.[1];
const table = (head, rows) => (rows.length ? ["", `| ${head.join(" | ")} |`, `|${"---|".repeat(head.length)}`, ...rows.map((row) => `| ${row.join(" | ")} |`), ""] : []);
const code = (type, value) => {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, type.endsWith("json") ? 2 : 0);
  return ["", "```json", text.trimEnd(), "```", ""];
};

// type says what a schema takes, with links to the schemas that have a section below.
function type(schema) {
  const name = nameOf(schema);
  const target = follow(schema);
  if (name && (target.properties || target.oneOf)) return `[${name}](#${slug(name)})`;
  if (target.oneOf) return target.oneOf.map(type).join(" or ");
  if (target.type === "array") return `array of ${type(target.items ?? {})}`;
  if (target.enum) return target.enum.map((value) => `\`${value}\``).join(", ");
  if (target.additionalProperties?.$ref) return `object of ${type(target.additionalProperties)}`;
  return [target.type ?? "any JSON", target.format].filter(Boolean).join(", ");
}

function fields(schema) {
  const { properties = {}, required = [] } = follow(schema);
  return table(
    ["field", "type", "", ""],
    Object.entries(properties).map(([name, field]) => [`\`${name}\``, type(field), required.includes(name) ? "always" : "", cell(follow(field).description)]),
  );
}

function examples({ schema, examples: given = {} }, mediaType, limit) {
  const values = Object.entries(given).slice(0, limit);
  return [schema ? `\`${mediaType}\`: ${type(schema)}` : `\`${mediaType}\``, ...values.flatMap(([, example]) => code(mediaType, follow(example).value))];
}

const lines = [
  "# OpenAPI",
  "",
  api.info.description,
  "",
  `This page is generated from [openapi.yaml](${repository}/blob/main/docs/openapi.yaml), OpenAPI ${api.openapi}. <a href="openapi.yaml" download>Download it</a> for your tools.`,
  "",
];
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    if (method === "parameters") continue;
    lines.push(`## \`${method.toUpperCase()} ${path}\``, "", operation.summary, "", operation.description ?? "", "");
    const parameters = [...(methods.parameters ?? []), ...(operation.parameters ?? [])].map(follow);
    lines.push(...table(["parameter", "in", "type", ""], parameters.map((p) => [`\`${p.name}\``, p.in, type(p.schema), cell(p.description)])));
    for (const [mediaType, body] of Object.entries(follow(operation.requestBody).content ?? {})) {
      lines.push("", "Body, as ", ...examples(body, mediaType, 3), "");
    }
    const responses = Object.entries(operation.responses).map(([status, response]) => [status, follow(response)]);
    lines.push(...table(["status", ""], responses.map(([status, response]) => [status, cell(response.description)])));
    for (const [status, response] of responses) {
      const [first] = Object.entries(response.content ?? {});
      if (status.startsWith("2") && first) lines.push("", `The answer ${status}, as `, ...examples(first[1], first[0], 1), "");
    }
  }
}
lines.push("## Schemas", "");
for (const [name, schema] of Object.entries(api.components.schemas)) {
  const target = follow(schema);
  if (!target.properties && !target.oneOf) continue;
  lines.push(`### ${name}`, "", target.description ?? "", "", ...(target.properties ? fields(schema) : [type(target)]), "");
}
mkdirSync(file("pages"), { recursive: true });
writeFileSync(file("pages/openapi.md"), lines.join("\n"));
