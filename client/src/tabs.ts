import type { Open } from "./source.js";
import { IDLE, type News, type Stream } from "./stream.js";
import type { StreamState } from "./types.js";

/** What the other tabs ask the leader. What the leader tells them is `News`. */
interface Question {
  ask: "state" | "reconnect";
}

/** Locks exist in secure contexts only, and the lock is what keeps two tabs from leading. */
export const canShareTabs = (): boolean => Boolean(globalThis.isSecureContext && navigator.locks);

/**
 * One stream for all tabs that use the same name: the tab that holds the lock has the stream and tells
 * the others. When it goes, the browser gives the lock to the next, which resumes from what it has seen.
 */
export const openInTabs =
  (name: string, open: Open): Open =>
  (sink, resume, options) => {
    const channel = new BroadcastChannel(name);
    const turn = new AbortController(); // aborted when this tab leaves
    let { lastEventId: position } = resume;
    let state: StreamState = {
      ...IDLE,
      connectionStatus: "connecting",
      connectionId: resume.connectionId,
    };
    let stream: Stream | undefined; // the leader's
    let release: (() => void) | undefined;
    // A leader whose page is blocked says nothing, not even that bytes arrive.
    let silenceMs = Infinity;
    let deaf = false;
    let timer: ReturnType<typeof setTimeout> | undefined;

    /** What every tab does with news, the leader too. */
    function take(news: News) {
      state = news.state ?? state;
      position = news.position ?? position;
      silenceMs = news.silenceMs ?? silenceMs;
      sink(news);
    }

    /** Leads for as long as the promise is pending. */
    function lead(): Promise<void> {
      clearTimeout(timer);
      const tell = (news: News) => {
        channel.postMessage(plain(news));
        take(news);
      };
      stream = open(tell, { lastEventId: position, connectionId: state.connectionId }, options);
      return new Promise((resolve) => {
        release = resolve;
      });
    }

    const ask = (ask: Question["ask"]) => channel.postMessage({ ask } satisfies Question);

    /** Starts to wait for the leader's next word anew. */
    function listen() {
      clearTimeout(timer);
      if (state.connectionStatus !== "open" || silenceMs > MAX_SILENCE) return;
      timer = setTimeout(() => {
        deaf = true;
        take({ state: { ...state, connectionStatus: "reconnecting" }, deaf });
      }, silenceMs);
    }

    channel.onmessage = ({ data }: MessageEvent<News | Question>) => {
      if (!("ask" in data)) {
        // A leader listens to nobody: what the last one said late, its own stream brings.
        if (stream) return;
        take(data);
        if (deaf) ask("state");
        deaf = false;
        listen();
      } else if (data.ask === "reconnect") {
        stream?.reconnect();
      } else if (stream) {
        // What was final for this tab need not be for the one that comes.
        if (/failed|closed/.test(state.connectionStatus)) stream.reconnect();
        channel.postMessage(plain({ state, from: position, position, silenceMs }));
      }
    };

    // Rejects when it left before it was its turn, and where storage is blocked: then it is alone.
    navigator.locks.request(name, { signal: turn.signal }, lead).catch(() => {
      if (!turn.signal.aborted) void lead();
    });
    ask("state");
    sink({ state });

    return {
      reconnect() {
        if (stream) stream.reconnect();
        else ask("reconnect");
      },
      close() {
        clearTimeout(timer);
        turn.abort();
        stream?.close();
        release?.();
        channel.close();
      },
    };
  };

const MAX_SILENCE = 2 ** 31 - 1;

/** Without the causes of errors: they are what user code threw, and may be anything. */
const plain = (news: News): News =>
  JSON.parse(JSON.stringify(news, (key, value) => (key === "cause" ? undefined : value)));
