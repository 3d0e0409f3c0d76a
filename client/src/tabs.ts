import { MAX_TIMER } from "./backoff.js";
import { IDLE, IDLE_MS, isFinal, type News, type Stream } from "./news.js";
import { onWake } from "./page.js";
import type { Open } from "./source.js";
import type { StreamState } from "./types.js";

/**
 * A request of another tab to the leader. The leader sends `News`. Tabs of two releases talk to each other: a tab
 * ignores a request that it does not know. If the meaning of a message changes, the name must change too.
 */
interface Question {
  ask: "state" | "reconnect" | "wake";
}

/** Tabs can share if there are locks, which need a secure context. A lock makes sure that one tab leads. */
export const canShareTabs = (): unknown => globalThis.isSecureContext && navigator.locks;

/**
 * Opens one stream for all tabs that use the same name. The tab that holds the lock, the leader, has the
 * stream and publishes to the others. When it closes, the browser gives the lock to the next tab, which
 * resumes at its own position.
 */
export const openInTabs =
  (name: string, open: Open): Open =>
  (sink, resume, options) => {
    let channel: BroadcastChannel;
    try {
      channel = new BroadcastChannel(name);
    } catch {
      return open(sink, resume, options); // storage is blocked
    }
    let { lastEventId: position, connectionId } = resume;
    const leaving = new AbortController(); // aborted when this tab leaves
    const { signal } = leaving;
    const left = new Promise((resolve) => {
      signal.onabort = resolve;
    });
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
      ({ state = state, position = position, silenceMs = silenceMs } = news);
      sink(news);
    }

    /** Makes this tab the leader until it leaves. */
    function lead(): Promise<unknown> {
      clearTimeout(timer);
      const publish = (news: News) => {
        if (signal.aborted) return;
        channel.postMessage(cloneable(news));
        apply(news);
      };
      stream = open(publish, { lastEventId: position, connectionId: state.connectionId }, options);
      // `open` calls functions of the page, which may have made this tab leave.
      if (signal.aborted) stream.close();
      return left;
    }

    const ask = (ask: Question["ask"]) => channel.postMessage({ ask } satisfies Question);

    /** Asks the leader for its state. A leader that does not answer is blocked. */
    function askState() {
      ask("state");
      timer = setTimeout(() => {
        leaderLost = true;
        apply({ state: { ...state, connectionStatus: "reconnecting" }, leaderLost });
      }, ANSWER_MS);
    }

    /** Restarts the timer for the leader's next report. A leader that waits reports again at its next attempt. */
    function watchLeader() {
      clearTimeout(timer);
      const ms = silenceMs + Math.max(0, Number(state.retryAt) - Date.now());
      if (isFinal(state) || ms >= MAX_TIMER) return;
      timer = setTimeout(askState, ms);
    }

    channel.onmessage = ({ data }: MessageEvent<News & Partial<Question>>) => {
      const { ask: question } = data;
      if (stream) {
        // A leader ignores late reports of the one before. Its own stream has the same events.
        if (question === "reconnect") stream.reconnect();
        else if (question === "wake") stream.wake?.();
        else if (question === "state") {
          // A failure that was final for this tab may not be final for the tab that asks.
          if (isFinal(state)) stream.reconnect();
          else stream.wake?.();
          channel.postMessage(cloneable({ state, from: position, position, silenceMs }));
        }
      } else if (!question) {
        apply(data);
        if (leaderLost) ask("state");
        leaderLost = false;
        watchLeader();
      }
    };

    // Rejects if this tab left before it got the lock. Also where storage is blocked: then the tab uses its own stream.
    navigator.locks.request(name, { signal }, lead).catch(() => {
      if (!signal.aborted) void lead();
    });
    askState();
    sink({ state });
    // The leader's page may be hidden, and its timers late.
    const stopListening = onWake(() => ask("wake"));

    return {
      reconnect() {
        if (stream) stream.reconnect();
        else ask("reconnect");
      },
      close() {
        stopListening();
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
