import { MAX_TIMER, retryAfter, sleep } from "./backoff.js";
import { textOf } from "./guard.js";
import type { Alert, Notification, Severity, Update } from "./payloads.js";
import { isTransient } from "./response.js";
import { type Answer, readEndpoint } from "./transport.js";

export type { Alert, Notification, Severity, Update };

/** An event without its target: exactly one of `data` and `text`, and options. */
export type Message = Payload & MessageOptions;

/** The payload: any JSON value, or `text` that is sent verbatim, for example an HTML fragment for htmx or Turbo. */
export type Payload = { data: unknown; text?: never } | { text: string; data?: never };

/** Options of an event. */
export interface MessageOptions {
  /** The event's type, for which listeners in the browser are registered. Default: none, which is `message`. */
  type?: string;
  /** Idempotency key, at most 128 bytes. The same key within two minutes publishes nothing. Default, also for `""`: a random key. */
  key?: string;
  /** How long the event may be delivered, for example `"30s"` or `"10m"`. Default: as long as the history keeps it. */
  ttl?: string;
  /** Makes the event a state: it replaces the earlier event with the same slot and targets. Default: none. */
  slot?: string;
}

type Name = string | readonly string[];
type Kind = "user" | "connection" | "session" | "topic";

/** The target of an event: exactly one kind, with one name or up to 1,000. */
export type Target = {
  [K in Kind]: Record<K, Name> & { [Other in Exclude<Kind, K>]?: never };
}[Kind];

/** The answer to a publish. */
export interface Receipt {
  /** The event's position. */
  readonly id: string;
  /** The number of open connections on the answering node that matched. 0 is not an error. */
  readonly connections: number;
  /** Whether an event with this key was published before. */
  readonly duplicate?: boolean;
}

/** The error of a publish. */
export class PublishError extends Error {
  override readonly name = "PublishError";
  /** The HTTP status; 0 if there was no answer or no request. */
  readonly status: number;
  /** Whether a repetition with the same `key` may succeed. */
  readonly retryable: boolean;
  /** The event's key. A repetition with it within two minutes does not publish the event twice. */
  readonly key: string;

  /** @internal */
  constructor(
    message: string,
    key: string,
    { status, retryable, cause }: Pick<Failure, "status" | "retryable" | "cause">,
  ) {
    super(`caddy-sse: ${message}`, cause === undefined ? {} : { cause });
    this.status = status;
    this.retryable = retryable;
    this.key = key;
  }
}

/** Options of {@link createPublisher}. */
export interface PublisherOptions {
  /**
   * The address of Caddy. On the same machine, its admin API: `"http://localhost:2019/sse"` or
   * `"unix:///run/caddy/admin.sock"`. From elsewhere, also from another container, an `sse_api` route:
   * `"https://example.com/internal/sse"`. A name and password in it are sent as `Authorization`.
   */
  endpoint: string;
  /** The `Authorization` header, for example `"Bearer ..."`, or a function that is called for every attempt. Default: none. */
  auth?: string | (() => string | Promise<string>);
  /** The hub. Default: `default`. */
  hub?: string;
  /**
   * Timeout of one attempt, with the call of `auth`, in milliseconds. The server waits up to 10 s for a store. A retry
   * also ends two minutes after the first attempt began. Default: 15 000.
   */
  timeoutMs?: number;
  /**
   * The number of retries after a lost answer, a 408, 425, 429 or 5xx. The waits between them double, from
   * about 200 ms. No retry begins more than 90 s after the call. Default: 8, which take about 50 s.
   */
  retries?: number;
  /** Another implementation of `fetch`; not used for unix sockets. Default: the global one. */
  fetch?: typeof fetch;
}

/** Publishes events. Each method resolves when the event is accepted, or rejects with a {@link PublishError}. */
export interface Publisher {
  /** Publishes an event to users, connections, sessions or topics. */
  send(event: Message & Target): Promise<Receipt>;
  /** Publishes an event to all connections. */
  broadcast(event: Message): Promise<Receipt>;
  /** Publishes a `notification` to one user: `{ message, type, data }`. Default type: `"info"`. */
  notifyUser(userId: string, message: string, type?: string, data?: unknown): Promise<Receipt>;
  /** Publishes a `notification` to all connections. */
  notifyAll(message: string, type?: string, data?: unknown): Promise<Receipt>;
  /** Publishes an `update` to one user: `{ updateType, payload }`. */
  sendUpdate(userId: string, updateType: string, payload: unknown): Promise<Receipt>;
  /** Publishes an `alert` to one user: `{ message, severity }`. Default severity: `"warning"`. */
  sendAlert(userId: string, message: string, severity?: Severity): Promise<Receipt>;
}

/** How long after the call a retry may begin, in milliseconds. */
const MAX_TRYING = 90_000;
/**
 * How long after the beginning of the first attempt a retry may last, in milliseconds. The server forgets a key after
 * two minutes, so a later retry could publish the event twice.
 */
const KEY_LIFE = 120_000;
/** The most events and characters of one request. The server accepts 1,000 events and 8 MiB. */
const MAX_BATCH = 1000;
const MAX_BATCH_SIZE = 2 ** 21;
/** The most events and characters that wait, so that a process can publish while the server is away for long. */
const MAX_WAITING = 100_000;
const MAX_WAITING_SIZE = 2 ** 26;

/**
 * Creates a publisher. It retries with an idempotency key, so that an event is not published twice after a lost
 * answer. Events are published in the order of the calls. Events that wait are sent as one request. At most 100,000
 * events, and 64 Mi characters of them, wait: a call beyond that rejects, with `retryable`.
 *
 * @throws TypeError if the endpoint is not http, https or unix, has a query, or has a % that is not part of an escape.
 *
 * @example
 * const sse = createPublisher({ endpoint: "http://localhost:2019/sse" });
 * await sse.notifyUser("alice", "Your order has shipped");
 */
export function createPublisher(options: PublisherOptions): Publisher {
  const { hub, timeoutMs = 15_000, retries = 8 } = options;
  const { shown, login, transport } = readEndpoint(options.endpoint, options.fetch);
  const auth = options.auth ?? login;
  const query = hub ? `?hub=${encodeURIComponent(hub)}` : "";

  // Requests are sent one after the other. Events that come during a request go into the next one.
  const queue: Pending[] = [];
  let waitingSize = 0; // characters in the queue
  let running = false;

  async function attempt(
    call: string,
    batch: readonly Pending[],
    timeoutMs: number,
  ): Promise<Receipt[]> {
    const many = batch.length > 1;
    const headers: Record<string, string> = {
      "Content-Type": many ? "application/x-ndjson" : "application/json",
    };
    let answer: Answer;
    let what = "auth failed";
    // Not `AbortSignal.timeout`: it would keep the body of a request until its time, also after the answer.
    const controller = new AbortController();
    const { signal } = controller;
    const timeout = new Promise<never>((_, reject) => {
      signal.onabort = () => reject(signal.reason);
    });
    const timer = setTimeout(
      () => controller.abort(`timeout after ${timeoutMs} ms`),
      Math.min(timeoutMs, MAX_TIMER),
    );
    try {
      const value = typeof auth === "function" ? await Promise.race([auth(), timeout]) : auth;
      if (value) headers.Authorization = value;
      // Checked here, since the HTTP client's error would print the header.
      if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(value ?? "")) {
        throw new Failure("auth returned characters that a header cannot have", 0, false);
      }
      what = `no answer from ${shown}`;
      const body = batch.map(({ body }) => body).join("\n");
      const answered = transport(`/${call}${query}`, headers, body, signal);
      answer = await Promise.race([answered, timeout]);
    } catch (cause) {
      if (cause instanceof Failure) throw cause;
      throw new Failure(`${what}: ${textOf(cause)}`, 0, true, { cause });
    } finally {
      clearTimeout(timer);
    }
    const { status, text } = answer;
    if (status === 200) {
      const lines = many ? text.trim().split("\n") : [text];
      const receipts = lines.map((line) => read<Receipt>(line) as Receipt);
      if (lines.length === batch.length && receipts.every((one) => one?.id)) return receipts;
      // The events may be stored. A repetition with the same keys is safe.
      const hint = text ? shorten(text) : "does the endpoint lead to sse_api or the admin API?";
      throw new Failure(`200 without a receipt: ${hint}`, 200, true);
    }
    const failure = new Failure(`${status}: ${reason(status, text)}`, status, isTransient(status));
    failure.after = retryAfter(answer.retryAfter);
    throw failure;
  }

  /** Publishes a batch and settles each event of it. An event that the server refuses fails alone. */
  async function post(batch: readonly Pending[]): Promise<void> {
    const last = batch.at(-1);
    if (!last) return;
    let failure: Failure;
    let limit = timeoutMs;
    const began = Date.now();
    // Counted from the call, since each request waits for the one before, with its retries.
    const end = last.at + MAX_TRYING;
    for (let left = retries, wait = 200; ; left--, wait *= 2) {
      try {
        const receipts = await attempt(last.call, batch, limit);
        for (const [i, { resolve }] of batch.entries()) resolve(receipts[i] as Receipt);
        return;
      } catch (error) {
        failure = error as Failure;
        const { retryable, after } = failure;
        const pause = Math.max(after, wait * (0.5 + Math.random()));
        if (!retryable || left <= 0 || Date.now() + pause > end) break;
        await sleep(pause);
        // The process may have been suspended.
        if (Date.now() > end) break;
        limit = Math.min(timeoutMs, began + KEY_LIFE - Date.now());
      }
    }
    // The server refuses a batch as a whole, and names the bad line.
    const [, line, message] = /^\d+: line (\d+): (.*)$/s.exec(failure.message) ?? [];
    const bad = batch.length > 1 ? batch[Number(line) - 1] : undefined;
    if (bad) {
      bad.reject(new PublishError(`${failure.status}: ${message}`, bad.key, failure));
      return post(batch.filter((one) => one !== bad));
    }
    if (batch.length > 1 && failure.status === 413) {
      const half = batch.length >> 1;
      await post(batch.slice(0, half));
      return post(batch.slice(half));
    }
    for (const { key, reject } of batch) reject(new PublishError(failure.message, key, failure));
  }

  /** Takes as many events from the queue as fit into one request, in order. */
  function take(): Pending[] {
    const call = queue[0]?.call;
    let end = 0;
    for (let size = 0; end < MAX_BATCH; end++) {
      const next = queue[end];
      size += next?.body.length ?? 0;
      if (next?.call !== call || (size > MAX_BATCH_SIZE && end)) break;
    }
    const batch = queue.splice(0, end);
    for (const { body } of batch) waitingSize -= body.length;
    return batch;
  }

  async function drain() {
    running = true;
    while (queue.length) await post(take());
    running = false;
  }

  async function publish(call: string, event: Message & { user?: Name }): Promise<Receipt> {
    const key = event.key || crypto.randomUUID();
    let body: string;
    try {
      body = JSON.stringify({ ...event, key });
    } catch (cause) {
      const message = `the event cannot be encoded as JSON: ${textOf(cause)}`;
      throw new PublishError(message, key, { status: 0, retryable: false, cause });
    }
    if (queue.length >= MAX_WAITING || waitingSize >= MAX_WAITING_SIZE) {
      const message = `${queue.length} events with ${waitingSize} characters wait for ${shown} (limits: ${MAX_WAITING}, ${MAX_WAITING_SIZE}): publish again later`;
      throw new PublishError(message, key, { status: 0, retryable: true });
    }
    waitingSize += body.length;
    return new Promise((resolve, reject) => {
      queue.push({ call, key, body, at: Date.now(), resolve, reject });
      if (!running) void drain();
    });
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

/** An event that is not answered yet. */
interface Pending {
  readonly call: string;
  readonly key: string;
  readonly body: string;
  /** The time of the call. */
  readonly at: number;
  resolve(receipt: Receipt): void;
  reject(error: PublishError): void;
}

/** The error of a request, for all events in it. */
class Failure extends Error {
  /** `Retry-After` in milliseconds. */
  after = 0;
  constructor(
    message: string,
    readonly status: number,
    readonly retryable: boolean,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The text of the server's `{"error"}`. Something else than the API may have answered in another form. */
const reason = (status: number, text: string): string => {
  const error = read<{ error: string }>(text)?.error;
  if (typeof error === "string") return error;
  if (status === 404)
    return ["the endpoint must end in /sse", shorten(text)].filter(Boolean).join(": ");
  if (status < 400) return "no answer of the API: the endpoint must lead to it without a redirect";
  if (status === 401 && !text) return "the guard of the route refused the login: set auth";
  return shorten(text);
};

const shorten = (text: string) => (text.length > 200 ? `${text.slice(0, 200)}…` : text);

/** Parses a text; undefined if it is not a JSON object. */
function read<T>(text: string): Partial<T> | undefined {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" ? value : undefined;
  } catch {
    return undefined;
  }
}
