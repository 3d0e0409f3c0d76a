/** The payload of a `notification`, which `notifyUser` and `notifyAll` send. */
export interface Notification {
  readonly message: string;
  /** The kind of notification. Default of the publisher: `"info"`. */
  readonly type: string;
  readonly data?: unknown;
}

/** The payload of an `update`, which `sendUpdate` sends. */
export interface Update {
  readonly updateType: string;
  readonly payload: unknown;
}

/** The severity of an `alert`. */
export type Severity = "info" | "warning" | "error" | "critical";

/** The payload of an `alert`, which `sendAlert` sends. */
export interface Alert {
  readonly message: string;
  readonly severity: Severity;
}
