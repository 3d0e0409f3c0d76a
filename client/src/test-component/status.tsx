import { type ReactElement, useEffect, useId, useState } from "react";
import type { SSEClient, SSEError, StreamState } from "../types.js";

interface Props {
  url: string;
  sse: StreamState & { lastEventId: string } & Pick<SSEClient, "reconnect" | "close">;
}

/** The connection: where it is, who it is, and the two things one can do to it. */
export function Status({ url, sse }: Props): ReactElement {
  const { connectionStatus: status, connectionId, user, error, lastEventId } = sse;
  const id = useId();
  return (
    <section className="sse-panel sse-connection" aria-labelledby={id}>
      <h2 id={id}>Connection</h2>
      <p className="sse-status" data-status={status}>
        <span role="status">{status}</span>
        {sse.retryAt !== null && <Countdown until={sse.retryAt} attempt={sse.attempt} />}
      </p>
      {error && <p className="sse-error">{explain(error)}</p>}
      <dl>
        <dt>Stream</dt>
        <dd>
          <code>{url}</code>
        </dd>
        <dt>User</dt>
        <dd>{user === null ? "–" : user === "" ? <em>anonymous</em> : <code>{user}</code>}</dd>
        <dt>Connection id</dt>
        <dd>{connectionId === null ? "–" : <code>{connectionId}</code>}</dd>
        <dt>Position</dt>
        <dd>{lastEventId === "" ? "–" : <code>{lastEventId}</code>}</dd>
      </dl>
      <p className="sse-actions">
        <button type="button" onClick={sse.reconnect}>
          Reconnect
        </button>
        <button type="button" onClick={sse.close} disabled={status === "closed"}>
          Disconnect
        </button>
      </p>
    </section>
  );
}

/** Outside the status region: a screen reader that read every tenth of a second would be no help. */
function Countdown({ until, attempt }: { until: number; attempt: number }): ReactElement {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 100);
    return () => clearInterval(timer);
  }, []);
  const left = Math.max(0, until - now) / 1000;
  return (
    <span className="sse-countdown">
      attempt {attempt} in {left.toFixed(1)} s
    </span>
  );
}

/** What to do about it, where there is something. */
function explain(error: SSEError): string {
  if (error.type === "http" && error.status === 401) {
    return "Not signed in (401): sign in to this site, then reconnect.";
  }
  if (error.type === "http" && error.status === 403) {
    return "Not allowed (403): this user may not have this stream, or one of its topics.";
  }
  if (error.type === "http" && error.status === 404) {
    return "Nothing is served at the stream's address (404).";
  }
  if (error.type === "http") return `The server answered ${error.status}.`;
  if (error.type === "network") return `Connection lost: ${error.message}`;
  return error.message;
}
