import { delayOf, fullJitter, MAX_TIMER, sleep, slowJitter } from "./backoff.js";
import { parseControl } from "./control.js";
import { guard, textOf } from "./guard.js";
import {
  IDLE,
  IDLE_MS,
  type News,
  type RawEvent,
  type Resume,
  type Sink,
  type Stream,
} from "./news.js";
import { onWake } from "./page.js";
import { createParser } from "./parser.js";
import { prepare } from "./request.js";
import { chunks, errorOf, isStream, isTransient } from "./response.js";
import type { SSEError, StreamOptions, StreamState } from "./types.js";

const MAX_EVENT = 2 ** 24;

// Some networks hold a stream back. If a stream has no first byte after this time, a poll is sent too.
const PROBE_MS = 1000;
// After the answer to that poll the stream has this much time for its first byte.
const GRACE_MS = 250;
// A client that polls tries to stream again after this time, then after twice as much, up to an hour.
const STREAM_AGAIN_MS = 300_000;
// If two connections in a row are cut at the same age, below this one, the network cuts streams.
const CUT_MS = 120_000;
// The least time between the starts of two polls.
const POLL_MS = 100;
// A poll without an event that ends before this is a failure.
const IDLE_POLL_MS = 500;

/** Opens a stream and keeps it open, with one connection at a time, until `close()` or a final error. */
export function openStream(
  url: URL,
  sink: Sink,
  { lastEventId, connectionId }: Resume,
  options: () => StreamOptions,
): Stream {
  // State over all attempts.
  let state: StreamState = { ...IDLE, connectionId };
  let serverRetryMs: number | undefined; // from `retry:`
  let serverIdleMs = IDLE_MS;
  let failures = 0;
  let absences = 0; // times in a row that the hub or the address was gone
  let wasOpen = connectionId !== null; // the stream has been open before
  let wakeableAt = 0; // before this time the page does not end a wait that the server asked for
  let refreshed = false; // after a 401 an attempt was made with new headers
  let returned = false; // after `disconnected` an attempt was made

  // State of the network. Streams get through (streamWorks), or only short answers do (polling).
  let streamWorks = false;
  let polling = false;
  let streamAt = 0; // time of the next attempt to stream while polling
  let streamAgainMs = STREAM_AGAIN_MS;
  let cutAge = 0; // age in ms at which the last stream was cut

  // The current attempt; undefined while waiting. Everything that an earlier attempt still does is ignored.
  let current: object | undefined;
  let requests: AbortController[] = []; // of the attempt: a stream, a poll, or both until one is chosen
  let chosen: AbortController | undefined; // the request whose answer counts
  let probe: ReturnType<typeof setTimeout> | undefined;
  let openedAt = 0;
  let lastByteAt = 0;
  let timer: ReturnType<typeof setTimeout> | undefined; // next attempt; during one, its watchdog

  /** Sets the timer. It replaces the one before: the watchdog must not end a wait. */
  function setTimer(call: () => void, ms: number) {
    clearTimeout(timer);
    timer = setTimeout(call, Math.min(MAX_TIMER, ms));
  }

  const idleMs = () => options().idleTimeoutMs ?? serverIdleMs;

  function setState(change: Partial<StreamState>, error?: SSEError | null) {
    state = { ...state, ...change };
    sink({ state, error });
  }

  /** Ends the current attempt, if any. It resets the counters if the stream was open for long enough. */
  function endAttempt() {
    clearTimeout(timer);
    clearTimeout(probe);
    for (const call of requests) call.abort();
    requests = [];
    current = chosen = undefined;
    // Not at the first byte: a server that crashes after each accept would be asked without a pause.
    const { resetAfterMs = 10_000 } = options().backoff ?? {};
    if (openedAt && Date.now() - openedAt >= resetAfterMs) {
      failures = absences = 0;
      returned = false;
    }
    openedAt = 0;
  }

  function finish(connectionStatus: "closed" | "failed", error: SSEError | null = null) {
    endAttempt();
    setState({ connectionStatus, error, retryAt: null }, error);
  }

  /**
   * Schedules the next attempt after `least` milliseconds, the wait that the server asked for, plus a jittered
   * wait. If `exactly`, the longer of the two.
   */
  function retry(error: SSEError, least = 0, exactly = false) {
    endAttempt();
    const { shouldReconnect, backoff: { minMs = 500, maxMs = 30_000 } = {} } = options();
    const wanted = guard(() => shouldReconnect?.(error, failures));
    if (current) return; // shouldReconnect has reconnected or closed
    if (wanted === false) return finish("failed", error);
    // Without jitter the first time only: a server that ends every stream at once must be asked less and less.
    const jitter = exactly && !failures ? 0 : fullJitter(failures, serverRetryMs ?? minMs, maxMs);
    const delay = delayOf(exactly ? Math.max(least, jitter) : least + jitter);
    const retryAt = Date.now() + delay;
    wakeableAt = least && retryAt;
    setTimer(attempt, delay);
    failures++;
    setState({ connectionStatus: "reconnecting", error, attempt: failures, retryAt }, error);
  }

  /** Retries when no byte arrives for `idleMs()`. Bytes only set `lastByteAt`, so there is one timer per idle period. */
  function watch() {
    // After the clock is set back, lastByteAt would be in the future.
    lastByteAt = Math.min(lastByteAt, Date.now());
    const left = lastByteAt + idleMs() - Date.now();
    if (left > 0) setTimer(watch, left);
    else {
      // An attempt without any byte: the network may have changed.
      streamWorks &&= openedAt > 0;
      retry({ type: "idle-timeout", message: `no byte for ${idleMs()} ms` });
    }
  }

  /** Starts an attempt. With `again` it is the next of many polls, and the state stays as it is. */
  async function attempt(change: Partial<StreamState> = {}, again = false) {
    const since = openedAt;
    endAttempt();
    if (again) openedAt = since;
    const mine = {};
    current = mine;
    lastByteAt = Date.now();
    watch();
    if (!again) setState({ connectionStatus: "reconnecting", retryAt: null, ...change });
    const { headers: given } = options();
    let value: HeadersInit | undefined;
    let headers: Headers;
    try {
      value = typeof given === "function" ? await given() : given;
    } catch (cause) {
      if (mine === current) connectionLost(cause);
      return;
    }
    if (mine !== current) return;
    try {
      headers = new Headers(value);
      new Request(url, { headers });
    } catch (cause) {
      // The next attempt would fail too.
      return finish("failed", { type: "request", message: textOf(cause), cause });
    }
    headers.set("Accept", "text/event-stream");
    const stream = !polling || lastByteAt >= streamAt;
    if (polling) void connect(mine, headers, true, stream);
    if (!stream) return;
    if (polling) postponeStream();
    else if (!streamWorks) {
      probe = setTimeout(() => void connect(mine, headers, true, true), PROBE_MS);
    }
    void connect(mine, headers, false, true);
  }

  /** Sends one request and reads the answer. If `contested`, another request of the attempt may be chosen. */
  async function connect(mine: object, all: Headers, poll: boolean, contested: boolean) {
    const call = new AbortController();
    requests.push(call);
    const alive = () => mine === current && (chosen ?? call) === call;
    const choose = () => {
      chosen = call;
      clearTimeout(probe);
      for (const other of requests) if (other !== call) other.abort();
    };
    if (poll && !contested) choose();
    const { credentials = "same-origin", fetch: send = fetch } = options();
    const headers = new Headers(all);
    const beganAt = Date.now();
    const before = lastEventId;
    let buffered = ""; // answer of a poll, while the stream may still be chosen
    try {
      const target = prepare(url, headers, poll, lastEventId, state.connectionId, options().state);
      const response = await send(target, {
        headers,
        credentials,
        cache: "no-store",
        signal: call.signal,
      });
      // The stream gets the same refusal, and reports it.
      if (!alive() || (poll && !chosen && !isStream(response))) return;
      if (!accept(response)) return;
      const feed = createFeed(alive);
      for await (const text of chunks(response)) {
        if (!alive()) return;
        lastByteAt = Date.now();
        if (!poll && !chosen) {
          choose();
          streamWorks = true;
          polling = false;
        }
        if (chosen) feed(text);
        else buffered += text;
        if (!alive()) return;
      }
      if (!poll) return connectionLost("the stream ended");
      if (!chosen) {
        if (!polling) await sleep(GRACE_MS);
        if (!alive()) return;
        choose();
        if (!polling) fallBack();
        feed(buffered);
      }
      if (!alive()) return;
      const took = Date.now() - beganAt;
      if (took < IDLE_POLL_MS && lastEventId === before)
        return connectionLost("an empty poll ended");
      failures = absences = 0;
      // The clock may have been set back.
      setTimer(() => void attempt({}, true), Math.min(POLL_MS, POLL_MS - took));
    } catch (cause) {
      if (alive() && (chosen || !poll)) connectionLost(cause);
    }
  }

  /** Switches to polls. */
  function fallBack() {
    polling = true;
    postponeStream();
  }

  function postponeStream() {
    streamAt = Date.now() + streamAgainMs;
    streamAgainMs = Math.min(2 * streamAgainMs, 3600_000);
  }

  /** Handles a connection that ended without `sse.closing`. */
  function connectionLost(cause: unknown) {
    const age = openedAt && !polling ? Date.now() - openedAt : 0;
    if (age > 1000 && age < CUT_MS && Math.abs(age - cutAge) < age / 10) fallBack();
    cutAge = age || cutAge;
    retry({ type: "network", message: textOf(cause), ...(typeof cause !== "string" && { cause }) });
  }

  /** Handles the status of a response. True if it is a stream. */
  function accept(response: Response): boolean {
    const { status } = response;
    const error = errorOf(response);
    if (isStream(response)) return true;
    if (status === 204) {
      // [HTML spec 9.2] 204 tells a client to stop reconnecting.
      finish("closed");
    } else if (status === 401 && typeof options().headers === "function" && !refreshed) {
      refreshed = true;
      void attempt();
    } else if (isTransient(status)) {
      retry(error, error.retryAfterMs);
    } else if (wasOpen && (status === 404 || status === 410)) {
      retrySlowly(error);
    } else {
      finish("failed", error);
    }
    return false;
  }

  /** Retries a stream that existed and is gone: it moved, or the config of the server has a mistake. */
  function retrySlowly(error: SSEError) {
    retry(error, slowJitter(absences), true);
    absences++;
  }

  /** Creates the parser of one connection. `alive` is false once an event has ended the connection. */
  function createFeed(alive: () => boolean): (text: string) => void {
    let batch: RawEvent[] = [];
    let from = lastEventId;
    let confirmed = false; // the server has sent an id
    const flush = (news: News = {}, position = lastEventId) => {
      if (batch.length || confirmed) {
        news = { from, position, events: batch, ...news };
        batch = [];
        from = position;
        confirmed = position !== lastEventId;
      }
      sink(news);
    };
    function onId(id: string) {
      if (!alive()) return;
      lastEventId = id;
      confirmed = true;
    }
    function onEvent(type: string, data: string) {
      if (!alive()) return;
      if (type.startsWith("sse.")) {
        // lastEventId is already that of the control event; these events lead to an earlier position.
        if (batch.length) flush({}, batch.at(-1)?.id);
        handleControl(type, data, flush);
      } else {
        batch.push({ id: lastEventId, type, data });
      }
    }
    const parse = createParser(MAX_EVENT, onId, onEvent, (ms) => {
      serverRetryMs = ms;
    });
    return (text) => {
      try {
        parse(text);
      } finally {
        // Also the events before one that is too large.
        if (alive()) {
          if (!openedAt) setOpen({});
          flush({ silenceMs: Math.min(MAX_TIMER, idleMs()) });
        }
      }
    };
  }

  function setOpen(change: Partial<StreamState>) {
    openedAt ||= Date.now();
    wasOpen = true;
    refreshed = false;
    const transport = polling ? "poll" : "stream";
    setState({ connectionStatus: "open", error: null, attempt: 0, transport, ...change });
  }

  /** Handles an event of the server itself. Other servers may send events with these names and any data. */
  function handleControl(event: string, data: string, flush: (news?: News) => void) {
    const {
      reason,
      retryMs,
      connectionId,
      user,
      protocol,
      heartbeat,
      added = [],
      removed = [],
    } = parseControl(data);
    if (event === "sse.connected") {
      if (heartbeat !== undefined) {
        serverIdleMs = 2.5 * heartbeat || Infinity;
        watch();
      }
      flush();
      setOpen({ connectionId, user: user ?? "", protocol: protocol ?? null });
    } else if (event === "sse.gap") {
      flush({ gap: { reason, id: lastEventId } });
    } else if (event === "sse.topics") {
      flush({ topics: { added, removed, id: lastEventId } });
    } else if (event === "sse.closing" || event === "sse.rejected") {
      const error: SSEError = { type: "terminated", reason, message: `${event}: ${reason}` };
      endAttempt();
      if (reason === "hub_closed") return retrySlowly(error);
      if (reason === "disconnected") {
        if (returned) return finish("failed", error);
        returned = true;
      }
      retry(error, retryMs, retryMs > 0);
    }
  }

  /** Checks the clock when the page wakes up, since timers of hidden and sleeping pages are late. */
  function wake(type?: string) {
    if (type === "online") {
      streamWorks = false;
      streamAt = 0;
      streamAgainMs = STREAM_AGAIN_MS;
    }
    // After a change of the network the old connection is dead, without an error.
    const isDue = current
      ? type === "online" || Date.now() - lastByteAt >= idleMs()
      : state.retryAt && Date.now() >= wakeableAt;
    if (isDue) void attempt();
  }
  const stopListening = onWake(wake);
  void attempt(connectionId ? {} : { connectionStatus: "connecting" });

  return {
    wake,
    reconnect() {
      failures = absences = 0;
      refreshed = returned = false;
      void attempt({ error: null, attempt: 0 });
    },
    close() {
      stopListening();
      endAttempt();
      current = {}; // so that nothing is scheduled any more
    },
  };
}
