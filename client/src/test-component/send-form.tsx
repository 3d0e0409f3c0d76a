import { type FormEvent, type ReactElement, useId, useState } from "react";

interface Props {
  api: string | undefined;
  user: string | null;
  connectionId: string | null;
}

type To = "me" | "user" | "topic" | "all";
type Result = { ok: boolean; text: string };

const SAMPLE = '{"message":"Hello from the test page","type":"info"}';

/** Sends test events through an `sse_api` route, with the login that the page has. */
export function SendForm({ api, user, connectionId }: Props): ReactElement {
  const id = useId();
  const [to, setTo] = useState<To>("me");
  const [name, setName] = useState("");
  const [type, setType] = useState("notification");
  const [data, setData] = useState(SAMPLE);
  const [result, setResult] = useState<Result | null>(null);
  const [busy, setBusy] = useState(false);

  async function submit(event: FormEvent) {
    event.preventDefault();
    if (!api) return;
    setBusy(true);
    try {
      const me = user ? { user } : { connection: connectionId };
      const target = { me, user: { user: name }, topic: { topic: name }, all: {} }[to];
      const body = { ...target, ...(type && { type }), data: JSON.parse(data) };
      setResult(await post(`${api}/${to === "all" ? "broadcast" : "send"}`, body));
    } catch (error) {
      setResult({ ok: false, text: String(error) });
    } finally {
      setBusy(false);
    }
  }

  const named = to === "user" || to === "topic";
  const nobody = to === "me" && !user && !connectionId;
  return (
    <section className="sse-panel sse-send" aria-labelledby={id}>
      <h2 id={id}>Send a test event</h2>
      {!api && (
        <p className="sse-note">
          No address to send to: this page was set up without <code>api</code>. It is the address of
          an <code>sse_api</code> route on this site.
        </p>
      )}
      <form onSubmit={submit}>
        <fieldset disabled={!api}>
          <div className="sse-row">
            <label>
              To
              <select value={to} onChange={(e) => setTo(e.target.value as To)}>
                <option value="me">{user ? `me (${user})` : "this connection"}</option>
                <option value="user">a user</option>
                <option value="topic">a topic</option>
                <option value="all">everyone</option>
              </select>
            </label>
            {named && (
              <label>
                {to === "user" ? "User" : "Topic"}
                <input
                  value={name}
                  onChange={(e) => setName(e.target.value)}
                  required
                  spellCheck={false}
                  autoCapitalize="none"
                />
              </label>
            )}
            <label className={named ? "sse-full" : undefined}>
              Type
              <input
                value={type}
                onChange={(e) => setType(e.target.value)}
                placeholder="message"
                spellCheck={false}
                autoCapitalize="none"
                list={`${id}types`}
              />
            </label>
            <datalist id={`${id}types`}>
              <option value="notification" />
              <option value="update" />
              <option value="alert" />
            </datalist>
          </div>
          <label>
            Data (JSON)
            <textarea
              rows={3}
              value={data}
              onChange={(e) => setData(e.target.value)}
              spellCheck={false}
            />
          </label>
          <p className="sse-actions">
            <button type="submit" className="sse-primary" disabled={busy || nobody}>
              Send
            </button>
            <output className={result?.ok === false ? "sse-error" : "sse-ok"}>
              {result?.text}
            </output>
          </p>
        </fieldset>
      </form>
    </section>
  );
}

async function post(url: string, body: object): Promise<Result> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  const answer = isJSON(response) ? JSON.parse(text) : {};
  if (!response.ok) return { ok: false, text: `${response.status}: ${answer.error ?? text}` };
  const { id, connections: n } = answer;
  return { ok: true, text: `Accepted as ${id}, for ${n} connection${n === 1 ? "" : "s"}.` };
}

const isJSON = (response: Response) =>
  response.headers.get("Content-Type")?.startsWith("application/json") ?? false;
