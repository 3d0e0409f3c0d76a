import { delayOf, fullJitter, sleep } from "./backoff.js";
import { guard, textOf } from "./guard.js";
import { IDLE, type News, type RawEvent } from "./news.js";
import { resolve } from "./page.js";
import { type Membership, type Open, sourceOf } from "./source.js";
import { openStream } from "./stream.js";
import { canShareTabs, openInTabs } from "./tabs.js";
import type {
  ConnectionStatus,
  DefaultEvents,
  SSEClient,
  SSEError,
  SSEMessage,
  SSEOptions,
  SSESnapshot,
  StreamState,
} from "./types.js";

/** A text that is the same for equal headers. It is empty for invalid ones, which the stream reports. */
function textOfHeaders(headers: HeadersInit | undefined): string {
  try {
    return JSON.stringify([...new Headers(headers)]);
  } catch {
    return "";
  }
}

const sorted = (topics: readonly string[]) => [...new Set(topics)].sort();

/** The most events that are held during one `load`. */
const MAX_HELD = 100_000;

/**
 * Creates a client of an event stream. The client connects when the first listener is added,
 * reconnects after every failure that is not final, and resumes at its position.
 *
 * @param url The stream's address, relative to the page or absolute.
 * @throws TypeError if `share` is `"tabs"` and `identity` is missing.
 *
 * @example
 * const sse = createSSE("/events");
 * sse.on("notification", ({ data }) => alert(data.message));
 */
export function createSSE<E = DefaultEvents>(
  url: string | URL,
  options: SSEOptions = {},
): SSEClient<E> {
  if (options.share === "tabs" && options.identity === undefined) {
    throw new TypeError('share: "tabs" needs identity');
  }

  // By event type. "*" has the listeners for all types, "" those for the snapshot.
  const listeners = new Map<string, Set<(message: never) => void>>();
  let membership: Membership | undefined; // set while joined to a source
  let topics = options.topics ?? [];

  let state: StreamState = IDLE;
  let messages: SSEMessage<E>[] = [];
  let malformed = 0;
  let lastEventId = "";
  let user: string | null = null; // to whom the messages were sent
  let snapshot: SSESnapshot<E> | undefined;
  let notified = true;

  let loadDue = true; // `load` must run, for the first time or again
  let loading: AbortController | undefined;
  let heldNews: News[] = []; // received during `load`
  let heldEvents = 0;

  const limit = () => options.maxMessages ?? 200;
  const report = (error: SSEError) => void guard(() => options.onError?.(error));

  function emit(type: string, message?: SSEMessage<E>) {
    const all = listeners.get(type);
    // A listener may remove itself and others, or add some.
    for (const listener of [...(all ?? [])])
      if (all!.has(listener)) guard(() => listener(message as never));
  }

  /**
   * Discards the snapshot and notifies its listeners. It must follow every change at once, since a listener
   * may read the snapshot between two changes.
   */
  function invalidate() {
    snapshot = undefined;
    if (!notified) return;
    notified = false;
    // One notification for all events of a chunk: a page renders a burst in a few steps.
    queueMicrotask(() => {
      notified = true;
      emit("");
    });
  }

  function addEvent({ id, type, data }: RawEvent) {
    lastEventId = id;
    let message: SSEMessage<E>;
    try {
      // [HTML spec 9.2.6] an event whose only data line is empty is an event.
      const payload = options.parse ? options.parse(data, type) : data ? JSON.parse(data) : null;
      message = { id, type, data: payload, receivedAt: Date.now() } as never;
    } catch (cause) {
      malformed++;
      invalidate();
      return report({
        type: "malformed",
        message: textOf(cause),
        raw: data,
        eventType: type,
        cause,
      });
    }
    messages.push(message);
    // Cut at twice the limit, so that the cost of cutting is constant per message.
    if (messages.length > 2 * limit()) messages.splice(0, messages.length - limit());
    invalidate();
    if (type !== "*") emit(type, message);
    emit("*", message);
  }

  function sink(news: News, joined: Membership) {
    const { state: next, position, gap } = news;
    if (next) {
      if (user !== null && next.user !== null && next.user !== user) {
        clear();
        abandonLoad();
      }
      user = next.user ?? user;
      state = next;
      invalidate();
      // Without a position the next connection does not continue this one.
      if (next.connectionStatus !== "open" && !lastEventId && !heldNews.length) abandonLoad();
    }
    if (gap) abandonLoad();
    if (loading && position !== undefined) hold(news, position, joined);
    else apply(news, joined);
    if (news.error) report(news.error);
    if (loadDue && options.load && state.connectionStatus === "open" && membership === joined) {
      void load(joined);
    }
  }

  /** Applies events, position, gap and topics. */
  function apply({ events = [], position, gap, topics }: News, joined: Membership) {
    for (const event of events) {
      addEvent(event);
      // A listener has closed this client, and may have opened it again.
      if (membership !== joined) return;
    }
    if (position !== undefined && position !== lastEventId) {
      lastEventId = position;
      invalidate();
    }
    if (gap) guard(() => options.onGap?.(gap));
    if (topics) guard(() => options.onTopics?.(topics));
  }

  function hold(news: News, position: string, joined: Membership) {
    heldNews.push(news);
    heldEvents += news.events?.length ?? 0;
    if (heldEvents <= MAX_HELD) return;
    abandonLoad();
    apply({ position, gap: { reason: "held", id: position } }, joined);
  }

  /** Aborts `load` and drops the held events: they are older than the data of the next `load`. */
  function abandonLoad() {
    loading?.abort();
    loading = undefined;
    heldNews = [];
    heldEvents = 0;
    loadDue = true;
  }

  /** Calls `load` until it succeeds, and then applies the news that were held. */
  async function load(joined: Membership) {
    const mine = new AbortController();
    loading = mine;
    loadDue = false;
    for (let failures = 0; mine === loading; failures++) {
      try {
        await options.load?.({ signal: mine.signal });
        break;
      } catch (cause) {
        if (mine !== loading) return;
        report({ type: "load", message: textOf(cause), cause });
        await sleep(delayOf(fullJitter(failures, 500, 30_000)));
      }
    }
    if (mine !== loading) return;
    loading = undefined;
    const news = heldNews;
    heldNews = [];
    heldEvents = 0;
    for (const one of news) if (membership === joined) apply(one, joined);
  }

  function join() {
    if (membership || state.connectionStatus === "closed") return;
    const target = resolve(url);
    for (const topic of sorted(topics)) target.searchParams.append("topic", topic);
    lastEventId ||= options.lastEventId ?? "";
    const { share = "page", credentials = "same-origin", headers, state: slots } = options;
    const identity =
      options.identity ?? (typeof headers === "function" ? "" : textOfHeaders(headers));
    const key = JSON.stringify([target.href, identity, credentials, slots]);
    const own: Open = (to, from, live) => openStream(target, to, from, live);
    const shared = share === "tabs" && canShareTabs() ? openInTabs(`caddy-sse ${key}`, own) : own;
    const joinSource = sourceOf(share ? share + key : listeners, shared, own);
    // Set before the join, since the first news can come during it.
    const joined: Membership = { reconnect() {}, leave: () => false };
    membership = joined;
    const mine = joinSource(
      (news) => membership === joined && sink(news, joined),
      { lastEventId, connectionId: state.connectionId },
      options,
    );
    Object.assign(joined, mine);
    if (membership !== joined) mine.leave();
  }

  function leave(connectionStatus: ConnectionStatus, now = false) {
    membership?.leave(now);
    membership = undefined;
    if (loading) abandonLoad();
    state = { ...IDLE, connectionStatus, connectionId: state.connectionId };
    invalidate();
  }

  const hasListeners = () => [...listeners.values()].some((set) => set.size);

  function on(type: string, listener: (message: never) => void): () => void {
    const set = listeners.get(type) ?? new Set();
    // A new function, so that the same listener can be added twice.
    const mine = (message: never) => listener(message);
    listeners.set(type, set.add(mine));
    join();
    return () => {
      set.delete(mine);
      // In a later task: a listener may be replaced.
      setTimeout(() => {
        if (membership && !hasListeners()) leave("idle", true);
      });
    };
  }

  function clear() {
    messages = [];
    malformed = 0;
    invalidate();
  }

  return {
    subscribe: (listener) => on("", listener),
    on,
    getSnapshot: () =>
      (snapshot ??= Object.freeze({
        ...state,
        messages: Object.freeze(messages.slice(-limit())),
        malformed,
        lastEventId,
      })),
    setTopics(next) {
      const same = JSON.stringify(sorted(topics)) === JSON.stringify(sorted(next));
      topics = next;
      if (same) return;
      const joined = membership;
      membership = undefined;
      // Other clients may use the old connection, in this tab or another. Then the new one does not replace it.
      if (!joined?.leave(true) || options.share === "tabs")
        state = { ...state, connectionId: null };
      // The page has not loaded the data of new topics.
      abandonLoad();
      if (joined) join();
      else invalidate();
    },
    reconnect() {
      if (membership) return membership.reconnect();
      leave("idle");
      if (hasListeners()) join();
    },
    close: () => leave("closed"),
    clear,
  };
}
