// An app with a login. Its route of streams comes from the docs.
import { randomUUID } from "node:crypto";
import http from "node:http";

const users = new Map();
const userOf = (req) => users.get(/session=([\w-]+)/.exec(req.headers.cookie ?? "")?.[1]);
const roomsOf = (user) => (user === "alice" ? ["room/1", "room/2"] : ["room/2"]);

function answer(req, res) {
  const url = new URL(req.url, "http://app");
  if (url.pathname === "/login") {
    const session = randomUUID();
    users.set(session, url.searchParams.get("user"));
    return res.writeHead(200, { "Set-Cookie": `session=${session}` }).end("logged in");
  }
// RECIPE
  return res.writeHead(404).end();
}

http.createServer(answer).listen(Number(process.argv[2]), "127.0.0.1");
