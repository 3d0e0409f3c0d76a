import { resolve } from "../page.js";

/** The answer of the API, or the reason why there is none. `text` is for people. */
export type Answer<T> = { ok: true; value: T } | { ok: false; text: string };

/** Calls an `sse_api` route with the page's login. */
export async function call<T>(method: string, url: string, body?: object): Promise<Answer<T>> {
  let response: Response;
  let text: string;
  try {
    response = await fetch(resolve(url), {
      method,
      ...(body && {
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      }),
    });
    text = await response.text();
  } catch {
    return { ok: false, text: "No answer from the API. Is the server running? Try again." };
  }
  const { status } = response;
  const value = read(text);
  if (response.ok && value) return { ok: true, value: value as T };
  const why = typeof value?.error === "string" ? value.error : "";
  return { ok: false, text: explain(status, why) };
}

function explain(status: number, why: string): string {
  const because = why && `: ${why}`;
  if (status === 401 || status === 403) {
    return `You may not use the API (${status}${because}). Sign in as somebody who may.`;
  }
  if (status === 404 && !why) {
    return "There is no API at the address of this page (404). Check `api` in its configuration.";
  }
  if (status >= 500) return `The server could not do it (${status}${because}). Try again.`;
  if (status === 200) return "The answer is not from the API. Check `api` in the configuration.";
  return `The server refused it (${status}${because}).`;
}

function read(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text) ?? undefined;
  } catch {
    return undefined;
  }
}
