/** A word for a shell, whatever is in it. */
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

/** The command that follows a stream. */
export function curlStream(url: string, position: string): string {
  const from = position && ` \\\n  -H ${quoted(`Last-Event-ID: ${position}`)}`;
  return `curl -N ${quoted(url)}${from}`;
}

/** The command that publishes an event. */
export const curlPush = (url: string, event: object): string =>
  `curl ${quoted(url)} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(event))}`;

/** An address as this page resolves it, for a command that is run elsewhere. */
export const absolute = (url: string): string =>
  typeof document === "undefined" ? url : new URL(url, document.baseURI).href;
