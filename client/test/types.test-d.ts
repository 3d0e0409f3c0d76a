import { expectTypeOf, test } from "vitest";
import { createSSE, type Notification, type SSEMessage } from "../src/index.js";
import { useSSE } from "../src/react.js";
import { createPublisher } from "../src/server.js";

interface Events {
  order: { orderId: string };
  tick: number;
}

test("listeners get the payload of their type", () => {
  createSSE("/events").on("notification", ({ data }) =>
    expectTypeOf(data).toEqualTypeOf<Notification>(),
  );
  const sse = createSSE<Events>("/events");
  sse.on("tick", ({ data, type }) => {
    expectTypeOf(data).toEqualTypeOf<number>();
    expectTypeOf(type).toEqualTypeOf<"tick">();
  });
  sse.on("*", (message) => {
    expectTypeOf(message).toEqualTypeOf<SSEMessage<Events>>();
    if (message.type === "order") expectTypeOf(message.data.orderId).toEqualTypeOf<string>();
  });
  // @ts-expect-error no such event
  sse.on("other", () => {});
});

test("tabs need an identity", () => {
  createSSE("/events", { share: "tabs", identity: "alice" });
  // @ts-expect-error identity is missing
  createSSE("/events", { share: "tabs" });
});

test("the hook's messages are typed", () => {
  expectTypeOf(useSSE<Events>)
    .returns.toHaveProperty("messages")
    .toEqualTypeOf<readonly SSEMessage<Events>[]>();
});

test("an event goes to one kind of target", () => {
  const sse = createPublisher({ endpoint: "http://localhost:2019/sse" });
  sse.send({ user: "alice", data: 1 });
  sse.send({ topic: ["a", "b"], text: "x" });
  // @ts-expect-error no target
  sse.send({ data: 1 });
  // @ts-expect-error two targets
  sse.send({ user: "alice", topic: "a", data: 1 });
  // @ts-expect-error two payloads
  sse.send({ user: "alice", data: 1, text: "x" });
  // @ts-expect-error no payload
  sse.broadcast({ type: "x" });
});
