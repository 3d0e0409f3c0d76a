"use client";

import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { createSSE } from "./client.js";
import { IDLE } from "./news.js";
import type { DefaultEvents, SSEClient, SSEMessage, SSEOptions, SSESnapshot } from "./types.js";

/**
 * Options of {@link useSSE}. A change of `share`, `identity` or `credentials` makes a new connection. Other
 * changes take effect without one.
 */
export type UseSSEOptions<E = DefaultEvents> = SSEOptions & {
  /** Called once for each message, outside rendering. */
  onMessage?: (message: SSEMessage<E>) => void;
};

/** The result of {@link useSSE}: the client's snapshot and methods. */
export type UseSSEResult<E = DefaultEvents> = SSESnapshot<E> &
  Pick<SSEClient<E>, "reconnect" | "close" | "clear">;

const nothing = () => {};
const IDLE_SNAPSHOT = Object.freeze({ ...IDLE, messages: [], malformed: 0, lastEventId: "" });
const idle = <E>(): SSESnapshot<E> => IDLE_SNAPSHOT;

/**
 * Returns the state of an event stream. The stream is open while a component that uses it is mounted.
 * Components with the same URL and identity share one connection.
 *
 * @param url The stream's address; `null` for no stream.
 */
export function useSSE<E = DefaultEvents>(
  url: string | URL | null,
  options: UseSSEOptions<E> = {},
): UseSSEResult<E> {
  // The client reads this object. It has the options of the last committed render.
  const [live] = useState(() => ({ ...options }));
  useEffect(() => {
    for (const key of Object.keys(live)) delete live[key as keyof typeof live];
    Object.assign(live, options);
  });

  const { share, identity, credentials, topics } = options;
  const href = url && String(url);
  // If only the query changes, for example its topics, the new client continues at the position of the old one.
  const scope = `${href?.split("?")[0]} ${identity}`;
  const reached = useRef({ scope, id: "" });
  const client = useMemo(() => {
    if (!href) return null;
    const fixed = {
      share,
      identity,
      credentials,
      get lastEventId() {
        return (reached.current.scope === scope && reached.current.id) || live.lastEventId;
      },
    };
    return createSSE<E>(href, Object.setPrototypeOf(fixed, live));
  }, [live, href, scope, share, identity, credentials]);

  const subscribe = useCallback(
    (changed: () => void) => {
      if (!client) return nothing;
      const stop = [client.subscribe(changed), client.on("*", (m) => live.onMessage?.(m))];
      return () => {
        reached.current = { scope, id: client.getSnapshot().lastEventId };
        for (const off of stop) off();
      };
    },
    [client, live, scope],
  );
  const topicsKey = JSON.stringify(topics ?? []);
  useEffect(() => client?.setTopics(JSON.parse(topicsKey)), [client, topicsKey]);
  const snapshot = useSyncExternalStore(subscribe, client?.getSnapshot ?? idle<E>, idle<E>);
  const { reconnect = nothing, close = nothing, clear = nothing } = client ?? {};
  return { ...snapshot, reconnect, close, clear };
}
