import { onPage } from "./page.js";
import type { News, Sink, Stream } from "./stream.js";

/** A stream that exists while somebody has joined it. */
export interface Source {
  /** The first one opens the stream, each is told where it is. Returns the function that leaves it. */
  join(sink: Sink): () => void;
  reconnect(): void;
}

// By what makes two clients want the same stream; an object is a client that wants its own.
const sources = new Map<string | object, Source>();

/** The source of this key on this page. It opens a stream for the first who joins and closes it after the last. */
export function sourceOf(key: string | object, open: (sink: Sink, last: News) => Stream): Source {
  const found = sources.get(key);
  if (found) return found;
  const sinks = new Set<Sink>();
  let stream: Stream | undefined;
  let last: News = {};
  let leavePage = () => {};

  function all(news: News) {
    last = { state: news.state ?? last.state, position: news.position ?? last.position };
    // Sinks may leave and join while they are told: who left is told no more, who joined not yet.
    for (const sink of [...sinks]) if (sinks.has(sink)) sink(news);
  }

  // Quietly: a page that keeps a connection or a lock is not kept in the back/forward cache. One that
  // comes back from it goes on where it was.
  function turnPage({ type, persisted }: PageTransitionEvent) {
    if (/failed|closed/.test(last.state!.connectionStatus)) return;
    if (type === "pagehide") stream?.close();
    else if (persisted) stream = open(all, last);
  }

  const source: Source = {
    join(sink) {
      sinks.add(sink);
      if (!stream) {
        stream = open(all, last);
        leavePage = onPage(["pagehide", "pageshow"], turnPage as (event: Event) => void);
      }
      sink(last);
      return () => {
        sinks.delete(sink);
        // Not at once: whoever leaves only to join again (React's StrictMode, a remounted component, a
        // changed listener) keeps the connection.
        setTimeout(() => {
          if (sinks.size || !stream) return;
          leavePage();
          stream.close();
          stream = undefined;
          last = {};
          sources.delete(key);
        });
      };
    },
    reconnect() {
      stream?.reconnect();
    },
  };
  sources.set(key, source);
  return source;
}
