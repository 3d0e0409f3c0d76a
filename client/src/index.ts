export { createSSE } from "./client.js";
export type { Alert, Notification, Severity, Update } from "./payloads.js";
export type {
  BackoffOptions,
  ConnectionStatus,
  DefaultEvents,
  Gap,
  ShareOptions,
  SSEClient,
  SSEError,
  SSEMessage,
  SSEOptions,
  SSESnapshot,
  StreamOptions,
  StreamState,
  TopicChange,
} from "./types.js";
