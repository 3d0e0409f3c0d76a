import type { Alert, Notification, Update } from "./payloads.js";

/**
 * Where a stream is in its life.
 *
 * - `idle`: nobody listens yet.
 * - `connecting`: the first attempt is on its way.
 * - `open`: bytes of the stream have arrived.
 * - `reconnecting`: the stream was lost or an attempt failed; waiting, or trying again.
 * - `closed`: `close()` was called, or the server answered 204. Only `reconnect()` leaves it.
 * - `failed`: trying again would not help (see `error`). Only `reconnect()` leaves it.
 */
export type ConnectionStatus =
  | "idle"
  | "connecting"
  | "open"
  | "reconnecting"
  | "closed"
  | "failed";

/** The event types that the publisher's helpers send, and `message` for events without a type. */
export interface DefaultEvents {
  message: unknown;
  notification: Notification;
  update: Update;
  alert: Alert;
}

/** One received event. The union over all types of `E`, told apart by `type`. */
export type SSEMessage<E = DefaultEvents> = {
  [K in keyof E & string]: {
    /** The event's position. Other than on caddy-sse, possibly empty. */
    readonly id: string;
    readonly type: K;
    readonly data: E[K];
    /** When it arrived, in milliseconds since the epoch of `Date.now()`. */
    readonly receivedAt: number;
  };
}[keyof E & string];

/** Why events may be missing: the server's `sse.gap`. */
export interface Gap {
  /**
   * `evicted`: history no longer reaches back to the position; `epoch`: the server's history began
   * anew; `invalid`: the position was none of its own; `max_…`: the server took no second connection that
   * would have fetched what a client of a shared stream missed; `held`: too many events came during one `load`.
   */
  readonly reason: "evicted" | "epoch" | "invalid" | (string & {});
  /** The position from which events follow without a hole. */
  readonly id: string;
}

/** How the server has changed what topics this connection receives: its `sse.topics`. */
export interface TopicChange {
  readonly added: readonly string[];
  readonly removed: readonly string[];
  /** The position from which this holds. */
  readonly id: string;
}

/** What went wrong, told apart by `type`. `message` is for people. */
export type SSEError = { readonly message: string } & (
  | {
      /**
       * No answer, a broken connection, a stream that just ended, an event of more than 16 Mi
       * characters, or a `headers` function that threw.
       */
      readonly type: "network";
      readonly cause?: unknown;
    }
  | {
      /** No such request can be made: a name and password in the URL, a header with a line feed. Final. */
      readonly type: "request";
      readonly cause: unknown;
    }
  | {
      /**
       * Any status but 200 and 204. 5xx, 408, 425 and 429 are tried again. So are 404 and 410 of a stream
       * that had been open, slowly. Others are final.
       */
      readonly type: "http";
      readonly status: number;
      /** `Retry-After`; 0 if the answer had none, or did not expose it to another origin. */
      readonly retryAfterMs: number;
    }
  | {
      /** A 200 that is no event stream: a login page, a wrong address. Final. */
      readonly type: "content-type";
      readonly contentType: string | null;
    }
  | {
      /** Not one byte for `idleTimeoutMs`, not even a heartbeat. */
      readonly type: "idle-timeout";
    }
  | {
      /**
       * The server ended the stream and said why: `shutdown`, `lifetime`, `expired`, `disconnected`,
       * `hub_closed`, or did not take one more: `max_connections`, `max_connections_per_user`,
       * `max_connections_per_ip`, `starting`. A second `disconnected` is final; after
       * `hub_closed` the client comes back slowly.
       */
      readonly type: "terminated";
      readonly reason: string;
    }
  | {
      /** `load` failed. It is called again. */
      readonly type: "load";
      readonly cause: unknown;
    }
  | {
      /** The data of one event could not be parsed. The event is skipped, the stream goes on. */
      readonly type: "malformed";
      readonly raw: string;
      readonly eventType: string;
      readonly cause: unknown;
    }
);

/** How long to wait between attempts. */
export interface BackoffOptions {
  /** Upper bound of the first wait, until the server's `retry:` replaces it. Default: 500. */
  minMs?: number;
  /** Upper bound of every wait that the server has not asked for. Default: 30 000. */
  maxMs?: number;
  /** The stream must stay open this long before waits start small again. Default: 10 000. */
  resetAfterMs?: number;
}

/** Options of one stream, without how it is shared. */
export interface StreamOptions {
  /**
   * Request headers. A function is called anew for every attempt, and once more after a 401, so that
   * a token can be refreshed. Default: none; cookies and HTTP authentication work without.
   */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** As in `fetch`; `"include"` for cookies across origins. Default: `"same-origin"`. */
  credentials?: RequestCredentials;
  /** Another implementation of `fetch`, whose `response.body` must be a stream. Default: the global one. */
  fetch?: typeof fetch;
  /** The position to start from, for example the head a server-rendered page was built at. Default: now. */
  lastEventId?: string;
  /**
   * Begins with the newest event of every `slot`, unless there is a position. Topics that are added later
   * begin when they are added. Default: `false`.
   */
  state?: boolean;
  backoff?: BackoffOptions;
  /**
   * Milliseconds without a byte after which the connection counts as dead. Default: 2.5 times the
   * heartbeat that the server announces, and 37 500 until it has.
   */
  idleTimeoutMs?: number;
  /**
   * Asked before every attempt to come back, with how many have been made since the stream was open.
   * `false` makes the stream `failed`. Not asked about final errors. Default: always `true`.
   */
  shouldReconnect?: (error: SSEError, attempts: number) => boolean;
}

/** How a stream is shared. */
export type ShareOptions =
  | {
      /**
       * `"page"`: one stream for all clients of the same URL and identity on this page. `false`: a
       * stream of its own. Default: `"page"`.
       */
      share?: "page" | false;
      /** Who is signed in, as your page knows it. Default: the headers, if they are no function. */
      identity?: string;
    }
  | {
      /**
       * One stream for all tabs of this origin. Needs a secure context (https, or localhost) and
       * falls back to `"page"` where there is none.
       */
      share: "tabs";
      /**
       * Who is signed in, for example the user's id. Tabs share a stream only if it is the same, so a
       * tab that signs in as somebody else never sees events of the one before. `""` if there are no users.
       */
      identity: string;
    };

/** Options of {@link createSSE}. */
export type SSEOptions = StreamOptions &
  ShareOptions & {
    /** How many of the latest messages the snapshot keeps. Listeners get all. Default: 200. */
    maxMessages?: number;
    /**
     * Turns the data of an event into its payload; throwing makes the event malformed. Set it if you
     * publish `text`. Default: `JSON.parse`, and `null` for empty data.
     */
    parse?: (data: string, type: string) => unknown;
    /**
     * Loads what the page shows; the events then change it. Called when the stream is open, and again
     * after every gap. Events that arrive meanwhile are delivered after it. One that fails is reported
     * and called again with growing waits; `signal` is aborted when its result is wanted no more.
     */
    load?: (request: { signal: AbortSignal }) => unknown;
    /** Called when events may be missing: load what you show anew, unless `load` does. */
    onGap?: (gap: Gap) => void;
    /** Topics to receive, sent as `?topic=`. Default: those in the URL. */
    topics?: readonly string[] | undefined;
    /** Called when the server has changed the topics of this connection. */
    onTopics?: (change: TopicChange) => void;
    /** Called for every lost connection, failed attempt and malformed event. */
    onError?: (error: SSEError) => void;
  };

/** The connection's part of a snapshot. */
export interface StreamState {
  readonly connectionStatus: ConnectionStatus;
  /** The server's id of the open connection, or of the last one. */
  readonly connectionId: string | null;
  /** Who the server says this is; `""` if anonymous, `null` before it has said so. */
  readonly user: string | null;
  /** What the server says the stream comes by: `h1`, `h2` or `h3`; `null` before it has said so. */
  readonly protocol: string | null;
  /** Why the stream is not open, `null` while it is. */
  readonly error: SSEError | null;
  /** How many attempts to come back have been made or scheduled since the stream was open. */
  readonly attempt: number;
  /** When the next attempt is due, on the clock of `Date.now()`; `null` if none is scheduled. */
  readonly retryAt: number | null;
  /** `poll` where the network holds back a long answer: many short ones then. */
  readonly transport: "stream" | "poll";
}

/** Everything about a client at one moment. Frozen; a new object if and only if something changed. */
export interface SSESnapshot<E = DefaultEvents> extends StreamState {
  /** The latest messages, oldest first, at most `maxMessages`. Emptied when the server says that the user is another. */
  readonly messages: readonly SSEMessage<E>[];
  /** How many events could not be parsed. */
  readonly malformed: number;
  /** The position up to which events have arrived. */
  readonly lastEventId: string;
}

/** A client of one stream, made by {@link createSSE}. */
export interface SSEClient<E = DefaultEvents> {
  /**
   * Calls back after the snapshot changed, at most once a microtask. The first listener, of this
   * method or of `on`, opens the stream; a task after the last one is removed it is closed. Returns
   * the function that removes it.
   */
  subscribe(listener: () => void): () => void;
  getSnapshot(): SSESnapshot<E>;
  /** Calls back once for each message of a type, or of every type (`"*"`). Returns the function that removes it. */
  on<K extends keyof E & string>(
    type: K,
    listener: (message: Extract<SSEMessage<E>, { type: K }>) => void,
  ): () => void;
  on(type: "*", listener: (message: SSEMessage<E>) => void): () => void;
  /** Receives other topics, from the same position: nothing of those that stay is lost. */
  setTopics(topics: readonly string[]): void;
  /** Drops the connection, if any, and connects now, from the same position. */
  reconnect(): void;
  /** Leaves the stream until `reconnect()`. Others that share it keep it. */
  close(): void;
  /** Empties `messages` and sets `malformed` to 0. */
  clear(): void;
}
