import { settle } from "./fake-server.js";
import { pick } from "./random.js";

/** One event of the model, with the events that may follow it without a gap. */
export interface Rec {
  readonly id: string;
  readonly next: Set<Rec>;
}

interface Conn {
  queue: string[];
  writer: WritableStreamDefaultWriter<Uint8Array>;
  open: boolean;
}

/**
 * A server with a history like that of caddy-sse. It replays after a position and sends gaps. It may restart with
 * another epoch, be restored from a backup, and evict. `deliver` sends the pending events of a connection.
 */
export function historyServer(random: () => number): {
  fetch: typeof fetch;
  records: Map<string, Rec>;
  readonly head: string;
  readonly open: number;
  publish(): void;
  restart(): Promise<void>;
  restore(): Promise<void>;
  evict(): void;
  cut(): Promise<void>;
  deliver(all?: boolean): Promise<void>;
} {
  const encoder = new TextEncoder();
  const records = new Map<string, Rec>();
  const conns: Conn[] = [];
  let epochs = 0;
  let tags = 0;
  let log: Rec[] = [];
  let epoch = "";
  let base = 0; // log[0] has the seq `base`, and is not retained
  let seq = 0;

  const record = (seq: number): Rec => {
    const rec = { id: `${epoch}-${seq}-${String(++tags).padStart(4, "0")}`, next: new Set<Rec>() };
    records.set(rec.id, rec);
    return rec;
  };
  function begin() {
    epoch = `e${++epochs}`;
    base = seq = 0;
    log = [record(0)];
  }
  begin();
  const at = (id: string) => log.findIndex((rec) => rec.id === id);
  const block = (rec: Rec) => `data: ${JSON.stringify(rec.id)}\nid: ${rec.id}\n\n`;
  const live = () => conns.filter(({ open }) => open);

  async function cut(conn: Conn) {
    conn.open = false;
    await conn.writer.abort(new TypeError("cut")).catch(() => {});
  }

  return {
    records,
    get head() {
      return (log.at(-1) as Rec).id;
    },
    get open() {
      return live().length;
    },
    async fetch(_, init = {}) {
      if (random() < 0.1) throw new TypeError("refused");
      const body = new TransformStream<Uint8Array, Uint8Array>(
        undefined,
        { highWaterMark: 1e6 },
        { highWaterMark: 1e6 },
      );
      const conn: Conn = { queue: [], writer: body.writable.getWriter(), open: true };
      conn.writer.closed.catch(() => {});
      init.signal?.addEventListener("abort", () => void cut(conn));
      const from = new Headers(init.headers).get("Last-Event-ID");
      let index = log.length - 1;
      let gap = "";
      if (from === "earliest") index = 0;
      else if (from !== null) {
        index = at(from);
        if (index < 0) gap = 'event: sse.gap\ndata: {"reason":"epoch"}\n';
        index = Math.max(0, index);
      }
      const id = `id: ${(log[index] as Rec).id}\n`;
      const hello = `event: sse.connected\ndata: {"connectionId":"c","user":"alice","heartbeat":0}\n`;
      conn.queue.push(gap ? `${hello}\n` : `${hello}${id}\n`);
      if (gap) conn.queue.push(`${gap}${id}\n`);
      conn.queue.push(...log.slice(index + 1).map(block));
      conns.push(conn);
      return new Response(body.readable, { headers: { "Content-Type": "text/event-stream" } });
    },
    publish() {
      const rec = record(++seq);
      (log.at(-1) as Rec).next.add(rec);
      log.push(rec);
      for (const conn of live()) conn.queue.push(block(rec));
    },
    async restart() {
      begin();
      for (const conn of live()) await cut(conn);
    },
    /** Removes the events after a random one. Later events get their seqs. */
    async restore() {
      log = log.slice(0, 1 + Math.floor(random() * log.length));
      seq = base + log.length - 1;
      for (const conn of live()) await cut(conn);
    },
    evict() {
      const n = Math.floor(random() * log.length);
      log = log.slice(n);
      base += n;
    },
    async cut() {
      const conn = pick(random, live());
      if (conn) await cut(conn);
    },
    async deliver(all = false) {
      for (const conn of live()) {
        const n = all ? conn.queue.length : Math.floor(random() * (conn.queue.length + 1));
        const blocks = conn.queue.splice(0, n);
        // The blocks are sent in one chunk or several.
        while (blocks.length) {
          const text = blocks.splice(0, 1 + Math.floor(random() * blocks.length)).join("");
          await conn.writer.write(encoder.encode(text)).catch(() => {});
          if (random() < 0.5) await settle();
        }
      }
      await settle();
    },
  };
}
