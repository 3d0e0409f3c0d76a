export { createSSE } from "./client.js";
export type {
  Alert,
  BackoffOptions,
  ConnectionStatus,
  DefaultEvents,
  Gap,
  Notification,
  Severity,
  ShareOptions,
  SSEClient,
  SSEError,
  SSEMessage,
  SSEOptions,
  SSESnapshot,
  StreamOptions,
  StreamState,
  Update,
} from "./types.js";
