import { delayOf, fullJitter, MAX_TIMER, retryAfter, slowJitter } from "./backoff.js";
import { guard, textOf } from "./guard.js";
import { onPage } from "./page.js";
import { createParser } from "./parser.js";
import type { Gap, SSEError, StreamOptions, StreamState, TopicChange } from "./types.js";

/** One event as it came off the wire. */
export interface RawEvent {
  readonly id: string;
  readonly type: string;
  readonly data: string;
}

/** What a stream has to tell: one or more of these, or nothing but that it is alive. */
export interface News {
  state?: StreamState | undefined;
  /** The position before these news, and the one after them. One stream's news follow each other. */
  from?: string | undefined;
  position?: string | undefined;
  /** What one chunk brought; none if it was a heartbeat. */
  events?: readonly RawEvent[] | undefined;
  gap?: Gap;
  topics?: TopicChange;
  error?: SSEError;
  /** In how many milliseconds there will be news again, if only of a byte. */
  silenceMs?: number | undefined;
  /** The tab that has the stream says nothing any more. */
  deaf?: boolean;
}

/** Who a stream reports to. Never called after the stream's `close()`. */
export type Sink = (news: News) => void;

export interface Stream {
  /** Connects anew, from the position reached. */
  reconnect(): void;
  close(): void;
}

/** Where a stream goes on that another one began. */
export interface Resume {
  readonly lastEventId: string;
  readonly connectionId: string | null;
}

export const IDLE: StreamState = {
  connectionStatus: "idle",
  connectionId: null,
  user: null,
  protocol: null,
  error: null,
  attempt: 0,
  retryAt: null,
  transport: "stream",
};

// Two and a half heartbeats without a byte are a dead connection; 15 s each until the server has said.
const HEARTBEATS = 2.5;
const UNSAID_MS = 15_000;
const MAX_EVENT = 2 ** 24;

// A network that holds a stream back: after how long without its first byte a poll is sent beside it,
// and how much longer the stream then has.
const PROBE_MS = 1000;
const GRACE_MS = 250;
// How often a client that polls tries to stream again: after this, then after twice as much, up to an hour.
const STREAM_AGAIN_MS = 300_000;
// A connection that is cut at the same age twice, and within this, will be cut again.
const CUT_MS = 120_000;
// Polls begin at least so far apart. One without an event that ends sooner than this is a failure.
const POLL_MS = 100;
const IDLE_POLL_MS = 500;

/** Opens a stream and keeps it open: one connection at a time, until `close()` or a final error. */
export function openStream(
  url: URL,
  sink: Sink,
  { lastEventId, connectionId }: Resume,
  options: () => StreamOptions,
): Stream {
  // What is known over all attempts.
  let state: StreamState = { ...IDLE, connectionId };
  let asked: number | undefined; // by `retry:`
  let heartbeatMs = UNSAID_MS;
  let failures = 0;
  let absences = 0; // how often in a row the hub or the address was gone
  let known = connectionId !== null; // the stream has been open before
  let patient = false; // the server has asked for the wait
  let refreshed = false; // a 401 has been answered with fresh headers
  let sentAway = false; // a `disconnected` has been answered by coming back

  // Whether this network lets a stream through: it has (proven), or short answers only (polling).
  let proven = false;
  let polling = false;
  let streamAt = 0; // when to try again
  let streamAgainMs = STREAM_AGAIN_MS;
  let cutAge = 0;

  // The attempt that runs; undefined while waiting. Whatever an earlier one still does is ignored.
  let run: AbortController | undefined;
  let calls: AbortController[] = []; // its requests: a stream, a poll, or both until one is heard
  let heard: AbortController | undefined; // the one that counts
  let probe: ReturnType<typeof setTimeout> | undefined;
  let closed = false;
  let openedAt = 0;
  let lastByteAt = 0;
  // The next attempt if none runs, else its watchdog.
  let timer: ReturnType<typeof setTimeout> | undefined;

  const idleMs = () => options().idleTimeoutMs ?? HEARTBEATS * heartbeatMs;

  function set(change: Partial<StreamState>, error?: SSEError) {
    state = { ...state, ...change };
    sink(error ? { state, error } : { state });
  }

  /** Every end of a connection comes by here, so the counters are settled here. */
  function stop() {
    clearTimeout(timer);
    clearTimeout(probe);
    for (const call of calls) call.abort();
    calls = [];
    run = heard = undefined;
    // Not at the first byte: a server that crashes after each accept would be asked without a pause.
    const { resetAfterMs = 10_000 } = options().backoff ?? {};
    if (openedAt && Date.now() - openedAt >= resetAfterMs) {
      failures = absences = 0;
      sentAway = false;
    }
    openedAt = 0;
  }

  function end(connectionStatus: "closed" | "failed", error?: SSEError) {
    stop();
    set({ connectionStatus, error: error ?? null, retryAt: null }, error);
  }

  /** Schedules the next attempt: a jittered wait after the one that the server asked for, or exactly then. */
  function retry(error: SSEError, least = 0, exactly = false) {
    const now = Date.now();
    stop();
    const { shouldReconnect, backoff: { minMs = 500, maxMs = 30_000 } = {} } = options();
    if (guard(() => shouldReconnect?.(error, failures)) === false) {
      return end("failed", error);
    }
    if (run || closed) return; // by what was called
    // Exactly then the first time only: a server that sends everybody away at once is asked less and less.
    const jitter = exactly && !failures ? 0 : fullJitter(failures, asked ?? minMs, maxMs);
    const delay = delayOf(exactly ? Math.max(least, jitter) : least + jitter);
    patient = least > 0;
    timer = setTimeout(attempt, delay);
    failures++;
    set(
      { connectionStatus: "reconnecting", error, attempt: failures, retryAt: now + delay },
      error,
    );
  }

  // Bytes only note the time: one timer per idle period, not one per chunk.
  function watch() {
    clearTimeout(timer);
    // A clock that was set back would make the last byte one of the future.
    lastByteAt = Math.min(lastByteAt, Date.now());
    const left = lastByteAt + idleMs() - Date.now();
    if (left > 0) timer = setTimeout(watch, Math.min(MAX_TIMER, left));
    else {
      // Not one byte of this attempt: perhaps the network is another.
      proven &&= openedAt > 0;
      retry({ type: "idle-timeout", message: `no byte for ${idleMs()} ms` });
    }
  }

  function request(headers: Headers, poll: boolean): URL {
    const target = new URL(url);
    if (poll) target.searchParams.set("poll", "1");
    // Lets the server close the connection that this one replaces before it counts.
    if (state.connectionId) target.searchParams.set("previous", state.connectionId);
    if (!lastEventId) {
      if (options().state) target.searchParams.set("state", "1");
      return target;
    }
    // Across origins the header would cost a preflight each time, a query does not.
    if (globalThis.location && location.origin !== url.origin) {
      target.searchParams.set("last_event_id", lastEventId);
    } else {
      // [HTML spec 9.2.3] the id goes out as UTF-8; a header value is a string of bytes.
      headers.set("Last-Event-ID", String.fromCharCode(...new TextEncoder().encode(lastEventId)));
    }
    return target;
  }

  /** `again` is the next poll of many, and no change of anything. */
  async function attempt(change: Partial<StreamState> = {}, again = false) {
    const since = openedAt;
    stop();
    if (again) openedAt = since;
    const mine = new AbortController();
    run = mine;
    lastByteAt = Date.now();
    watch();
    if (!again) set({ connectionStatus: "reconnecting", retryAt: null, ...change });
    const { headers: given } = options();
    let value: HeadersInit | undefined;
    let headers: Headers;
    try {
      value = typeof given === "function" ? await given() : given;
    } catch (cause) {
      if (mine === run) lost(cause);
      return;
    }
    if (mine !== run) return;
    try {
      headers = new Headers(value);
      new Request(url, { headers });
    } catch (cause) {
      // No attempt will be better.
      return end("failed", { type: "request", message: textOf(cause), cause });
    }
    headers.set("Accept", "text/event-stream");
    const stream = !polling || lastByteAt >= streamAt;
    if (polling) void connect(mine, headers, true, stream);
    if (!stream) return;
    if (polling) postponeStream();
    else if (!proven) {
      probe = setTimeout(() => void connect(mine, headers, true, true), PROBE_MS);
    }
    void connect(mine, headers, false, true);
  }

  /** One request: a stream, or a poll, and whether the other is there too. */
  async function connect(mine: AbortController, all: Headers, poll: boolean, contested: boolean) {
    const call = new AbortController();
    calls.push(call);
    const alive = () => mine === run && (heard ?? call) === call;
    const hear = () => {
      heard = call;
      clearTimeout(probe);
      for (const other of calls) if (other !== call) other.abort();
    };
    if (poll && !contested) hear();
    const { credentials = "same-origin", fetch = globalThis.fetch } = options();
    const headers = new Headers(all);
    const beganAt = Date.now();
    const before = lastEventId;
    let held = ""; // of a poll, while the stream may still be heard
    try {
      const response = await fetch(request(headers, poll), {
        headers,
        credentials,
        cache: "no-store",
        signal: call.signal,
      });
      // What is wrong with the request the stream is told too.
      if (!alive() || (poll && !heard && !isStream(response))) return;
      if (!accept(response)) return;
      const decoder = new TextDecoder();
      const feed = createFeed(alive);
      for await (const value of chunks(response)) {
        if (!alive()) return;
        lastByteAt = Date.now();
        const text = typeof value === "string" ? value : decoder.decode(value, { stream: true });
        if (!poll && !heard) {
          hear();
          proven = true;
          polling = false;
        }
        if (heard) feed(text);
        else held += text;
        if (!alive()) return;
      }
      if (!poll) return lost("the stream ended");
      if (!heard) {
        if (!polling) await new Promise((resolve) => setTimeout(resolve, GRACE_MS));
        if (!alive()) return;
        hear();
        if (!polling) fallBack();
        feed(held);
      }
      if (!alive()) return;
      const took = Date.now() - beganAt;
      if (took < IDLE_POLL_MS && lastEventId === before)
        return lost("the poll ended without an event");
      failures = absences = 0;
      timer = setTimeout(() => void attempt({}, true), POLL_MS - Math.min(POLL_MS, took));
    } catch (cause) {
      if (alive() && (heard || !poll)) lost(cause);
    }
  }

  function fallBack() {
    polling = true;
    postponeStream();
  }

  function postponeStream() {
    streamAt = Date.now() + streamAgainMs;
    streamAgainMs = Math.min(2 * streamAgainMs, 3600_000);
  }

  /** A connection has ended, and the server has not said so. */
  function lost(cause: unknown) {
    const age = openedAt && !polling ? Date.now() - openedAt : 0;
    if (age > 1000 && age < CUT_MS && Math.abs(age - cutAge) < age / 10) fallBack();
    cutAge = age || cutAge;
    const message = textOf(cause);
    retry(
      typeof cause === "string"
        ? { type: "network", message }
        : { type: "network", message, cause },
    );
  }

  /** What the status means. True if a stream follows. */
  function accept(response: Response): boolean {
    const { status, headers } = response;
    if (isStream(response)) return true;
    if (status === 200) {
      const contentType = headers.get("Content-Type");
      end("failed", {
        type: "content-type",
        contentType,
        message: `no event stream: ${contentType}`,
      });
    } else if (status === 204) {
      // [HTML spec 9.2] 204 tells a client to stop reconnecting.
      end("closed");
    } else if (status === 401 && typeof options().headers === "function" && !refreshed) {
      refreshed = true;
      void attempt();
    } else {
      const retryAfterMs = retryAfter(headers.get("Retry-After"));
      const error: SSEError = { type: "http", status, retryAfterMs, message: `answered ${status}` };
      if (/^(5..|408|425|429)$/.test(`${status}`)) {
        retry(error, retryAfterMs);
      } else if (known && (status === 404 || status === 410)) {
        comeBackSlowly(error);
      } else {
        end("failed", error);
      }
    }
    return false;
  }

  /** What was served a while ago and is not now: a slip in the config, or it moved. */
  function comeBackSlowly(error: SSEError) {
    retry(error, slowJitter(absences), true);
    absences++;
  }

  /** The parser of one connection. `alive` turns false when one of its events has ended the connection. */
  function createFeed(alive: () => boolean): (text: string) => void {
    let batch: RawEvent[] = [];
    let from = lastEventId;
    let confirmed = false; // the server has named the position
    const flush = (news: News = {}, position = lastEventId) => {
      if (batch.length || confirmed) {
        news = { from, position, events: batch, ...news };
        batch = [];
        from = position;
        confirmed = position !== lastEventId;
      }
      sink(news);
    };
    const callbacks = {
      onId(id: string) {
        if (!alive()) return;
        lastEventId = id;
        confirmed = true;
      },
      onRetry(ms: number) {
        asked = ms;
      },
      onEvent(type: string, data: string) {
        if (!alive()) return;
        if (type.startsWith("sse.")) {
          // Its own id is already the position, and that is not where these events lead.
          if (batch.length) flush({}, batch.at(-1)?.id);
          control(type, data, flush);
        } else {
          batch.push({ id: lastEventId, type, data });
        }
      },
    };
    const parse = createParser(callbacks, MAX_EVENT);
    return (text) => {
      parse(text);
      if (!alive()) return;
      if (!openedAt) opened({});
      flush({ silenceMs: idleMs() });
    };
  }

  function opened(change: Partial<StreamState>) {
    openedAt ||= Date.now();
    known = true;
    refreshed = false;
    const transport = polling ? "poll" : "stream";
    set({ connectionStatus: "open", error: null, attempt: 0, transport, ...change });
  }

  /** The events that the server itself sends. Another server may send some of these names, with anything in them. */
  function control(event: string, data: string, flush: (news?: News) => void) {
    const {
      reason,
      retryMs,
      connectionId,
      user,
      protocol,
      heartbeat,
      added = [],
      removed = [],
    } = fields(data);
    if (event === "sse.connected") {
      if (heartbeat !== undefined) {
        heartbeatMs = heartbeat || Infinity;
        watch();
      }
      flush();
      opened({ connectionId, user: user ?? "", protocol: protocol ?? null });
    } else if (event === "sse.gap") {
      flush({ gap: { reason, id: lastEventId } });
    } else if (event === "sse.topics") {
      flush({ topics: { added, removed, id: lastEventId } });
    } else if (event === "sse.closing" || event === "sse.rejected") {
      const error: SSEError = { type: "terminated", reason, message: `${event}: ${reason}` };
      stop();
      if (reason === "hub_closed") return comeBackSlowly(error);
      if (reason === "disconnected") {
        if (sentAway) return end("failed", error);
        sentAway = true;
      }
      retry(error, retryMs, retryMs > 0);
    }
  }

  /** Timers of hidden and sleeping pages cannot be trusted, so whoever wakes looks at the clock. */
  function wake({ type }: Event) {
    if (type !== "online" && document.visibilityState === "hidden") return;
    if (type === "online") {
      proven = false;
      streamAt = 0;
      streamAgainMs = STREAM_AGAIN_MS;
    }
    if (run) {
      // A new network leaves the old connection dead without a word.
      if (type === "online" || Date.now() - lastByteAt >= idleMs()) void attempt();
    } else if (state.retryAt && !patient) {
      void attempt();
    }
  }
  const sleep = onPage(["online", "visibilitychange"], wake);
  void attempt(connectionId ? {} : { connectionStatus: "connecting" });

  return {
    reconnect() {
      stop();
      failures = absences = 0;
      refreshed = sentAway = false;
      void attempt({ error: null, attempt: 0 });
    },
    close() {
      closed = true;
      sleep();
      stop();
    },
  };
}

/** What the server's own events carry, each of them some of it. */
interface Control {
  reason: string;
  retryMs: number;
  connectionId: string;
  user: string;
  protocol?: string;
  heartbeat?: number;
  added?: string[];
  removed?: string[];
}

/** The fields of a control event's data; none if it is no JSON object. */
function fields(data: string): Control {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    return {} as Control;
  }
}

/** The body in the pieces in which it comes; as one piece where `fetch` has no streams. */
async function* chunks(response: Response): AsyncGenerator<Uint8Array | string> {
  if (!response.body) {
    yield await response.text();
    return;
  }
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

const isStream = ({ status, headers }: Response): boolean =>
  status === 200 && /^text\/event-stream *(;|$)/i.test(headers.get("Content-Type") ?? "");
