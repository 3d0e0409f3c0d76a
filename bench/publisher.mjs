// What the npm publisher sends a second when each call waits for the one before, and when calls are
// made without waiting, which go as batches: CADDY_BIN=../tmp/caddy-plain node publisher.mjs
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createPublisher } from "../client/dist/server.js";

const SECONDS = 5;
const ROUNDS = 3;
const PENDING = 1000; // calls that are made and not answered

const dir = mkdtempSync(join(tmpdir(), "caddy-sse-"));
const config = join(dir, "Caddyfile");
writeFileSync(
  config,
  "{\n\tadmin 127.0.0.1:24219\n\tpersist_config off\n}\nhttp://127.0.0.1:24218 {\n\tsse /events\n}\n",
);
const caddy = spawn(process.env.CADDY_BIN, ["run", "--config", config], { stdio: "ignore" });
const sse = createPublisher({ endpoint: "http://127.0.0.1:24219/sse", retries: 20 });
const event = () => sse.notifyUser("alice", "Your order has shipped");

/** Keeps `pending` calls on their way, and counts what is answered a second. */
async function run(pending) {
  const end = performance.now() + SECONDS * 1000;
  let answered = 0;
  const one = async () => {
    while (performance.now() < end) {
      await event();
      answered++;
    }
  };
  await Promise.all(Array.from({ length: pending }, one));
  return answered / SECONDS;
}

try {
  await event();
  const rounds = [];
  for (let i = 0; i < ROUNDS; i++) rounds.push([await run(1), await run(PENDING)]);
  const median = (k) => rounds.map((round) => round[k]).sort((a, b) => a - b)[ROUNDS >> 1];
  const [alone, batched] = [median(0), median(1)];
  console.log(`one after the other: ${alone.toFixed(0)} events a second`);
  console.log(
    `without waiting:     ${batched.toFixed(0)} events a second, ${(batched / alone).toFixed(1)} times as many`,
  );
} finally {
  caddy.kill();
  rmSync(dir, { recursive: true });
}
