import type { Alert, Notification, Update } from "./payloads.js";

/**
 * The status of a stream.
 *
 * - `idle`: there is no listener yet.
 * - `connecting`: the first attempt has begun.
 * - `open`: bytes of the stream have arrived.
 * - `reconnecting`: the stream was lost or an attempt failed, and the next attempt has begun or is scheduled.
 * - `closed`: `close()` was called, or the server answered 204. Only `reconnect()` leaves this status.
 * - `failed`: another attempt would not help (see `error`). Only `reconnect()` leaves this status.
 */
export type ConnectionStatus =
  | "idle"
  | "connecting"
  | "open"
  | "reconnecting"
  | "closed"
  | "failed";

/** The event types that the methods of `Publisher` send, and `message` for events without a type. */
export interface DefaultEvents {
  message: unknown;
  notification: Notification;
  update: Update;
  alert: Alert;
}

/** One received event: a union over all types of `E`, discriminated by `type`. */
export type SSEMessage<E = DefaultEvents> = {
  [K in keyof E & string]: {
    /** The event's position. It may be empty on servers other than caddy-sse. */
    readonly id: string;
    readonly type: K;
    readonly data: E[K];
    /** The time of arrival, in milliseconds, as of `Date.now()`. */
    readonly receivedAt: number;
  };
}[keyof E & string];

/** A gap: events may be missing. The server reports it with `sse.gap`. */
export interface Gap {
  /**
   * - `evicted`: the history no longer has the events after the position.
   * - `epoch`: the server has a new history.
   * - `invalid`: the position is not one of this server.
   * - `max_…`: a client of a shared stream missed events, and the server refused the connection to get them.
   * - `held`: too many events arrived during one `load`.
   */
  readonly reason: "evicted" | "epoch" | "invalid" | (string & {});
  /** The position after which no events are missing. */
  readonly id: string;
}

/** A change of the topics of this connection by the server, which reports it with `sse.topics`. */
export interface TopicChange {
  readonly added: readonly string[];
  readonly removed: readonly string[];
  /** The position after which the change holds. */
  readonly id: string;
}

/** An error, discriminated by `type`. `message` is for people. */
export type SSEError = { readonly message: string } & (
  | {
      /**
       * No answer, a broken connection, a stream that ended without a reason, an event of more than 16 Mi
       * characters, or a `headers` function that threw.
       */
      readonly type: "network";
      readonly cause?: unknown;
    }
  | {
      /** The request is invalid: a name and password in the URL, or a header with a line feed. Final. */
      readonly type: "request";
      readonly cause: unknown;
    }
  | {
      /**
       * Any status but 200 and 204. The client retries after 5xx, 408, 425 and 429. After 404 and 410 it
       * retries slowly if the stream was open before. Others are final.
       */
      readonly type: "http";
      readonly status: number;
      /** `Retry-After` in milliseconds; 0 if the answer had none, or did not expose it to another origin. */
      readonly retryAfterMs: number;
    }
  | {
      /** A 200 that is not an event stream, for example a login page or a wrong address. Final. */
      readonly type: "content-type";
      readonly contentType: string | null;
    }
  | {
      /** No byte for `idleTimeoutMs`, not even a heartbeat. */
      readonly type: "idle-timeout";
    }
  | {
      /**
       * The server gave a reason. It ended the stream: `shutdown`, `lifetime`, `expired`, `disconnected`,
       * `hub_closed`. Or it refused the connection: `max_connections`, `max_connections_per_user`,
       * `max_connections_per_ip`, `starting`. A second `disconnected` is final. After `hub_closed` the client
       * retries slowly.
       */
      readonly type: "terminated";
      readonly reason: string;
    }
  | {
      /** `load` failed. The client calls it again. */
      readonly type: "load";
      readonly cause: unknown;
    }
  | {
      /** The data of one event could not be parsed. The event is skipped. */
      readonly type: "malformed";
      readonly raw: string;
      readonly eventType: string;
      readonly cause: unknown;
    }
);

/** The waits between attempts. */
export interface BackoffOptions {
  /** Upper bound of the first wait, in milliseconds. The server's `retry:` replaces it. Default: 500. */
  minMs?: number;
  /** Upper bound of all waits that the server did not ask for, in milliseconds. Default: 30 000. */
  maxMs?: number;
  /** How long a stream must be open until the next wait is a first one again, in milliseconds. Default: 10 000. */
  resetAfterMs?: number;
}

/** Options of one stream, except for those of sharing. */
export interface StreamOptions {
  /**
   * Request headers. A function is called for every attempt. After a 401 there is one more attempt, so that
   * the function can refresh a token. Default: none. Cookies and HTTP authentication work without.
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** As in `fetch`; `"include"` for cookies across origins. Default: `"same-origin"`. */
  credentials?: RequestCredentials;
  /** Another implementation of `fetch`, whose `response.body` must be a stream. Default: the global one. */
  fetch?: typeof fetch;
  /** The position to start from, for example that at which the server rendered the page. Default: the newest. */
  lastEventId?: string;
  /**
   * Starts with the newest event of every `slot`, unless there is a position. This does not apply to topics
   * that are added later. Default: `false`.
   */
  state?: boolean;
  backoff?: BackoffOptions;
  /**
   * A connection without a byte for this many milliseconds is dead. Default: 2.5 times the heartbeat that the
   * server announces; 37 500 until it does.
   */
  idleTimeoutMs?: number;
  /**
   * Called before a reconnection is scheduled, with the number of attempts since the stream was open for
   * `backoff.resetAfterMs`. If it returns `false`, the stream is `failed`. Not called for final errors. Default: always
   * `true`.
   */
  shouldReconnect?: (error: SSEError, attempts: number) => boolean;
}

/** Options of sharing a stream. */
export type ShareOptions =
  | {
      /**
       * `"page"`: all clients of the same URL and identity on this page share one stream. `false`: the client
       * has its own stream. Default: `"page"`.
       */
      share?: "page" | false;
      /** The signed-in user, as your page knows it. Default: the headers, unless they are a function. */
      identity?: string;
    }
  | {
      /**
       * All tabs of this origin share one stream. This needs a secure context (https or localhost). Without one
       * it is the same as `"page"`.
       */
      share: "tabs";
      /**
       * The signed-in user, for example an id. Tabs share a stream only if it is the same, so that a tab of
       * another user never gets the events of this one. `""` if there are no users.
       */
      identity: string;
    };

/** Options of {@link createSSE}. */
export type SSEOptions = StreamOptions &
  ShareOptions & {
    /** The number of latest messages in the snapshot. Listeners get all messages. Default: 200. */
    maxMessages?: number;
    /**
     * Converts the data of an event to its payload. If it throws, the event is malformed. Set it if you
     * publish `text`. Default: `JSON.parse`, and `null` for empty data.
     */
    parse?: (data: string, type: string) => unknown;
    /**
     * Loads the data of the page, which the events then change. Called when the stream is open, and again after
     * every gap. Events that arrive meanwhile are delivered after it. If it fails, the error is reported and it
     * is called again, with growing waits. `signal` is aborted when its result is no longer needed.
     */
    load?: (request: { signal: AbortSignal }) => unknown;
    /** Called when events may be missing. Load the data of the page again, unless `load` does. */
    onGap?: (gap: Gap) => void;
    /** Topics to subscribe to, sent as `?topic=`. Default: those in the URL. */
    topics?: readonly string[] | undefined;
    /** Called when the server has changed the topics of this connection. */
    onTopics?: (change: TopicChange) => void;
    /** Called for every lost connection, failed attempt and malformed event. */
    onError?: (error: SSEError) => void;
  };

/** The state of the connection, a part of the snapshot. */
export interface StreamState {
  readonly connectionStatus: ConnectionStatus;
  /** The server's id of the open connection, or of the last connection. */
  readonly connectionId: string | null;
  /** The user, as the server says; `""` if anonymous, `null` before the server has said so. */
  readonly user: string | null;
  /** The protocol of the stream, as the server says: `h1`, `h2` or `h3`; `null` before the server has said so. */
  readonly protocol: string | null;
  /** Why the stream is not open; `null` while it is open. */
  readonly error: SSEError | null;
  /** The number of attempts, made or scheduled, since the stream was open for `backoff.resetAfterMs`; 0 while it is open. */
  readonly attempt: number;
  /** The time of the next attempt, as of `Date.now()`; `null` if none is scheduled. */
  readonly retryAt: number | null;
  /** `poll` if the network holds long answers back, so that the client requests many short ones. */
  readonly transport: "stream" | "poll";
}

/** The state of a client. It is frozen, and a new object if and only if something changed. */
export interface SSESnapshot<E = DefaultEvents> extends StreamState {
  /** The latest messages, oldest first, at most `maxMessages`. Emptied when the server says that the user has changed. */
  readonly messages: readonly SSEMessage<E>[];
  /** The number of events that could not be parsed. */
  readonly malformed: number;
  /** The position up to which all events have arrived. */
  readonly lastEventId: string;
}

/** A client of one stream, created by {@link createSSE}. */
export interface SSEClient<E = DefaultEvents> {
  /**
   * Calls the listener after the snapshot changed, at most once per microtask. The first listener, of this
   * method or of `on`, opens the stream. The stream is closed a task after the last listener is removed.
   * Returns the function that removes the listener.
   */
  subscribe(listener: () => void): () => void;
  getSnapshot(): SSESnapshot<E>;
  /**
   * Calls the listener once for each message of a type, or of every type (`"*"`). Returns the function that
   * removes the listener.
   */
  on<K extends keyof E & string>(
    type: K,
    listener: (message: Extract<SSEMessage<E>, { type: K }>) => void,
  ): () => void;
  on(type: "*", listener: (message: SSEMessage<E>) => void): () => void;
  /** Changes the topics. The stream continues at its position, so no event of a topic that stays is lost. */
  setTopics(topics: readonly string[]): void;
  /** Closes the connection, if any, and connects at once, from the same position. */
  reconnect(): void;
  /** Leaves the stream until `reconnect()`. Other clients that share the stream keep it. */
  close(): void;
  /** Empties `messages` and sets `malformed` to 0. */
  clear(): void;
}
