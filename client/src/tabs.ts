import { isSeen } from "./position.js";
import { IDLE, type News, type Resume, type Sink, type Stream } from "./stream.js";
import type { StreamState } from "./types.js";

/** What the other tabs ask the leader. What the leader tells them is `News`. */
interface Question {
  ask: "state" | "reconnect";
  position?: string;
}

/** Locks exist in secure contexts only, and the lock is what keeps two tabs from leading. */
export const canShareTabs = (): boolean => Boolean(globalThis.isSecureContext && navigator.locks);

/**
 * One stream for all tabs that use the same name: the tab that holds the lock has the stream and tells
 * the others. When it goes, the browser gives the lock to the next, which resumes from what it has seen.
 */
export function openInTabs(
  name: string,
  open: (sink: Sink, from: Resume) => Stream,
  sink: Sink,
  lastEventId: string,
): Stream {
  const channel = new BroadcastChannel(name);
  const turn = new AbortController(); // aborted when this tab leaves
  let position = lastEventId;
  let state: StreamState = { ...IDLE, connectionStatus: "connecting" };
  let stream: Stream | undefined; // the leader's
  let release: (() => void) | undefined;

  /** What every tab does with news, the leader too. */
  function take(news: News) {
    state = news.state ?? state;
    if (news.events && news.position !== undefined) {
      // A replay that another tab needed, or a new leader that was behind, brings what is known here.
      if (isSeen(news.position, position)) return;
      const known = position;
      position = news.position;
      news = { position, events: news.events.filter(({ id }) => !isSeen(id, known)) };
    } else if (news.position) {
      // Where a tab begins that has no position yet; one that has may still wait for a replay.
      position ||= news.position;
      news = { ...news, position };
    }
    sink(news);
  }

  /** Leads for as long as the promise is pending. */
  function lead(): Promise<void> {
    const tell = (news: News) => {
      // As JSON, because the cause of an error need not be cloneable.
      channel.postMessage(JSON.parse(JSON.stringify(news)));
      take(news);
    };
    stream = open(tell, { lastEventId: position, connectionId: state.connectionId });
    return new Promise((resolve) => {
      release = resolve;
    });
  }

  const ask = (question: Question) => channel.postMessage(question);

  channel.onmessage = ({ data }: MessageEvent<News | Question>) => {
    if (!("ask" in data)) {
      // A leader listens to nobody: what the last one said late, its own stream brings.
      if (!stream) take(data);
    } else if (data.ask === "reconnect") {
      stream?.reconnect();
    } else if (stream) {
      channel.postMessage({ state, position });
      // It comes back from the back/forward cache, or its page was rendered at an earlier position.
      const from = data.position ?? "";
      if (from !== position && isSeen(from, position)) stream.reconnect(from);
    }
  };

  // Rejects when it left before it was its turn, and where storage is blocked: then it is alone.
  navigator.locks.request(name, { signal: turn.signal }, lead).catch(() => {
    if (!turn.signal.aborted) void lead();
  });
  ask({ ask: "state", position });
  sink({ state });

  return {
    reconnect() {
      if (stream) stream.reconnect();
      else ask({ ask: "reconnect" });
    },
    close() {
      turn.abort();
      stream?.close();
      release?.();
      channel.close();
    },
  };
}
