// A back end's TypeScript knows no DOM: the publisher's types must not need it.
import { createPublisher, type Publisher, type Severity } from "caddy-sse/server";

const severity: Severity = "critical";
const sse: Publisher = createPublisher({ endpoint: "http://caddy:2019/sse" });
await sse.sendAlert("alice", "fire", severity);
