import { resolve } from "../page.js";

/** Quotes a text as one word for a shell. */
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

/** Returns the command that follows a stream. Its URL is absolute. */
export function curlStream(url: string, topics: readonly string[], position: string): string {
  const target = new URL(url);
  for (const topic of topics) target.searchParams.append("topic", topic);
  const from = position && ` \\\n  -H ${quoted(`Last-Event-ID: ${position}`)}`;
  return `curl -N ${quoted(target.href)}${from}`;
}

/** Returns the command that publishes an event. */
export const curlPush = (url: string, event: object): string =>
  `curl ${quoted(url)} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(event))}`;

/** Returns the absolute form of a URL, for a command that runs elsewhere. */
export const absolute = (url: string): string =>
  typeof document === "undefined" ? url : resolve(url).href;
