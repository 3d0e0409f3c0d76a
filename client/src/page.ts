/**
 * Listens to events of the page or the worker, if there is one. Returns the function that removes the
 * listener. `visibilitychange` bubbles from the document to here.
 */
export function onPage(types: string[], listener: (event: Event) => void): () => void {
  for (const type of types) globalThis.addEventListener?.(type, listener);
  return () => {
    for (const type of types) globalThis.removeEventListener?.(type, listener);
  };
}

/** Calls `wake` when the page becomes visible, or the browser is online again. Returns the function that ends it. */
export const onWake = (wake: (type: string) => void): (() => void) =>
  onPage(["online", "visibilitychange"], ({ type }) => {
    if (type === "online" || document.visibilityState !== "hidden") wake(type);
  });

/**
 * The absolute form of a URL as this page resolves it. A page may have been opened with a password in its
 * address. `fetch` refuses such URLs, and the browser sends the password by itself.
 */
export const resolve = (url: string | URL): URL =>
  new URL(
    url,
    (globalThis.document?.baseURI ?? globalThis.location?.href)?.replace(/\/\/[^/]*@/, "//"),
  );
