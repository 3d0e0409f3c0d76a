import { delayOf, fullJitter } from "./backoff.js";
import { guard, textOf } from "./guard.js";
import { resolve } from "./page.js";
import { type Membership, type Open, sourceOf } from "./source.js";
import { IDLE, type News, openStream, type RawEvent } from "./stream.js";
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

/** What tells two sets of headers apart. That they are impossible the stream will find out. */
function textOfHeaders(headers: HeadersInit | undefined): string {
  try {
    return JSON.stringify([...new Headers(headers)]);
  } catch {
    return "";
  }
}

const sorted = (topics: readonly string[]) => [...new Set(topics)].sort();

/** How many events wait for one `load`. */
const MAX_HELD = 100_000;

/**
 * Makes a client of an event stream. It connects when the first listener is added, keeps the
 * connection through everything that ends one, and resumes where it was.
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

  // By event type; those of every type under "*", those of the snapshot under "".
  const listeners = new Map<string, Set<(message: never) => void>>();
  let membership: Membership | undefined; // set while joined to a source
  let topics = options.topics ?? [];

  let state: StreamState = IDLE;
  let messages: SSEMessage<E>[] = [];
  let malformed = 0;
  let lastEventId = "";
  let user: string | null = null; // whose the messages are
  let snapshot: SSESnapshot<E> | undefined;
  let told = true;

  // What `load` reads is behind the events: it must run (again).
  let behind = true;
  let loading: AbortController | undefined;
  let held: News[] = []; // what came meanwhile
  let heldEvents = 0;

  const limit = () => options.maxMessages ?? 200;
  const report = (error: SSEError) => void guard(() => options.onError?.(error));

  function call(type: string, message?: SSEMessage<E>) {
    const all = listeners.get(type);
    // As in a source: a listener may remove itself and others, or add some.
    for (const listener of [...(all ?? [])])
      if (all!.has(listener)) guard(() => listener(message as never));
  }

  /** After every change, not once for many: a listener may read the snapshot between two of them. */
  function changed() {
    snapshot = undefined;
    if (!told) return;
    told = false;
    // Once for all that one chunk brought: a burst is rendered in a few steps, not one an event.
    queueMicrotask(() => {
      told = true;
      call("");
    });
  }

  function take({ id, type, data }: RawEvent) {
    lastEventId = id;
    let message: SSEMessage<E>;
    try {
      // [HTML spec 9.2.6] an event whose only data line is empty is an event.
      const payload = options.parse ? options.parse(data, type) : data ? JSON.parse(data) : null;
      message = { id, type, data: payload, receivedAt: Date.now() } as never;
    } catch (cause) {
      malformed++;
      changed();
      return report({
        type: "malformed",
        message: textOf(cause),
        raw: data,
        eventType: type,
        cause,
      });
    }
    messages.push(message);
    // Twice the size before it is cut, so that cutting costs a constant for each message.
    if (messages.length > 2 * limit()) messages.splice(0, messages.length - limit());
    changed();
    call(type, message);
    call("*", message);
  }

  function sink(news: News, joined: Membership) {
    const { state: next, position, events, gap } = news;
    if (next) {
      if (user !== null && next.user !== null && next.user !== user) {
        clear();
        abandonLoad();
      }
      user = next.user ?? user;
      state = next;
      changed();
      // Without a position the next connection begins wherever it begins.
      if (next.connectionStatus !== "open" && !lastEventId && !held.length) abandonLoad();
    }
    if (gap) abandonLoad();
    if (loading && position !== undefined) hold(news, position, events?.length ?? 0);
    else follow(news, joined);
    if (news.error) report(news.error);
    if (behind && options.load && state.connectionStatus === "open" && membership === joined) {
      void load(joined);
    }
  }

  /** Applies what the stream has brought. */
  function follow({ events = [], position, gap, topics }: News, joined: Membership) {
    for (const event of events) {
      take(event);
      // A listener closed this client, and may have opened it again.
      if (membership !== joined) return;
    }
    if (position !== undefined && position !== lastEventId) {
      lastEventId = position;
      changed();
    }
    if (gap) guard(() => options.onGap?.(gap));
    if (topics) guard(() => options.onTopics?.(topics));
  }

  function hold(news: News, position: string, events: number) {
    held.push(news);
    heldEvents += events;
    if (heldEvents <= MAX_HELD) return;
    abandonLoad();
    lastEventId = position;
    changed();
    guard(() => options.onGap?.({ reason: "held", id: position }));
  }

  /** What is held is older than what the next load reads, so it is not delivered. */
  function abandonLoad() {
    loading?.abort();
    loading = undefined;
    held = [];
    heldEvents = 0;
    behind = true;
  }

  /** Has the page load its data, and delivers what came meanwhile after it. */
  async function load(joined: Membership) {
    const mine = new AbortController();
    loading = mine;
    behind = false;
    for (let failures = 0; ; failures++) {
      try {
        await options.load?.({ signal: mine.signal });
        break;
      } catch (cause) {
        if (mine !== loading) return;
        report({ type: "load", message: textOf(cause), cause });
        const delay = delayOf(fullJitter(failures, 500, 30_000));
        await new Promise((resolve) => setTimeout(resolve, delay));
        if (mine !== loading) return;
      }
    }
    if (mine !== loading) return;
    loading = undefined;
    const news = held;
    held = [];
    heldEvents = 0;
    for (const one of news) if (membership === joined) follow(one, joined);
  }

  function join(connectionId = state.connectionId) {
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
    const source = sourceOf(share ? `${share} ${key}` : listeners, shared, own);
    // Set before, because the first news come at once.
    const joined: Membership = { reconnect() {}, leave: () => false };
    membership = joined;
    const mine = source.join(
      (news) => membership === joined && sink(news, joined),
      { lastEventId, connectionId },
      options,
    );
    Object.assign(joined, mine);
    if (membership !== joined) mine.leave();
  }

  function part(connectionStatus: ConnectionStatus, now = false) {
    membership?.leave(now);
    membership = undefined;
    if (loading) abandonLoad();
    state = { ...IDLE, connectionStatus, connectionId: state.connectionId };
    changed();
  }

  const wanted = () => [...listeners.values()].some((set) => set.size);

  function on(type: string, listener: (message: never) => void): () => void {
    const set = listeners.get(type) ?? new Set();
    // A function of its own, so that the same listener may be given twice.
    const mine = (message: never) => listener(message);
    listeners.set(type, set.add(mine));
    join();
    return () => {
      set.delete(mine);
      // Not at once: a listener may be replaced while it is called.
      setTimeout(() => {
        if (membership && !wanted()) part("idle", true);
      });
    };
  }

  function clear() {
    messages = [];
    malformed = 0;
    changed();
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
      if (same || !membership) return;
      // Others may still use the connection that was left, and in other tabs nobody knows.
      const alone = membership.leave(true) && options.share !== "tabs";
      membership = undefined;
      // What the page shows of new topics is behind.
      abandonLoad();
      join(alone ? state.connectionId : null);
    },
    reconnect() {
      if (membership) return membership.reconnect();
      part("idle");
      if (wanted()) join();
    },
    close: () => part("closed"),
    clear,
  };
}
