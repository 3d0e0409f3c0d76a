import { type ReactElement, type Ref, useId, useMemo, useState } from "react";
import type { SSEMessage } from "../types.js";
import { CopyButton } from "./copy-button.js";
import { curlPush } from "./curl.js";

/** The data of an event as received, and its value if it is JSON. */
export interface Payload {
  raw: string;
  json?: { value: unknown };
}

/** One line of the list. */
export interface Entry {
  /** Distinguishes it from other lines of the same type. */
  key: string;
  kind: "event" | "gap" | "topics";
  at: number;
  id: string;
  type: string;
  payload?: Payload;
}

interface Props {
  messages: readonly SSEMessage<Record<string, Payload>>[];
  notes: readonly Entry[];
  user: string | null;
  latency: (id: string) => number | undefined;
  onClear: () => void;
  list: Ref<HTMLElement>;
  canSend: boolean;
}

const VIEWS = ["Events", "Raw"] as const;
// The number of rendered rows: a longer list would be slow.
const SHOWN = 200;

/** The received events, gaps and topic changes, newest first, or their raw form. */
export function Events(props: Props): ReactElement {
  const { messages, notes, user, latency, onClear, list, canSend } = props;
  const id = useId();
  const [view, setView] = useState<(typeof VIEWS)[number]>("Events");
  const [filter, setFilter] = useState("");

  const entries = useMemo(() => {
    const all = messages.map(({ receivedAt, id, type, data }, i): Entry => {
      return { key: id || `#${i}`, kind: "event", at: receivedAt, id, type, payload: data };
    });
    // A gap is reported before the events of the same moment.
    return [...notes, ...all].sort((a, b) => a.at - b.at).reverse();
  }, [messages, notes]);
  const needle = filter.toLowerCase();
  const found = needle ? entries.filter((entry) => matches(entry, needle)) : entries;

  return (
    <section className="sse-panel sse-events" aria-labelledby={id} ref={list}>
      <div className="sse-heading">
        <h2 id={id}>Received</h2>
        <button type="button" className="sse-small" onClick={onClear}>
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
              <span>{name}</span>
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
        {count(found.length, entries.length)}
      </p>
      {found.length > 0 && (
        <ol className="sse-list" aria-label="Newest first">
          {found.slice(0, SHOWN).map((entry) => (
            <Row
              key={`${entry.kind} ${entry.key}`}
              entry={entry}
              raw={view === "Raw"}
              ms={latency(entry.id)}
            />
          ))}
        </ol>
      )}
      {found.length === 0 && entries.length > 0 && (
        <p className="sse-empty">Nothing matches the filter.</p>
      )}
      {entries.length === 0 && <Empty user={user} canSend={canSend} />}
    </section>
  );
}

/** A hint for an empty list: the command that sends an event from a shell on the server. */
function Empty({ user, canSend }: Pick<Props, "user" | "canSend">): ReactElement {
  const event = { ...(user && { user }), type: "notification", data: { message: "Hello" } };
  const path = user ? "send" : "broadcast";
  const command = curlPush(`http://localhost:2019/sse/${path}`, event);
  return (
    <div className="sse-empty">
      <p>
        Nothing yet. Send a test event {canSend && "with the form, or "}from a shell on the server:
      </p>
      <pre>{command}</pre>
      <CopyButton text={command}>Copy</CopyButton>
    </div>
  );
}

interface RowProps {
  entry: Entry;
  raw: boolean;
  ms: number | undefined;
}

function Row({ entry, raw, ms }: RowProps): ReactElement {
  const { kind, at, id, type, payload } = entry;
  return (
    <li data-kind={kind}>
      <p className="sse-meta">
        <time dateTime={new Date(at).toISOString()}>{clock(at)}</time>
        <strong>{kind === "event" ? type : `${kind}: ${type}`}</strong>
        {payload && !payload.json && <span className="sse-tag">text</span>}
        {ms !== undefined && <span className="sse-tag">{ms} ms after it was sent</span>}
        {id && <code>{id}</code>}
      </p>
      {payload ? (
        <pre>{raw ? wire(entry, payload) : pretty(payload)}</pre>
      ) : (
        <p className="sse-note">
          {kind === "gap"
            ? "Events before this position may be missing. An app must load its data again here."
            : "The server has changed the topics of this connection. This holds from here on."}
        </p>
      )}
    </li>
  );
}

const matches = ({ type, id, payload }: Entry, needle: string) =>
  `${type} ${id} ${payload?.raw}`.toLowerCase().includes(needle);

const clock = (at: number) => {
  const date = new Date(at);
  const part = (n: number, digits = 2) => String(n).padStart(digits, "0");
  const [h, m, s] = [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => part(n));
  return `${h}:${m}:${s}.${part(date.getMilliseconds(), 3)}`;
};

const pretty = ({ raw, json }: Payload) => (json ? JSON.stringify(json.value, null, 2) : raw);

/** The raw form of an event, except for the spelling of type and id, which is not known. */
const wire = ({ type, id }: Entry, { raw }: Payload) =>
  [
    ...(type === "message" ? [] : [`event: ${type}`]),
    ...raw.split("\n").map((line) => `data: ${line}`),
    ...(id ? [`id: ${id}`] : []),
  ].join("\n");

function count(found: number, all: number): string {
  const shown = found > SHOWN ? `, the latest ${SHOWN} shown` : "";
  return found === all ? `${all} received${shown}` : `${found} of ${all} received${shown}`;
}
