import { type FormEvent, type ReactElement, useId, useState } from "react";
import { names } from "./send-form.js";

/** The start and the topics of the stream. */
export interface Listening {
  /** A position, `earliest`, or empty for new events only. */
  from: string;
  /** Without a position: start with the newest event of each slot. */
  state: boolean;
  topics: readonly string[];
}

interface Props {
  listening: Listening;
  onListen: (next: Listening) => void;
}

/** The form for the start and the topics of the stream. */
export function ListenForm({ listening, onListen }: Props): ReactElement {
  const id = useId();
  const [start, setStart] = useState<Start>(() => startOf(listening));
  const [position, setPosition] = useState(listening.from === "earliest" ? "" : listening.from);
  const [topics, setTopics] = useState(listening.topics.join(", "));

  function submit(event: FormEvent) {
    event.preventDefault();
    const from = { now: "", state: "", earliest: "earliest", position: position.trim() }[start];
    onListen({ from, state: start === "state", topics: names(topics) });
  }

  return (
    <details className="sse-listen">
      <summary>Start and topics</summary>
      <form onSubmit={submit} aria-label="Start and topics">
        <div className="sse-row">
          <label>
            Start
            <select value={start} onChange={(e) => setStart(e.target.value as Start)}>
              <option value="now">from now on</option>
              <option value="state">with the newest of each slot</option>
              <option value="earliest">at the earliest event</option>
              <option value="position">after a position</option>
            </select>
          </label>
          {start === "position" && (
            <label>
              Position
              <input
                value={position}
                onChange={(e) => setPosition(e.target.value)}
                required
                spellCheck={false}
                autoCapitalize="none"
                placeholder="3kq9x2mf-1042-b03k"
              />
            </label>
          )}
          <label className={start === "position" ? "sse-full" : undefined}>
            Topics
            <input
              value={topics}
              onChange={(e) => setTopics(e.target.value)}
              spellCheck={false}
              autoCapitalize="none"
              placeholder="all that are allowed"
              aria-describedby={`${id}hint`}
            />
          </label>
        </div>
        <p className="sse-note" id={`${id}hint`}>
          Topics are separated by commas. The list of events starts again.
        </p>
        <p className="sse-actions">
          <button type="submit">Connect like this</button>
        </p>
      </form>
    </details>
  );
}

type Start = "now" | "state" | "earliest" | "position";

const startOf = ({ from, state }: Listening): Start =>
  from === "" ? (state ? "state" : "now") : from === "earliest" ? "earliest" : "position";
