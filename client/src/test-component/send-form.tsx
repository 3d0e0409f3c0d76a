import { type FormEvent, type ReactElement, useId, useState } from "react";
import { call } from "./api.js";
import { CopyButton } from "./copy-button.js";
import { absolute, curlPush } from "./curl.js";

/** The answer to a send: the event's position and the time of sending. */
export interface Sent {
  id: string;
  at: number;
}

interface Props {
  api: string | undefined;
  user: string | null;
  connectionId: string | null;
  /** The time until a sent event arrived here, if it has. */
  latency: (id: string) => number | undefined;
  onSent: (sent: Sent) => void;
}

type To = "me" | "user" | "connection" | "session" | "topic" | "all";
type As = "data" | "text";
type Result = { ok: boolean; text: string; id?: string };

const SAMPLE = {
  data: '{"message":"Hello from the test page","type":"info"}',
  text: "<p>Hello</p>",
};
const NAMES: Partial<Record<To, string>> = {
  user: "Users",
  connection: "Connection ids",
  session: "Sessions",
  topic: "Topics",
};

/** Parses a list of names with commas between them. */
export const names = (text: string): string[] =>
  text.split(/[,\n]/).flatMap((name) => name.trim() || []);

/** Sends test events through an `sse_api` route with the page's login. */
export function SendForm({ api, user, connectionId, latency, onSent }: Props): ReactElement {
  const id = useId();
  const [to, setTo] = useState<To>("me");
  const [name, setName] = useState("");
  const [type, setType] = useState("notification");
  const [as, setAs] = useState<As>("data");
  const [payload, setPayload] = useState(SAMPLE);
  const [key, setKey] = useState("");
  const [ttl, setTtl] = useState("");
  const [slot, setSlot] = useState("");
  const [result, setResult] = useState<Result | null>(null);
  const [wrong, setWrong] = useState(""); // what is wrong with the payload
  const [busy, setBusy] = useState(false);

  const path = to === "all" ? "broadcast" : "send";
  function event(data: unknown): object {
    const list = names(name);
    const one = list.length === 1 ? list[0] : list;
    const target =
      to === "all"
        ? {}
        : to === "me"
          ? user
            ? { user }
            : { connection: connectionId }
          : { [to]: one };
    return {
      ...target,
      ...(type && { type }),
      [as]: data,
      ...(key && { key }),
      ...(ttl && { ttl }),
      ...(slot && { slot }),
    };
  }

  /** Returns the payload, or sets what is wrong with it. */
  function read(): { data: unknown } | undefined {
    if (as === "text") return { data: payload.text };
    try {
      return { data: JSON.parse(payload.data) };
    } catch (error) {
      const at = /position (\d+)/.exec(String(error))?.[1];
      const where = at ? ` near character ${Number(at) + 1}` : "";
      setWrong(`This is not JSON${where}. Correct it, or send it as text.`);
      return undefined;
    }
  }

  async function submit(submitted: FormEvent) {
    submitted.preventDefault();
    if (!api) return;
    const read_ = read();
    if (!read_) return setResult(null);
    setBusy(true);
    const at = Date.now();
    const answer = await call<{ id: string; connections: number; duplicate?: boolean }>(
      "POST",
      `${api}/${path}`,
      event(read_.data),
    );
    setBusy(false);
    if (!answer.ok) return setResult({ ok: false, text: answer.text });
    const { id, connections: n, duplicate } = answer.value;
    const before = duplicate ? "An event with this key was sent before" : "Accepted";
    setResult({
      ok: true,
      id,
      text: `${before} as ${id}, for ${n} connection${n === 1 ? "" : "s"}.`,
    });
    if (!duplicate) onSent({ id, at });
  }

  const nobody = to === "me" && !user && !connectionId;
  const ms = result?.id && latency(result.id);
  const text = (value: string, set: (value: string) => void) => ({
    value,
    onChange: (e: { target: { value: string } }) => set(e.target.value),
    spellCheck: false,
    autoCapitalize: "none",
  });
  return (
    <section className="sse-panel sse-send" aria-labelledby={id}>
      <h2 id={id}>Send a test event</h2>
      {!api && (
        <p className="sse-note">
          This page cannot send, because it has no <code>api</code>. Set that option to the address
          of an <code>sse_api</code> route of this site.
        </p>
      )}
      <form onSubmit={submit}>
        <fieldset disabled={!api}>
          <legend className="sse-hidden">The event</legend>
          <div className="sse-row">
            <label>
              To
              <select value={to} onChange={(e) => setTo(e.target.value as To)}>
                <option value="me">{user ? `me (${user})` : "this connection"}</option>
                <option value="user">users</option>
                <option value="connection">connections</option>
                <option value="session">sessions</option>
                <option value="topic">topics</option>
                <option value="all">everyone</option>
              </select>
            </label>
            {NAMES[to] && (
              <label>
                {NAMES[to]}
                <input
                  {...text(name, setName)}
                  required
                  placeholder="one, or several with commas"
                />
              </label>
            )}
            <label className={NAMES[to] ? "sse-full" : undefined}>
              Type
              <input {...text(type, setType)} placeholder="message" list={`${id}types`} />
            </label>
            <datalist id={`${id}types`}>
              <option value="notification" />
              <option value="update" />
              <option value="alert" />
            </datalist>
          </div>
          <div className="sse-payload">
            <label htmlFor={`${id}payload`}>{as === "data" ? "Data (JSON)" : "Text"}</label>
            <fieldset className="sse-views">
              <legend>Send as</legend>
              {(["data", "text"] as const).map((one) => (
                <label key={one}>
                  <input
                    type="radio"
                    name={`${id}as`}
                    checked={as === one}
                    onChange={() => {
                      setAs(one);
                      setWrong("");
                    }}
                  />
                  <span>{one === "data" ? "JSON" : "Text"}</span>
                </label>
              ))}
            </fieldset>
            <textarea
              id={`${id}payload`}
              rows={3}
              value={payload[as]}
              onChange={(e) => {
                setPayload({ ...payload, [as]: e.target.value });
                setWrong("");
              }}
              spellCheck={false}
              aria-invalid={wrong !== ""}
              aria-describedby={`${id}wrong`}
            />
            <p id={`${id}wrong`} className="sse-error" role="alert">
              {wrong}
            </p>
          </div>
          <details>
            <summary>Key, ttl and slot</summary>
            <div className="sse-row">
              <label>
                Key
                <input {...text(key, setKey)} placeholder="none" />
              </label>
              <label>
                Deliver within (ttl)
                <input {...text(ttl, setTtl)} placeholder="no limit, or 10m" />
              </label>
              <label className="sse-full">
                Slot
                <input {...text(slot, setSlot)} placeholder="none, or price/AAPL" />
              </label>
            </div>
          </details>
          <p className="sse-actions">
            <button type="submit" className="sse-primary" disabled={busy || nobody}>
              Send
            </button>
            {api && (
              <CopyButton
                label="Copy as curl: this event"
                text={() => {
                  const data = read();
                  return data && curlPush(`${absolute(api)}/${path}`, event(data.data));
                }}
              >
                Copy as curl
              </CopyButton>
            )}
          </p>
          <output className={result?.ok === false ? "sse-error" : "sse-ok"}>
            {result?.text}
            {ms !== undefined && ms !== "" && ` It arrived here after ${ms} ms.`}
          </output>
        </fieldset>
      </form>
    </section>
  );
}
