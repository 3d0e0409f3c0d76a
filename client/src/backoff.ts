/** The shortest wait, in milliseconds. It prevents a busy loop if chance or the server gives no wait. */
const FLOOR = 100;
export const MAX_TIMER: number = 2 ** 31 - 1;

/**
 * A random wait between 0 and an exponential bound, so that clients that lost their connections together
 * do not reconnect together.
 */
export function fullJitter(failures: number, minMs: number, maxMs: number): number {
  // The power can be Infinity, and 0 times Infinity is NaN. FLOOR prevents the 0.
  const bound = between(minMs, FLOOR, 3600_000) * 2 ** failures;
  return Math.random() * Math.min(between(maxMs, 1000, MAX_TIMER), bound);
}

/** A wait for a stream that is gone: random in the upper half of a bound, which grows from 1 to 5 minutes. */
export function slowJitter(times: number): number {
  return Math.min(300_000, 60_000 * 2 ** times) * (0.5 + Math.random() / 2);
}

/** A valid delay for a timer: at least FLOOR, also for NaN, and at most MAX_TIMER. */
export const delayOf = (ms: number): number => between(ms, FLOOR, MAX_TIMER);

export const sleep = (ms: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, ms));

/** `Retry-After` in milliseconds. Its value is seconds or a date [RFC 9110 10.2.3]. 0 if absent, invalid or past. */
export function retryAfter(value: string | null): number {
  return Math.max(0, Number(value) * 1000 || Date.parse(value as string) - Date.now()) || 0;
}

/** Limits n. NaN becomes `least`, since comparing with NaN is false. */
const between = (n: number, least: number, most: number) => (n > least ? Math.min(n, most) : least);
