import { type ReactElement, type ReactNode, useEffect, useId, useState } from "react";
import type { SSEClient, SSEError, StreamState } from "../types.js";
import { CopyButton } from "./copy-button.js";
import { absolute, curlStream } from "./curl.js";

interface Props {
  url: string;
  topics: readonly string[];
  sse: StreamState & { lastEventId: string } & Pick<SSEClient, "reconnect" | "close">;
  children: ReactNode;
}

/** The state of the connection, and buttons to change it. */
export function Status({ url, topics, sse, children }: Props): ReactElement {
  const { connectionStatus: status, connectionId, user, error, lastEventId } = sse;
  const id = useId();
  return (
    <section className="sse-panel sse-connection" aria-labelledby={id}>
      <h2 id={id}>Connection</h2>
      <p className="sse-status" data-status={status}>
        <span role="status">{status}</span>
        {sse.retryAt !== null && <Countdown until={sse.retryAt} attempt={sse.attempt} />}
        {status === "open" && <span className="sse-countdown">{by(sse)}</span>}
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
        <dd>{connectionId === null ? "–" : <Id text={connectionId} name="connection id" />}</dd>
        <dt>Position</dt>
        <dd>{lastEventId === "" ? "–" : <Id text={lastEventId} name="position" />}</dd>
      </dl>
      <p className="sse-actions">
        <button type="button" onClick={sse.reconnect}>
          Reconnect
        </button>
        <button type="button" onClick={sse.close} disabled={status === "closed"}>
          Disconnect
        </button>
        <CopyButton
          text={() => curlStream(absolute(url), topics, lastEventId)}
          label="Copy as curl: the stream"
        >
          Copy as curl
        </CopyButton>
      </p>
      {children}
    </section>
  );
}

function Id({ text, name }: { text: string; name: string }): ReactElement {
  return (
    <span className="sse-id">
      <code title={text}>{text}</code>
      <CopyButton text={text} label={`Copy the ${name}`}>
        Copy
      </CopyButton>
    </span>
  );
}

/** The protocol of the stream, as the server says: the page may have come over another one. */
function by({ transport, protocol }: StreamState): string {
  const how = transport === "poll" ? "polling: this network holds streams back" : "streaming";
  return protocol ? `${how}, ${PROTOCOLS[protocol] ?? protocol}` : how;
}

const PROTOCOLS: Record<string, string> = { h1: "HTTP/1.1", h2: "HTTP/2", h3: "HTTP/3" };

/** Outside the status region, so that screen readers do not read every change. */
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

const REASONS: Record<string, string> = {
  shutdown: "The server is restarting. The page reconnects by itself.",
  lifetime: "The connection had reached its age. The page reconnects by itself.",
  expired: "The login has ended. Sign in again, then reconnect.",
  disconnected: "The server has disconnected this page. Reconnect to come back.",
  hub_closed: "The stream is no longer served. The page retries slowly.",
  starting: "The server is still reading its history. The page reconnects by itself.",
};

/** Describes an error and, if there is one, the remedy. */
function explain(error: SSEError): string {
  if (error.type === "http") {
    const { status } = error;
    if (status === 401) return "Not signed in (401). Sign in to this site, then reconnect.";
    if (status === 403)
      return "Not allowed (403). This user may not have this stream, or one of the topics: choose others.";
    if (status === 404)
      return "Nothing is served at the stream's address (404). Check the path of `sse` in the Caddyfile.";
    if (status === 400) return "The server did not understand the request (400). Check the topics.";
    if (status === 429)
      return "Too many requests (429). The page waits, then comes back by itself.";
    return status >= 500
      ? `The server could not answer (${status}). The page reconnects by itself.`
      : `The server answered ${status}. Check the address of the stream.`;
  }
  if (error.type === "terminated") {
    return (
      REASONS[error.reason] ??
      (error.reason.startsWith("max_")
        ? "There are too many connections. Close other tabs, or wait: the page reconnects by itself."
        : `The server has ended the stream: ${error.reason}.`)
    );
  }
  if (error.type === "content-type") {
    return "The answer is not an event stream; it may be a login page. Sign in, or check the address.";
  }
  if (error.type === "request")
    return "The browser cannot send this request. Check the address of the stream and its headers.";
  if (error.type === "idle-timeout")
    return "The server was silent for too long. The page reconnects by itself.";
  return "The connection was lost. The page reconnects by itself.";
}
