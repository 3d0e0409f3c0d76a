/** The data of the server's own events. Each event has some of these fields. */
export interface Control {
  reason: string;
  retryMs: number;
  connectionId: string;
  user: string;
  protocol?: string;
  heartbeat?: number;
  added?: string[];
  removed?: string[];
}

/** Parses the data of a control event. The result has no fields if the data is not a JSON object. */
export function parseControl(data: string): Control {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    return {} as Control;
  }
}
