import { retryAfter } from "./backoff.js";
import type { SSEError } from "./types.js";

export const isStream = ({ status, headers }: Response): boolean =>
  status === 200 && /^text\/event-stream *(;|$)/i.test(headers.get("Content-Type") ?? "");

/** Reports whether the same request may succeed later. */
export const isTransient = (status: number): boolean => /5..|408|42[59]/.test(`${status}`);

/** The error of a response that is not a stream. */
export function errorOf({ status, headers }: Response): SSEError & { retryAfterMs?: number } {
  if (status === 200) {
    const contentType = headers.get("Content-Type");
    return {
      type: "content-type",
      contentType,
      message: `not an event stream: ${contentType}`,
    };
  }
  const retryAfterMs = retryAfter(headers.get("Retry-After"));
  return { type: "http", status, retryAfterMs, message: `status ${status}` };
}

/** Yields the text in pieces as they arrive, or in one piece if `fetch` does not support streams. */
export async function* chunks(response: Response): AsyncGenerator<string> {
  if (!response.body) return yield response.text();
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield decoder.decode(value, { stream: true });
  }
}
