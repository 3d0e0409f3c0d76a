/** No wait is shorter: luck, or a server that asks for none, makes no busy loop. */
const FLOOR = 100;
export const MAX_TIMER: number = 2 ** 31 - 1;

/**
 * Full jitter: anything between nothing and the exponential bound, so that clients that were cut
 * together do not come back together.
 */
export function fullJitter(failures: number, minMs: number, maxMs: number): number {
  // The power may be Infinity, which times nothing would be NaN: there is a floor.
  const bound = between(minMs, FLOOR, 3600_000) * 2 ** failures;
  return Math.random() * Math.min(between(maxMs, 1000, MAX_TIMER), bound);
}

/** For what is gone and may be back: between 30 s and 5 min, growing, spread over half of the bound. */
export function slowJitter(times: number): number {
  return Math.min(300_000, 60_000 * 2 ** Math.min(times, 3)) * (0.5 + Math.random() / 2);
}

/** A delay that a timer takes, whatever was asked for: no NaN, nothing negative, none without a floor. */
export const delayOf = (ms: number): number => between(ms, FLOOR, MAX_TIMER);

/** `Retry-After` in milliseconds: seconds or a date [RFC 9110 10.2.3]; 0 if absent, unreadable or past. */
export function retryAfter(value: string | null): number {
  return Math.max(0, Number(value) * 1000 || Date.parse(value ?? "") - Date.now()) || 0;
}

/** Comparing with NaN is false, so NaN is `least` too. */
const between = (n: number, least: number, most: number) => (n > least ? Math.min(n, most) : least);
