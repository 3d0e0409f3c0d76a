/** Payload of a `notification`, as `notifyUser` and `notifyAll` send it. */
export interface Notification {
  readonly message: string;
  /** What kind of notification: `"info"` unless the sender says otherwise. */
  readonly type: string;
  readonly data?: unknown;
}

/** Payload of an `update`, as `sendUpdate` sends it. */
export interface Update {
  readonly updateType: string;
  readonly payload: unknown;
}

/** How loud an `alert` is. */
export type Severity = "info" | "warning" | "error" | "critical";

/** Payload of an `alert`, as `sendAlert` sends it. */
export interface Alert {
  readonly message: string;
  readonly severity: Severity;
}
