import type { Gap, SSEError, StreamState, TopicChange } from "./types.js";

/** One event as received. */
export interface RawEvent {
  readonly id: string;
  readonly type: string;
  readonly data: string;
}

/** A report of a stream. An empty report means only that a byte has arrived. */
export interface News {
  state?: StreamState | undefined;
  /** The positions before and after this report. `from` is the `position` of the report before. */
  from?: string | undefined;
  position?: string | undefined;
  /** The events of one chunk. */
  events?: readonly RawEvent[] | undefined;
  gap?: Gap | undefined;
  topics?: TopicChange;
  error?: SSEError | null | undefined;
  /** The next report comes within this many milliseconds, or the stream is dead. */
  silenceMs?: number;
  /** The tab that has the stream no longer answers. */
  leaderLost?: boolean | undefined;
}

/** Receives the reports of a stream. It is never called after the stream's `close()`. */
export type Sink = (news: News) => void;

export interface Stream {
  /** Connects again, from the position reached. */
  reconnect(): void;
  /** The page has become visible: connects again at once if the stream waits, or was silent for too long. */
  wake?(): void;
  close(): void;
}

/** Where a new stream continues an earlier one. */
export interface Resume {
  readonly lastEventId: string;
  readonly connectionId: string | null;
}

/** A connection without a byte for 2.5 heartbeats is dead. A heartbeat is 15 s until the server says otherwise. */
export const IDLE_MS = 37_500;

/** Whether only `reconnect()` leaves this state. */
export const isFinal = (state?: StreamState): boolean =>
  /failed|closed/.test(state?.connectionStatus as string);

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
