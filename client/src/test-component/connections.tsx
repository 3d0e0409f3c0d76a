import { type ReactElement, useId, useState } from "react";
import { type Answer, call } from "./api.js";

/** An open connection, as listed by `GET /sse/connections`. */
export interface Connection {
  id: string;
  user?: string;
  topics?: string[];
  protocol: string;
  remote: string;
  since: string;
  lag: number;
}

interface Page {
  count: number;
  connections: Connection[];
}

interface Props {
  api: string;
  /** This page's own connection. */
  own: string | null;
}

const LIMIT = 50;

/** The list of connections to the hub, with a button to disconnect each. */
export function Connections({ api, own }: Props): ReactElement {
  const id = useId();
  const [page, setPage] = useState<Page | null>(null);
  const [said, setSaid] = useState("");

  async function load(message = "") {
    const answer: Answer<Page> = await call("GET", `${api}/connections?limit=${LIMIT}`);
    if (answer.ok) setPage(answer.value);
    setSaid(answer.ok ? message : answer.text);
  }
  async function disconnect({ id, user }: Connection) {
    const answer = await call("DELETE", `${api}/connections/${encodeURIComponent(id)}`);
    await load(answer.ok ? `Disconnected ${user || "an anonymous client"}.` : answer.text);
  }

  return (
    <section className="sse-panel sse-connections" aria-labelledby={id}>
      <details onToggle={(e) => e.currentTarget.open && void load()}>
        <summary>
          <h2 id={id}>Connections</h2>
        </summary>
        <p className="sse-actions">
          <button type="button" className="sse-small" onClick={() => void load()}>
            Refresh
          </button>
          <span role="status">{said || (page ? count(page) : "")}</span>
        </p>
        {page && (
          <ul className="sse-list">
            {page.connections.map((one) => (
              <li key={one.id}>
                <p className="sse-meta">
                  <strong>{one.user || "anonymous"}</strong>
                  {one.id === own && <span>this page</span>}
                  <span>{one.protocol}</span>
                  <span>{one.remote}</span>
                  <span>since {new Date(one.since).toLocaleTimeString()}</span>
                  {one.lag > 0 && <span>{one.lag} behind</span>}
                </p>
                <p className="sse-meta">
                  <code>{one.id}</code>
                  {one.topics && <span>topics: {one.topics.join(", ")}</span>}
                  <button
                    type="button"
                    className="sse-small"
                    aria-label={`Disconnect ${one.user || "anonymous"}, ${one.id}`}
                    onClick={() => void disconnect(one)}
                  >
                    Disconnect
                  </button>
                </p>
              </li>
            ))}
          </ul>
        )}
      </details>
    </section>
  );
}

const count = ({ count, connections }: Page) =>
  count > connections.length ? `${connections.length} of ${count} shown` : `${count} open`;
