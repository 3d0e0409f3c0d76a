import { guard, textOf } from "./guard.js";
import { resolve } from "./page.js";
import { type Source, sourceOf } from "./source.js";
import { IDLE, type News, openStream, type RawEvent, type Resume, type Sink } from "./stream.js";
import { canShareTabs, openInTabs } from "./tabs.js";
import type {
  ConnectionStatus,
  DefaultEvents,
  SSEClient,
  SSEMessage,
  SSEOptions,
  SSESnapshot,
  StreamState,
} from "./types.js";

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
  let source: Source | undefined;
  let leave: (() => void) | undefined; // set while joined to the source

  let state: StreamState = IDLE;
  let messages: SSEMessage<E>[] = [];
  let malformed = 0;
  let lastEventId = "";
  let user: string | null = null; // whose the messages are
  let snapshot: SSESnapshot<E> | undefined;
  let told = true;

  const limit = () => options.maxMessages ?? 200;

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
      const message = textOf(cause);
      guard(() =>
        options.onError?.({ type: "malformed", message, raw: data, eventType: type, cause }),
      );
      return;
    }
    messages.push(message);
    // Twice the size before it is cut, so that cutting costs a constant for each message.
    if (messages.length > 2 * limit()) messages.splice(0, messages.length - limit());
    changed();
    call(type, message);
    call("*", message);
  }

  function sink({ state: next, events = [], position, gap, error }: News) {
    if (next) {
      if (user !== null && next.user !== null && next.user !== user) clear();
      user = next.user ?? user;
      state = next;
      changed();
    }
    for (const event of events) {
      if (!leave) return; // a listener closed this client
      take(event);
    }
    if (position !== undefined) {
      lastEventId = position;
      changed();
    }
    if (gap) guard(() => options.onGap?.(gap));
    if (error) guard(() => options.onError?.(error));
  }

  function join() {
    if (leave || state.connectionStatus === "closed") return;
    const target = resolve(url);
    lastEventId ||= options.lastEventId ?? "";
    const { share = "page", credentials = "same-origin", headers } = options;
    const identity =
      options.identity ??
      (typeof headers === "function" ? "" : JSON.stringify([...new Headers(headers)]));
    const key = JSON.stringify([target.href, identity, credentials]);
    const open = (to: Sink, last: News) => {
      const from: Resume = {
        lastEventId: last.position ?? lastEventId,
        connectionId: (last.state ?? state).connectionId,
      };
      if (share !== "tabs" || !canShareTabs()) return openStream(target, options, to, from);
      return openInTabs(
        `caddy-sse ${key}`,
        (sink, resume) => openStream(target, options, sink, resume),
        to,
        from.lastEventId,
      );
    };
    source = sourceOf(share ? `${share} ${key}` : listeners, open);
    leave = source.join(sink);
  }

  function part(connectionStatus: ConnectionStatus) {
    leave?.();
    leave = undefined;
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
      if (leave && !wanted()) part("idle");
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
    reconnect() {
      if (leave) return source?.reconnect();
      part("idle");
      if (!wanted()) return;
      join();
      // Others may have kept a stream that has ended.
      if (/failed|closed/.test(state.connectionStatus)) source?.reconnect();
    },
    close: () => part("closed"),
    clear,
  };
}
