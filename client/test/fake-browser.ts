import { vi } from "vitest";

/** Fakes the locks and channels that the tabs of one browser share. */
export function fakeBrowser(): { names(): string[]; block(on?: boolean): void } {
  const queues = new Map<string, (() => void)[]>();
  const channels = new Map<string, Set<FakeChannel>>();
  let held: (() => void)[] | undefined; // what leaders send while their pages are blocked

  class FakeChannel {
    onmessage?: (event: { data: unknown }) => void;
    constructor(readonly name: string) {
      channels.set(name, (channels.get(name) ?? new Set()).add(this));
    }
    postMessage(data: unknown) {
      if (!channels.get(this.name)?.has(this)) throw new Error("the channel is closed");
      const text = JSON.stringify(data);
      for (const other of channels.get(this.name) ?? []) {
        if (other === this) continue;
        const deliver = () => {
          if (channels.get(this.name)?.has(other)) other.onmessage?.({ data: JSON.parse(text) });
        };
        if (held && !(data as { ask?: string }).ask) held.push(deliver);
        else queueMicrotask(deliver);
      }
    }
    close() {
      channels.get(this.name)?.delete(this);
    }
  }

  async function request(
    name: string,
    { signal }: { signal: AbortSignal },
    held: () => Promise<void>,
  ) {
    const queue = queues.get(name) ?? [];
    queues.set(name, queue);
    await new Promise<void>((resolve, reject) => {
      signal.addEventListener("abort", () => {
        const waiting = queue.indexOf(resolve, 1);
        if (waiting > 0) queue.splice(waiting, 1);
        reject(signal.reason);
      });
      queue.push(resolve);
      if (queue.length === 1) resolve();
    });
    if (signal.aborted) queue.shift();
    else await held().finally(() => queue.shift());
    queue[0]?.();
  }

  vi.stubGlobal("isSecureContext", true);
  vi.stubGlobal("BroadcastChannel", FakeChannel);
  vi.stubGlobal("navigator", { locks: { request } });
  return {
    names: () => [...queues.keys()],
    block: (on = true) => {
      if (on) held ??= [];
      else {
        for (const deliver of held ?? []) queueMicrotask(deliver);
        held = undefined;
      }
    },
  };
}
