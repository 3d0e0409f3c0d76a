"use client";

import { type ReactElement, useCallback, useState } from "react";
import { type UseSSEOptions, useSSE } from "../react.js";
import type { Gap, SSEError } from "../types.js";
import { type Entry, Events, type Payload } from "./events.js";
import { SendForm } from "./send-form.js";
import { Status } from "./status.js";

/** Properties of {@link SSETestComponent}. */
export interface SSETestComponentProps {
  /** The stream's address. */
  url: string;
  /**
   * Where the form sends to: the address of an `sse_api` route of this origin, as `/internal/sse`.
   * Default: none; the form is shown disabled and says why.
   */
  api?: string | undefined;
  /** Options of the stream; its functions are used by the component. */
  options?: Omit<UseSSEOptions<never>, "parse" | "onMessage" | "onGap" | "onError"> | undefined;
}

type Malformed = Extract<SSEError, { type: "malformed" }>;
const KEEP = 1000;

let marked = 0;
const mark = () => ({ key: `${++marked}`, at: Date.now() });

/**
 * A bench for one stream: its state, a form that sends test events, and what arrives. Its elements
 * have class names that begin with `sse-`; `caddy-sse/test-component.css` styles them, nothing else is
 * needed.
 */
export function SSETestComponent({ url, api, options }: SSETestComponentProps): ReactElement {
  const [gaps, setGaps] = useState<readonly Entry[]>([]);
  const [malformed, setMalformed] = useState<readonly Entry[]>([]);
  const onGap = useCallback((gap: Gap) => {
    const entry: Entry = { ...mark(), kind: "gap", id: gap.id, type: gap.reason, raw: "" };
    setGaps((before) => [...before, entry].slice(-KEEP));
  }, []);
  const onError = useCallback((error: SSEError) => {
    if (error.type !== "malformed") return;
    const { eventType, raw, message }: Malformed = error;
    const entry: Entry = { ...mark(), kind: "malformed", id: "", type: eventType, raw, message };
    setMalformed((before) => [...before, entry].slice(-KEEP));
  }, []);

  const sse = useSSE<Record<string, Payload>>(url, {
    maxMessages: KEEP,
    ...options,
    // The text is kept beside what it means, for the raw view.
    parse: (raw) => ({ raw, value: raw === "" ? null : JSON.parse(raw) }),
    onGap,
    onError,
  } as UseSSEOptions<Record<string, Payload>>);

  const clear = useCallback(() => {
    sse.clear();
    setGaps([]);
    setMalformed([]);
  }, [sse.clear]);

  return (
    <div className="sse-test">
      <div className="sse-side">
        <Status url={url} sse={sse} />
        <SendForm api={api} user={sse.user} connectionId={sse.connectionId} />
      </div>
      <Events
        messages={sse.messages}
        gaps={gaps}
        malformed={malformed}
        malformedCount={sse.malformed}
        onClear={clear}
      />
    </div>
  );
}
