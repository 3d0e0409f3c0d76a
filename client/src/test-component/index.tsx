"use client";

import { type ReactElement, useCallback, useEffect, useRef, useState } from "react";
import { type UseSSEOptions, useSSE } from "../react.js";
import type { Gap, TopicChange } from "../types.js";
import { Connections } from "./connections.js";
import { type Entry, Events, type Payload } from "./events.js";
import { ListenForm, type Listening } from "./listen-form.js";
import { SendForm, type Sent } from "./send-form.js";
import { Status } from "./status.js";

/** Properties of {@link SSETestComponent}. */
export interface SSETestComponentProps {
  /** The stream's address. */
  url: string;
  /**
   * The address of an `sse_api` route of this origin, for example `/internal/sse`, to which the form sends.
   * Default: none; the form is disabled and says why.
   */
  api?: string | undefined;
  /** Options of the stream, except for the functions that the component itself uses. */
  options?: Omit<UseSSEOptions<never>, "parse" | "onMessage" | "onGap" | "onTopics"> | undefined;
}

const KEEP = 1000;

/**
 * A test page for one stream: its state, a form that sends test events, the connections, and the received
 * events. Its elements have class names that begin with `sse-`. `caddy-sse/test-component.css` has all styles.
 */
export function SSETestComponent(props: SSETestComponentProps): ReactElement {
  const [{ listening, round }, setState] = useState(() => ({
    listening: {
      from: props.options?.lastEventId ?? "",
      state: props.options?.state ?? false,
      topics: props.options?.topics ?? [],
    } as Listening,
    round: 0,
  }));
  const listen = (next: Listening) => setState({ listening: next, round: round + 1 });
  return <Bench key={round} {...props} listening={listening} onListen={listen} />;
}

interface BenchProps extends SSETestComponentProps {
  listening: Listening;
  onListen: (next: Listening) => void;
}

/** The component from one start of the stream to the next. */
function Bench({ url, api, options, listening, onListen }: BenchProps): ReactElement {
  const [notes, setNotes] = useState<readonly Entry[]>([]);
  const [sent, setSent] = useState<ReadonlyMap<string, number>>(new Map());
  const received = useRef<HTMLElement>(null);
  const awaited = useRef("");
  const note = useCallback((kind: Entry["kind"], id: string, type: string) => {
    setNotes((before) => {
      const key = `${(Number(before.at(-1)?.key) || 0) + 1}`;
      return [...before, { key, at: Date.now(), kind, id, type }].slice(-KEEP);
    });
  }, []);
  const onGap = useCallback((gap: Gap) => note("gap", gap.id, gap.reason), [note]);
  const onTopics = useCallback(
    ({ added, removed, id }: TopicChange) => {
      const names = [...added.map((name) => `+ ${name}`), ...removed.map((name) => `− ${name}`)];
      note("topics", id, names.join(", "));
    },
    [note],
  );

  const sse = useSSE<Record<string, Payload>>(url, {
    maxMessages: KEEP,
    ...options,
    lastEventId: listening.from,
    state: listening.state,
    topics: listening.topics,
    // Published text is shown as text, and JSON is shown formatted.
    parse: read,
    onGap,
    onTopics,
  } as UseSSEOptions<Record<string, Payload>>);

  const clear = useCallback(() => {
    sse.clear();
    setNotes([]);
  }, [sse.clear]);
  const onSent = useCallback(({ id, at }: Sent) => {
    setSent((before) => new Map([...before].slice(-KEEP)).set(id, at));
    awaited.current = id;
  }, []);
  /** Milliseconds on the clock of this page, which sent and received the event. */
  const latency = (id: string) => {
    const at = sent.get(id);
    const message = at === undefined ? undefined : sse.messages.find((one) => one.id === id);
    return message && at !== undefined ? message.receivedAt - at : undefined;
  };

  // On a small screen the list is below the form, so scroll to it when the sent event arrives.
  useEffect(() => {
    if (!awaited.current || !sse.messages.some(({ id }) => id === awaited.current)) return;
    awaited.current = "";
    received.current?.querySelector("li")?.scrollIntoView?.({ block: "nearest" });
  });

  return (
    <div className="sse-test">
      <div className="sse-side">
        <Status url={url} topics={listening.topics} sse={sse}>
          <ListenForm listening={listening} onListen={onListen} />
        </Status>
        <SendForm
          api={api}
          user={sse.user}
          connectionId={sse.connectionId}
          latency={latency}
          onSent={onSent}
        />
        {api && <Connections api={api} own={sse.connectionId} />}
      </div>
      <Events
        list={received}
        messages={sse.messages}
        notes={notes}
        user={sse.user}
        latency={latency}
        onClear={clear}
        canSend={Boolean(api)}
      />
    </div>
  );
}

function read(raw: string): Payload {
  try {
    return { raw, json: { value: raw === "" ? null : JSON.parse(raw) } };
  } catch {
    return { raw };
  }
}
