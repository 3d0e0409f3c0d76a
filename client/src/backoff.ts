/**
 * Full jitter: anything between nothing and the exponential bound, so that clients that were cut
 * together do not come back together. Never under 100 ms, so that luck is no busy loop.
 */
export function fullJitter(failures: number, minMs: number, maxMs: number): number {
  return Math.max(100, Math.random() * Math.min(maxMs, minMs * 2 ** failures));
}

/** `Retry-After` in milliseconds: seconds or a date [RFC 9110 10.2.3]; 0 if absent, unreadable or past. */
export function retryAfter(value: string | null): number {
  return Math.max(0, Number(value) * 1000 || Date.parse(value ?? "") - Date.now()) || 0;
}
