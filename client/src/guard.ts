/**
 * Calls what the page gave us. What it throws is a bug of the page, reported there, and no reason to
 * lose the stream; the result is then `undefined`.
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

/** Anything that was thrown, as text. A page may throw what has none. */
export function textOf(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return "an error without a text";
  }
}
