import { MAX_TIMER } from "./backoff.js";
import { IDLE, IDLE_MS, type News, type Stream } from "./news.js";
import type { Open } from "./source.js";
import type { StreamState } from "./types.js";

/** A request of another tab to the leader. The leader sends `News`. */
interface Question {
  ask: "state" | "reconnect";
}

/** Tabs can share if there are locks, which need a secure context. A lock makes sure that one tab leads. */
export const canShareTabs = (): boolean => Boolean(globalThis.isSecureContext && navigator.locks);

/**
 * Opens one stream for all tabs that use the same name. The tab that holds the lock, the leader, has the
 * stream and publishes to the others. When it closes, the browser gives the lock to the next tab, which
 * resumes at its own position.
 */
export const openInTabs =
  (name: string, open: Open): Open =>
  (sink, { lastEventId: position, connectionId }, options) => {
    let channel: BroadcastChannel;
    try {
      channel = new BroadcastChannel(name);
    } catch {
      return open(sink, { lastEventId: position, connectionId }, options); // storage is blocked
    }
    const leaving = new AbortController(); // aborted when this tab leaves
    let state: StreamState = {
      ...IDLE,
      connectionStatus: "connecting",
      connectionId,
    };
    let stream: Stream | undefined; // set in the leader
    // A leader whose page is blocked reports nothing, not even bytes.
    let silenceMs = IDLE_MS;
    let leaderLost = false;
    let timer: ReturnType<typeof setTimeout> | undefined;

    /** Applies news, in every tab. */
    function apply(news: News) {
      state = news.state ?? state;
      position = news.position ?? position;
      silenceMs = news.silenceMs ?? silenceMs;
      sink(news);
    }

    /** Makes this tab the leader for as long as the promise is pending. */
    function lead(): Promise<unknown> {
      clearTimeout(timer);
      const publish = (news: News) => {
        channel.postMessage(cloneable(news));
        apply(news);
      };
      stream = open(publish, { lastEventId: position, connectionId: state.connectionId }, options);
      return new Promise((resolve) => {
        leaving.signal.onabort = resolve;
      });
    }

    const isFinal = () => /failed|closed/.test(state.connectionStatus);
    const ask = (ask: Question["ask"]) => channel.postMessage({ ask } satisfies Question);

    /** Restarts the timer for the leader's next report. A leader that waits reports again at its next attempt. */
    function watchLeader(ms = silenceMs + Math.max(0, Number(state.retryAt) - Date.now())) {
      clearTimeout(timer);
      if (isFinal() || ms >= MAX_TIMER) return;
      timer = setTimeout(() => {
        leaderLost = true;
        apply({ state: { ...state, connectionStatus: "reconnecting" }, leaderLost });
      }, ms);
    }

    channel.onmessage = ({ data }: MessageEvent<News | Question>) => {
      if (!("ask" in data)) {
        // A leader ignores late reports of the one before. Its own stream has the same events.
        if (stream) return;
        apply(data);
        if (leaderLost) ask("state");
        leaderLost = false;
        watchLeader();
      } else if (data.ask === "reconnect") {
        stream?.reconnect();
      } else if (stream) {
        // A failure that was final for this tab may not be final for the tab that asks.
        if (isFinal()) stream.reconnect();
        channel.postMessage(cloneable({ state, from: position, position, silenceMs }));
      }
    };

    // Rejects if this tab left before it got the lock. Also where storage is blocked: then the tab uses its own stream.
    navigator.locks.request(name, { signal: leaving.signal }, lead).catch(() => {
      if (!leaving.signal.aborted) void lead();
    });
    ask("state");
    sink({ state });
    watchLeader(ANSWER_MS);

    return {
      reconnect() {
        if (stream) stream.reconnect();
        else ask("reconnect");
      },
      close() {
        clearTimeout(timer);
        leaving.abort();
        stream?.close();
        channel.close();
      },
    };
  };

// A leader that has not answered a question by then is blocked.
const ANSWER_MS = 3000;

/** A copy that can be posted: without the causes of errors, which may be any value that user code threw. */
const cloneable = (news: News): News =>
  JSON.parse(JSON.stringify(news, (key, value) => (key === "cause" ? undefined : value)));
