/**
 * Calls a function of the page. An error in it is a bug of the page: it is thrown again in a microtask, so
 * that the page reports it and the stream goes on. The result is then `undefined`.
 */
export function guard<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
    return undefined;
  }
}

/** The text of any thrown value. */
export function textOf(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return "an error without a text"; // its toString throws
  }
}
