import { retryAfter } from "./backoff.js";
import { textOf } from "./guard.js";
import type { Alert, Notification, Severity, Update } from "./payloads.js";
import { type Answer, readEndpoint } from "./transport.js";

export type { Alert, Notification, Severity, Update };

/** What an event carries, whomever it is for: exactly one of `data` and `text`, and how. */
export type Message = Payload & MessageOptions;

/** The payload: any JSON value, or `text` that is sent verbatim, as an HTML fragment for htmx or Turbo. */
export type Payload = { data: unknown; text?: never } | { text: string; data?: never };

/** What an event has beside its payload. */
export interface MessageOptions {
  /** The event's type; in the browser what a listener is registered for. Default: none, a `message`. */
  type?: string;
  /** Idempotency key, at most 128 bytes: the same again within two minutes publishes nothing. Default: a random one. */
  key?: string;
  /** How long the event may be delivered, as `"30s"` or `"10m"`. Default: as long as history keeps it. */
  ttl?: string;
  /** Makes the event a state: it replaces the earlier one with the same slot and targets. Default: none. */
  slot?: string;
}

type Name = string | readonly string[];
type Kind = "user" | "connection" | "session" | "topic";

/** Whom an event is for: exactly one kind, one name or up to 1,000. */
export type Target = {
  [K in Kind]: Record<K, Name> & { [Other in Exclude<Kind, K>]?: never };
}[Kind];

/** The answer to a publish. */
export interface Receipt {
  /** The event's position. */
  readonly id: string;
  /** How many open connections it matched, on the node that answered. None is no error. */
  readonly connections: number;
  /** Whether an event with this key had been published before. */
  readonly duplicate?: boolean;
}

/** A publish that did not succeed. */
export interface PublishError extends Error {
  readonly name: "PublishError";
  /** The HTTP status; 0 if there was no answer. */
  readonly status: number;
  /** Whether the same again, with the same `key`, may succeed. */
  readonly retryable: boolean;
  /** The event's key, to publish it again without doubling it. */
  readonly key: string;
}

/** Options of {@link createPublisher}. */
export interface PublisherOptions {
  /**
   * Where Caddy listens: the admin API, `"http://localhost:2019/sse"`, in another container
   * `"http://caddy:2019/sse"`, or `"unix:///run/caddy-admin.sock"`; or an `sse_api` route,
   * `"https://example.com/internal/sse"`. A name and password in it are sent as `Authorization`.
   */
  endpoint: string;
  /** The `Authorization` header, as `"Bearer ..."`, or a function that is asked for every attempt. Default: none. */
  auth?: string | (() => string | Promise<string>);
  /** The hub. Default: `default`. */
  hub?: string;
  /** Milliseconds for one attempt. The server itself tries a store for 10 s. Default: 15 000. */
  timeoutMs?: number;
  /** How often to try again after a lost answer, a 408, 425, 429 or 5xx. Default: 3. */
  retries?: number;
  /** Another implementation of `fetch`; not used for unix sockets. Default: the global one. */
  fetch?: typeof fetch;
}

/** Publishes events. Each call resolves when the event is accepted, or rejects with a {@link PublishError}. */
export interface Publisher {
  /** To users, connections, sessions or topics. */
  send(event: Message & Target): Promise<Receipt>;
  /** To everyone. */
  broadcast(event: Message): Promise<Receipt>;
  /** A `notification` to one user: `{ message, type, data }`. Default type: `"info"`. */
  notifyUser(userId: string, message: string, type?: string, data?: unknown): Promise<Receipt>;
  /** A `notification` to everyone. */
  notifyAll(message: string, type?: string, data?: unknown): Promise<Receipt>;
  /** An `update` to one user: `{ updateType, payload }`. */
  sendUpdate(userId: string, updateType: string, payload: unknown): Promise<Receipt>;
  /** An `alert` to one user: `{ message, severity }`. Default severity: `"warning"`. */
  sendAlert(userId: string, message: string, severity?: Severity): Promise<Receipt>;
}

/** The longest `Retry-After` that is waited for, in milliseconds: the server forgets keys after two minutes. */
const MAX_WAIT = 30_000;

/**
 * Makes a publisher. It retries with an idempotency key, so a lost answer doubles nothing.
 *
 * @throws TypeError if the endpoint is none of the three kinds.
 *
 * @example
 * const sse = createPublisher({ endpoint: "http://localhost:2019/sse" });
 * await sse.notifyUser("alice", "Your order has shipped");
 */
export function createPublisher(options: PublisherOptions): Publisher {
  const { hub, timeoutMs = 15_000, retries = 3 } = options;
  const { shown, login, transport } = readEndpoint(options.endpoint, options.fetch);
  const auth = options.auth ?? login;
  const query = hub ? `?hub=${encodeURIComponent(hub)}` : "";

  async function attempt(call: string, body: string, key: string): Promise<Receipt> {
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    let answer: Answer;
    try {
      const value = typeof auth === "function" ? await auth() : auth;
      if (value) headers.Authorization = value;
    } catch (cause) {
      throw publishError(`auth failed: ${textOf(cause)}`, 0, true, key, { cause });
    }
    // The error of a client that refuses a header prints it.
    if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(headers.Authorization ?? "")) {
      throw publishError("auth gave characters that no header can have", 0, false, key);
    }
    try {
      const signal = AbortSignal.timeout(timeoutMs);
      answer = await transport(`/${call}${query}`, headers, body, signal);
    } catch (cause) {
      throw publishError(`no answer from ${shown}: ${textOf(cause)}`, 0, true, key, { cause });
    }
    const { status, text } = answer;
    if (status === 200) {
      const receipt = read<Receipt>(text);
      if (receipt?.id) return receipt as Receipt;
      // It may have been stored, so the same again, with the same key, is what to do.
      throw publishError(`200 without a receipt: ${shorten(text)}`, 200, true, key);
    }
    const retryable = status >= 500 || status === 408 || status === 425 || status === 429;
    const error = publishError(`${status}: ${reason(text)}`, status, retryable, key);
    throw Object.assign(error, { after: retryAfter(answer.retryAfter) });
  }

  async function publish(call: string, event: Message & { user?: Name }): Promise<Receipt> {
    const key = event.key ?? crypto.randomUUID();
    let body: string;
    try {
      body = JSON.stringify({ ...event, key });
    } catch (cause) {
      throw publishError(`the event cannot be JSON: ${textOf(cause)}`, 0, false, key, { cause });
    }
    for (let left = retries, wait = 200; ; left--, wait *= 2) {
      try {
        return await attempt(call, body, key);
      } catch (error) {
        const { retryable, after = 0 } = error as PublishError & { after?: number };
        if (!retryable || left <= 0 || after > MAX_WAIT) throw error;
        await new Promise((resolve) =>
          setTimeout(resolve, Math.max(after, wait * (0.5 + Math.random()))),
        );
      }
    }
  }

  const notification = (data: Notification) => ({ type: "notification", data });
  return {
    send: (event) => publish("send", event),
    broadcast: (event) => publish("broadcast", event),
    notifyUser: (user, message, type = "info", data) =>
      publish("send", { user, ...notification({ message, type, data }) }),
    notifyAll: (message, type = "info", data) =>
      publish("broadcast", notification({ message, type, data })),
    sendUpdate: (user, updateType, payload) =>
      publish("send", { user, type: "update", data: { updateType, payload } satisfies Update }),
    sendAlert: (user, message, severity = "warning") =>
      publish("send", { user, type: "alert", data: { message, severity } satisfies Alert }),
  };
}

function publishError(
  message: string,
  status: number,
  retryable: boolean,
  key: string,
  cause?: ErrorOptions,
): PublishError {
  return Object.assign(new Error(`caddy-sse: ${message}`, cause), {
    name: "PublishError" as const,
    status,
    retryable,
    key,
  });
}

/** The server's `{"error"}`; something between may have answered in another form. */
const reason = (text: string): string => {
  const error = read<{ error: string }>(text)?.error;
  return typeof error === "string" ? error : shorten(text);
};

const shorten = (text: string) => (text.length > 200 ? `${text.slice(0, 200)}…` : text);

/** The JSON object that a text is, if it is one. */
function read<T>(text: string): Partial<T> | undefined {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" ? value : undefined;
  } catch {
    return undefined;
  }
}
