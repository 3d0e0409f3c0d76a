/** Returns the URL of a request for a stream or a poll, and sets the header that has the position. */
export function prepare(
  url: URL,
  headers: Headers,
  poll: boolean,
  lastEventId: string,
  previous: string | null,
  state: boolean | undefined,
): URL {
  const target = new URL(url);
  if (poll) target.searchParams.set("poll", "1");
  // The server closes this connection before it counts the new one.
  if (previous) target.searchParams.set("previous", previous);
  if (!lastEventId) {
    if (state) target.searchParams.set("state", "1");
  } else if ((globalThis.location ?? url).origin !== url.origin) {
    // Across origins the header would need a preflight each time; a query does not.
    target.searchParams.set("last_event_id", lastEventId);
  } else {
    // [HTML spec 9.2.3] The id is sent as UTF-8. A header value is a string of bytes.
    headers.set("Last-Event-ID", String.fromCharCode(...new TextEncoder().encode(lastEventId)));
  }
  return target;
}
