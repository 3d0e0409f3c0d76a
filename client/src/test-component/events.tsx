import { type ReactElement, useId, useMemo, useState } from "react";
import type { SSEMessage } from "../types.js";

/** The data of an event as text and as what it means. */
export interface Payload {
  raw: string;
  value: unknown;
}

/** One line of the list. */
export interface Entry {
  /** Tells it from the others of its kind. */
  key: string;
  kind: "event" | "gap" | "malformed";
  at: number;
  id: string;
  type: string;
  raw: string;
  value?: unknown;
  message?: string;
}

interface Props {
  messages: readonly SSEMessage<Record<string, Payload>>[];
  gaps: readonly Entry[];
  malformed: readonly Entry[];
  malformedCount: number;
  onClear: () => void;
}

const VIEWS = ["events", "raw", "malformed"] as const;
// Rows that exist: a list of a thousand costs more time than anybody has to read it.
const SHOWN = 200;

/** What arrived, newest first: events and gaps, the same as text, or what could not be parsed. */
export function Events({
  messages,
  gaps,
  malformed,
  malformedCount,
  onClear,
}: Props): ReactElement {
  const id = useId();
  const [view, setView] = useState<(typeof VIEWS)[number]>("events");
  const [filter, setFilter] = useState("");

  const entries = useMemo(() => {
    if (view === "malformed") return [...malformed].reverse();
    const all = messages.map(({ receivedAt, id, type, data: { raw, value } }, i): Entry => {
      return { key: id || `#${i}`, kind: "event", at: receivedAt, id, type, raw, value };
    });
    // A gap comes before the events of its moment: it is told before them.
    return [...gaps, ...all].sort((a, b) => a.at - b.at).reverse();
  }, [view, messages, gaps, malformed]);
  const needle = filter.toLowerCase();
  const found = needle ? entries.filter((entry) => matches(entry, needle)) : entries;

  return (
    <section className="sse-panel sse-events" aria-labelledby={id}>
      <div className="sse-heading">
        <h2 id={id}>Received</h2>
        <button type="button" onClick={onClear}>
          Clear
        </button>
      </div>
      <div className="sse-toolbar">
        <fieldset className="sse-views">
          <legend>View</legend>
          {VIEWS.map((name) => (
            <label key={name}>
              <input
                type="radio"
                name={`${id}view`}
                checked={view === name}
                onChange={() => setView(name)}
              />
              <span>{name === "malformed" ? `malformed (${malformedCount})` : name}</span>
            </label>
          ))}
        </fieldset>
        <input
          type="search"
          aria-label="Filter by type, id or data"
          placeholder="Filter by type, id or data"
          value={filter}
          onChange={(e) => setFilter(e.target.value)}
          spellCheck={false}
        />
      </div>
      <p className="sse-count" aria-live="polite">
        {count(found.length, entries.length, view)}
      </p>
      {found.length === 0 ? (
        <p className="sse-empty">{empty(view, entries.length > 0)}</p>
      ) : (
        <ol className="sse-list" aria-label="Newest first">
          {found.slice(0, SHOWN).map((entry) => (
            <Row key={`${entry.kind} ${entry.key}`} entry={entry} raw={view === "raw"} />
          ))}
        </ol>
      )}
    </section>
  );
}

function Row({ entry, raw }: { entry: Entry; raw: boolean }): ReactElement {
  const { kind, at, id, type, message } = entry;
  return (
    <li data-kind={kind}>
      <p className="sse-meta">
        <time dateTime={new Date(at).toISOString()}>{clock(at)}</time>
        <strong>{kind === "gap" ? `gap: ${type}` : type}</strong>
        {id && <code>{id}</code>}
      </p>
      {kind === "gap" && <p className="sse-note">Events before this position may be missing.</p>}
      {message && <p className="sse-error">{message}</p>}
      {kind !== "gap" && <pre>{raw ? wire(entry) : pretty(entry)}</pre>}
    </li>
  );
}

const matches = ({ type, id, raw }: Entry, needle: string) =>
  `${type} ${id} ${raw}`.toLowerCase().includes(needle);

const clock = (at: number) => {
  const date = new Date(at);
  const part = (n: number, digits = 2) => String(n).padStart(digits, "0");
  const [h, m, s] = [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => part(n));
  return `${h}:${m}:${s}.${part(date.getMilliseconds(), 3)}`;
};

const pretty = ({ kind, raw, value }: Entry) =>
  kind === "event" ? JSON.stringify(value, null, 2) : raw;

/** The event as it came, as far as it can be told: the type and the id have no other spelling. */
const wire = ({ type, id, raw }: Entry) =>
  [
    ...(type === "message" ? [] : [`event: ${type}`]),
    ...raw.split("\n").map((line) => `data: ${line}`),
    ...(id ? [`id: ${id}`] : []),
  ].join("\n");

function count(found: number, all: number, view: string): string {
  const what = `${all} ${view === "malformed" ? "malformed" : "received"}`;
  const shown = found > SHOWN ? `, the latest ${SHOWN} shown` : "";
  return found === all ? what + shown : `${found} of ${what}${shown}`;
}

function empty(view: string, filtered: boolean): string {
  if (filtered) return "Nothing matches the filter.";
  if (view === "malformed") {
    return "Nothing malformed: the data of every event so far was JSON. Events published with text would be listed here.";
  }
  return "Nothing yet. Send an event, or publish one from your back end.";
}
